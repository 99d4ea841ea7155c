"""Lists of template hits that lie with a job's alignments, such as AlphaFold's `msas/pdb_hits.hhr`: whose they are."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from fastfold_jax.data import layout
from fastfold_jax.data.job_chains import Chain

logger = logging.getLogger(__name__)


def with_hits(chains: Sequence[Chain], files: Sequence[tuple[Path, str]], keys: Sequence[str]) -> tuple[Chain, ...]:
    """The chains with the files of hits that are theirs; files are not read here, for not every run uses them.

    A file belongs to the chain whose alignments bear the same `chainN` or lie in the same sub-directory, else to the
    one whose number or id that is, else to the only sequence there is. Others are left out with a warning.

    Args:
        chains: of the job.
        files: each with its `chainN` or sub-directory's name; "" without one.
        keys: the same of each chain's alignments.
    """
    hits: list[list[Path]] = [[] for _ in chains]
    for path, key in files:
        owners = _owners(key, chains, keys)
        if not owners:
            ids = ", ".join(chain.id for chain in chains)
            logger.warning("%s: template hits of which chain (%s)? not used; --template-hits can give them", path, ids)
        for owner in owners:
            hits[owner].append(path)
    return tuple(dataclasses.replace(chain, hits=tuple(paths)) for chain, paths in zip(chains, hits, strict=True))


def hit_files(files: Sequence[Path], directory: Path) -> list[tuple[Path, str]]:
    """Those of some files that are lists of hits, each with the word that may name its chain.

    Args:
        files: in `directory` or in sub-directories of it.
        directory: of the job.
    """
    found = []
    for path in files:
        if layout.is_template_hits(path):
            below = path.parent.name if path.parent not in (directory, directory / layout.ALIGNMENTS) else ""
            found.append((path, layout.chain_prefix(path) or below))
    return found


def _owners(key: str, chains: Sequence[Chain], keys: Sequence[str]) -> list[int]:
    """Indices of the chains that a word names."""
    key = key.casefold()
    named = [index for index, other in enumerate(keys) if key and other.casefold() == key]
    number = layout.chain_number(key)
    if not named and number is not None and 1 <= number <= len(chains):
        named = [number - 1]
    named = named or [index for index, chain in enumerate(chains) if chain.id.casefold() == key]
    return named or (list(range(len(chains))) if len({chain.sequence for chain in chains}) == 1 else [])
