"""Feature dictionaries made by AlphaFold's own pipeline, from ``.npz`` files and pickles."""

import io
import logging
import zipfile
from typing import IO

import numpy as np

from fastfold_jax.data.alphafold_pickle import read_feature_pickle
from fastfold_jax.data.textfile import InputError, shown

logger = logging.getLogger(__name__)

_REQUIRED = ("aatype", "msa")
# AlphaFold keeps these as arrays of objects, which an .npz can hold only as pickles. No model reads them.
_TEXTS = frozenset(
    {
        "auth_chain_id",
        "domain_name",
        "msa_species_identifiers",
        "msa_species_identifiers_all_seq",
        "sequence",
        "template_domain_names",
        "template_release_date",
        "template_sequence",
    }
)


def read_features(data: bytes, *, file: str) -> dict[str, np.ndarray]:
    """AlphaFold's feature dictionary from the content of an ``.npz`` file or a pickle, told apart by how they begin.

    In an ``.npz`` arrays of texts that AlphaFold stores as Python objects are left out with a warning; any other array
    of objects is an error, because reading it would run code that the file holds.

    Raises:
        InputError: the file is damaged, holds anything but arrays, or is not AlphaFold's dictionary.
    """
    if not data:
        raise InputError(f"{file}: the file is empty")
    features = _read_npz(data, file) if data.startswith(b"PK") else read_feature_pickle(data, file=file)
    missing = [name for name in _REQUIRED if name not in features]
    if missing:
        held = ", ".join(sorted(features)[:8]) or "nothing"
        raise InputError(
            f"{file}: not a feature dictionary of AlphaFold's pipeline: it lacks {' and '.join(missing)} (it holds "
            f"{shown(held, 120)})"
        )
    return features


def _read_npz(data: bytes, file: str) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file, none of them unpickled."""
    features: dict[str, np.ndarray] = {}
    left_out = []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                name = member.removesuffix(".npy")
                with archive.open(member) as stream:
                    if _holds_objects(stream):
                        left_out.append(name)
                        continue
                with archive.open(member) as stream:
                    features[name] = np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:  # a damaged archive makes zipfile, zlib and NumPy raise almost anything
        what = f"{type(error).__name__}: {shown(str(error), 100)}"
        raise InputError(f"{file}: not an .npz file, or a damaged or truncated one ({what})") from None
    refused = [name for name in left_out if name not in _TEXTS]
    if refused:
        raise InputError(
            f"{file}: the array {shown(refused[0])} holds Python objects, which are not read from .npz files because "
            "that would run code; save it as numbers or as a NumPy string array, or give AlphaFold's features.pkl"
        )
    if left_out:
        logger.warning("%s: left out %s, stored as Python objects", file, ", ".join(left_out))
    return features


def _holds_objects(stream: IO[bytes]) -> bool:
    """Whether an array's header says that its elements are Python objects."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return bool(read(stream)[2].hasobject)
