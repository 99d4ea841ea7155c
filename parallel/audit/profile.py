"""Compiles with a profile, as JAX does on GPUs that it may watch at work (`jax_enable_pgle`); here the cost model's.

XLA begins a collective as long before its end as it thinks that it takes. What it thinks by itself is of the
instructions that it made: of attention, for example, one that writes all scores to memory.
"""

import tempfile
from collections.abc import Mapping
from typing import Any

from parallel.audit.cost import Machine
from parallel.audit.hlo import parse
from parallel.audit.schedule import durations

_OPTION = "xla_gpu_pgle_profile_file_or_directory_path"


def compile_profiled(lowered: Any, machine: Machine, *, fused: bool = False) -> Any:
    """The program scheduled by the times that the cost model gives its instructions: compiled twice.

    Args:
      lowered: For GPUs: XLA takes a profile for no other devices.
      fused: See `schedule.play`.
    """
    module = parse(lowered.compile().as_text())
    with tempfile.NamedTemporaryFile("w", suffix=".pbtxt") as file:
        file.write(profile_text(durations(module, machine, fused=fused)))
        file.flush()
        return lowered.compile(compiler_options={_OPTION: file.name})


def profile_text(seconds: Mapping[str, float]) -> str:
    """A profile in the text form of XLA's `ProfiledInstructionsProto`; a collective's cost is taken for its latency."""
    return "".join(f'costs {{ name: "{name}" cost_us: {1e6 * value:.3f} }}\n' for name, value in seconds.items())
