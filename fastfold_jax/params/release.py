"""DeepMind's released parameter archives: where they lie, what is in them, how they are unpacked, and their licence."""

import dataclasses
import hashlib
import logging
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from fastfold_jax.atomic import replacing
from fastfold_jax.params.fetch import Patience, Progress, fetch
from fastfold_jax.params.npz import ParamsError

logger = logging.getLogger(__name__)

ReleaseDate = Literal["2022-12-06", "2022-03-02", "2022-01-19"]
MANIFEST = "SHA256SUMS"
NOTICE = "LICENSE-NOTICE"
ATTRIBUTION = (
    "AlphaFold parameters: DeepMind Technologies Limited, CC BY 4.0"
    " (https://creativecommons.org/licenses/by/4.0/); unmodified"
)
NOTICE_TEXT = """\
The files params_model_*.npz in this directory are the parameters of AlphaFold 2 and AlphaFold-Multimer, made by
DeepMind Technologies Limited and made available under the Creative Commons Attribution 4.0 International licence
(CC BY 4.0, https://creativecommons.org/licenses/by/4.0/legalcode). They were unpacked unmodified from
{url}

They are not part of FastFold-JAX, whose own licence does not apply to them. If you share them, or what you make
from them, name their authors and this licence, and say whether you changed them. They come without warranty of any
kind. Predictions are theoretical models of varying confidence and no substitute for professional advice, medical or
other.

Please cite:
  Jumper, J. et al. Highly accurate protein structure prediction with AlphaFold. Nature 596, 583-589 (2021).
  Evans, R. et al. Protein complex prediction with AlphaFold-Multimer. bioRxiv 2021.10.04.463034 (for multimer models).
"""

_BASE = "https://storage.googleapis.com/alphafold"
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """One published archive.

    Attributes:
      date: When it was published; earlier archives had another licence.
      multimer: How the names of its multimer models end.
    """

    date: ReleaseDate
    multimer: str

    @property
    def url(self) -> str:
        """Official address."""
        return f"{_BASE}/alphafold_params_{self.date}.tar"

    @property
    def files(self) -> tuple[str, ...]:
        """Names of its parameter files."""
        return tuple(f"params_model_{n}{kind}.npz" for kind in ("", "_ptm", self.multimer) for n in range(1, 6))


_MULTIMER_NAMES = {"2022-12-06": "_multimer_v3", "2022-03-02": "_multimer_v2", "2022-01-19": "_multimer"}
RELEASES: Mapping[str, Release] = MappingProxyType(
    {date: Release(date=date, multimer=_MULTIMER_NAMES[date]) for date in get_args(ReleaseDate)}
)


def install(
    release: Release,
    directory: Path,
    *,
    url: str | None = None,
    sha256: str | None = None,
    keep_archive: bool = False,
    progress: Progress = lambda *_: None,
    patience: Patience | None = None,
) -> dict[str, str]:
    """Fetch, verify and unpack a release; nothing is fetched where it is complete already.

    Beside the files it leaves `SHA256SUMS`, which `sha256sum -c` and `verify` understand, and `LICENSE-NOTICE`.

    Args:
      release: Which archive.
      directory: Where the files go; made if absent.
      url: A mirror's address; None for the official one.
      sha256: Digest that the archive must have, if you know it; DeepMind publishes none.
      keep_archive: Keep the tar file too.
      progress: Called after every block.
      patience: When to give up on the connection.

    Returns:
      SHA-256 by file name.

    Raises:
      ParamsError: if the archive cannot be had, verified or unpacked.
    """
    url = url or release.url
    known = read_manifest(directory)
    if all(name in known and (directory / name).is_file() for name in release.files):
        logger.info("%s: release %s is complete", directory, release.date)
        return {name: known[name] for name in release.files}
    archive = directory / f"alphafold_params_{release.date}.tar"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not archive.is_file():
            fetch(url, archive, sha256=sha256, progress=progress, patience=patience)
        elif sha256 and _digest(archive) != sha256.strip().lower():
            raise ParamsError(f"{archive}: has SHA-256 {_digest(archive)}, not {sha256}; delete it and try again")
        digests = _unpack(archive, directory, progress)
        _require(release, digests, url)
        lines = (f"{digest}  {name}\n" for name, digest in sorted({**known, **digests}.items()))
        (directory / NOTICE).write_text(NOTICE_TEXT.format(url=url), encoding="utf-8")
        (directory / MANIFEST).write_text("".join(lines), encoding="utf-8")
        if not keep_archive:
            archive.unlink()
    except OSError as error:
        raise ParamsError(f"{directory}: cannot be written ({error.strerror or error})") from error
    return digests


def _require(release: Release, unpacked: Mapping[str, str], url: str) -> None:
    absent = [name for name in release.files if name not in unpacked]
    if absent:
        raise ParamsError(f"{url}: lacks {len(absent)} of its {len(release.files)} files, such as {absent[0]}")


def _unpack(archive: Path, directory: Path, progress: Progress) -> dict[str, str]:
    """Copy the parameter files out; only their last name part is used, so no member can reach elsewhere."""
    total, digests = archive.stat().st_size, {}
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                tarfile.data_filter(member, str(directory))  # raises for links, devices and paths that lead outside
                name = Path(member.name).name
                if member.isfile() and name.startswith("params_") and name.endswith(".npz"):
                    digests[name] = _copy(tar, member, directory / name)
                    logger.info("%s  %s", digests[name], name)
                elif not member.isdir():
                    logger.debug("%s: left out", member.name)
                progress("unpack", min(total, member.offset_data + member.size), total)
    except (tarfile.TarError, EOFError) as error:
        raise ParamsError(f"{archive}: is no sound tar archive ({error}); delete it and try again") from error
    return digests


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> str:
    source = tar.extractfile(member)
    assert source is not None  # holds for regular files
    digest, done = hashlib.sha256(), 0
    with source, replacing(target) as file:
        while block := source.read(_BLOCK):
            file.write(block)
            digest.update(block)
            done += len(block)
        if done != member.size:
            raise EOFError(f"{member.name} ends after {done:,} of {member.size:,} bytes")
    return digest.hexdigest()


def read_manifest(directory: Path) -> dict[str, str]:
    """SHA-256 by file name as noted when the files were unpacked; empty if there is no such note."""
    try:
        lines = (directory / MANIFEST).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{directory / MANIFEST}: cannot be read ({error})") from error
    return {name.strip(): digest for digest, _, name in (line.partition("  ") for line in lines) if name}


def verify(path: Path) -> bool | None:
    """Whether a file still has the SHA-256 noted in its directory; None if none was noted.

    Raises:
      ParamsError: if it cannot be read.
    """
    noted = read_manifest(path.parent).get(path.name)
    if noted is None:
        return None
    try:
        return _digest(path) == noted
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror})") from error


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
