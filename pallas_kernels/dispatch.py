"""Operations as named equations of a program, and the choice of which implementation of one runs."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from pallas_kernels import launch

Implementation = Literal["auto", "triton", "mosaic", "xla"]
_LOGGER = logging.getLogger(__name__)


class ImplementationUnavailable(ValueError):
    """An implementation asked for by name that cannot run, with the reason."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """A form of an operation in Triton, for NVIDIA GPUs.

    Attributes:
      function: `(*arrays, **static) -> outputs`, as the reference.
      unfit: `(*arrays, **static) -> reason`: why it cannot take arrays of these shapes and types, or None.
    """

    function: Callable
    unfit: Callable[..., str | None]


class Operation:
    """A function of arrays that stays one equation in the jaxpr, until it is lowered for a platform.

    Values and shapes are those of `reference`, which is plain JAX. Another form of the same function is chosen by the
    platform that is lowered for and not by the devices at hand, so that compiling ahead of time for another machine
    compiles what will run there.

    Its derivative is one equation each way: forward mode differentiates the reference; reverse mode runs another
    operation, `NAME_backward`, on the arguments and what `save` kept. With `implementation="xla"` both are the
    reference's, with whatever JAX keeps for them.
    """

    def __init__(
        self,
        name: str,
        reference: Callable,
        *,
        platforms: Mapping[str, Callable] | None = None,
        triton: Kernel | str = "it has no Triton kernel",
        save: Callable | None = None,
        backward: "Operation | None" = None,
    ):
        """Declares the operation.

        Args:
          name: Of the equation.
          reference: `(*arrays, **static) -> arrays`. Arrays may be None or nested in tuples; static arguments hash.
          platforms: Other plain forms of the same function, by platform.
          triton: The kernel, or why there is none.
          save: `(*arrays, implementation, **static) -> (outputs, saved)`, what the backward operation wants kept
            besides the arguments.
          backward: `(arrays, saved, cotangents, wanted=...) -> gradients` of the wanted leaves of `arrays`. By default
            the reference is differentiated again, so that nothing but the arguments is kept.
        """
        self.name = name
        self.reference = reference
        self._platforms = dict(platforms or {})
        self._triton = triton
        self._save = save
        self._backward = backward
        self._primitive = self._declare(Primitive(name), self._forms)
        self._tangent = self._declare(Primitive(f"{name}_tangent"), lambda platform, params: self._tangent_of)
        ad.primitive_jvps[self._primitive] = self._jvp
        ad.primitive_jvps[self._tangent] = self._tangent_jvp
        ad.primitive_transposes[self._tangent] = self._transpose

    def __call__(self, *arrays: Any, implementation: str = "auto", **static: Any) -> Any:
        """Runs the operation.

        Args:
          implementation: One by name, or `auto` for the best there is; never an error.

        Raises:
          ImplementationUnavailable: if one is asked for by name that cannot run; at the latest when the program is
            lowered, as the platform is not known before.
        """
        if implementation not in get_args(Implementation):
            accepted = ", ".join(get_args(Implementation))
            raise ImplementationUnavailable(f"{self.name}: implementation={implementation!r}; accepted are {accepted}")
        if implementation not in ("auto", "xla"):
            self._require(implementation, arrays, static)
        leaves, treedef = jax.tree.flatten(arrays)
        params = {"treedef": treedef, "static": tuple(sorted(static.items())), "implementation": implementation}
        outs = self._primitive.bind(*leaves, **params)
        return jax.tree.unflatten(self._out_tree(leaves, params), outs)

    def why_not(self, implementation: str, *arrays: Any, platform: str = "cuda", **static: Any) -> str | None:
        """Why an implementation cannot run on these arrays, or None if it can.

        Args:
          arrays: As for a call; `jax.ShapeDtypeStruct` will do.
        """
        if implementation in ("auto", "xla"):
            return None
        if implementation == "mosaic":
            return "it has no Mosaic GPU kernel (the Triton kernel runs on Hopper and newer GPUs too)"
        if isinstance(self._triton, str):
            return self._triton
        if platform != "cuda":
            return f"Triton kernels run on CUDA, not on {platform}"
        return launch.missing_packages() or self._triton.unfit(*arrays, **static)

    def _require(self, implementation, arrays, static, platform="cuda"):
        reason = self.why_not(implementation, *arrays, platform=platform, **static)
        if reason is not None:
            raise ImplementationUnavailable(f"{self.name} cannot run as {implementation!r}: {reason}")

    # What follows are the rules of the two equations, the function and its tangent.

    def _declare(self, primitive: Primitive, forms: Callable) -> Primitive:
        """Gives a primitive its evaluation, shapes, batching and lowering, all by a plain function of its leaves.

        Args:
          forms: `(platform, params) -> function of leaves and params`; the platform None means the reference.
        """
        primitive.multiple_results = True

        def plain(*leaves, **params):
            return forms(None, params)(*leaves, **params)

        def shapes(*avals, **params):
            outs = jax.eval_shape(functools.partial(plain, **params), *avals)
            return [jax.core.ShapedArray(out.shape, out.dtype) for out in outs]

        def batch(leaves, dims, **params):
            outs = jax.vmap(functools.partial(plain, **params), in_axes=dims)(*leaves)
            return outs, [0] * len(outs)

        def lowering(platform):
            def rule(ctx, *leaves, **params):
                function = forms(platform or ctx.module_context.platforms[0], params)
                return mlir.lower_fun(function, multiple_results=True)(ctx, *leaves, **params)

            return rule

        primitive.def_impl(lambda *leaves, **params: _compiled(primitive, tuple(params.items()))(*leaves))
        primitive.def_abstract_eval(shapes)
        batching.primitive_batchers[primitive] = batch
        mlir.register_lowering(primitive, lowering(None))
        for platform in {"cuda", *self._platforms}:
            mlir.register_lowering(primitive, lowering(platform), platform=platform)
        return primitive

    def _forms(self, platform, params):
        """The form of the function to lower for a platform."""
        if platform is None:
            return _flat(self.reference)
        implementation, static = params["implementation"], dict(params["static"])
        plain = self._platforms.get(platform, self.reference)
        if implementation == "xla":
            return _flat(plain)

        def chosen(*leaves, **params):
            arrays = jax.tree.unflatten(params["treedef"], leaves)
            if implementation != "auto":
                self._require(implementation, arrays, static, platform)
            reason = self.why_not("triton", *arrays, platform=platform, **static)
            if reason is not None and platform == "cuda":
                _LOGGER.info("%s runs in XLA: %s", self.name, reason)
            function = plain if reason is not None else self._triton.function
            return _flat(function)(*leaves, **params)

        return chosen

    def _out_tree(self, leaves, params):
        return _out_tree(self.reference, params["treedef"], params["static"], tuple(map(_shape, leaves)))

    def _jvp(self, primals, tangents, **params):
        moving = tuple(index for index, tangent in enumerate(tangents) if type(tangent) is not ad.Zero)
        moved = [tangents[index] for index in moving]
        if params["implementation"] == "xla":
            plain = functools.partial(_flat(self.reference), **params)
            return jax.jvp(_of(plain, primals, moving), [primals[index] for index in moving], moved)
        arrays = jax.tree.unflatten(params["treedef"], primals)
        if self._save is None:
            outs, saved = self._primitive.bind(*primals, **params), ()
        else:
            static = dict(params["static"])
            outs, saved = self._save(*arrays, implementation=params["implementation"], **static)
            outs = jax.tree.leaves(outs)
        kept, kept_tree = jax.tree.flatten(saved)
        tangents = self._tangent.bind(*primals, *kept, *moved, kept=kept_tree, moving=moving, **params)
        return outs, tangents

    def _tangent_of(self, *leaves, kept, moving, **params):
        """The reference's derivative, along the leaves that move."""
        del kept
        primals = leaves[: params["treedef"].num_leaves]
        plain = functools.partial(_flat(self.reference), **params)
        moved = leaves[len(leaves) - len(moving) :]
        return jax.jvp(_of(plain, primals, moving), [primals[index] for index in moving], moved)[1]

    def _tangent_jvp(self, primals, tangents, **params):
        moving = tuple(index for index, tangent in enumerate(tangents) if type(tangent) is not ad.Zero)
        function = _of(functools.partial(self._tangent_of, **params), primals, moving)
        return jax.jvp(function, [primals[index] for index in moving], [tangents[index] for index in moving])

    def _transpose(self, cotangents, *leaves, kept, moving, treedef, static, implementation):
        num = treedef.num_leaves
        arrays, saved = jax.tree.unflatten(treedef, leaves[:num]), jax.tree.unflatten(kept, leaves[num : -len(moving)])
        linear = [ad.is_undefined_primal(leaf) for leaf in leaves[-len(moving) :]]
        wanted = tuple(index for index, is_linear in zip(moving, linear, strict=True) if is_linear)
        filled = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
        params = {"treedef": treedef, "static": static, "implementation": implementation}
        filled = jax.tree.unflatten(self._out_tree(leaves[:num], params), filled)
        backward = self._backward or _default_backward(self)
        # A backward operation that has no kernel runs in XLA, whatever was asked for forward.
        implementation = "auto" if isinstance(backward._triton, str) else implementation
        grads = iter(backward(arrays, saved, filled, wanted=wanted, implementation=implementation, **dict(static)))
        return [None] * (len(leaves) - len(moving)) + [next(grads) if is_linear else None for is_linear in linear]


