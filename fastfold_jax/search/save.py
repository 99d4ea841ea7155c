"""Writes a job's alignments as a directory that is itself an input."""

from pathlib import Path

from fastfold_jax.atomic import replacing
from fastfold_jax.data.a3m_writer import a3m_text
from fastfold_jax.data.alignment import Source
from fastfold_jax.data.job import Job
from fastfold_jax.data.textfile import read_bytes
from fastfold_jax.errors import UserError

_NAMES: dict[Source, str] = {
    "uniref90": "uniref90_hits",
    "bfd": "bfd_hits",
    "mgnify": "mgnify_hits",
    "uniprot": "uniprot_hits",
    "paired": "paired",
    "other": "unpaired",
}


def save(job: Job, directory: Path) -> list[Path]:
    """Writes what `texts` says into a directory, which `read_job` reads as the same job.

    Returns:
      The files, the FASTA first.

    Raises:
      UserError: if one can't be written.
    """
    files = texts(job)
    try:
        for path, text in files.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            with replacing(directory / path) as file:
                file.write(text)
    except OSError as error:
        raise UserError(f"{directory}: alignments cannot be written ({error.strerror or error})") from None
    return [directory / path for path in files]


def texts(job: Job) -> dict[Path, bytes]:
    """The sequences as FASTA, and each chain's alignments as A3M in a sub-directory of its name, with its hits.

    Another run, or another program, that is given them need not search again. Copies of a chain share the files of the
    first.

    Raises:
      UserError: if a file of template hits that came with the job can't be read.
    """
    found = {
        Path(f"{job.name}.fasta"): "".join(f">{c.id} {c.description}\n{c.sequence}\n" for c in job.chains).encode()
    }
    first = {chain.sequence: chain for chain in reversed(job.chains)}
    for chain in job.chains:
        if first[chain.sequence] is not chain:
            continue
        for alignment in (*chain.alignments, *([chain.paired] if chain.paired else [])):
            name, number = _NAMES[alignment.source], 1
            while (path := Path(chain.id) / f"{name}{'' if number == 1 else f'_{number}'}.a3m") in found:
                number += 1
            found[path] = a3m_text(alignment)
        found |= {Path(chain.id) / path.name: read_bytes(path) for path in chain.hits}
    return found
