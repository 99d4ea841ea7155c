"""Reads the recorded runs of DeepMind's code under tests/data/parity: parameters, features of each pass, outputs."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import parity_params

from fastfold_jax.data.batch import Features

ROOT = Path(__file__).parents[1] / "data" / "parity"
NAMES = tuple(sorted(path.name.removesuffix(".feats.npz") for path in ROOT.glob("model_*.feats.npz")))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One recorded run.

    Attributes:
      preset: name of the released model it is a shallow copy of.
      features: one set a pass.
      outputs: flat `head/name` arrays of the last pass.
    """

    preset: str
    features: tuple[Features, ...]
    outputs: dict[str, np.ndarray]


def preset_of(name: str) -> str:
    """`model_1_multimer_v3_masked` -> `model_1_multimer_v3`."""
    return name.removesuffix("_masked").removesuffix("_r0")


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """DeepMind key -> shape of the recorded shallow network."""
    return {k: tuple(v) for k, v in json.loads((ROOT / f"{name}.params.json").read_text()).items()}


def parameters(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Drawn parameters in DeepMind's flat form; seed 0 are those the outputs were recorded with."""
    return parity_params.draw_all(shapes(name), seed)


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def _monomer(feats: dict[str, np.ndarray], index: int) -> Features:
    one = {k: v[index] for k, v in feats.items()}
    num_res = len(one["aatype"])
    ones = np.ones(num_res, np.int32)
    return Features(
        **{k: one[k] for k in ("aatype", "residue_index", "seq_mask", "msa_feat", "msa_mask", "extra_msa_mask")},
        **{k: one[k] for k in ("template_aatype", "template_all_atom_positions", "template_mask")},
        asym_id=ones,
        entity_id=ones,
        sym_id=ones,
        extra_msa=one["extra_msa"].astype(np.int8),
        extra_deletion_value=one["extra_deletion_value"],
        template_all_atom_mask=one["template_all_atom_masks"],
    )


def _multimer(feats: dict[str, np.ndarray], sampled: dict[str, np.ndarray], index: int) -> Features:
    extra = sampled["extra_msa_feat"][index]
    return Features(
        **{k: feats[k] for k in ("aatype", "residue_index", "asym_id", "entity_id", "sym_id", "seq_mask")},
        **{k: feats[k] for k in ("template_aatype", "template_all_atom_positions", "template_all_atom_mask")},
        **{k: sampled[k][index] for k in ("msa_feat", "msa_mask", "extra_msa_mask")},
        extra_msa=extra[..., :23].argmax(-1).astype(np.int8),
        extra_deletion_value=extra[..., 24],
        # DeepMind's multimer averages over every slot it is given, empty ones too: none is padding.
        template_mask=np.ones(len(feats["template_aatype"]), np.float32),
    )


def load(name: str) -> Run:
    """A run by its file name, such as `model_1_ptm_masked`."""
    feats = _load(ROOT / f"{name}.feats.npz")
    sampled_path = ROOT / f"{name}.sampled.npz"
    if sampled_path.exists():
        sampled = _load(sampled_path)
        features = tuple(_multimer(feats, sampled, i) for i in range(len(sampled["msa_feat"])))
    else:
        features = tuple(_monomer(feats, i) for i in range(len(feats["aatype"])))
    return Run(preset=preset_of(name), features=features, outputs=_load(ROOT / f"{name}.out.npz"))


def compared(run: Run, key: str) -> np.ndarray:
    """Where an output is meaningful: a mask that broadcasts against it (1 where every mask it depends on is 1)."""
    last = run.features[-1]
    residues = last.seq_mask > 0
    value = run.outputs[key]
    rows = np.ones(len(last.msa_mask), bool)
    leading = {"pair": residues[:, None] & residues, "single": residues, "msa": (last.msa_mask > 0) & rows[:, None]}
    kind = {
        "distogram/logits": "pair",
        "predicted_aligned_error/logits": "pair",
        "representations/pair": "pair",
        "masked_msa/logits": "msa",
        "representations/msa": "msa",
    }.get(key, "single")
    mask = leading[kind]
    return np.broadcast_to(mask.reshape(mask.shape + (1,) * (value.ndim - mask.ndim)), value.shape)
