"""Templates of training examples: drawn from a real list of hits, never of the entry itself or as young as it."""

import shutil

import cif
import numpy as np
import pytest

from fastfold_jax.config.presets import preset
from fastfold_jax.constants import ATOM37_INDEX, GAP
from fastfold_jax.data.draws import Draws
from fastfold_jax.data.job_chains import read_alignment
from fastfold_jax.data.template_hits import read_hits
from fastfold_jax.data.training.augment import Augmentation
from fastfold_jax.data.training.records import read_index
from fastfold_jax.data.training.templates import TemplateConfig
from fastfold_jax.errors import UserError
from fastfold_jax.training.dataset import DataConfig, Dataset
from fastfold_jax.training.index import IndexConfig, build_index
from fastfold_jax.training.loader import BatchIterator
from fastfold_jax.training.validation_data import ValidationConfig, ValidationSet

MODEL = preset("model_1_ptm", num_msa=12, num_extra_msa=8, num_recycles=0)
CA = ATOM37_INDEX["CA"]


@pytest.fixture(scope="module")
def cobra(shared_data, tmp_path_factory):
    """A chain released in 2010 with a real list of hits, whose structures were released from 2005 on, one a year."""
    root = tmp_path_factory.mktemp("cobra")
    source = shared_data / "msa" / "cobra73"
    directory = root / "alignments" / "1abc_A"
    directory.mkdir(parents=True)
    for name in ("uniref90_hits.sto", "pdb70_hits.hhr"):
        shutil.copyfile(source / name, directory / name)
    query = read_alignment(directory / "uniref90_hits.sto").query
    cif.write(root / "structures" / "1abc.cif", cif.structure({"A": cif.codes(query)}), date="2010-05-04")
    hits = {hit.entry: hit for hit in read_hits(directory / "pdb70_hits.hhr", query)}
    assert len(hits) >= 4
    for number, hit in enumerate(hits.values()):
        made = cif.structure({hit.chain[0]: cif.codes("GG" + hit.sequence)})
        cif.write(root / "structures" / f"{hit.entry}.cif", made, date=f"{2008 + number}-05-04")
    out = root / "index.jsonl"
    build_index(IndexConfig(structures=root / "structures", alignments=root / "alignments", out=out, workers=1))
    return out, query, list(hits.values())


def dataset(index, **options) -> Dataset:
    config = DataConfig(
        index=index,
        templates=TemplateConfig(structures=index.parent / "structures", **options),
        augmentation=Augmentation(crop_size=80),
        workers=0,
    )
    return Dataset(config, MODEL, seed=0, batch_size=1)


def templates(data: Dataset, seed: int | None):
    (records,) = data._sets
    return records.reader.read(records.records[0], None if seed is None else Draws(seed)).raw.templates


def test_only_older_structures_serve(cobra):
    index, _, hits = cobra
    best = templates(dataset(index), None)
    # Of 2008 and 2009; that of 2010-05-04 was released on the same day.
    assert len(best) == 2
    for row, hit in enumerate(hits[:2]):
        aligned = np.flatnonzero(best.aatype[row] != GAP)
        np.testing.assert_array_equal(aligned, hit.query)
        # The structure of the test is a line along x, two residues longer than the hit.
        np.testing.assert_allclose(best.positions[row, aligned, CA, 0], 3.8 * (hit.hit + 3), atol=1e-3)
    assert len(templates(dataset(index, latest="2008-12-31"), None)) == 1
    assert len(templates(dataset(index, latest="2007-12-31"), None)) == 0


def test_the_number_of_templates_is_uniform(cobra):
    index, _, _ = cobra
    data = dataset(index)
    drawn = [templates(data, seed) for seed in range(90)]
    counts = np.bincount([len(found) for found in drawn], minlength=3)
    assert len(counts) == 3 and counts.min() > 15
    best = templates(data, None)
    ones = [found.aatype[0] for found in drawn if len(found) == 1]
    shares = [np.mean([(one == best.aatype[row]).all() for one in ones]) for row in range(2)]
    assert sum(shares) == pytest.approx(1) and min(shares) > 0.15
    again = templates(data, 7)
    np.testing.assert_array_equal(again.positions, drawn[7].positions)


def test_templates_are_drawn_from_the_best_hits_alone(cobra):
    index, _, _ = cobra
    best, data = templates(dataset(index), None), dataset(index, pool=1)
    drawn = [templates(data, seed) for seed in range(30)]
    assert {len(found) for found in drawn} == {0, 1}
    for found in drawn:
        np.testing.assert_array_equal(found.aatype, best.aatype[: len(found)])


def test_batches_hold_them(cobra):
    index, _, _ = cobra
    data = dataset(index)
    found = [data.batch(step)[0].features for step in range(12)]
    assert {int(features.template_mask.sum()) for features in found} == {0, 1, 2}
    one = next(features for features in found if features.template_mask.sum())
    assert one.template_all_atom_mask[0, 0, 0].any() and not one.template_all_atom_mask[0, 0, 2:].any()


def test_validation_takes_the_best(cobra):
    index, _, hits = cobra
    templates = TemplateConfig(structures=index.parent / "structures")
    config = ValidationConfig(index=index, templates=templates, crop_size=80)
    ((names, batch),) = list(ValidationSet(config, MODEL))
    assert names == ("1abc_A",) and batch.features.template_mask.sum() == 2
    aligned = batch.features.template_all_atom_mask[0, 0, 0, :, CA] > 0
    np.testing.assert_array_equal(np.flatnonzero(aligned), hits[0].query)
    with pytest.raises(UserError, match="limit=0"):
        ValidationConfig(index=index, limit=0)


