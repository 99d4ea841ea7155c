"""Every recorded run of DeepMind's code against ours, with parameters read by our own loader from a DeepMind file.

Tolerances. Float32 noise of DeepMind's code itself (sub-batching on or off) is 3e-5 in logits and 1e-4 Å for
monomers, 5e-5 and 3e-3 Å for multimers. PyPI `alphafold-colabfold` run live differs from the recordings by 2e-5 and
5e-4 Å (monomers), 1.2e-4 and 5.5e-3 Å (multimers, first pass); ours by 2e-5 and 6e-4 Å, 9e-5 and 3.4e-3 Å. The bounds
leave a factor of about ten to other processors, and stay below what the project asks for (1e-3; 1e-2 and 5e-2 Å).
"""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import recorded

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.presets import preset
from fastfold_jax.model.alphafold import make_apply
from fastfold_jax.model.recycling import init_prev
from fastfold_jax.params import store

LOGITS = {False: 2e-4, True: 1e-3}  # monomer, multimer
POSITIONS = {False: 5e-3, True: 3e-2}  # Å
# Å. A drawn multimer is so far from physical that its later passes hang on which bin a distance falls in.
AMBIGUOUS = 1e-2
BIN_EDGES = np.linspace(3.25, 20.75, 15)


FLOAT32 = Execution(precision="float32", outputs="full")


def shallow(name: str):
    """The recorded network of a preset; DeepMind's code without zero initialisation fills undefined torsions."""
    sizes = {"evoformer_blocks": 2, "extra_msa_blocks": 2, "num_recycles": 1}
    return preset(name, **sizes, **({} if "multimer" in name else {"fill_undefined_torsions": True}))


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Preset -> (state, jitted pass, config); both compiled and read once."""
    made = {}

    def network(name):
        if name not in made:
            config = shallow(name)
            path = tmp_path_factory.mktemp("params") / f"params_{name}.npz"
            np.savez(path, **recorded.parameters(name))
            apply = make_apply(config, FLOAT32)
            made[name] = store.load(path, config), jax.jit(apply), config
        return made[name]

    return network


def _flat(outputs) -> dict[str, np.ndarray]:
    """Our outputs under DeepMind's names."""
    full = outputs.full
    named = {
        "distogram/logits": full.distogram,
        "experimentally_resolved/logits": full.resolved,
        "masked_msa/logits": full.masked_msa,
        "predicted_aligned_error/logits": full.aligned_error,
        "predicted_lddt/logits": full.lddt,
        "representations/msa": full.representations.msa,
        "representations/msa_first_row": full.representations.msa_first_row,
        "representations/pair": full.representations.pair,
        "representations/single": full.representations.single,
        "representations/structure_module": full.structure.single,
        "structure_module/final_atom_mask": outputs.atom_mask,
        "structure_module/final_atom_positions": outputs.atom_positions,
    }
    return {k: np.asarray(v) for k, v in named.items() if v is not None}


# Constants, and what only says how the recording was run.
NOT_COMPARED = {
    "distogram/bin_edges",
    "predicted_aligned_error/breaks",
    "predicted_aligned_error/asym_id",
    "num_recycles",
}


def errors(run: recorded.Run, outputs) -> dict[str, float]:
    """Largest absolute difference of every recorded output, where masks are 1."""
    ours = _flat(outputs)
    keys = set(run.outputs) - NOT_COMPARED
    assert keys <= set(ours)
    return {k: float(np.max(np.abs(ours[k] - run.outputs[k]) * recorded.compared(run, k))) for k in keys}


def _violations(found: dict[str, float], multimer: bool) -> dict[str, float]:
    bound = {"structure_module/final_atom_positions": POSITIONS[multimer], "structure_module/final_atom_mask": 0.0}
    return {k: v for k, v in found.items() if not v <= bound.get(k, LOGITS[multimer])}


def _passes(networks, run):
    state, apply, config = networks(run.preset)
    prev = init_prev(run.features[0].aatype.shape[0], config, FLOAT32)
    before = prev
    for features in run.features:
        before = prev
        outputs, prev = apply(state, features, before)
    return outputs, before


def _flips(prev, features):
    """Every way to move an atom across a recycling bin's edge that it is within rounding of, one pair at a time."""
    positions = np.asarray(prev.pos)
    atom = np.where(features.aatype == 7, 1, 3)  # glycine has no Cβ
    beta = positions[np.arange(len(atom)), atom]
    separation = beta[:, None] - beta[None]
    distance = np.linalg.norm(separation, axis=-1)
    for i, j in itertools.combinations(range(len(atom)), 2):
        edge = BIN_EDGES[np.argmin(np.abs(BIN_EDGES - distance[i, j]))]
        gap = edge - distance[i, j]
        if abs(gap) < AMBIGUOUS:
            moved = positions.copy()
            moved[i, atom[i]] += 1.01 * gap * separation[i, j] / distance[i, j]
            yield (i, j), dataclasses.replace(prev, pos=moved)


@pytest.mark.parametrize("name", recorded.NAMES)
def test_outputs_equal_the_recorded_ones(name, networks):
    run = recorded.load(name)
    multimer = "multimer" in name
    outputs, before = _passes(networks, run)
    found = errors(run, outputs)
    wrong = _violations(found, multimer)
    if wrong and multimer and len(run.features) > 1:
        # The first pass is compared by the `_r0` file. The second may stand on the other side of a bin's edge, as the
        # peer's own does for model_1_multimer (2 Å away): then one such flip, and nothing else, must explain all.
        state, apply, _ = networks(run.preset)
        candidates = list(_flips(before, run.features[-1]))
        assert 0 < len(candidates) < 20
        tried = {pair: errors(run, apply(state, run.features[-1], prev)[0]) for pair, prev in candidates}
        assert any(not _violations(found, multimer) for found in tried.values()), (wrong, tried)
        return
    assert not wrong, found
