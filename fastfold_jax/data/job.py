"""One prediction job from a file or a directory."""

from pathlib import Path

from fastfold_jax.data import layout
from fastfold_jax.data.a3m_complex import is_complex
from fastfold_jax.data.feature_file import read_features
from fastfold_jax.data.job_chains import HEAD, Chain, Job, chains_of, read_alignment_job, read_records
from fastfold_jax.data.job_directory import files_of, read_directory
from fastfold_jax.data.names import safe_name
from fastfold_jax.data.stockholm import is_stockholm
from fastfold_jax.data.textfile import InputError, read_bytes, read_head

__all__ = ["Chain", "Job", "read_job"]


def read_job(path: str | Path) -> Job:
    """The job in a file or a directory. docs/inputs.md says the same at more length.

    A file is told by its suffix (``.gz``, ``.xz`` or ``.zst`` behind it is fine): ``.fasta`` (each record a chain of
    one complex), ``.a3m`` (a chain; with the header ``#len1,len2<TAB>card1,card2`` a complex), ``.sto``, or
    AlphaFold's features, ``.npz``, ``.pkl``.

    A directory holds one job. What is used, the first that applies deciding:

    1. A FASTA file at the top names the chains. Its alignments come from the top or, if there are none, from the
       sub-directories. A set of alignments belongs to the record whose number (``chain2_``, ``chain2/``) or name it
       bears, otherwise to the one whose sequence its first row is; chains of equal sequence share.
    2. Alignments at the top are the job, and sub-directories are not looked at. ``chainN_`` in front of names tells
       chains apart; without it all belong to one. The query of a chain is the first row of its alignments, or
       ``chainN_*.fasta``. A complex A3M must be the only alignment.
    3. A feature file at the top: ``features.pkl``, ``features.npz``, or the only such file.
    4. Sub-directories with alignments or a FASTA file: each is a chain, in the natural order of their names.

    The database of an alignment is told from its file's name (``uniref90``, ``bfd``, ``uniclust``, ``mgnify``,
    ``uniprot``, ``paired``). Template hits (``pdb_hits.*``, ``.hhr``) go with the alignments whose prefix or
    sub-directory they share; hidden files and all others are left alone.

    Raises:
        InputError: something is missing, cannot be read, or contradicts something else; the message says what and
            where.
    """
    path = Path(path)
    name = job_name(path)
    if path.is_dir():
        return read_directory(path, name=name)
    form = layout.format_of(path)
    if form in ("npz", "pickle"):
        return Job(name=name, chains=(), features=read_features(read_bytes(path), file=str(path)))
    # A pipe can be read only once, so what comes through one is taken for FASTA.
    head = b">" if form == "fasta" or not path.is_file() else read_head(path, HEAD)
    if form in ("fasta", None) and head.lstrip().startswith(b">"):
        return Job(name=name, chains=chains_of(read_records(path)))
    if form in ("a3m", "stockholm") or (form is None and (is_stockholm(head) or is_complex(head))):
        return Job(name=name, chains=read_alignment_job(path))
    if form in ("table", "json"):
        raise InputError(f"{path}: may hold several jobs, but one is needed here")
    raise InputError(f"{path}: the name does not say what it is; accepted are {layout.ACCEPTED}")


def job_name(path: Path) -> str:
    """What to call the job in a file or directory: the file's name without its suffixes, or the directory's.

    A directory `msas` is named after the one FASTA file in it, else after the directory that it is in. What comes
    through a pipe has no name.
    """
    path = path.resolve() if path.name in ("", "..") else path
    if path.is_dir() and path.name == layout.ALIGNMENTS:
        fastas = [found for found in files_of(path) if layout.format_of(found) == "fasta"]
        return job_name(fastas[0] if len(fastas) == 1 else path.resolve().parent)
    if path.is_dir():
        return safe_name(path.name, otherwise="job")
    return safe_name(layout.stem(path) if path.is_file() else "", otherwise="job")
