"""Which hits become templates: a structure must be there, old enough, no copy of the query, and cover enough of it."""

import dataclasses
import datetime
import functools
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from fastfold_jax.data.structure import MMCIF, Structure, read_structure
from fastfold_jax.data.template_features import Rejected, Template, template_of_hit
from fastfold_jax.data.template_hits import TemplateHit
from fastfold_jax.data.textfile import InputError, normalise, read_bytes

logger = logging.getLogger(__name__)

_LEAST_COVERAGE = 0.1  # of the query
_MOST_OF_THE_QUERY = 0.95  # that an exact copy of a part of it may be
_SHORTEST = 10  # residues
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Library:
    """A directory of mmCIF files.

    Attributes:
        directory: where they are, by entry (`1abc.cif`), or by the middle letters and entry (`ab/1abc.cif.gz`).
        successors: of entries that the PDB has replaced or, if "", withdrawn.
    """

    directory: Path
    successors: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def read(self, entry: str) -> Structure:
        """The structure of an entry, or of its successor.

        Raises:
            Rejected: if it is withdrawn, or its file is missing or no structure.
        """
        path = self._path(entry)
        if path is None:
            after = self.successors.get(entry)
            if after is None:
                raise Rejected(f"{self.directory} has no {entry}.cif")
            if not after:
                raise Rejected(f"the PDB has withdrawn {entry}")
            path = self._path(after)
            if path is None:
                raise Rejected(f"{self.directory} has neither {entry}.cif nor its successor {after}.cif")
        try:
            return read_structure(path)
        except InputError as error:
            raise Rejected(str(error)) from None

    def _path(self, entry: str) -> Path | None:
        if not _FILE_NAME.fullmatch(entry):  # names come from files of hits, and lead nowhere else
            return None
        folders = (self.directory, self.directory / entry[1:3])
        names = (f"{entry}{suffix}" for suffix in MMCIF)
        return next((path for name in names for folder in folders if (path := folder / name).is_file()), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """What a template must be.

    Attributes:
        latest: released on this day or before; None for any day.
        most: so many templates are enough.
    """

    latest: datetime.date | None
    most: int


def select(hits: Iterable[TemplateHit], query: str, library: Library, rules: Rules) -> list[Template]:
    """The templates that hits give, in their order, as AlphaFold chooses them; why others are none is logged in detail.

    Hits of hmmsearch whose aligned residues are those of an earlier one are left out, those of HHsearch are not, as in
    AlphaFold's two pipelines.

    Args:
        hits: best first.
        query: sequence of the chain to predict.
        library: the structures.
        rules: what a template must be.
    """
    chosen: list[Template] = []
    seen: set[bytes] = set()
    rejected = 0
    read = functools.lru_cache(maxsize=8)(library.read)
    for hit in hits:
        if len(chosen) >= rules.most:
            break
        try:
            require_worth(hit, query)
            structure = read(hit.entry)
            _require_old(structure, rules.latest)
            template = template_of_hit(hit, structure, query)
            residues = template.aatype.tobytes()
            if hit.sum_probs is None and residues in seen:
                raise Rejected("the same residues are aligned as in an earlier template")
        except Rejected as reason:
            logger.debug("template %s rejected: %s", hit.name, reason)
            rejected += 1
            continue
        seen.add(residues)
        chosen.append(template)
        logger.info("template %s accepted%s", template.name, f": {template.note}" if template.note else "")
    if rejected:
        logger.info("template hits not used: %d (--verbose says why, of each)", rejected)
    return chosen


def require_worth(hit: TemplateHit, query: str) -> None:
    """Raises `Rejected` for hits that no structure would make a template of."""
    if hit.aligned_columns / len(query) <= _LEAST_COVERAGE:
        raise Rejected(f"covers {hit.aligned_columns} of {len(query)} residues, no more than {_LEAST_COVERAGE:.0%}")
    if hit.sequence in query and len(hit.sequence) / len(query) > _MOST_OF_THE_QUERY:
        raise Rejected(f"is a copy of the query, {len(hit.sequence)} of its {len(query)} residues")
    if len(hit.sequence) < _SHORTEST:
        raise Rejected(f"is {len(hit.sequence)} residues long, shorter than {_SHORTEST}")


def _require_old(structure: Structure, latest: datetime.date | None) -> None:
    if latest is None:
        return
    if structure.release_date is None:
        raise Rejected(f"{structure.file} tells no release date, and none after {latest} is allowed")
    if datetime.date.fromisoformat(structure.release_date) > latest:
        raise Rejected(f"released on {structure.release_date}, after {latest}")


def read_successors(path: Path) -> dict[str, str]:
    """The PDB's `obsolete.dat`: entries and what replaced them, "" for nothing.

    Lines are such as `OBSLTE    26-SEP-06 2H33     2JM5 2OWI`; of several successors the first counts.

    Raises:
        InputError: the file cannot be read, or lists nothing.
    """
    successors = {}
    for line in normalise(read_bytes(path), file=str(path)).decode().split("\n"):
        words = line.lower().split()
        if len(words) >= 3 and words[0] == "obslte":
            successors[words[2]] = words[3] if len(words) > 3 else ""
    if not successors:
        raise InputError(f"{path}: not the PDB's list of obsolete entries: no line begins with OBSLTE")
    return successors
