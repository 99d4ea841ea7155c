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

from fastfold_jax.autochunk.operations import Dimensions, OperationRule, register
from fastfold_jax.backend.implementations import Implementation
from fastfold_jax.errors import UserError
from pallas_kernels import launch

Result = Literal["array", "several", "residual"]
logger = logging.getLogger(__name__)


class ImplementationUnavailable(UserError):
    """An implementation asked for by name that cannot run, with the reason."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """A form of an operation as a kernel for NVIDIA GPUs, in Triton if nothing else is said.

    Attributes:
      function: `(*arrays, **static) -> outputs`, as the reference.
      unfit: `(*arrays, **static) -> reason`: why it cannot take arrays of these shapes and types, or None.
      atomic: The form for `triton_atomic`, whose sums may depend on the order in which programs end.
      mosaic: The form for `mosaic`, in Pallas Mosaic GPU, for Hopper.
    """

    function: Callable
    unfit: Callable[..., str | None]
    atomic: Callable | None = None
    mosaic: "Kernel | None" = None

    def form(self, implementation: str) -> Callable:
        """The function in Triton that an implementation stands for."""
        return self.atomic if implementation == "triton_atomic" and self.atomic else self.function


@dataclasses.dataclass(frozen=True)
class Recomputed:
    """Differentiated in reverse by running the function again: nothing but its arguments is kept.

    Attributes:
      form: The plain form of the function to run and differentiate; by default the reference.
    """

    form: Callable | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Derivative:
    """Differentiated in reverse by an operation of its own.

    Attributes:
      save: `(*arrays, implementation=..., **static) -> (outputs, saved)`, what `backward` wants kept besides the
        arguments; None if nothing.
      backward: `(arrays, saved, cotangents, wanted=..., **static) -> gradients`, of the leaves of `arrays` whose
        indices are wanted.
    """

    save: Callable | None = None
    backward: "Operation"


_RECOMPUTED = Recomputed()


class Operation:
    """A function of arrays that stays one equation in the jaxpr, until it is lowered for a platform.

    Values and shapes are those of `reference`, which is plain JAX. Another form of the same function is chosen by the
    platform that is lowered for and not by the devices at hand, so that compiling ahead of time for another machine
    compiles what will run there.

    Its derivative is one equation each way: forward mode differentiates the reference; reverse mode runs another
    operation, `NAME_backward`, on the arguments and what was saved. With `implementation="xla"` both are the
    reference's, with whatever JAX keeps for them.
    """

    def __init__(
        self,
        name: str,
        reference: Callable,
        *,
        platforms: Mapping[str, Callable] | None = None,
        dimensions: Dimensions | None = None,
        triton: Kernel | str = "it has no Triton kernel",
        derivative: Recomputed | Derivative | None = _RECOMPUTED,
        result: Result = "array",
    ):
        """Declares the operation.

        Args:
          name: Of the equation.
          reference: `(*arrays, **static) -> array`. Arrays may be None or nested in tuples; static arguments hash.
          platforms: Other plain forms of the same function, by platform.
          dimensions: Which dimensions AutoChunk may cut, as `autochunk.operations.Dimensions` describes; None for
            none, where the operation is a kernel.
          triton: The kernel, or why there is none.
          derivative: How it is differentiated in reverse; None is through the reference, which may be made of other
            operations.
          result: What the reference returns: one array, a tuple or list of several, or one that is the first argument
            and something added to it.
        """
        self.name = name
        self.reference = reference
        self.triton = triton
        self._platforms = dict(platforms or {})
        self._derivative = derivative
        self._several = result == "several"
        self._dimensions = dimensions
        self._primitive = self._declare(Primitive(name), self._form)
        self._tangent = self._declare(Primitive(f"{name}_tangent"), lambda platform, params: self._tangent_of)
        batching.primitive_batchers[self._primitive] = self._batch
        ad.primitive_jvps[self._primitive] = self._jvp
        ad.primitive_jvps[self._tangent] = self._tangent_jvp
        ad.primitive_transposes[self._tangent] = self._transpose
        register(self._primitive, OperationRule(dimensions, self._plain, self._fused, result == "residual"))

    def __call__(self, *arrays: Any, implementation: str = "auto", **static: Any) -> Any:
        """Runs the operation.

        Args:
          implementation: One by name, or `auto` for the best there is; never an error. Under `mosaic`, what Mosaic
            GPU kernels cannot do is left to Triton's.

        Raises:
          ImplementationUnavailable: if one is asked for by name that cannot run; when the program is lowered, if that
            is because of the platform.
        """
        if implementation not in get_args(Implementation):
            accepted = ", ".join(get_args(Implementation))
            raise ImplementationUnavailable(f"{self.name}: implementation={implementation!r}; accepted are {accepted}")
        if implementation not in ("auto", "xla"):
            self._kernel(implementation, arrays, static)
        leaves, treedef = jax.tree.flatten(arrays)
        return self._primitive.bind(
            *leaves,
            treedef=treedef,
            static=tuple(sorted(static.items())),
            implementation=implementation,
            # Equations are lowered when the caller's `jax.default_matmul_precision` is over.
            precision=_precision(),
        )

    def why_not(self, implementation: str, *arrays: Any, platform: str | None = None, **static: Any) -> str | None:
        """Why an implementation cannot run on these arrays, or None if it can.

        Args:
          arrays: As for a call; `jax.ShapeDtypeStruct` will do.
          platform: What the program is lowered for, if that is known.
        """
        if implementation in ("auto", "xla"):
            return None
        if isinstance(self.triton, str):
            return self.triton
        kernel = self.triton.mosaic if implementation == "mosaic" else self.triton
        if kernel is None:
            return "it has no Mosaic GPU kernel"
        return launch.why_not(implementation, platform) or kernel.unfit(*arrays, **static)

    def _kernel(self, implementation, arrays, static, platform=None):
        """The function that an implementation stands for, or None for plain JAX.

        Raises:
          ImplementationUnavailable: if one is asked for by name that cannot run.
        """

        def why_not(kind):
            return self.why_not(kind, *arrays, platform=platform, **static)

        kernel, reason = self.triton, why_not("triton")
        if implementation == "mosaic":
            # What the GPU cannot run is refused; what the operation's own kernel cannot, is left to Triton.
            refused = launch.why_not(implementation, platform)
            own = why_not(implementation)
            if refused is None and isinstance(kernel, Kernel) and kernel.mosaic and own is None:
                return kernel.mosaic.function
            reason = refused or (reason and f"{own}; {reason}")
        if isinstance(kernel, Kernel) and reason is None:
            return kernel.form(implementation)
        if implementation != "auto":
            raise ImplementationUnavailable(f"{self.name} cannot run as {implementation!r}: {reason}")
        if isinstance(kernel, Kernel) and platform == launch.platform():
            logger.info("%s runs in XLA: %s", self.name, reason)
        return None

    # Rules of the two equations, the function and its tangent. Inside, outputs are always lists.

    def _declare(self, primitive: Primitive, form: Callable) -> Primitive:
        """Gives a primitive its evaluation, shapes, lowering and plain batching, all by a function of its leaves.

        Args:
          form: `(platform, params) -> function of leaves and params`; the platform None means the reference.
        """
        primitive.multiple_results = self._several

        def plain(*leaves, **params):
            return form(None, params)(*leaves, **params)

        def shapes(*avals, **params):
            outs = jax.eval_shape(functools.partial(plain, **params), *avals)
            return self._outward([jax.core.ShapedArray(out.shape, out.dtype) for out in outs])

        def batch(leaves, dims, **params):
            outs = jax.vmap(functools.partial(plain, **params), in_axes=dims)(*leaves)
            return self._outward(outs), self._outward([0] * len(outs))

        def lowering(platform):
            def rule(ctx, *leaves, **params):
                function = form(platform or ctx.module_context.platforms[0], params)
                return mlir.lower_fun(function, multiple_results=True)(ctx, *leaves, **params)

            return rule

        # Run by itself it is compiled, so that it takes the form of the platform it runs on.
        primitive.def_impl(lambda *leaves, **params: _compiled(primitive, tuple(params.items()))(*leaves))
        primitive.def_abstract_eval(shapes)
        batching.primitive_batchers[primitive] = batch
        mlir.register_lowering(primitive, lowering(None))
        for platform in {"cuda", *self._platforms}:
            mlir.register_lowering(primitive, lowering(platform), platform=platform)
        return primitive

    def _outward(self, outs):
        """A list of outputs as JAX expects them of the primitive."""
        return outs if self._several else outs[0]

    def _inward(self, out):
        return list(out) if self._several else [out]

    def _plain(self, *leaves, **params):
        """The reference, called like the primitive."""
        return self._outward(_flat(self.reference)(*leaves, **params))

    def _fused(self, platform, implementation="auto", **params):
        """Whether the operation has a kernel or a form of its own there, as far as that does not depend on shapes."""
        del params
        if platform in self._platforms:
            return True
        if platform != launch.platform() or implementation == "xla":
            return False
        return isinstance(self.triton, Kernel) and launch.why_not("triton", platform) is None

    def _form(self, platform, params):
        """The form of the function to lower for a platform."""
        implementation, static = params["implementation"], dict(params["static"])
        plain = self._platforms.get(platform, self.reference)
        if platform is None or implementation == "xla":
            return _flat(plain)

        def chosen(*leaves, **params):
            arrays = jax.tree.unflatten(params["treedef"], leaves)
            kernel = self._kernel(implementation, arrays, static, platform)
            return _flat(kernel or plain)(*leaves, **params)

        return chosen

    def _batch(self, leaves, dims, **params):
        """`vmap`: another leading dimension, where all that is mapped has any number of them; or one by one.

        Under `auto` the reference takes the place of doing so one by one.
        """
        mapped = tuple(index for index, dim in enumerate(dims) if dim is not None)
        if self._dimensions is not None:
            words = _words(jax.tree.unflatten(params["treedef"], leaves), self._dimensions[0])
            if all(words[index].startswith("*") for index in mapped):
                size = leaves[mapped[0]].shape[dims[mapped[0]]]
                leaves = map(functools.partial(_with_leading, size), leaves, dims, words)
                return self._primitive.bind(*leaves, **params), 0
        if params["implementation"] in ("auto", "xla"):
            outs = jax.vmap(functools.partial(_flat(self.reference), **params), in_axes=dims)(*leaves)
        else:
            one = _of(lambda *leaves: self._inward(self._primitive.bind(*leaves, **params)), leaves, mapped)
            moved = [jnp.moveaxis(leaves[index], dims[index], 0) for index in mapped]
            outs = jax.lax.map(lambda values: one(*values), moved)
        return self._outward(outs), self._outward([0] * len(outs))

    def _jvp(self, primals, tangents, **params):
        moving = _moving(tangents)
        moved = [tangents[index] for index in moving]
        if params["implementation"] == "xla" or self._derivative is None:
            plain = functools.partial(_flat(self.reference), **params)
            outs = jax.jvp(_of(plain, primals, moving), [primals[index] for index in moving], moved)
            return tuple(map(self._outward, outs))
        if isinstance(self._derivative, Derivative) and self._derivative.save is not None:
            arrays = jax.tree.unflatten(params["treedef"], primals)
            save, implementation = self._derivative.save, params["implementation"]
            with jax.default_matmul_precision(params["precision"]):
                outs, saved = save(*arrays, implementation=implementation, **dict(params["static"]))
        else:
            outs, saved = self._primitive.bind(*primals, **params), ()
        kept, kept_tree = jax.tree.flatten(saved)
        return outs, self._tangent.bind(*primals, *kept, *moved, kept=kept_tree, moving=moving, **params)

    def _tangent_of(self, *leaves, kept, moving, **params):
        """The reference's derivative along the leaves that move, which come last."""
        del kept
        primals, moved = leaves[: params["treedef"].num_leaves], list(leaves[len(leaves) - len(moving) :])
        plain = functools.partial(_flat(self.reference), **params)
        return jax.jvp(_of(plain, primals, moving), [primals[index] for index in moving], moved)[1]

    def _tangent_jvp(self, primals, tangents, **params):
        moving = _moving(tangents)
        function = _of(functools.partial(self._tangent_of, **params), primals, moving)
        outs = jax.jvp(function, [primals[index] for index in moving], [tangents[index] for index in moving])
        return tuple(map(self._outward, outs))

    def _transpose(self, cotangents, *leaves, kept, moving, treedef, static, implementation, precision):
        first, num = len(leaves) - len(moving), treedef.num_leaves
        arrays, saved = jax.tree.unflatten(treedef, leaves[:num]), jax.tree.unflatten(kept, leaves[num:first])
        linear = [ad.is_undefined_primal(leaf) for leaf in leaves[first:]]
        wanted = tuple(index for index, is_linear in zip(moving, linear, strict=True) if is_linear)
        if isinstance(self._derivative, Derivative):
            backward = self._derivative.backward
        else:
            assert self._derivative is not None, "no tangent is made where the reference is differentiated"
            backward = _recomputing(self, self._derivative.form)
        # One that has no kernel runs in XLA, whatever was asked for the way forward.
        implementation = "auto" if isinstance(backward.triton, str) else implementation
        filled = self._outward([ad.instantiate_zeros(cotangent) for cotangent in self._inward(cotangents)])
        with jax.default_matmul_precision(precision):
            grads = backward(arrays, saved, filled, wanted=wanted, implementation=implementation, **dict(static))
        grads = iter(grads)
        return [None] * first + [next(grads) if is_linear else None for is_linear in linear]


