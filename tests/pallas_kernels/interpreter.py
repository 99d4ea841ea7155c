"""Triton kernels run by Triton's interpreter on NumPy arrays: a launcher for machines without a GPU, without torch."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import triton.experimental.gluon  # noqa: F401  (it must see the functions of the language before they are replaced)
import triton.language as tl
from triton.runtime import interpreter as triton_interpreter
from triton.runtime.interpreter import GridExecutor, InterpretedFunction
from triton.runtime.jit import JITFunction

from pallas_kernels import device, launch

_TYPES = {"float32": "fp32", "bfloat16": "bf16", "int32": "i32"}


# The interpreter replaces functions of the language, while devices of one process run side by side.
_LOCK = threading.Lock()
# What was replaced: a program traced meanwhile, in another thread, may have found the replacement.
_COMPILED: dict[Callable, JITFunction] = {}

_patch_tensor = triton_interpreter._patch_lang_tensor


def _patch_tensor_and_index(tensor, scope):
    """Triton 3.6 turns arrays of one element into integers by `int`, which new NumPy refuses."""
    _patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


triton_interpreter._patch_lang_tensor = _patch_tensor_and_index


class _Builder(triton_interpreter.InterpreterBuilder):
    """With bf16 as GPUs have it: Triton 3.6 multiplies its bits as integers, and rounds towards zero.

    Numbers in bf16 are kept as their bits, in arrays of uint16.
    """

    def cast_impl(self, src, dst_type):
        source, target = src.dtype.scalar, dst_type.scalar
        if tl.bfloat16 not in (source, target) or source == target:
            return super().cast_impl(src, dst_type)
        if source == tl.bfloat16:
            values = src.data.view(jnp.bfloat16).astype(np.float32)
            return super().cast_impl(triton_interpreter.TensorHandle(values, tl.float32), dst_type)
        bits = src.data.astype(np.float32).astype(jnp.bfloat16).view(np.uint16)
        return triton_interpreter.TensorHandle(bits, tl.bfloat16)

    def create_fp_to_fp(self, src, dst_type, rounding_mode):
        return self.cast_impl(src, dst_type)

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        a, b = (self.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return super().create_dot(a, b, d, input_precision, max_num_imprecise_acc)


triton_interpreter.interpreter_builder.__class__ = _Builder


class _Pointer:
    """What the interpreter needs of an array."""

    def __init__(self, array: np.ndarray):
        self.array = array
        self.dtype = _TYPES[str(array.dtype)]

    def data_ptr(self) -> int:
        return self.array.ctypes.data


class _Executor(GridExecutor):
    """Arguments stay where they are: nothing to copy from a device and back."""

    def _init_args_hst(self, args_dev, kwargs):
        return list(args_dev), kwargs

    def _restore_args_dev(self, args_dev, args_hst, kwargs, kwargs_hst):
        pass


@contextlib.contextmanager
def _interpreted(kernel: JITFunction) -> Iterator[None]:
    """Every Triton function that the kernel may call is replaced by its interpreted form."""
    modules = [sys.modules[kernel.fn.__module__], tl, tl.standard, device]
    swapped = [(m, name, f) for m in modules for name, f in vars(m).items() if isinstance(f, JITFunction)]
    # Patches the language's core, which the standard functions use; the executor patches what kernels use.
    core = triton_interpreter._patch_lang(tl.standard.max.fn)
    for module, name, function in swapped:
        interpreted = InterpretedFunction(function.fn).rewrite()
        _COMPILED[interpreted] = function
        setattr(module, name, interpreted)
    try:
        yield
    finally:
        core.restore()
        for module, name, function in swapped:
            setattr(module, name, function)


def _execute(request: launch.Launch, *arrays: np.ndarray) -> list[np.ndarray]:
    inputs = [np.array(x, order="C") for x in arrays]  # its own copy: a kernel must not write to what it reads
    before = [x.copy() for x in inputs]
    outputs = []
    for index, spec in enumerate(request.outputs):
        # What a kernel forgets to write must be seen.
        fill = 0 if index in request.zeroed else np.nan
        outputs.append(np.full(spec.shape, fill, spec.dtype))
    values = [*map(_Pointer, inputs), *request.sizes, *map(_Pointer, outputs)]
    with _LOCK:
        # To look a kernel up is to hash it with all that it calls, which no other device may have replaced meanwhile.
        kernel = _COMPILED.get(request.kernel, request.kernel)
        function = InterpretedFunction(kernel.fn)
        with _interpreted(kernel), np.errstate(all="ignore"):
            executor = _Executor(function.rewrite(), function.arg_names, request.grid)
            executor(*values, **request.constants, **request.config.blocks)
    for x, same in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(x, same, err_msg="a kernel wrote to an input")
    return outputs


def _run(request: launch.Launch, target: launch.Target) -> list[jax.Array]:
    del target
    shapes = [jax.ShapeDtypeStruct(spec.shape, spec.dtype) for spec in request.outputs]
    return jax.pure_callback(lambda *arrays: _execute(request, *arrays), shapes, *request.arrays)


INTERPRETER = launch.Launcher(run=_run, platform="cpu")
