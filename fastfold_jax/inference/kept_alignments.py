"""The alignments that a job is predicted from, kept beside its predictions as a directory that is itself an input."""

from pathlib import Path

from fastfold_jax import search
from fastfold_jax.data import layout
from fastfold_jax.data.job import Job
from fastfold_jax.inference.files import OutputError, write_atomically
from fastfold_jax.inference.manifest import Manifest


def keep_alignments(job: Job, made_from: str, manifest: Manifest) -> None:
    """Writes the alignments of a job that has any, and removes those of an earlier run that are not among them.

    Args:
      job: The job with all alignments that were found.
      made_from: Digest of what decided them.
      manifest: Manifest of the job's directory.

    Raises:
      OutputError: if a file cannot be written.
    """
    aligned = any(chain.alignments or chain.paired for chain in job.chains)
    texts = (
        {f"{layout.ALIGNMENTS}/{path.as_posix()}": text for path, text in search.texts(job).items()} if aligned else {}
    )
    for name, text in texts.items():
        path = manifest.directory / name
        _make(path.parent)
        write_atomically(path, text)
    for name in set(manifest.files(layout.ALIGNMENTS)).difference(texts):
        (manifest.directory / name).unlink(missing_ok=True)
    manifest.add(layout.ALIGNMENTS, made_from, texts, {})


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the directory {directory}: {error.strerror}") from error
