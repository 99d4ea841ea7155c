"""Templates of a training example: a random few of the hits that its chain's search found, all older than itself.

AlphaFold 2 supplement, section 1.2.3.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fastfold_jax.checks import at_least, iso_date
from fastfold_jax.data import layout
from fastfold_jax.data.draws import Draws
from fastfold_jax.data.job_chains import Chain
from fastfold_jax.data.raw import Templates
from fastfold_jax.data.structure import Structure
from fastfold_jax.data.template_features import Rejected, stack
from fastfold_jax.data.template_hits import TemplateHit, read_hits
from fastfold_jax.data.template_selection import Library, Rules, read_successors, require_worth, select
from fastfold_jax.data.training.alignments import files_of
from fastfold_jax.data.training.records import Index
from fastfold_jax.errors import UserError

_ONE_DAY = datetime.timedelta(days=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemplateConfig:
    """Which structures serve as templates. The hits are those among the alignments (.hhr, or hmmsearch's Stockholm).

    Attributes:
        structures: directory of mmCIF files, such as that of the index (see `Library`).
        obsolete: the PDB's `obsolete.dat`, which leads from replaced entries to their successors.
        latest: ISO date; no template was released later, nor on the day of the example's own release or later.
        pool: templates are drawn from the best so many hits.
    """

    structures: Path
    obsolete: Path | None = None
    latest: str | None = None
    pool: int = 20

    def __post_init__(self) -> None:
        iso_date(self.latest, "max_template_date")
        if not self.structures.is_dir():
            raise UserError(f"{self.structures}: no such directory of structures for templates")
        at_least(1, template_pool=self.pool)

    def source(self, index: Index, most: int) -> "TemplateSource":
        """Where the templates of an index's chains come from, at most so many each.

        Raises:
            UserError: the list of obsolete entries cannot be read.
        """
        return TemplateSource(
            library=Library(
                directory=self.structures, successors=read_successors(self.obsolete) if self.obsolete else {}
            ),
            dates={entry.name.lower(): entry.release_date for entry in index.files if entry.release_date},
            most=most,
            pool=self.pool,
            latest=self.latest,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemplateSource:
    """Where templates come from, and how many an example gets.

    Attributes:
        library: structures by PDB code.
        dates: release dates by PDB code, as far as known without reading the structure.
        most: that the model takes.
        pool: the best so many hits are drawn from.
        latest: ISO date after which no template is released, whatever the example's own date.
    """

    library: Library
    dates: Mapping[str, str] = dataclasses.field(default_factory=dict)
    most: int = 4
    pool: int = 20
    latest: str | None = None

    def of(
        self, chain: Chain, directory: Path, *, entry: str, released: str | None, draws: Draws | None
    ) -> tuple[Templates, dict[str, str]]:
        """The templates of a chain, and entries whose structures are missing or damaged, each with the reason.

        A uniform number of hits, from none to all of the pool, is drawn from it, and the first of these that make
        templates are taken. No template is of the entry itself, nor released on the same day or later.

        Args:
            chain: with the alignments whose query was searched with.
            directory: of the chain's alignments and hits.
            entry: name of the example's structure.
            released: ISO date of the example; None sets no limit.
            draws: the random stream; None takes the best hits.

        Raises:
            InputError: a list of hits is damaged, or of another query.
        """
        query = chain.alignments[0].query if chain.alignments else chain.sequence
        latest = self._latest(released)
        hits = [
            hit
            for path in files_of(directory, layout.is_template_hits)
            for hit in read_hits(path, query)
            if hit.entry != entry.lower()
            and (latest is None or self.dates.get(hit.entry, "") <= latest.isoformat())
            and _is_worth(hit, chain.sequence)
        ][: self.pool]
        most = self.most
        if draws is not None:
            hits, most = _drawn(hits, draws, most)
        library = _Noting(directory=self.library.directory, successors=self.library.successors)
        chosen = select(hits, chain.sequence, library, Rules(latest=latest, most=most))
        return stack(chosen, len(chain.sequence)), library.broken

    def _latest(self, released: str | None) -> datetime.date | None:
        """The last day on which a template may have been released."""
        days = [datetime.date.fromisoformat(released) - _ONE_DAY] if released else []
        days += [datetime.date.fromisoformat(self.latest)] if self.latest else []
        return min(days, default=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Noting(Library):
    """A library that notes which structures it could not read.

    Attributes:
        broken: the reason by entry; those that the PDB has withdrawn are missing rightly.
    """

    broken: dict[str, str] = dataclasses.field(default_factory=dict)

    def read(self, entry: str) -> Structure:
        """See `Library`."""
        try:
            return super().read(entry)
        except Rejected as reason:
            if self.successors.get(entry) != "":
                self.broken[entry] = str(reason)
            raise


def _is_worth(hit: TemplateHit, sequence: str) -> bool:
    try:
        require_worth(hit, sequence)
    except Rejected:
        return False
    return True


def _drawn(hits: Sequence[TemplateHit], draws: Draws, most: int) -> tuple[list[TemplateHit], int]:
    """The hits in random order, and how many to take of them: uniform, but no more than `most`."""
    number = int(draws.below(np.array([len(hits) + 1]))[0])
    return [hits[place] for place in draws.permutation(len(hits))], min(number, most)
