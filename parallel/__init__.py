"""Dynamic Axial Parallelism: one protein on many devices."""

from parallel.axis import Axis
from parallel.mesh import DAP, DATA, dap_axis, data_axis, make_mesh

__all__ = ["DAP", "DATA", "Axis", "dap_axis", "data_axis", "make_mesh"]