@functools.cache
def _default_backward(operation: Operation) -> Operation:
    """Differentiates the reference once more, from the arguments alone."""

    def backward(arrays, saved, cotangents, *, wanted, **static):
        del saved
        leaves, treedef = jax.tree.flatten(arrays)
        plain = functools.partial(_flat(operation.reference), treedef=treedef, static=tuple(static.items()))
        _, pullback = jax.vjp(_of(plain, leaves, wanted), *(leaves[index] for index in wanted))
        return pullback(jax.tree.leaves(cotangents))

    return Operation(f"{operation.name}_backward", backward)


def _flat(function: Callable) -> Callable:
    """From leaves to a list of leaves."""

    def call(*leaves, treedef, static, implementation="auto"):
        del implementation
        return jax.tree.leaves(function(*jax.tree.unflatten(treedef, leaves), **dict(static)))

    return call


def _of(function, leaves, moving):
    """A function of some leaves only."""

    def of_moving(*values):
        changed = list(leaves)
        for index, value in zip(moving, values, strict=True):
            changed[index] = value
        return function(*changed)

    return of_moving


def _shape(leaf):
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))


@functools.lru_cache(maxsize=4096)
def _out_tree(reference, treedef, static, shapes):
    out = jax.eval_shape(functools.partial(reference, **dict(static)), *jax.tree.unflatten(treedef, shapes))
    return jax.tree.structure(out)


@functools.lru_cache(maxsize=1024)
def _compiled(primitive, params):
    return jax.jit(functools.partial(primitive.bind, **dict(params)))
