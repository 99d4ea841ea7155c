"""Parameter files drawn at random, with the keys and shapes of DeepMind's."""

import ast
from pathlib import Path

import numpy as np
from parity_params import draw

KEYS = Path(__file__).resolve().parents[1] / "data" / "param_keys"
PRESETS_OF = {  # the presets whose files have a layout, by the layout's name
    "model_1": ["model_1", "model_2"],
    "model_1_ptm": ["model_1_ptm", "model_2_ptm"],
    "model_3": ["model_3", "model_4", "model_5"],
    "model_3_ptm": ["model_3_ptm", "model_4_ptm", "model_5_ptm"],
    "model_1_multimer": [f"model_{n}_multimer{version}" for version in ("", "_v2") for n in range(1, 6)],
    "model_1_multimer_v3": [f"model_{n}_multimer_v3" for n in range(1, 6)],
}


def shapes(layout: str, blocks: int = 48) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a released file, with so many Evoformer blocks."""
    lines = (KEYS / f"{layout}.txt").read_text().splitlines()
    found = {key: ast.literal_eval(f"({shape}") for key, shape in (line.split(" (") for line in lines)}
    return {key: (blocks, *shape[1:]) if "/evoformer_iteration/" in key else shape for key, shape in found.items()}


def write(path: Path, arrays: dict[str, tuple[int, ...]], seed: int = 0) -> Path:
    """A file as NumPy writes it."""
    np.savez(path, **{key: draw(key, shape, seed) for key, shape in arrays.items()})
    return path
