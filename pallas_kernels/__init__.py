"""The operations that decide speed and memory, each behind one function that picks its implementation."""

from pallas_kernels.attention.api import attention
from pallas_kernels.attention.self_attention import self_attention
from pallas_kernels.layer_norm.api import layer_norm
from pallas_kernels.outer_product_mean.api import outer_product_mean
from pallas_kernels.products import matmul, product
from pallas_kernels.softmax.api import softmax
from pallas_kernels.transition.api import transition
from pallas_kernels.triangle_multiplication.api import triangle_consumer, triangle_contraction, triangle_producer

__all__ = [
    "attention",
    "layer_norm",
    "matmul",
    "outer_product_mean",
    "product",
    "self_attention",
    "softmax",
    "transition",
    "triangle_consumer",
    "triangle_contraction",
    "triangle_producer",
]
