"""Operations as named equations of a program, and the choice of which implementation of one runs."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from fastfold_jax.autochunk.operations import Dimensions, OperationRule, register

Implementation = Literal["auto", "triton", "mosaic", "xla"]


class ImplementationUnavailable(ValueError):
    """An implementation asked for by name that an operation does not have."""


class Operation:
    """A function of arrays that stays one equation in the jaxpr, until it is lowered for a platform or differentiated.

    Values, shapes, derivatives and batching are those of `reference`, which is plain JAX. A platform may have its own
    form of the same function, chosen by the platform that is lowered for and not by the devices at hand, so that
    compiling ahead of time for another machine compiles what will run there.
    """

    def __init__(
        self,
        name: str,
        reference: Callable,
        platforms: Mapping[str, Callable] | None = None,
        dimensions: Dimensions | None = None,
    ):
        """Declares the operation.

        Args:
          name: Of the equation.
          reference: `(*arrays, **static) -> array`. Arrays may be None or nested in tuples; static arguments hash.
          platforms: Other forms of the same function, by platform.
          dimensions: Which dimensions AutoChunk may cut, as `autochunk.operations.Dimensions` describes.
        """
        self.name = name
        self._reference = reference
        self._primitive = Primitive(name)
        self._primitive.def_impl(self._call(reference))
        self._primitive.def_abstract_eval(self._shape)
        ad.primitive_jvps[self._primitive] = self._jvp
        batching.primitive_batchers[self._primitive] = self._batch
        mlir.register_lowering(self._primitive, mlir.lower_fun(self._call(reference), multiple_results=False))
        for platform, function in (platforms or {}).items():
            lowering = mlir.lower_fun(self._call(function), multiple_results=False)
            mlir.register_lowering(self._primitive, lowering, platform=platform)
        if dimensions is not None:
            own = frozenset(platforms or ())
            register(
                self._primitive,
                OperationRule(dimensions, self._call(reference), lambda platform, **params: platform in own),
            )

    def __call__(self, *arrays: Any, implementation: str = "auto", **static: Any) -> jax.Array:
        """Runs the operation.

        Args:
          implementation: One by name, or `auto` for the best there is; never an error.

        Raises:
          ImplementationUnavailable: if one is asked for by name that the operation lacks.
        """
        if implementation not in ("auto", "xla"):
            raise ImplementationUnavailable(f"{self.name} has no {implementation!r} kernel; accepted are auto, xla")
        leaves, treedef = jax.tree.flatten(arrays)
        return self._primitive.bind(*leaves, treedef=treedef, static=tuple(sorted(static.items())))

    @staticmethod
    def _call(function: Callable) -> Callable:
        def call(*leaves, treedef, static):
            return function(*jax.tree.unflatten(treedef, leaves), **dict(static))

        return call

    def _shape(self, *avals, **params):
        out = jax.eval_shape(lambda *leaves: self._call(self._reference)(*leaves, **params), *avals)
        return jax.core.ShapedArray(out.shape, out.dtype)

    def _jvp(self, primals, tangents, **params):
        moving = [index for index, tangent in enumerate(tangents) if type(tangent) is not ad.Zero]

        def of_moving(*values):
            leaves = list(primals)
            for index, value in zip(moving, values, strict=True):
                leaves[index] = value
            return self._call(self._reference)(*leaves, **params)

        return jax.jvp(of_moving, [primals[index] for index in moving], [tangents[index] for index in moving])

    def _batch(self, leaves, dims, **params):
        return jax.vmap(lambda *values: self._call(self._reference)(*values, **params), in_axes=dims)(*leaves), 0
