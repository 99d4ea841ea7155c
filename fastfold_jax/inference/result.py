"""What a prediction is: host arrays of one model and seed, how they came about, and the chains they describe."""

import dataclasses
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from fastfold_jax.constants import RESTYPES_WITH_X

Scale = Literal["plddts", "iptm+ptm"]
MAX_ALIGNED_ERROR = 31.75
"""Å: centre of the last bin of the aligned error head, the largest error it can predict."""


def scores_text(plddt: float, ptm: float | None, iptm: float | None) -> str:
    """Scores in one short line."""
    text = f"pLDDT {plddt:5.2f}"
    text += "" if ptm is None else f"  pTM {ptm:.3f}"
    return text + ("" if iptm is None else f"  ipTM {iptm:.3f}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UsedTemplate:
    """A known structure that the network looked at for a chain.

    Attributes:
      name: PDB code, or the file that the user gave; None where it is not known.
      chain: The author's name of its chain, likewise.
      released: ISO date, likewise.
      identity: Share of the aligned residues that are equal, 0..1.
      coverage: Share of the predicted chain's residues that are aligned, 0..1.
    """

    name: str | None
    chain: str | None
    released: str | None
    identity: float
    coverage: float

    def to_json(self) -> dict[str, Any]:
        """Without what is not known."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidueRange:
    """One chain of the output: consecutive residues of the prediction.

    Attributes:
      id: Name of the chain in the files.
      description: What the input called it, or "".
      start: Index of its first residue in the prediction.
      aatype: [n] residue types, 20 = unknown.
      numbers: [n] residue numbers in the files; 1-based, ascending.
      templates: Templates that the network looked at, best first; empty where the input is ready-made features.
    """

    id: str
    description: str = ""
    start: int
    aatype: Int[np.ndarray, " n"]
    numbers: Int[np.ndarray, " n"]
    templates: tuple[UsedTemplate, ...] = ()

    @property
    def stop(self) -> int:
        """One past the index of its last residue."""
        return self.start + len(self.aatype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassRecord:
    """The figures of one pass (recycle) of the model.

    Attributes:
      plddt: Mean pLDDT, 0..100.
      ptm, iptm: 0..1, or None for networks and inputs that have none.
      change: RMS change of the Cα distances against the pass before, Å; infinite in the first pass, which has none.
      seconds: Wall time.
    """

    plddt: float
    ptm: float | None
    iptm: float | None
    change: float
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a prediction was made, written into every file.

    Attributes:
      program: Name and version of this program.
      model: Preset name.
      parameters: File name of the parameters, or `random`.
      seed: Seed of everything random.
      rows: Most MSA clusters and extra rows a pass, as in `512:5120`.
      dropout: Whether the network kept dropout on.
      initial_guess: File of the structure that it started from, if any.
      precision: Type of the activations.
      platform: Version of JAX and kind of device.
      warning: Set when the structure means nothing (parameters drawn at random).
    """

    program: str
    model: str
    parameters: str
    seed: int
    rows: str
    precision: str
    platform: str
    dropout: bool = False
    initial_guess: str | None = None
    warning: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """One model's answer for one seed, without padding.

    Attributes:
      provenance: How it was made.
      chains: The chains, which cover the n residues in order.
      atom_positions: [n, 37, 3] Å.
      atom_mask: [n, 37], 1 where the residue has the atom.
      plddt: [n] 0..100.
      pae: [n, n] predicted aligned error, Å, or None for a network without that head.
      contact_probability: [n, n] that Cβ atoms (Cα of glycine) are within 8 Å, by the distogram.
      ptm, iptm: 0..1 or None.
      ranking_confidence: What predictions are ranked by: mean pLDDT (0..100) or 0.8 ipTM + 0.2 pTM (0..1).
      scale: Which of the two.
      passes: Figures of every pass.
    """

    provenance: Provenance
    chains: tuple[ResidueRange, ...]
    atom_positions: Float[np.ndarray, "n 37 3"]
    atom_mask: Float[np.ndarray, "n 37"]
    plddt: Float[np.ndarray, " n"]
    pae: Float[np.ndarray, "n n"] | None
    contact_probability: Float[np.ndarray, "n n"]
    ptm: float | None
    iptm: float | None
    ranking_confidence: float
    scale: Scale
    passes: tuple[PassRecord, ...]

    def __repr__(self) -> str:
        """In place of all its arrays."""
        scores = scores_text(self.mean_plddt, self.ptm, self.iptm)
        return f"<Prediction {self.name}: {len(self.plddt)} residues  {scores}>"

    @property
    def name(self) -> str:
        """Model and seed, which tell predictions of one run apart."""
        return f"{self.provenance.model}_seed{self.provenance.seed}"

    @property
    def aatype(self) -> Int[np.ndarray, " n"]:
        """[n] residue types, 20 = unknown."""
        return np.concatenate([chain.aatype for chain in self.chains])

    @property
    def sequence(self) -> str:
        """One letter a residue, X where unknown, and ``:`` between chains."""
        return ":".join("".join(RESTYPES_WITH_X[restype] for restype in chain.aatype) for chain in self.chains)

    @property
    def mean_plddt(self) -> float:
        """0..100, over residues."""
        return float(np.mean(self.plddt))