def test_the_entry_itself_is_no_template(cobra, tmp_path):
    """A list of hits names the chain's own entry, whose file here says that it is older than the example."""
    index, _, hits = cobra
    root = tmp_path / "copy"
    shutil.copytree(index.parent, root)
    own = hits[0]
    (root / "alignments" / "1abc_A").rename(root / "alignments" / f"{own.entry}_A")
    (root / "structures" / "1abc.cif").rename(root / "structures" / f"{own.entry}.cif")
    out = root / "index.jsonl"
    build_index(IndexConfig(structures=root / "structures", alignments=root / "alignments", out=out, workers=1))
    assert [entry for entry in read_index(out).files if entry.name == own.entry]
    best = templates(dataset(out), None)
    assert len(best) == 1 and (best.aatype[0] != GAP).sum() == len(hits[1].query)


def test_a_damaged_list_of_hits_is_named(cobra, tmp_path):
    index, _, _ = cobra
    root = tmp_path / "copy"
    shutil.copytree(index.parent, root)
    (root / "alignments" / "1abc_A" / "pdb70_hits.hhr").write_text("Query  x\nhalf\n")
    with pytest.raises(UserError, match=r"nothing in it can be used.*pdb70_hits\.hhr"):
        dataset(root / "index.jsonl")


def test_a_broken_template_is_skipped_counted_and_named(cobra, tmp_path, caplog):
    """The next hit serves in its place; a structure that is not there is named likewise, and each once."""
    index, _, hits = cobra
    root = tmp_path / "copy"
    shutil.copytree(index.parent, root)
    path = root / "structures" / f"{hits[0].entry}.cif"
    path.write_bytes(path.read_bytes()[:1500])
    (root / "structures" / f"{hits[1].entry}.cif").unlink()
    library = root / "structures"
    cif.write(
        library / f"{hits[2].entry}.cif",
        cif.structure({hits[2].chain[0]: cif.codes(hits[2].sequence)}),
        date="2009-05-04",
    )
    # The index still tells the dates that it was made with, and lets the third through; so does its new file.
    older = tmp_path / "index.jsonl"
    build_index(IndexConfig(structures=library, alignments=root / "alignments", out=older, workers=1))
    config = DataConfig(
        index=older,
        templates=TemplateConfig(structures=library),
        augmentation=Augmentation(crop_size=80),
        workers=0,
    )
    data = Dataset(config, MODEL, seed=0, batch_size=1)
    best = templates(data, None)
    assert len(best) == 1 and (best.aatype[0] != GAP).sum() == len(hits[2].query)
    with BatchIterator(data) as batches:
        kept = {int(next(batches).features.template_mask.sum()) for _ in range(12)}
    assert kept == {0, 1}
    broken, missing = (f"template {hit.entry}" for hit in hits[:2])
    assert set(batches.skipped) == {broken, missing}
    assert "truncated" in batches.skipped[broken] and f"has no {hits[1].entry}.cif" in batches.skipped[missing]
    assert caplog.text.count(f"skipped {broken} (") == 1
    validation = ValidationSet(ValidationConfig(index=older, templates=config.templates, crop_size=80), MODEL)
    assert next(iter(validation))[1].features.template_mask.sum() == 1 and set(validation.skipped) == {broken, missing}


def test_replaced_entries_lead_to_their_successors(cobra, tmp_path):
    index, _, hits = cobra
    root = tmp_path / "structures"
    shutil.copytree(index.parent / "structures", root)
    (root / f"{hits[0].entry}.cif").rename(root / "9new.cif")
    (root / f"{hits[1].entry}.cif").unlink()
    obsolete = tmp_path / "obsolete.dat"
    rows = [f"OBSLTE    26-SEP-06 {hits[0].entry.upper()}     9NEW", f"OBSLTE    26-SEP-06 {hits[1].entry.upper()}"]
    obsolete.write_text("\n".join(rows) + "\n")
    config = DataConfig(
        index=index,
        templates=TemplateConfig(structures=root, obsolete=obsolete),
        augmentation=Augmentation(crop_size=80),
        workers=0,
    )
    data = Dataset(config, MODEL, seed=0, batch_size=1)
    best = templates(data, None)
    assert len(best) == 1 and (best.aatype[0] != GAP).sum() == len(hits[0].query)
    (records,) = data._sets
    assert not records.reader.read(records.records[0]).broken_templates  # one that is withdrawn is missing rightly


def test_a_model_without_templates_reads_none(cobra):
    config = DataConfig(index=cobra[0], templates=TemplateConfig(structures=cobra[0].parent / "structures"), workers=0)
    data = Dataset(config, preset("model_3_ptm", num_msa=4, num_extra_msa=4), seed=0, batch_size=1)
    assert len(templates(data, None)) == 0


def test_no_such_directory(cobra, tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such directory of structures for templates"):
        TemplateConfig(structures=tmp_path / "nowhere")
    with pytest.raises(UserError, match="max_template_date tomorrow"):
        TemplateConfig(structures=tmp_path, latest="tomorrow")
    with pytest.raises(UserError, match="template_pool=0"):
        TemplateConfig(structures=tmp_path, pool=0)
