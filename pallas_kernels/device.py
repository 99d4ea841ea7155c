"""Functions that Triton kernels of several operations share."""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), of float32."""
    return 1.0 / (1.0 + tl.exp2(x * -1.4426950408889634))
