"""From a record to arrays: alignments, labels that lie under the features, complexes, predicted structures, errors."""

import dataclasses

import cif
import gemmi
import jax
import numpy as np
import pytest

from fastfold_jax.config.presets import preset
from fastfold_jax.config.training import stage
from fastfold_jax.constants import ATOM37_INDEX, GAP, MASK, RESTYPES
from fastfold_jax.data.draws import Draws
from fastfold_jax.data.textfile import InputError
from fastfold_jax.data.training.augment import Augmentation, Maker, choose_residues, row
from fastfold_jax.data.training.example import Reader
from fastfold_jax.data.training.records import read_index
from fastfold_jax.data.training.selection import Filters, select
from fastfold_jax.training.index import IndexConfig, build_index

MONOMER = preset("model_1_ptm", num_msa=12, num_extra_msa=16, num_recycles=2)
MULTIMER = preset("model_1_multimer_v3", num_msa=12, num_extra_msa=16, num_recycles=1)
CA = ATOM37_INDEX["CA"]


def opened(path, config, **options):
    index = read_index(path)
    records = {record.name: record for record in select(index, Filters(need_alignment=False), what="test")}
    return Reader(structures=index.structures, alignments=index.alignments, config=config, **options), records


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(2)
    a, b = cif.random_letters(rng, 30), cif.random_letters(rng, 21)
    return cif.write_dataset(tmp_path, {"1abc": {"A": a, "B": b, "C": a}})


def make(maker, example, name, **options):
    """One example alone."""
    features, labels = maker.blank(1)
    maker.fill((row(features, 0), row(labels, 0)), example, name, **options)
    return row(features, 0), row(labels, 0)


def check_labels(features, labels, num_recycles):
    """Labels lie under the features, padding is masked, and the last pass is the one whose masking they tell."""
    last = {field.name: getattr(features, field.name)[-1] for field in dataclasses.fields(features)}
    residues = last["seq_mask"] > 0
    assert not labels.atom_mask[:, ~residues].any() and not labels.atom_positions[labels.atom_mask == 0].any()
    touched = labels.bert_mask > 0
    assert touched.any() and not touched[:, ~residues].any()
    seen = last["msa_feat"][..., :23].argmax(-1)
    rows = last["msa_mask"] > 0
    np.testing.assert_array_equal(seen[rows & ~touched], labels.true_msa[rows & ~touched])
    assert (seen[touched] == MASK).mean() > 0.4
    # The query's row, unmasked, is the sequence.
    np.testing.assert_array_equal(labels.true_msa[0, residues], last["aatype"][residues])
    unused = len(features.aatype) - 1 - num_recycles
    assert not features.seq_mask[:unused].any() and features.seq_mask[unused:].any(axis=1).all()


@pytest.mark.parametrize(("size", "num_recycles"), [(16, 2), (40, 0)])
def test_a_chain(dataset, size, num_recycles):
    reader, records = opened(dataset, MONOMER)
    example = reader.read(records["1abc_A"])
    maker = Maker(config=MONOMER, augmentation=Augmentation(crop_size=size))
    features, labels = make(maker, example, (1, 2), num_recycles=num_recycles, clamped=True)
    assert features.msa_feat.shape == (3, 8, size, 49) and labels.atom_positions.shape == (1, size, 37, 3)
    check_labels(features, labels, num_recycles)
    kept = min(size, 30)
    assert features.seq_mask[-1].sum() == kept
    index = features.residue_index[-1, :kept]
    np.testing.assert_array_equal(np.diff(index), 1)
    # The chain of the test is a line along x: its labels say which residue each is.
    np.testing.assert_allclose(labels.atom_positions[0, :kept, CA, 0], 3.8 * (index + 1), atol=1e-3)
    assert labels.resolution == 2.0 and labels.use_clamped_fape == 1.0


