"""hmmsearch for templates: a profile of a chain's alignment against the sequences of known structures."""

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fastfold_jax.constants import MSA_LETTERS
from fastfold_jax.data.alignment import Alignment
from fastfold_jax.data.job import Chain
from fastfold_jax.data.msa import first_occurrences
from fastfold_jax.data.structure import MMCIF, read_structure, structure_name
from fastfold_jax.data.template_hits import TemplateHit, parse_a3m_hits
from fastfold_jax.data.textfile import InputError
from fastfold_jax.errors import UserError
from fastfold_jax.search.cache import Cache
from fastfold_jax.search.databases import Database
from fastfold_jax.search.hmmer import HMMSEARCH, Workers, a3m_of, pyhmmer_version, search_profiles
from fastfold_jax.search.report import Report

logger = logging.getLogger(__name__)

_MOST_ROWS = 10_000  # of an alignment, as AlphaFold caps that of UniRef90
_WRITTEN = 80  # letters a line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sequences:
    """A FASTA file of the chains of known structures.

    Attributes:
      path: Records are named such as `1abc_A`.
      fingerprint: Changes whenever the content does.
    """

    path: Path
    fingerprint: str

    @classmethod
    def of_file(cls, path: Path) -> "Sequences":
        """A file of the user's.

        Raises:
          UserError: if there is none.
        """
        if not path.is_file():
            raise UserError(f"--template-sequences {path}: no such file")
        database = Database(path=path, kind="fasta", source="other", templates=True)
        return cls(path=path, fingerprint=database.fingerprint())


def search_chains(
    chains: Sequence[Chain], sequences: Sequences, *, threads: int, cache: Cache, report: Report
) -> list[list[TemplateHit]]:
    """For each chain the hits of its profile in a FASTA file of structures' sequences, best first.

    Args:
      chains: With alignments; one without is searched for by its sequence alone.
      sequences: The chains of known structures.
      threads: Number of threads to use.
      cache: Where results are kept.
      report: Called with the progress.

    Raises:
      UserError: if pyhmmer is missing, or the file can't be searched.
    """
    program = f"pyhmmer {pyhmmer_version()}"
    alignments = [_profile_rows(chain) for chain in chains]
    keys = [
        Cache.key(form=1, program=program, options=repr(HMMSEARCH), profile=digest, database=sequences.fingerprint)
        for digest in map(_digest, alignments)
    ]
    texts = {key: text for key in keys if (text := cache.get(key)) is not None}
    missing = {key: rows for key, rows in zip(keys, alignments, strict=True) if key not in texts}
    if missing:
        with ThreadPoolExecutor(threads) as pool:
            found = search_profiles(
                [_profile(rows) for rows in missing.values()],
                sequences.path,
                options=HMMSEARCH,
                workers=Workers(pool=pool, threads=threads),
                report=report,
            )
        for key, hits in zip(missing, found, strict=True):
            texts[key] = _a3m(hits)
            cache.put(key, texts[key])
    return [
        parse_a3m_hits(texts[key], chain.sequence, file=str(sequences.path)) if texts[key].strip() else []
        for key, chain in zip(keys, chains, strict=True)
    ]


def _profile_rows(chain: Chain) -> list[str]:
    """The rows that a profile is made of: UniRef90's, else the first alignment's, each once, inserts left out."""
    ranked: Iterable[Alignment] = sorted(chain.alignments, key=lambda alignment: alignment.source != "uniref90")
    residues = next((alignment.residues[:_MOST_ROWS] for alignment in ranked), None)
    if residues is None:
        return [chain.sequence]
    letters = np.frombuffer(MSA_LETTERS.encode(), np.uint8)[residues[first_occurrences(residues)]]
    return [chain.sequence, *(row.tobytes().decode() for row in letters[1:])]


def _digest(rows: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _profile(rows: Sequence[str]) -> Any:
    """A profile with a state for each column."""
    from pyhmmer import easel, plan7

    alphabet = easel.Alphabet.amino()
    background = plan7.Background(alphabet)
    if len(rows) == 1:
        query = easel.TextSequence(name="query", sequence=rows[0]).digitize(alphabet)
        return plan7.Builder(alphabet).build(query, background)[0]
    sequences = [easel.TextSequence(name=f"row{number}", sequence=row) for number, row in enumerate(rows)]
    msa = easel.TextMSA(name="query", sequences=sequences).digitize(alphabet)
    return plan7.Builder(alphabet, symfrac=0.0).build_msa(msa, background)[0]


def _a3m(hits: Any) -> bytes:
    """Hits as A3M, an empty line if there are none."""
    from pyhmmer import easel

    if not any(hit.included for hit in hits):
        return b"\n"
    return a3m_of(hits.to_msa(easel.Alphabet.amino(), all_consensus_cols=True))


def structure_files(directory: Path) -> list[tuple[Path, str]]:
    """The mmCIF files in a directory or one below, in order, each with its name, size and date."""
    found = (path for pattern in ("*", "*/*") for path in directory.glob(pattern) if path.name.endswith(MMCIF))
    stats = ((path, path.stat()) for path in sorted(found) if path.is_file())
    return [(path, f"{path.relative_to(directory)} {stat.st_size} {stat.st_mtime_ns}") for path, stat in stats]


def write_sequences(directory: Path, target: Path, *, cache: Cache, report: Report) -> Sequences:
    """Writes the sequences of all chains of a directory's mmCIF files as FASTA, as the PDB's `pdb_seqres` has them.

    Files that can't be read are left out with a warning.

    Raises:
      InputError: if there is no mmCIF file, or no readable one.
    """
    files = structure_files(directory)
    if not files:
        raise InputError(f"{directory}: holds no mmCIF file; accepted are {', '.join(MMCIF)}")
    key = Cache.key(form=1, files=[stat for _, stat in files])
    text = cache.get(key)
    if text is None:
        records: list[str] = []
        for number, (path, _) in enumerate(files):
            report(f"reading {directory.name}", number, len(files))
            try:
                records += _records(path)
            except InputError as error:
                logger.warning("%s; left out of the template search", error)
        report(f"reading {directory.name}", len(files), len(files))
        text = "".join(records).encode()
        cache.put(key, text)
    if not text:
        raise InputError(f"{directory}: none of its {len(files)} mmCIF files could be read")
    target.write_bytes(text)
    return Sequences(path=target, fingerprint=hashlib.sha256(text).hexdigest())


def _records(path: Path) -> list[str]:
    """FASTA records of a structure's chains of amino acids."""
    structure = read_structure(path)
    name = structure_name(path)
    entry = name.lower() if len(name) == 4 else name
    records = []
    for polymer in structure.polymers.values():
        lines = (polymer.letters[i : i + _WRITTEN] for i in range(0, len(polymer.letters), _WRITTEN))
        records.append(
            f">{entry}_{polymer.author} mol:protein length:{len(polymer.letters)}\n" + "\n".join(lines) + "\n"
        )
    return records
