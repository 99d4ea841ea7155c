"""Digests of what decides a prediction, by which finished work is recognised when a run is started again."""

import dataclasses
import functools
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data.alignment import Alignment
from fastfold_jax.data.job import Job
from fastfold_jax.data.raw import Templates

_BLOCK = 1 << 20


def of_job(job: Job) -> str:
    """Digest of everything that a job holds: sequences, headers, alignments, templates, hits, features, guess."""
    digest = hashlib.sha256()
    _update(digest, job.name)
    for chain in job.chains:
        _update(digest, (chain.id, chain.label, chain.description, chain.sequence))
        for alignment in (*chain.alignments, chain.paired):
            _update_alignment(digest, alignment)
        _update_templates(digest, chain.templates)
        _update(digest, [of_file(path) for path in chain.hits])
    for name, array in sorted((job.features or {}).items()):
        _update(digest, name)
        _update_array(digest, np.asarray(array))
    if job.initial_guess is not None:
        _update_array(digest, job.initial_guess.positions)
    return digest.hexdigest()


def of_options(**options: Any) -> str:
    """Digest of plain values, dataclasses of them and digests."""
    return hashlib.sha256(_json({key: _plain(value) for key, value in options.items()})).hexdigest()


def of_network(config: ModelConfig) -> str:
    """Digest of a network's sizes and kind."""
    return of_options(kind=type(config).__name__, config=config)


@functools.lru_cache(maxsize=64)
def of_parameters(file: Path) -> str:
    """Digest of a parameter file's content, by the checksums that the archive itself keeps of its members."""
    with zipfile.ZipFile(file) as archive:
        return of_options(members=[(info.filename, info.file_size, info.CRC) for info in archive.infolist()])


def of_file(path: Path) -> str | None:
    """Digest of a file's bytes; None if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


def _json(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, ensure_ascii=True, default=str).encode()


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _update(digest: Any, content: Any) -> None:
    text = _json(content)
    digest.update(len(text).to_bytes(8, "little") + text)


def _update_array(digest: Any, array: np.ndarray) -> None:
    _update(digest, (array.shape, str(array.dtype)))
    digest.update(str(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes())


def _update_alignment(digest: Any, alignment: Alignment | None) -> None:
    if alignment is None:
        _update(digest, None)
        return
    _update(digest, (alignment.source, alignment.descriptions))
    _update_array(digest, alignment.residues)
    _update_array(digest, alignment.deletions)


def _update_templates(digest: Any, templates: Templates | None) -> None:
    for name in ("aatype", "positions", "atom_mask") if templates is not None else ():
        _update(digest, name)
        _update_array(digest, getattr(templates, name))
