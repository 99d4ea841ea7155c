"""What is finished in a job's directory, and the checks that it is: `manifest.json`.

It names the job, for a directory holds one job's files and no other's. A prediction's entry is written after its files,
and names what decided it (a fingerprint) and each file's digest. When a run is started again, an entry counts only if
the fingerprint is the run's and every file is there as it was written.
"""

import dataclasses
import itertools
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastfold_jax.data import layout
from fastfold_jax.inference import fingerprint
from fastfold_jax.inference.files import OutputError, write_json

logger = logging.getLogger(__name__)

_FORMAT = 2
_PARTIAL = re.compile(r"\..+\.(\d+)\.partial")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One piece of finished work.

    Attributes:
      fingerprint: Digest of all that decided it.
      files: Digest of each file, by its path from the job's directory.
      content: What is kept of the work, as JSON holds it.
    """

    fingerprint: str
    files: Mapping[str, str]
    content: Mapping[str, Any]


class Manifest:
    """The finished work of a job in its directory.

    Args:
      directory: The job's directory.
      job: The job's name.

    Raises:
      OutputError: if another job's work is there.
    """

    def __init__(self, directory: Path, job: str):
        self.directory = directory
        self._job = job
        held, self._entries = _read(directory / layout.MANIFEST)
        if held not in (None, job):
            raise OutputError(
                f"the output directory {directory} holds what was predicted for another job, {held}, which {job} would "
                f"replace; give another one with --out, such as {directory / job}"
            )

    def finished(self, name: str, expected: str) -> Entry | None:
        """The entry `name` if its fingerprint is the expected one and its files are whole."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry.fingerprint != expected:
            logger.info("%s: %s was made from other input or options; made again", self.directory, name)
            return None
        for file, digest in entry.files.items():
            if not _is_inside(file) or fingerprint.of_file(self.directory / file) != digest:
                logger.warning("%s: not as it was written; made again", self.directory / file)
                return None
        return entry

    def digest(self, name: str) -> str:
        """Digest of an entry: what decided it, and its files as they were written."""
        entry = self._entries[name]
        return fingerprint.of_options(made_from=entry.fingerprint, files=entry.files)

    def add(self, name: str, made_from: str, files: Iterable[str], content: Mapping[str, Any]) -> Entry:
        """Records finished work whose files are written.

        Raises:
          OutputError: if the manifest cannot be written.
        """
        digests = {file: fingerprint.of_file(self.directory / file) for file in files}
        assert all(digests.values()), "a file that was just written cannot be read"
        entry = Entry(fingerprint=made_from, files={k: v for k, v in digests.items() if v}, content=dict(content))
        self._entries[name] = entry
        entries = {key: dataclasses.asdict(value) for key, value in sorted(self._entries.items())}
        document = {"format": _FORMAT, "job": self._job, "finished": entries}
        write_json(self.directory / layout.MANIFEST, document, indent=1)
        return entry

    def files(self, name: str) -> tuple[str, ...]:
        """The files that an entry lists, whether or not they are still there."""
        entry = self._entries.get(name)
        return tuple(file for file in entry.files if _is_inside(file)) if entry else ()


def job_directories(out: Path, names: Sequence[str]) -> list[Path]:
    """Where each job's files go: a single job's into `out` itself, those of several into directories of their names.

    What an earlier run left of a job that was alone in `out` stays there, and a warning says so.
    """
    if len(names) == 1:
        return [out]
    alone, _ = _read(out / layout.MANIFEST)
    if alone is not None:
        logger.warning(
            "%s: holds what was predicted for %s when that was the only job. It stays as it is; each job of this run "
            "has a directory of its own there%s",
            *(out, alone),
            f": {alone} is made again unless you move those files to {out / alone} first" if alone in names else "",
        )
    return [out / name for name in names]


def _is_inside(file: str) -> bool:
    """Whether a path that a manifest lists stays in the manifest's directory."""
    return not Path(file).is_absolute() and ".." not in Path(file).parts


def remove_partial_files(directory: Path) -> None:
    """Removes files that a process which is no more left half-written, here and in sub-directories of a job's."""
    for path in itertools.chain(directory.iterdir(), directory.glob("msas/**/.*.partial")):
        match = _PARTIAL.fullmatch(path.name)
        if match and not _is_running(int(match[1])):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return process != os.getpid()  # a file of our own number that we do not know is an earlier process's


def _read(path: Path) -> tuple[str | None, dict[str, Entry]]:
    """The job and the entries of a file; none where it is absent or not one of ours."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            return None, {}
        job = document["job"]
        found = {str(name): Entry(**entry) for name, entry in document["finished"].items()}
        good = isinstance(job, str) and all(
            isinstance(entry.files, dict) and isinstance(entry.content, dict) for entry in found.values()
        )
    except FileNotFoundError:
        return None, {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        good = False
    if not good:
        logger.warning("%s: not a manifest of this program; nothing in its directory counts as finished", path)
        return None, {}
    return job, found
