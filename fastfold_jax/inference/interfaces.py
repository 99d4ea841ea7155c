"""Scores of the interface between each two chains of a complex, from coordinates, pLDDT and aligned errors alone."""

import dataclasses
import math
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fastfold_jax.constants.atoms import ATOM37_INDEX
from fastfold_jax.inference.result import Prediction, ResidueRange
from fastfold_jax.model.confidence import CONTACT_DISTANCE

IPSAE_CUTOFF = 10.0  # Å of aligned error; Dunbrack's choice for AlphaFold 2
LIS_CUTOFF = 12.0  # Å of aligned error
_PDOCKQ = (0.724, 0.052, 152.611, 0.018)  # height, slope, midpoint, floor of the fitted logistic curve
_PDOCKQ2 = (1.31034849, 0.0747157696, 84.7332624, 0.00501886443)
_PDOCKQ2_ERROR = 10.0  # Å at which an aligned error counts half


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interface:
    """How sure a prediction is of how two chains lie to each other.

    Attributes:
      chains: Their names.
      contacts: Pairs of residues, one in each chain, whose Cβ atoms are within 8 Å.
      plddt: Mean over the residues in contact, 0..100; None without contacts.
      pae: Mean aligned error over pairs in contact, both ways, Å; None without contacts or aligned errors.
      pae_min: Smallest aligned error between the chains, Å; None without aligned errors.
      pdockq: 0..0.74 (Bryant, Pozzati & Elofsson 2022); above 0.23 acceptable models prevail. 0 without contacts.
      pdockq2: 0..1.3, the better of the two chains (Zhu et al. 2023). 0 without contacts, None without aligned errors.
      lis: 0..1, local interaction score (Kim et al. 2024), mean of both ways; None without aligned errors.
      ipsae: 0..1, the larger of both ways (Dunbrack 2025, d0 by residues, 10 Å); None without aligned errors.
    """

    chains: tuple[str, str]
    contacts: int
    plddt: float | None
    pae: float | None
    pae_min: float | None
    pdockq: float
    pdockq2: float | None
    lis: float | None
    ipsae: float | None

    def to_json(self) -> dict[str, Any]:
        """Rounded as they are read, without what does not exist."""
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in fields.items()}
        return {**rounded, "chains": list(self.chains)}


def score_interfaces(prediction: Prediction) -> tuple[Interface, ...]:
    """One for each two chains, in order; none for a single chain."""
    beta = _beta_positions(prediction)
    return tuple(_score(prediction, beta, one, other) for one, other in combinations(prediction.chains, 2))


def _beta_positions(prediction: Prediction) -> Float[np.ndarray, "n 3"]:
    """Cβ of each residue, Cα where it has none, NaN where it has neither."""
    alpha, beta = ATOM37_INDEX["CA"], ATOM37_INDEX["CB"]
    has_beta = prediction.atom_mask[:, beta] > 0.5
    positions = np.where(has_beta[:, None], prediction.atom_positions[:, beta], prediction.atom_positions[:, alpha])
    known = has_beta | (prediction.atom_mask[:, alpha] > 0.5)
    return np.where(known[:, None], positions, np.nan).astype(np.float64)


def _score(prediction: Prediction, beta: Float[np.ndarray, "n 3"], one: ResidueRange, other: ResidueRange) -> Interface:
    a, b = slice(one.start, one.stop), slice(other.start, other.stop)
    distance = np.linalg.norm(beta[a, None] - beta[None, b], axis=-1)
    contact = distance <= CONTACT_DISTANCE  # False where unknown
    ways = None
    if prediction.pae is not None:
        ways = prediction.pae[a, b].astype(np.float64), prediction.pae[b, a].astype(np.float64)
    touching = bool(contact.any())
    plddt = (prediction.plddt[a].astype(np.float64), prediction.plddt[b].astype(np.float64))
    at_interface = np.concatenate([plddt[0][contact.any(axis=1)], plddt[1][contact.any(axis=0)]])
    mean_plddt = float(at_interface.mean()) if touching else None
    return Interface(
        chains=(one.id, other.id),
        contacts=int(contact.sum()),
        plddt=mean_plddt,
        pae=float(np.mean([ways[0][contact], ways[1][contact.T]])) if ways and touching else None,
        pae_min=float(min(ways[0].min(), ways[1].min())) if ways else None,
        pdockq=_logistic(_PDOCKQ, mean_plddt * math.log10(contact.sum())) if mean_plddt is not None else 0.0,
        pdockq2=max(_pdockq2(plddt[0], ways[0], contact), _pdockq2(plddt[1], ways[1], contact.T)) if ways else None,
        lis=(_lis(ways[0]) + _lis(ways[1])) / 2 if ways else None,
        ipsae=max(_ipsae(ways[0]), _ipsae(ways[1])) if ways else None,
    )


def _logistic(curve: tuple[float, float, float, float], x: float) -> float:
    height, slope, midpoint, floor = curve
    return height / (1 + math.exp(-slope * (x - midpoint))) + floor


def _pdockq2(plddt: Float[np.ndarray, " a"], pae: Float[np.ndarray, "a b"], contact: Bool[np.ndarray, "a b"]) -> float:
    """Zhu, Shenoy, Kundrotas & Elofsson 2023, equation 1, for the chain whose residues are the rows."""
    if not contact.any():
        return 0.0
    errors = (1 / (1 + (pae[contact] / _PDOCKQ2_ERROR) ** 2)).mean()
    return _logistic(_PDOCKQ2, float(plddt[contact.any(axis=1)].mean() * errors))


def _lis(pae: Float[np.ndarray, "a b"]) -> float:
    """Kim et al. 2024: how far aligned errors are below 12 Å, over those that are."""
    low = pae[pae < LIS_CUTOFF]
    return float(((LIS_CUTOFF - low) / LIS_CUTOFF).mean()) if low.size else 0.0


def _ipsae(pae: Float[np.ndarray, "a b"]) -> float:
    """Dunbrack 2025: pTM over pairs with low aligned errors, when aligned on the best residue of the rows' chain."""
    low = pae < IPSAE_CUTOFF
    count = low.sum(axis=1)
    length = np.maximum(count, 27)  # below it d0 is 1 Å
    d0 = np.where(count < 27, 1.0, np.maximum(1.24 * np.cbrt(length - 15.0) - 1.8, 1.0))
    terms = np.where(low, 1 / (1 + (pae / d0[:, None]) ** 2), 0.0).sum(axis=1)
    return float((terms / np.maximum(count, 1)).max())
