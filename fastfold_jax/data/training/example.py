"""One training example before anything about it is random: alignments, and the structure they belong to."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int

from fastfold_jax.config.model import ModelConfig, MultimerConfig
from fastfold_jax.constants import ATOM37_INDEX, GAP
from fastfold_jax.data.assemble import assemble
from fastfold_jax.data.draws import Draws
from fastfold_jax.data.job import Job
from fastfold_jax.data.msa import Limits
from fastfold_jax.data.raw import RawFeatures, Templates
from fastfold_jax.data.structure import ChainStructure, Structure, StructureError, read_structure
from fastfold_jax.data.training.alignments import read_chain
from fastfold_jax.data.training.selection import Record
from fastfold_jax.data.training.templates import TemplateSource

_ALPHA = ATOM37_INDEX["CA"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """A chain or complex of N residues.

    Attributes:
        raw: its sequence and alignment.
        chains: the structure of each chain, in the order of `raw.asym_id`.
        resolution: Å; 0 where there is none.
        broken_templates: entries that were drawn as templates and could not be read, each with the reason.
    """

    raw: RawFeatures
    chains: tuple[ChainStructure, ...]
    resolution: float
    broken_templates: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def lengths(self) -> list[int]:
        """Residues of each chain."""
        return [len(chain.sequence) for chain in self.chains]

    def alpha(self) -> tuple[Float32[np.ndarray, "n 3"], Bool[np.ndarray, " n"]]:
        """Cα positions, Å, and where they are known."""
        positions = np.concatenate([chain.positions[:, _ALPHA] for chain in self.chains])
        return positions, np.concatenate([chain.atom_mask[:, _ALPHA] > 0 for chain in self.chains])

    def native(
        self, kept: Int[np.ndarray, " kept"], copies: int
    ) -> tuple[Float32[np.ndarray, "copies kept 37 3"], Float32[np.ndarray, "copies kept 37"]]:
        """Known atoms of the kept residues in each copy of their chain; mask 0 for copies that do not exist."""
        positions = np.zeros((copies, len(kept), 37, 3), np.float32)
        mask = np.zeros((copies, len(kept), 37), np.float32)
        asym_id, entity_id = self.raw.asym_id[kept], self.raw.entity_id[kept]
        starts = np.cumsum([0, *self.lengths])
        within = kept - starts[asym_id - 1]
        for number, chain in enumerate(self.chains, start=1):
            first = starts[number - 1]
            copy = self.raw.sym_id[first] - 1
            alike = np.flatnonzero(entity_id == self.raw.entity_id[first])
            positions[copy, alike] = chain.positions[within[alike]]
            mask[copy, alike] = chain.atom_mask[within[alike]]
        return positions, mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """Makes examples of an index's records.

    Attributes:
        structures, alignments: directories that records' paths are beneath.
        config: the model; a multimer's examples are whole assemblies.
        limits: caps on rows of alignments.
        min_confidence: of a predicted structure, residues with a lower pLDDT (0 to 100) are masked out; None for
            experimental structures.
        max_copies: chains of equal sequence in an assembly.
        max_chains: chains in an assembly; the nearest to the drawn one stay.
        templates: where templates come from; None uses none.
    """

    structures: Path
    alignments: Path | None
    config: ModelConfig
    limits: Limits = dataclasses.field(default_factory=Limits)
    min_confidence: float | None = None
    max_copies: int = 20
    max_chains: int = 20
    templates: TemplateSource | None = None

    def read(self, record: Record, draws: Draws | None = None) -> Example:
        """The example of a record.

        Args:
            record: what to read.
            draws: the random stream that templates are drawn from; None takes the best.

        Raises:
            UserError: its structure or an alignment is missing, damaged, or does not fit the other.
        """
        structure = read_structure(self.structures / record.file)
        if isinstance(self.config, MultimerConfig):
            chains = self._assembly(structure, record.label)
        else:
            chains = [structure.chain(record.label)]
        if self.min_confidence is not None:
            chains = [_confident(chain, self.min_confidence) for chain in chains]
        if not any(chain.atom_mask[:, _ALPHA].any() for chain in chains):
            least = self.min_confidence
            sure = "" if least is None else f" with a pLDDT (B-factor) of at least {least:g}"
            raise StructureError(f"{structure.file}: no residue of {record.name} has a known Cα{sure}")
        raw, broken = self._raw(record, chains, draws)
        return Example(
            raw=raw,
            chains=tuple(chains),
            resolution=0.0 if self.min_confidence is not None else structure.resolution or 0.0,
            broken_templates=broken,
        )

    def _assembly(self, structure: Structure, label: str) -> list[ChainStructure]:
        """The chains of the drawn one's assembly that are nearest to it, in the assembly's order."""
        read = {label: structure.chain(label)}
        chains = []
        for part, operator in structure.assembly_of(label):
            if part not in read and structure.resolved(part):
                read[part] = structure.chain(part)
            if part in read:
                chains.append(read[part].moved(operator))
        drawn = next(chain for chain in chains if chain.label == label)
        kept: list[int] = []
        for number in sorted(range(len(chains)), key=lambda number: _distance(drawn, chains[number])):
            copies = sum(chains[other].sequence == chains[number].sequence for other in kept)
            if len(kept) < self.max_chains and copies < self.max_copies:
                kept.append(number)
        return [chains[number] for number in sorted(kept)]

    def _raw(
        self, record: Record, chains: list[ChainStructure], draws: Draws | None
    ) -> tuple[RawFeatures, dict[str, str]]:
        """Features of the chains, and broken templates; of copies with the same sequence one has the alignments."""
        directory: dict[str, str | None] = {}
        for chain in chains:
            directory[chain.sequence] = directory.get(chain.sequence) or record.alignments.get(chain.label)
        read, broken = {}, dict[str, str]()
        for sequence, name in directory.items():
            place = self.alignments / name if name and self.alignments else None
            found = read_chain(record.name, sequence, place, pairing=len(directory) > 1)
            if place and self.templates:
                of_chain, failed = self.templates.of(
                    found, place, entry=record.structure, released=record.release_date, draws=draws
                )
                found = dataclasses.replace(found, templates=of_chain)
                broken |= failed
            read[sequence] = found
        parts = tuple(
            dataclasses.replace(read[chain.sequence], id=f"{chain.label}{number}")
            for number, chain in enumerate(chains, start=1)
        )
        return assemble(Job(name=record.name, chains=parts), self.config, limits=self.limits), broken


def crop(raw: RawFeatures, kept: Int[np.ndarray, " kept"]) -> RawFeatures:
    """The features of some residues alone."""
    templates = raw.templates
    return dataclasses.replace(
        raw,
        aatype=raw.aatype[kept],
        residue_index=raw.residue_index[kept],
        asym_id=raw.asym_id[kept],
        entity_id=raw.entity_id[kept],
        sym_id=raw.sym_id[kept],
        seq_mask=raw.seq_mask[kept],
        msa=raw.msa[:, kept],
        deletions=raw.deletions[:, kept],
        msa_mask=raw.msa_mask[:, kept],
        templates=Templates(
            aatype=templates.aatype[:, kept],
            positions=templates.positions[:, kept],
            atom_mask=templates.atom_mask[:, kept],
        ),
    )


def only_rows(raw: RawFeatures, rows: Int[np.ndarray, " rows"]) -> RawFeatures:
    """The features with some rows of the alignment alone."""
    return dataclasses.replace(
        raw, msa=raw.msa[rows], deletions=raw.deletions[rows], msa_mask=raw.msa_mask[rows], first=raw.first[rows]
    )


def without_empty_rows(raw: RawFeatures) -> RawFeatures:
    """The features without rows that have no letter, such as those of domains or chains that a crop has left out."""
    return only_rows(raw, np.flatnonzero(((raw.msa != GAP) & raw.msa_mask).any(axis=1)))


def _confident(chain: ChainStructure, least: float) -> ChainStructure:
    """A predicted chain without the residues that the prediction is not sure of."""
    mask = chain.atom_mask * (chain.confidence >= least)[:, None]
    return dataclasses.replace(chain, atom_mask=mask, positions=chain.positions * mask[..., None])


def _distance(one: ChainStructure, other: ChainStructure) -> float:
    """Å between the two nearest Cα atoms of two chains; infinite if either has none."""
    first, second = (chain.positions[chain.atom_mask[:, _ALPHA] > 0, _ALPHA] for chain in (one, other))
    if one is other or not len(first) or not len(second):
        return 0.0 if one is other else np.inf
    square = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1) - 2 * first @ second.T
    return float(np.sqrt(max(square.min(), 0.0)))
