"""What answers are made of: scores of interfaces, coverage, arrays, plots."""

import dataclasses
import io

import numpy as np
import pytest

from fastfold_jax.constants import ATOM37_INDEX, GAP, SEQUENCE_LETTER_TO_INDEX
from fastfold_jax.data.assemble import assemble
from fastfold_jax.data.job_chains import Chain, Job
from fastfold_jax.data.raw import TemplateOrigin, Templates
from fastfold_jax.inference.arrays import ArraysError, load_prediction, prediction_bytes
from fastfold_jax.inference.coverage import Coverage, coverage_of
from fastfold_jax.inference.interfaces import score_interfaces
from fastfold_jax.inference.layout import chain_layout
from fastfold_jax.inference.plots import write_plots


def facing(make_prediction, gap: float, error: float, plddt: float = 90.0):
    """Two straight chains of 40 alanines side by side, `gap` Å apart, with one aligned error between them."""
    n = 40
    positions = np.zeros((2 * n, 37, 3), np.float32)
    for atom in ("CA", "CB"):
        positions[:n, ATOM37_INDEX[atom], 0] = positions[n:, ATOM37_INDEX[atom], 0] = np.arange(n) * 3.8
        positions[n:, ATOM37_INDEX[atom], 1] = gap
    pae = np.full((2 * n, 2 * n), error, np.float32)
    return make_prediction(
        "A" * n, "A" * n, atom_positions=positions, pae=pae, plddt=np.full(2 * n, plddt, np.float32), iptm=0.5
    )


def test_interface_of_two_straight_chains(make_prediction):
    (interface,) = score_interfaces(facing(make_prediction, gap=5.0, error=2.0))
    # Each residue sees the one opposite (5 Å) and its neighbours (sqrt(5² + 3.8²) = 6.3 Å), but not those beyond (9.1).
    assert interface.chains == ("A", "B") and interface.contacts == 40 + 2 * 39
    assert interface.plddt == pytest.approx(90) and interface.pae == interface.pae_min == pytest.approx(2)
    assert interface.lis == pytest.approx(10 / 12)
    d0 = 1.24 * (40 - 15) ** (1 / 3) - 1.8
    assert interface.ipsae == pytest.approx(1 / (1 + (2 / d0) ** 2))
    x = 90 * np.log10(118)
    assert interface.pdockq == pytest.approx(0.724 / (1 + np.exp(-0.052 * (x - 152.611))) + 0.018)
    y = 90 / (1 + 0.2**2)
    expected = 1.31034849 / (1 + np.exp(-0.0747157696 * (y - 84.7332624))) + 0.00501886443
    assert interface.pdockq2 == pytest.approx(expected)


def test_an_interface_is_scored_both_ways(make_prediction):
    """Chains of unequal length, aligned errors that differ by direction, pair by pair."""
    draw = np.random.default_rng(3)
    sizes = np.array([40, 25])
    n, chain = sizes.sum(), np.repeat([0, 1], sizes)
    positions = np.zeros((n, 37, 3), np.float32)
    positions[:, ATOM37_INDEX["CB"]] = draw.normal(size=(n, 3)) * 8 + 12 * chain[:, None]
    pae = (draw.uniform(0, 31, (n, n)) * np.where(chain == 0, 0.3, 1.0)[:, None]).astype(np.float32)
    prediction = make_prediction("A" * 40, "A" * 25, atom_positions=positions, pae=pae)
    (found,) = score_interfaces(prediction)

    beta = positions[:, ATOM37_INDEX["CB"]]
    pairs = [(i, j) for i in range(40) for j in range(40, n) if np.linalg.norm(beta[i] - beta[j]) <= 8]
    touching = sorted({i for pair in pairs for i in pair})
    assert 10 < len(pairs) and len(touching) < n and found.contacts == len(pairs)
    assert found.plddt == pytest.approx(np.mean([prediction.plddt[i] for i in touching]))
    assert found.pae == pytest.approx(np.mean([pae[i, j] + pae[j, i] for i, j in pairs]) / 2)

    def one_way(rows, columns) -> tuple[float, float]:
        low = [1 - pae[i, j] / 12 for i in rows for j in columns if pae[i, j] < 12]
        aligned = [0.0]
        for i in rows:
            errors = [pae[i, j] for j in columns if pae[i, j] < 10]
            d0 = 1.24 * (len(errors) - 15) ** (1 / 3) - 1.8 if len(errors) >= 27 else 1.0
            aligned += [np.mean([1 / (1 + (error / max(d0, 1.0)) ** 2) for error in errors])] if errors else []
        return np.mean(low), max(aligned)

    first, second = one_way(range(40), range(40, n)), one_way(range(40, n), range(40))
    assert found.lis == pytest.approx((first[0] + second[0]) / 2) and abs(first[0] - second[0]) > 0.05
    assert found.ipsae == pytest.approx(max(first[1], second[1])) and abs(first[1] - second[1]) > 0.05


