"""Fetch one large file over HTTP: resumed where it was interrupted, and verified before it gets its name."""

import base64
import binascii
import contextlib
import dataclasses
import hashlib
import http.client
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import google_crc32c

from fastfold_jax.http_status import TEMPORARY
from fastfold_jax.params.npz import ParamsError

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the bytes done, and the bytes in all."""

_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to bear a failing connection.

    Attributes:
      attempts: Failures in a row, without a byte of progress between them, after which to give up.
      first_wait: Seconds before the second attempt; doubles each time, up to a minute.
      timeout: Seconds without an answer that count as a failure.
    """

    attempts: int = 6
    first_wait: float = 1.0
    timeout: float = 60.0

    def wait(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return min(60.0, self.first_wait * 2 ** (failures - 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remote:
    """What the server says about a file.

    Attributes:
      size: Bytes.
      validator: Entity tag or modification date, "" if the server sends neither; equal ones mean the same file.
      checksums: Digests by algorithm (`md5`, `crc32c`), as Google Cloud Storage announces them.
    """

    size: int
    validator: str
    checksums: Mapping[str, bytes]


class _Temporary(Exception):
    """A failure that may pass."""


class _Hash(Protocol):
    def update(self, data: bytes, /) -> object: ...
    def digest(self) -> bytes: ...


def _silent(stage: str, done: int, total: int) -> None:
    """Report to nobody."""


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    progress: Progress = _silent,
    patience: Patience | None = None,
) -> str:
    """Download `url` to `target` and return its SHA-256, in hexadecimal.

    What has arrived stays in `target.part` when the transfer breaks off, and the next attempt or call goes on from
    there, as long as the server still has the same file. The size and every checksum that the server announces
    are compared before the file gets its name.

    Args:
      url: An http or https address.
      target: File to make; its directory exists.
      sha256: Digest that the file must have, if known.
      progress: Called after every block.
      patience: When to give up; None for the defaults.

    Raises:
      ParamsError: if the file cannot be had, does not fit on the disk, or is not what was announced.
    """
    if not url.startswith(("https://", "http://")):
        raise ParamsError(f"{url}: cannot be fetched; accepted are http:// and https:// addresses")
    try:
        remote = _receive(url, target, progress, patience or Patience())
        digest = _verify(url, target, remote, sha256, progress)
        os.replace(_part(target), target)
        _tag(target).unlink()
    except OSError as error:
        raise ParamsError(f"{target}: cannot be written ({error.strerror or error})") from error
    return digest


def _part(target: Path) -> Path:
    """Where the bytes that have arrived lie."""
    return target.with_name(target.name + ".part")


def _tag(target: Path) -> Path:
    """Where it is noted which version of the remote file those bytes belong to."""
    return target.with_name(target.name + ".part.tag")


def _receive(url: str, target: Path, progress: Progress, patience: Patience) -> Remote:
    """Try until the part file is as long as the remote one."""
    part, failures = _part(target), 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            remote = _inquire(url, patience.timeout)
            _prepare(target, remote)
            if part.stat().st_size < remote.size:
                _append(url, part, remote, progress, patience.timeout)
            return remote
        except _Temporary as error:
            after = part.stat().st_size if part.exists() else 0
            failures = 1 if after > before else failures + 1
            if failures >= patience.attempts:
                kept = f"; the {after:,} bytes that arrived are kept for the next try" if after else ""
                raise ParamsError(f"{url}: {error}, {failures} times in a row{kept}") from error
            logger.warning("%s: %s; trying again in %g s", url, error, patience.wait(failures))
            time.sleep(patience.wait(failures))


def _prepare(target: Path, remote: Remote) -> None:
    """Keep the part file if it began as the same remote file, else start an empty one."""
    part, tag = _part(target), _tag(target)
    known = part.is_file() and tag.is_file() and tag.read_text(encoding="utf-8") == remote.validator != ""
    if not known or part.stat().st_size > remote.size:
        part.write_bytes(b"")
        tag.write_text(remote.validator, encoding="utf-8")
    missing, free = remote.size - part.stat().st_size, shutil.disk_usage(part.parent).free
    if missing > free:
        raise ParamsError(f"{part.parent}: {missing:,} bytes are to come, but only {free:,} are free on that disk")


def _request(url: str, method: str, headers: Mapping[str, str], timeout: float) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, method=method, headers={"User-Agent": "fastfold-jax", **headers})
    try:
        return urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        message = f"the server answered {error.code} {error.reason}"
        if error.code in TEMPORARY:
            raise _Temporary(message) from error
        raise ParamsError(f"{url}: {message}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Temporary(f"no answer ({getattr(error, 'reason', error)})") from error


def _inquire(url: str, timeout: float) -> Remote:
    with _request(url, "HEAD", {}, timeout) as response:
        size = response.headers.get("Content-Length", "")
        if not size.isdecimal():
            raise ParamsError(f"{url}: the server does not say how large the file is")
        return Remote(
            size=int(size),
            validator=response.headers.get("ETag") or response.headers.get("Last-Modified") or "",
            checksums=_announced(response.headers.get_all("x-goog-hash", [])),
        )


def _announced(headers: list[str]) -> dict[str, bytes]:
    """Digests in `x-goog-hash: crc32c=n03x6A==,md5=Ojk9c3dhfxgoKVVHYwFbHQ==`, which may also come as two headers."""
    digests = {}
    for item in ",".join(headers).split(","):
        name, _, value = item.strip().partition("=")
        if name in ("md5", "crc32c"):
            with contextlib.suppress(binascii.Error):
                digests[name] = base64.b64decode(value, validate=True)
    return digests


def _append(url: str, part: Path, remote: Remote, progress: Progress, timeout: float) -> None:
    """Receive what is missing, from the start if the server does not resume."""
    start = part.stat().st_size
    headers = {"Range": f"bytes={start}-", "If-Range": remote.validator} if start else {}
    with _request(url, "GET", headers, timeout) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise ParamsError(f"{url}: asked for byte {start:,} on, got {response.headers.get('Content-Range')!r}")
        with open(part, "ab" if start else "wb") as file:
            done = start
            while block := _read(response):
                done += len(block)
                if done > remote.size:
                    raise ParamsError(f"{url}: sends more than the {remote.size:,} bytes it announced")
                file.write(block)
                progress("download", done, remote.size)
    if done < remote.size:
        raise _Temporary(f"the connection closed after {done:,} of {remote.size:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_BLOCK)
    except (OSError, http.client.HTTPException) as error:  # unlike a failure to write, worth repeating
        raise _Temporary(f"the connection broke ({error})") from error


def _verify(url: str, target: Path, remote: Remote, sha256: str | None, progress: Progress) -> str:
    part = _part(target)
    hashes: dict[str, _Hash] = {"sha256": hashlib.sha256()}
    if "md5" in remote.checksums:
        hashes["md5"] = hashlib.md5(usedforsecurity=False)
    if "crc32c" in remote.checksums:
        hashes["crc32c"] = google_crc32c.Checksum()
    with open(part, "rb") as file:
        while block := file.read(_BLOCK):
            for running in hashes.values():
                running.update(block)
            progress("verify", file.tell(), remote.size)
    for name, expected in remote.checksums.items():
        if hashes[name].digest() != expected:
            part.unlink()
            raise ParamsError(
                f"{url}: arrived damaged ({name} is {hashes[name].digest().hex()}, the server announced"
                f" {expected.hex()}); it was deleted, run the command again"
            )
    digest = hashes["sha256"].digest().hex()
    if sha256 is not None and digest != sha256.strip().lower():
        raise ParamsError(f"{url}: has SHA-256 {digest}, not {sha256}; what arrived is kept as {part}")
    logger.info("%s: %s bytes, verified by %s", url, f"{remote.size:,}", ", ".join(["size", *remote.checksums]))
    return digest
