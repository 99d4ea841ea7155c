"""Names of a fused operation's implementations."""

from typing import Literal

Implementation = Literal["auto", "triton", "triton_atomic", "mosaic", "xla"]