def test_chains_far_apart_have_no_interface(make_prediction):
    (interface,) = score_interfaces(facing(make_prediction, gap=50.0, error=25.0))
    assert interface.contacts == 0 and interface.plddt is None and interface.pae is None
    assert (interface.pdockq, interface.pdockq2, interface.lis, interface.ipsae) == (0, 0, 0, 0)
    assert "plddt" not in interface.to_json() and interface.to_json()["pae_min"] == 25


def test_interfaces_of_three_chains_one_chain_and_no_errors(make_prediction):
    pairs = [interface.chains for interface in score_interfaces(make_prediction("GA", "MK", "W"))]
    assert pairs == [("A", "B"), ("A", "C"), ("B", "C")]
    assert score_interfaces(make_prediction("GAMK")) == ()
    (interface,) = score_interfaces(make_prediction("GA", "MK", pae=None))
    assert interface.ipsae is None and interface.lis is None and interface.pdockq2 is None
    unknown = make_prediction("XX", "MK")  # no atoms in one of the chains
    assert score_interfaces(unknown)[0].contacts == 0


def test_arrays_survive(make_prediction, tmp_path):
    prediction = make_prediction("GAMX", "WDE", iptm=0.5)
    data = prediction_bytes(prediction)
    assert data == prediction_bytes(dataclasses.replace(prediction))
    (tmp_path / "x.npz").write_bytes(data)
    loaded = load_prediction(tmp_path / "x.npz")
    assert loaded.provenance == prediction.provenance and loaded.name == prediction.name
    assert (loaded.ptm, loaded.iptm, loaded.scale) == (prediction.ptm, 0.5, prediction.scale)
    assert loaded.sequence == "GAMX:WDE"
    for name in ("atom_positions", "atom_mask", "plddt"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(prediction, name))
    np.testing.assert_allclose(loaded.pae, prediction.pae, atol=0.01)
    for mine, given in zip(loaded.chains, prediction.chains, strict=True):
        assert (mine.id, mine.description, mine.start) == (given.id, given.description, given.start)
        np.testing.assert_array_equal(mine.numbers, given.numbers)
    assert loaded.passes == tuple(dataclasses.replace(record, seconds=0.0) for record in prediction.passes)
    assert prediction_bytes(loaded) == data
    (tmp_path / "y.npz").write_bytes(prediction_bytes(make_prediction("GA", pae=None)))
    assert load_prediction(tmp_path / "y.npz").pae is None