@functools.cache
def _recomputing(operation: Operation, form: Callable | None) -> Operation:
    """The backward operation that runs a form of the operation once more and differentiates it."""

    def backward(arrays, saved, cotangents, *, wanted, **static):
        del saved
        leaves, treedef = jax.tree.flatten(arrays)
        params = {"treedef": treedef, "static": tuple(static.items()), "precision": _precision()}
        plain = functools.partial(_flat(form or operation.reference), **params)
        _, pullback = jax.vjp(_of(plain, leaves, wanted), *(leaves[index] for index in wanted))
        return pullback(jax.tree.leaves(cotangents))

    return Operation(f"{operation.name}_backward", backward, result="several")


def _flat(function: Callable) -> Callable:
    """From leaves to a list of leaves."""

    def call(*leaves, treedef, static, implementation="auto", precision):
        del implementation
        with jax.default_matmul_precision(precision):
            return jax.tree.leaves(function(*jax.tree.unflatten(treedef, leaves), **dict(static)))

    return call


def _precision():
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]


def _of(function, leaves, moving):
    """A function of some leaves only."""

    def of_moving(*values):
        changed = list(leaves)
        for index, value in zip(moving, values, strict=True):
            changed[index] = value
        return function(*changed)

    return of_moving


def _words(arrays, words):
    """The declared dimensions of each leaf, of arguments that may be None or nested."""
    if arrays is None:
        return []
    if isinstance(words, str):
        return [words]
    return [word for pair in zip(arrays, words, strict=True) for word in _words(*pair)]


def _with_leading(size, leaf, dim, word):
    """A leaf that is mapped along `dim`, or not at all, with that dimension in front."""
    if not word.startswith("*"):
        return leaf
    if dim is not None:
        return jnp.moveaxis(leaf, dim, 0)
    return jnp.broadcast_to(leaf, (1 if word.startswith("*#") else size, *leaf.shape))


def _moving(tangents):
    return tuple(index for index, tangent in enumerate(tangents) if type(tangent) is not ad.Zero)


@functools.lru_cache(maxsize=1024)
def _compiled(primitive, params):
    return jax.jit(functools.partial(primitive.bind, **dict(params)))
