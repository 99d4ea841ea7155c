"""A made-up prediction, ways to vary it, small networks, and a run of several small jobs."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import several_jobs

from fastfold_jax.backend.compile_cache import use_compile_cache
from fastfold_jax.config.presets import preset
from fastfold_jax.constants import ATOM37_MASK, SEQUENCE_LETTER_TO_INDEX
from fastfold_jax.data import buckets
from fastfold_jax.data.assemble import assemble
from fastfold_jax.data.job import Chain, Job
from fastfold_jax.data.sampling import sample
from fastfold_jax.inference.result import PassRecord, Prediction, Provenance, ResidueRange
from fastfold_jax.inference.run import run

SMALL = {"c_m": 32, "c_z": 16, "c_s": 32, "c_e": 16, "c_t": 16, "c_outer": 8, "c_template_attention": 16}


@pytest.fixture(scope="module", autouse=True)
def small_networks_compile_quickly(quick_compiles):
    """All that these tests compile takes longer to compile than to run."""


@pytest.fixture(scope="session")
def programs(tmp_path_factory) -> Path:
    """Where all of these tests keep what they compile."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module", autouse=True)
def compiled(programs):
    """Runs find each other's programs."""
    use_compile_cache(programs)
    yield
    use_compile_cache(None)


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
                program="FastFold-JAX 0.1",
                model="model_1_ptm",
                parameters="x.npz",
                seed=seed,
                rows="512:5120",
                precision="float32",
                platform="JAX 1.0 on cpu",
            ),
            "chains": chains,
            "atom_positions": draw.normal(size=(n, 37, 3)).astype(np.float32) * 40,
            "atom_mask": ATOM37_MASK[np.concatenate(aatype)],
            "plddt": draw.uniform(0, 100, n).astype(np.float32),
            "pae": draw.uniform(0, 31, (n, n)).astype(np.float32),
            "contact_probability": draw.uniform(0, 1, (n, n)).astype(np.float32),
            "ptm": 0.75,
            "iptm": None,
            "ranking_confidence": 71.5,
            "scale": "plddts",
            "passes": (PassRecord(plddt=71.5, ptm=0.75, iptm=None, change=float("inf"), seconds=1.0),),
        }
        return Prediction(**{**fields, **changes})

    return make


@pytest.fixture(scope="session")
def small_network():
    """A monomer network of few blocks and channels."""
    return preset(
        "model_1_ptm",
        evoformer_blocks=1,
        extra_msa_blocks=1,
        template_blocks=1,
        structure_layers=2,
        num_msa=12,
        num_extra_msa=16,
        **SMALL,
    )


@pytest.fixture(scope="session")
def small_multimer():
    """A multimer network of few blocks and channels."""
    return preset(
        "model_1_multimer_v3",
        evoformer_blocks=1,
        extra_msa_blocks=1,
        template_blocks=1,
        structure_layers=2,
        num_msa=8,
        num_extra_msa=16,
        **SMALL,
    )


@pytest.fixture(scope="session")
def features_of(small_network):
    """A function from a sequence to the features of its first pass."""

    def make(sequence: str):
        job = Job(name="job", chains=(Chain(id="A", description="", sequence=sequence, alignments=(), paired=None),))
        raw = assemble(job, small_network)
        return buckets.pad(sample(raw, small_network, seed=0, pass_index=0), buckets.choose(raw, small_network))

    return make


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("input") / "jobs.fasta"
    path.write_text(several_jobs.FASTA)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, source, small_network):
    """A run that nothing disturbed, on one device, and its outcomes."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
        return out, run(several_jobs.configuration(out, source), networks=[small_network])


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of the undisturbed run's directory."""
    shutil.copytree(whole[0], tmp_path / "out")
    return tmp_path / "out"
