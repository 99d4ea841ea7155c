"""Which chains of an index are trained on, and how often each is drawn.

AlphaFold 2 supplement, section 1.2.5.
"""

import collections
import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from fastfold_jax.checks import iso_date
from fastfold_jax.data.training.records import ChainEntry, FileEntry, Index
from fastfold_jax.errors import UserError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filters:
    """What a chain must be to be trained on.

    Attributes:
        max_resolution: Å; structures whose resolution is not a smaller number are left out. Those without any (NMR,
            predictions) stay.
        released_before: ISO date, such as 2018-04-30; later structures, and those without a date, are left out. None
            admits all.
        released_after: likewise for the earliest date, as validation sets need.
        min_length, max_length: residues of a chain.
        max_residue_share: largest share of one residue type.
        need_alignment: leave out chains without alignments; otherwise their own sequence is all that they have.
        need_cluster: leave out chains that are in no cluster; otherwise each is its own.
    """

    max_resolution: float = 9.0
    released_before: str | None = None
    released_after: str | None = None
    min_length: int = 4
    max_length: int | None = None
    max_residue_share: float = 0.8
    need_alignment: bool = True
    need_cluster: bool = False

    def __post_init__(self) -> None:
        iso_date(self.released_before, "released_before")
        iso_date(self.released_after, "released_after")
        if self.max_resolution <= 0 or not 0 < self.max_residue_share <= 1 or self.min_length < 1:
            raise UserError(
                f"max_resolution={self.max_resolution}, max_residue_share={self.max_residue_share}, "
                f"min_length={self.min_length}: accepted are a resolution above 0 Å, a share above 0 and at most 1, "
                "and a length from 1"
            )

    def reason(self, entry: FileEntry, chain: ChainEntry) -> str | None:
        """Why a chain is left out, in a few words; None if it is not."""
        date = entry.release_date
        checks = (
            (entry.resolution is not None and entry.resolution >= self.max_resolution, "resolution"),
            (self.released_before is not None and (date is None or date > self.released_before), "released too late"),
            (self.released_after is not None and (date is None or date < self.released_after), "released too early"),
            (chain.length < self.min_length, "too short"),
            (self.max_length is not None and chain.length > self.max_length, "too long"),
            (chain.largest_share > self.max_residue_share, "mostly one residue type"),
            (chain.resolved == 0, "no residue resolved"),
            (self.need_alignment and chain.alignment is None, "no alignment"),
            (self.need_cluster and chain.cluster is None, "no cluster"),
        )
        return next((why for fails, why in checks if fails), None)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A chain that may be drawn. There are hundreds of thousands, in every process: it holds no more than it must.

    Attributes:
        name: such as ``2q2k_A``: the structure and the author's chain.
        file: its structure, beneath the directory of structures.
        structure: name of the structure.
        label: its `label_asym_id` there.
        length: residues.
        release_date: ISO, None if unknown.
        cluster: of similar sequences; a chain without one is its own.
        alignments: directories of the alignments of each chain of the file that has any, by label.
    """

    name: str
    file: str
    structure: str
    label: str
    length: int
    release_date: str | None
    cluster: str
    alignments: Mapping[str, str]


def select(index: Index, filters: Filters, *, what: str) -> tuple[Record, ...]:
    """The chains that pass, in the index's order; how many did not, and why, is logged.

    Args:
        index: all there are.
        filters: what they must be.
        what: name of the set, for messages.

    Raises:
        UserError: none passes.
    """
    passed, failed = [], collections.Counter[str]()
    for entry in index.files:
        if entry.error:
            failed["unreadable file"] += 1
        structure = entry.name
        alignments = {chain.label: chain.alignment for chain in entry.chains if chain.alignment}
        for chain in entry.chains:
            why = filters.reason(entry, chain)
            if why is None:
                passed.append(
                    Record(
                        name=f"{structure}_{chain.author}",
                        file=entry.file,
                        structure=structure,
                        label=chain.label,
                        length=chain.length,
                        release_date=entry.release_date,
                        cluster=chain.cluster or f"{entry.file} {chain.label}",
                        alignments=alignments,
                    )
                )
            else:
                failed[why] += 1
    reasons = ", ".join(f"{count} {why}" for why, count in failed.most_common()) or "none"
    if not passed:
        raise UserError(
            f"{what}: no chain can be trained on. Of {len(index.files)} structure files were left out: {reasons}"
        )
    logger.info("%s: %d chains; left out: %s", what, len(passed), reasons)
    return tuple(passed)


def length_weight(length: int) -> float:
    """How much more often than a short chain a chain of this length is drawn (section 1.2.5)."""
    return max(min(length, 512), 256) / 512


def weights(records: Sequence[Record]) -> Float64[np.ndarray, " records"]:
    """Probability with which each record is drawn: by its length, and one over the size of its cluster.

    The size of a cluster is the number of its chains among the records.
    """
    sizes = collections.Counter(record.cluster for record in records)
    drawn = np.array([length_weight(record.length) / sizes[record.cluster] for record in records])
    return drawn / drawn.sum()