def test_the_templates_of_a_network_are_known(make_prediction, small_network, tmp_path):
    """Where each came from, how much of the chain it has and how much of that is the same; as many as it looks at."""
    letters = [SEQUENCE_LETTER_TO_INDEX[letter] for letter in "GAMK"]
    rows = np.array([letters, [letters[0], GAP, letters[0], GAP], [GAP] * 4, letters], np.int32)
    sources = tuple(TemplateOrigin(name=f"{i}abc", chain="B", released="2001-02-03") for i in range(4))
    mask = np.ones((4, 4, 37), np.float32)
    templates = Templates(aatype=rows, positions=np.zeros((4, 4, 37, 3), np.float32), atom_mask=mask, sources=sources)
    chain = Chain(id="A", description="", sequence="GAMK", templates=templates)
    copy = dataclasses.replace(chain, id="B", templates=None)  # has those of its first copy
    job = Job(name="j", chains=(chain, copy, Chain(id="C", description="", sequence="W")))
    raw = assemble(job, small_network)
    first, second, third = chain_layout(raw, job, 3)
    assert [(used.name, used.identity, used.coverage) for used in first.templates] == [
        ("0abc", 1.0, 1.0),
        ("1abc", 0.5, 0.5),
    ]
    assert second.templates == first.templates and third.templates == ()
    assert all(not chain.templates for chain in chain_layout(raw, job, 0))
    anonymous = dataclasses.replace(chain, templates=dataclasses.replace(templates, sources=()))
    used = chain_layout(raw, dataclasses.replace(job, chains=(anonymous, *job.chains[1:])), 3)[0].templates[0]
    assert used.name is None and used.identity == 1.0
    prediction = make_prediction("GAMK")
    prediction = dataclasses.replace(prediction, chains=(dataclasses.replace(first, id="A"),))
    (tmp_path / "x.npz").write_bytes(prediction_bytes(prediction))
    assert load_prediction(tmp_path / "x.npz").chains[0].templates == first.templates


def test_other_files_are_no_prediction(tmp_path, make_prediction):
    data = prediction_bytes(make_prediction("GA"))
    buffer = io.BytesIO()
    np.savez(buffer, json=np.array([object()], object))
    for content in (b"", b"nonsense", data[:-50], data[:200], buffer.getvalue()):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(ArraysError, match=r"x\.npz"):
            load_prediction(tmp_path / "x.npz")
    with pytest.raises(ArraysError, match="cannot be read"):
        load_prediction(tmp_path / "absent.npz")


def test_coverage_counts_letters_by_identity(small_network):
    from fastfold_jax.data.a3m import parse_a3m

    text = ">q\nACDEF\n>same\nACDEF\n>half\nACMM-\n>none\n--WWW\n>again\nAC---\n"
    alignment = parse_a3m(text.encode(), file="x")
    job = Job(name="j", chains=(Chain(id="A", description="", sequence="ACDEF", alignments=(alignment,)),))
    raw = assemble(job, small_network)
    coverage = coverage_of(raw)
    assert coverage.rows == 4  # the repeated query goes
    assert coverage.per_residue.tolist() == (raw.msa != GAP).sum(axis=0).tolist() == [3, 3, 3, 3, 2]
    assert coverage.depth[4].tolist() == [2, 2, 1, 1, 1] and coverage.depth[2].tolist() == [1, 1, 1, 1, 0]
    assert coverage.depth[0].tolist() == [0, 0, 1, 1, 1]
    assert Coverage.from_json(coverage.to_json()).depth.tolist() == coverage.depth.tolist()


@pytest.mark.parametrize("sequences", [("G",), ("GAMKWDE",), ("GAMKWDE", "WDE", "GA")])
def test_plots_are_pictures(make_prediction, tmp_path, sequences):
    from matplotlib.image import imread

    ranked = [make_prediction(*sequences, seed=seed) for seed in range(3)]
    coverage = Coverage(rows=3, depth=np.ones((5, len(ranked[0].plddt)), int))
    names = write_plots(ranked, coverage, tmp_path)
    assert names == ["coverage.png", "plddt.png", "distogram.png", "pae.png"]
    first = {name: (tmp_path / name).read_bytes() for name in names}
    for name in names:
        picture = imread(tmp_path / name)
        assert min(picture.shape[:2]) > 300 and picture[..., :3].std() > 0.02  # not blank
    write_plots(ranked, coverage, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in names} == first


def test_no_plot_of_errors_that_were_not_predicted(make_prediction, tmp_path):
    ranked = [make_prediction("GAMK", pae=None)]
    assert "pae.png" not in write_plots(ranked, Coverage(rows=1, depth=np.ones((5, 4), int)), tmp_path)
