"""A made-up prediction, and ways to vary it."""

import numpy as np
import pytest

from fastfold_jax.constants import ATOM37_MASK, SEQUENCE_LETTER_TO_INDEX
from fastfold_jax.inference.result import PassRecord, Prediction, Provenance, ResidueRange


@pytest.fixture(scope="session")
def make_prediction():
    """A function from sequences to a prediction with random coordinates."""

    def make(*sequences: str, seed: int = 0, ids: str | tuple = "ABCDEFGH", **changes) -> Prediction:
        draw = np.random.default_rng(seed)
        aatype = [np.array([SEQUENCE_LETTER_TO_INDEX[letter] for letter in sequence]) for sequence in sequences]
        starts = np.cumsum([0, *map(len, sequences)])
        n = int(starts[-1])
        chains = tuple(
            ResidueRange(
                id=ids[i], description=f"protein {i}", start=int(starts[i]), aatype=a, numbers=np.arange(len(a)) + 1
            )
            for i, a in enumerate(aatype)
        )
        fields = {
            "provenance": Provenance(
                program="FastFold-JAX 0.1", model="model_1_ptm", parameters="x.npz", seed=seed, precision="float32"
            ),
            "chains": chains,
            "atom_positions": draw.normal(size=(n, 37, 3)).astype(np.float32) * 40,
            "atom_mask": ATOM37_MASK[np.concatenate(aatype)],
            "plddt": draw.uniform(0, 100, n).astype(np.float32),
            "pae": draw.uniform(0, 31, (n, n)).astype(np.float32),
            "ptm": 0.75,
            "iptm": None,
            "ranking_confidence": 71.5,
            "scale": "plddts",
            "passes": (PassRecord(plddt=71.5, ptm=0.75, iptm=None, change=float("inf"), seconds=1.0),),
        }
        return Prediction(**{**fields, **changes})

    return make
