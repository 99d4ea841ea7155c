"""A whole prediction as one `.npz` file of plain arrays, written and read back."""

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fastfold_jax.errors import UserError
from fastfold_jax.inference.result import PassRecord, Prediction, Provenance, ResidueRange, UsedTemplate

ARRAYS_SUFFIX = "_arrays.npz"
_ARRAYS = ("atom_positions", "atom_mask", "plddt", "pae", "contact_probability")
# Kept to a hundredth of an Å and a thousandth of a probability or better, in half the space.
_HALF = ("pae", "contact_probability")
_SCALARS = ("ptm", "iptm", "ranking_confidence", "scale")


class ArraysError(UserError):
    """A file that holds no prediction of this program."""


def prediction_bytes(prediction: Prediction) -> bytes:
    """The content of the file: arrays under their names in `Prediction`, types and starts, the rest as JSON.

    Equal predictions give equal bytes; seconds, which two runs never share, are left out.
    """
    arrays: dict[str, Any] = {
        "aatype": prediction.aatype.astype(np.int8),
        "chain_starts": np.array([chain.start for chain in prediction.chains], np.int32),
        "residue_numbers": np.concatenate([chain.numbers for chain in prediction.chains]).astype(np.int32),
    }
    for name in _ARRAYS:
        array = getattr(prediction, name)
        if array is not None:
            arrays[name] = array.astype(np.float16 if name in _HALF else np.float32)
    described = {
        "provenance": dataclasses.asdict(prediction.provenance),
        "chains": [
            {
                "id": chain.id,
                "description": chain.description,
                "templates": [dataclasses.asdict(template) for template in chain.templates],
            }
            for chain in prediction.chains
        ],
        "passes": [dataclasses.asdict(dataclasses.replace(record, seconds=0.0)) for record in prediction.passes],
        **{name: getattr(prediction, name) for name in _SCALARS},
    }
    arrays["json"] = np.frombuffer(json.dumps(described).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def load_prediction(path: str | Path) -> Prediction:
    """The prediction in a `*_arrays.npz` file.

    Aligned errors and contact probabilities have the precision of float16, and passes no seconds.

    Raises:
      ArraysError: if the file is absent, damaged or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        described = json.loads(arrays["json"].tobytes())
        starts = [*arrays["chain_starts"].tolist(), len(arrays["aatype"])]
        chains = tuple(
            ResidueRange(
                id=chain["id"],
                description=chain["description"],
                templates=tuple(UsedTemplate(**template) for template in chain.get("templates", ())),
                start=start,
                aatype=arrays["aatype"][start:stop].astype(np.int32),
                numbers=arrays["residue_numbers"][start:stop],
            )
            for chain, start, stop in zip(described["chains"], starts[:-1], starts[1:], strict=True)
        )
        read: dict[str, Any] = {name: described[name] for name in _SCALARS}
        read |= {name: arrays[name].astype(np.float32) if name in arrays else None for name in _ARRAYS}
        return Prediction(
            provenance=Provenance(**described["provenance"]),
            chains=chains,
            passes=tuple(PassRecord(**record) for record in described["passes"]),
            **read,
        )
    except OSError as error:
        raise ArraysError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ArraysError(f"{path}: not the arrays of a prediction, or damaged ({error})") from None