def test_names_of_streams_decide_everything(dataset):
    reader, records = opened(dataset, MONOMER)
    maker = Maker(config=MONOMER, augmentation=Augmentation(crop_size=16))
    example = reader.read(records["1abc_A"])
    one, same, other = (make(maker, example, (seed, 0), num_recycles=1, clamped=True)[0].msa_feat for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (one[-1] != one[-2]).any()  # passes are drawn anew


@pytest.mark.parametrize("config", [MONOMER, MULTIMER], ids=["monomer", "multimer"])
def test_rows_that_are_empty_in_the_crop_are_left_out(tmp_path, config):
    """Most rows cover one end of a chain alone, and of the other chains none."""
    rng = np.random.default_rng(6)
    chains = {name: cif.random_letters(rng, 40) for name in "ABCD"}
    path = cif.write_dataset(tmp_path, {"1abc": chains}, rows=2)
    for name, letters in chains.items():
        halves = [f"{cif.mutated(rng, letters)[:20]}{'-' * 20}" for _ in range(6)]
        halves += [f"{'-' * 20}{cif.mutated(rng, letters)[20:]}" for _ in range(6)]
        cif.write_a3m(tmp_path / "alignments" / f"1abc_{name}", letters, halves)
    reader, records = opened(path, config)
    example = reader.read(records["1abc_A"])
    maker = Maker(config=config, augmentation=Augmentation(crop_size=12, deleted_blocks=0), copies=1)
    for seed in range(4):
        features, labels = make(maker, example, (seed,), num_recycles=0, clamped=True)
        clusters, extra = features.msa_mask[-1].any(axis=1), features.extra_msa_mask[-1].any(axis=1)
        assert clusters.sum() > 1
        for rows in (labels.true_msa[clusters, :12], features.extra_msa[-1][extra, :12]):
            assert (rows != GAP).any(axis=1).all()


def test_a_real_chain(shared_data, tmp_path):
    config = IndexConfig(
        structures=shared_data / "mmcif", alignments=shared_data / "msa", out=tmp_path / "i.jsonl", workers=1
    )
    build_index(config)
    reader, records = opened(config.out, MONOMER)
    example = reader.read(records["2q2k_A"])
    assert example.raw.num_rows > 10 and example.resolution == 3.0
    maker = Maker(config=MONOMER, augmentation=Augmentation(crop_size=64))
    check_labels(*make(maker, example, (0,), num_recycles=2, clamped=False), 2)
    # The whole assembly, two chains and their symmetry mates.
    multimer = dataclasses.replace(reader, config=MULTIMER).read(records["2q2k_A"])
    assert multimer.lengths == [70] * 4 and multimer.raw.sym_id.max() == 4
    maker = Maker(config=MULTIMER, augmentation=Augmentation(crop_size=96, spatial_fraction=1.0), copies=4)
    features, labels = make(maker, multimer, (0,), num_recycles=1, clamped=True)
    check_labels(features, labels, 1)
    assert len(np.unique(features.asym_id[-1])) > 1


def test_copies_of_a_chain_in_a_complex(dataset):
    reader, records = opened(dataset, MULTIMER)
    example = reader.read(records["1abc_B"])
    assert example.lengths == [30, 21, 30]
    np.testing.assert_array_equal(np.unique(example.raw.asym_id), [1, 2, 3])
    maker = Maker(config=MULTIMER, augmentation=Augmentation(crop_size=60, spatial_fraction=0.0), copies=3)
    features, labels = make(maker, example, (5,), num_recycles=1, clamped=True)
    check_labels(features, labels, 1)
    last = {name: getattr(features, name)[-1] for name in ("asym_id", "entity_id", "sym_id", "residue_index")}
    rows = {1: 0.0, 2: 8.0, 3: 16.0}  # each chain's y
    for place in range(60):
        number = last["residue_index"][place]
        own = labels.atom_positions[last["sym_id"][place] - 1, place, CA]
        np.testing.assert_allclose(own, [3.8 * (number + 1), rows[int(last["asym_id"][place])], 0], atol=1e-3)
        copies = labels.atom_mask[:, place, CA]
        assert copies.tolist() == ([1, 0, 0] if last["asym_id"][place] == 2 else [1, 1, 0])
        if last["asym_id"][place] != 2:
            np.testing.assert_allclose(labels.atom_positions[:2, place, CA, 1], [0.0, 16.0], atol=1e-3)


def test_the_crop_of_a_chain_tends_to_the_start_when_unclamped(dataset):
    reader, records = opened(dataset, MONOMER)
    example, augmentation = reader.read(records["1abc_A"]), Augmentation(crop_size=10)
    for clamped, mean in ((True, 10), (False, 5)):
        starts = [choose_residues(example, augmentation, Draws(seed), clamped=clamped)[0] for seed in range(500)]
        assert np.mean(starts) == pytest.approx(mean, abs=1)


def test_so_many_complexes_are_cropped_around_an_interface(dataset):
    reader, records = opened(dataset, MULTIMER)
    example = reader.read(records["1abc_A"])
    alpha, known = example.alpha()
    distance = np.linalg.norm(alpha[:, None] - alpha, axis=-1)
    assert known.all()

    def is_ball(kept) -> bool:
        outside = np.setdiff1d(np.arange(len(alpha)), kept)
        return any(distance[centre, kept].max() < distance[centre, outside].min() + 0.2 for centre in kept)

    for fraction, least, most in ((0.0, 0, 2), (0.5, 15, 45), (1.0, 60, 60)):
        augmentation = Augmentation(crop_size=16, spatial_fraction=fraction)
        crops = [choose_residues(example, augmentation, Draws(seed), clamped=True) for seed in range(60)]
        assert least <= sum(map(is_ball, crops)) <= most


def test_the_nearest_chains_of_a_large_assembly_stay(dataset):
    reader, records = opened(dataset, MULTIMER, max_chains=2)
    assert [chain.label for chain in reader.read(records["1abc_A"]).chains] == ["Ax", "Bx"]
    reader, records = opened(dataset, MULTIMER, max_copies=1)
    assert [chain.label for chain in reader.read(records["1abc_C"]).chains] == ["Bx", "Cx"]


def test_chains_are_placed_before_they_are_compared(tmp_path):
    """An assembly that moves all chains by as much as the third is from the first."""
    made = cif.structure({name: cif.codes("ACDEFGHIKL") for name in "ABC"})
    assembly, generator, operator = gemmi.Assembly("1"), gemmi.Assembly.Gen(), gemmi.Assembly.Operator()
    operator.transform.vec.fromlist([0.0, -16.0, 0.0])
    generator.operators.append(operator)
    generator.subchains = ["Ax", "Bx", "Cx"]
    assembly.generators.append(generator)
    made.assemblies.append(assembly)
    cif.write(tmp_path / "s" / "1abc.cif", made)
    out = tmp_path / "i.jsonl"
    build_index(IndexConfig(structures=tmp_path / "s", out=out, workers=1))
    reader, records = opened(out, MULTIMER, max_chains=2)
    chains = reader.read(records["1abc_A"]).chains
    assert [chain.label for chain in chains] == ["Ax", "Bx"]
    np.testing.assert_allclose(chains[0].positions[0, CA], [3.8, -16.0, 0.0], atol=1e-3)


def test_predicted_structures_keep_what_is_sure(tmp_path):
    letters = "ACDEFGHIKLMNPQRSTVWY"
    made = cif.structure({"A": cif.codes(letters)})
    for number, residue in enumerate(made[0]["A"]):
        for atom in residue:
            atom.b_iso = 90.0 if number % 2 else 30.0
    cif.write(tmp_path / "s" / "pred_1.cif", made, date=None)
    rng = np.random.default_rng(7)
    cif.write_a3m(tmp_path / "a" / "pred_1", letters, [cif.mutated(rng, letters) for _ in range(50)])
    out = tmp_path / "i.jsonl"
    build_index(IndexConfig(structures=tmp_path / "s", alignments=tmp_path / "a", out=out, workers=1))
    reader, records = opened(out, MONOMER, min_confidence=50.0)
    example = reader.read(records["pred_1_A"])
    np.testing.assert_array_equal(example.chains[0].atom_mask[:, CA], np.arange(20) % 2)
    assert example.resolution == 0.0
    maker = Maker(config=MONOMER, augmentation=Augmentation(crop_size=32, distillation_rows=10, deleted_blocks=0))
    for distillation, expected in ((True, 10), (False, maker.shape.num_msa + maker.shape.num_extra_msa)):
        features, _ = make(maker, example, (0,), num_recycles=0, clamped=True, distillation=distillation)
        rows = sum(mask[-1].any(axis=-1).sum() for mask in (features.msa_mask, features.extra_msa_mask))
        assert rows == expected


def test_alignments_in_both_layouts(dataset, tmp_path):
    reader, records = opened(dataset, MONOMER)
    flat = reader.read(records["1abc_A"]).raw
    directory = tmp_path / "alignments" / "1abc_A"
    (directory / "a3m").mkdir()
    (directory / "bfd_uniclust_hits.a3m").rename(directory / "a3m" / "bfd_uniclust_hits.a3m")
    (directory / "hhr").mkdir()
    (directory / "hhr" / "pdb70_hits.hhr").write_text("not looked at")
    np.testing.assert_array_equal(reader.read(records["1abc_A"]).raw.msa, flat.msa)


def test_modified_residues_agree_with_any_letter(tmp_path):
    cif.write(tmp_path / "s" / "1mod.cif", cif.structure({"A": ["ALA", "ZZZ", "MSE", "GLY", "SER"]}))
    cif.write_a3m(tmp_path / "a" / "1mod_A", "ACMXS")
    out = tmp_path / "i.jsonl"
    build_index(IndexConfig(structures=tmp_path / "s", alignments=tmp_path / "a", out=out, workers=1))
    reader, records = opened(out, MONOMER)
    assert [*RESTYPES, "X"][reader.read(records["1mod_A"]).raw.aatype[1]] == "X"


def broken_alignment(dataset, change):
    directory = dataset.parent / "alignments" / "1abc_A"
    change(directory, directory / "bfd_uniclust_hits.a3m")
    reader, records = opened(dataset, MONOMER)
    with pytest.raises(InputError) as caught:
        reader.read(records["1abc_A"])
    return str(caught.value)


def test_an_empty_alignment(dataset):
    message = broken_alignment(dataset, lambda _, path: path.write_text(""))
    assert message.endswith("bfd_uniclust_hits.a3m: the file is empty")


def test_another_query(dataset):
    def other(_, path):
        text = path.read_text()
        path.write_text(text.replace(text[6:36], "W" * 30, 1))

    assert "the first row has 'W' at residue 1, but the chain 1abc_A has" in broken_alignment(dataset, other)


def test_a_query_of_another_length(dataset):
    message = broken_alignment(dataset, lambda _, path: path.write_text(">q\nACD\n"))
    assert "the first row has 3 residues, but the chain 1abc_A has 30" in message


def test_a_directory_without_alignments(dataset):
    assert "no alignment (.a3m, .sto) of the chain 1abc_A" in broken_alignment(dataset, lambda _, path: path.unlink())


def test_a_missing_directory(dataset):
    def gone(directory, path):
        path.unlink()
        directory.rmdir()

    assert "1abc_A: no such directory of alignments" in broken_alignment(dataset, gone)


def test_a_chain_that_has_gone(dataset):
    reader, records = opened(dataset, MONOMER)
    cif.write(dataset.parent / "structures" / "1abc.cif", cif.structure({"Z": cif.codes("ACDEF")}))
    with pytest.raises(InputError, match=r"1abc\.cif: no polypeptide has the label_asym_id 'Ax'; found are Zx"):
        reader.read(records["1abc_A"])


def test_alignments_of_chains_are_paired(tmp_path):
    rng = np.random.default_rng(3)
    letters = {"A": cif.random_letters(rng, 40), "B": cif.random_letters(rng, 45)}
    path = cif.write_dataset(tmp_path, {"1abc": letters}, rows=3)
    for name, value in letters.items():
        rows = [f"tr|A0A00{i}|A0A00{i}_S{i}/1-9 {cif.mutated(rng, value, 0.9)}" for i in range(5)]
        text = "\n".join(["# STOCKHOLM 1.0", f"query {value}", *rows, "//", ""])
        (tmp_path / "alignments" / f"1abc_{name}" / "uniprot_hits.sto").write_text(text)
    reader, records = opened(path, MULTIMER)
    raw = reader.read(records["1abc_A"]).raw
    both = (raw.msa[:, :40] != GAP).any(axis=1) & (raw.msa[:, 40:] != GAP).any(axis=1)
    assert both.sum() == 6 and len(both) == 6 + 3 + 3


def test_rows_divide_over_the_devices_that_share_an_example():
    """The initial stage's 124 clusters over 8 devices; what is added is masked out."""
    config = stage("initial").model
    shape = Maker(config=config, augmentation=Augmentation(crop_size=250), multiple=8).shape
    assert config.num_clusters == 124
    assert (shape.num_res, shape.num_msa, shape.num_extra_msa, shape.num_templates) == (256, 128, 1024, 4)


def test_added_rows_are_masked_out(dataset):
    reader, records = opened(dataset, MONOMER)
    example = reader.read(records["1abc_A"])
    plain, padded = (
        make(
            Maker(config=MONOMER, augmentation=Augmentation(crop_size=20), multiple=multiple),
            example,
            (1, 2),
            num_recycles=0,
            clamped=True,
        )
        for multiple in (1, 16)
    )
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(padded), strict=True):
        kept = tuple(map(slice, one.shape))
        np.testing.assert_array_equal(other[kept], one)
        assert np.count_nonzero(other) == np.count_nonzero(one)
    assert padded[0].msa_mask.shape[1:] == (16, 32) and plain[0].msa_mask.shape[1:] == (8, 20)
