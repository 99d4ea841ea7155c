"""The released networks, and a toy, as rows of one table."""

import dataclasses
from types import MappingProxyType

from fastfold_jax.config.model import ModelConfig, MonomerConfig, MultimerConfig
from fastfold_jax.errors import UserError


def _monomer(number: int, *, extra: int, templates: bool) -> MonomerConfig:
    """Jumper et al. 2021, supplementary table 5."""
    return MonomerConfig(
        name=f"model_{number}",
        num_extra_msa=extra,
        num_templates=4 if templates else 0,
        msa_includes_templates=templates,
    )


_MONOMERS = (
    _monomer(1, extra=5120, templates=True),
    _monomer(2, extra=1024, templates=True),
    _monomer(3, extra=5120, templates=False),
    _monomer(4, extra=5120, templates=False),
    _monomer(5, extra=1024, templates=False),
)
_PTM = tuple(dataclasses.replace(row, name=f"{row.name}_ptm", ptm_head=True) for row in _MONOMERS)
_MULTIMER_V1 = tuple(
    MultimerConfig(name=f"model_{number}_multimer", num_msa=252, num_extra_msa=1152) for number in range(1, 6)
)
_MULTIMER_V2 = tuple(dataclasses.replace(row, name=f"{row.name}_v2") for row in _MULTIMER_V1)
_MULTIMER_V3 = tuple(
    MultimerConfig(name=f"model_{number}_multimer_v3", num_msa=508, num_extra_msa=extra, triangle_layout="fused")
    for number, extra in ((1, 2048), (2, 2048), (3, 2048), (4, 1152), (5, 1152))
)

_DEMO = MonomerConfig(
    name="demo",
    num_msa=1,
    num_extra_msa=0,
    num_recycles=1,
    evoformer_blocks=2,
    extra_msa_blocks=0,
    structure_layers=4,
    c_m=64,
    c_z=32,
    c_s=128,
    c_e=8,
    c_outer=8,
    msa_heads=8,
    pair_heads=4,
    ptm_head=True,
)
"""No released network: a toy that `train.py --preset demo` teaches a handful of proteins, for trying the software."""

PRESETS = MappingProxyType(
    {row.name: row for row in (*_MONOMERS, *_PTM, *_MULTIMER_V1, *_MULTIMER_V2, *_MULTIMER_V3, _DEMO)}
)


def preset(name: str, **overrides) -> ModelConfig:
    """The network `name`, with any field overridden.

    Raises:
      UserError: if there is no such preset.
    """
    if name not in PRESETS:
        raise UserError(f"no model is called {name!r}; accepted are {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[name], **overrides)
