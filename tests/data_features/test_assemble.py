"""Assembling chains: a complex's alignment against the reference, chain numbering, monomers on complexes, errors."""

import dataclasses
import functools
import logging

import numpy as np
import pytest
import reference_pipeline
from proteins import job, letters, random_alignment, random_query

from fastfold_jax.config.presets import preset
from fastfold_jax.constants import GAP
from fastfold_jax.data.assemble import Limits, assemble
from fastfold_jax.data.job import read_job
from fastfold_jax.errors import UserError

MONOMER, MULTIMER = preset("model_1_ptm"), preset("model_1_multimer_v3")


def _chain(rng: np.random.Generator, num_res: int, rows: int = 30, for_pairing: int = 40, num_species: int = 8):
    query = random_query(rng, num_res)
    paired = random_alignment(rng, query, for_pairing, "uniprot", num_species)
    unpaired = random_alignment(rng, query, rows, "uniref90")
    residues = unpaired.residues.copy()
    residues[1:4] = paired.residues[1:4]  # rows in both, of which the unpaired ones go if those are paired
    return query, (dataclasses.replace(unpaired, residues=residues),), paired


def _assert_equals_reference(made, reference):
    ours = {
        "msa": made.msa,
        "deletion_matrix": made.deletions,
        "msa_mask": made.msa_mask,
        "aatype": made.aatype,
        "residue_index": made.residue_index,
        "asym_id": made.asym_id,
        "entity_id": made.entity_id,
        "sym_id": made.sym_id,
        "seq_mask": made.seq_mask,
        "cluster_bias_mask": made.first,
    }
    for name, value in ours.items():
        np.testing.assert_array_equal(value, reference[name], err_msg=name)


@pytest.mark.parametrize("copies", ["A", "AA", "AB", "AAB", "ABC", "AABBC"])
def test_complexes_equal_the_reference(copies):
    rng = np.random.default_rng(0)
    chains = {letter: _chain(rng, num_res) for letter, num_res in (("A", 50), ("B", 41), ("C", 37))}
    complex_ = job(*(chains[letter] for letter in copies))
    _assert_equals_reference(assemble(complex_, MULTIMER), reference_pipeline.multimer_features(complex_))


def test_large_alignments_are_cut_as_the_reference_cuts_them(monkeypatch):
    # The reference orders rows of equal rank as an unstable sort happens to.
    monkeypatch.setattr(np, "argsort", functools.partial(np.argsort, kind="stable"))
    rng = np.random.default_rng(0)
    complex_ = job(*(_chain(rng, num_res, 2100, 1500, 900) for num_res in (40, 35)))
    made = assemble(complex_, MULTIMER)
    _assert_equals_reference(made, reference_pipeline.multimer_features(complex_))
    assert (made.msa[:, :40] != GAP).any(axis=1).sum() == 2048


def test_a_real_complex_equals_the_reference(shared_data):
    chains = [read_job(shared_data / "msa" / name).chains[0] for name in ("2q2k_A", "2q2k_B")]
    # The two are copies of one sequence; without its last residues the second is another entity.
    cut = {
        "sequence": chains[1].sequence[:-5],
        "alignments": tuple(_without_last(alignment) for alignment in chains[1].alignments),
        "paired": _without_last(chains[1].paired),
    }
    two = [dataclasses.replace(chains[0], id="A"), dataclasses.replace(chains[1], id="B", **cut)]
    complex_ = dataclasses.replace(job(), chains=tuple(two))
    made = assemble(complex_, MULTIMER)
    _assert_equals_reference(made, reference_pipeline.multimer_features(complex_))
    joined = (made.msa[:, :70] != GAP).any(axis=1) & (made.msa[:, 70:] != GAP).any(axis=1)
    assert joined.sum() > 1


def _without_last(alignment):
    return dataclasses.replace(
        alignment, residues=alignment.residues[:, :-5], deletions=alignment.deletions[:, :-5], query=""
    )


def test_chains_keep_their_order_and_copies_share_rows():
    rng = np.random.default_rng(0)
    a, b = _chain(rng, 20), _chain(rng, 15)
    made = assemble(job(a, b, (a[0], (), None)), MULTIMER)
    np.testing.assert_array_equal(made.asym_id, np.repeat([1, 2, 3], [20, 15, 20]))
    np.testing.assert_array_equal(made.entity_id, np.repeat([1, 2, 1], [20, 15, 20]))
    np.testing.assert_array_equal(made.sym_id, np.repeat([1, 1, 2], [20, 15, 20]))
    np.testing.assert_array_equal(made.residue_index, [*range(20), *range(15), *range(20)])
    np.testing.assert_array_equal(made.msa[:, :20], made.msa[:, 35:])
    np.testing.assert_array_equal(made.msa[0], [*a[0], *b[0], *a[0]])


def test_rows_paired_already_are_joined_by_index(shared_data):
    complex_ = read_job(shared_data / "msa" / "3G5O")
    made = assemble(complex_, MULTIMER)
    first, second = complex_.chains
    joined = np.concatenate([first.paired.residues, second.paired.residues], axis=1)
    rows = {row.tobytes() for row in joined}
    assert {row.tobytes() for row in made.msa[: len(rows)]} == rows
    alone = made.msa[len(rows) :]
    width = len(first.sequence)
    assert ((alone[:, :width] == GAP).all(axis=1) != (alone[:, width:] == GAP).all(axis=1)).all()
    assert len(made.msa) <= 2 * 2048


def test_a_monomer_network_sees_gaps_between_chains(caplog):
    rng = np.random.default_rng(0)
    a, b = _chain(rng, 20), _chain(rng, 15)
    with caplog.at_level(logging.WARNING):
        made = assemble(job(a, b), MONOMER, limits=Limits(complex_rows=2))
    assert "model_1_ptm was trained on single chains" in caplog.text
    np.testing.assert_array_equal(made.residue_index, [*range(20), *range(220, 235)])
    np.testing.assert_array_equal(made.msa, assemble(job(a, b), MULTIMER).msa)
    caplog.clear()
    assemble(job(a), MONOMER)
    assemble(job(a, b), MULTIMER)
    assert not caplog.text


@pytest.mark.parametrize("config", [MONOMER, MULTIMER], ids=["monomer", "multimer"])
def test_queries_alone(config):
    rng = np.random.default_rng(0)
    queries = [random_query(rng, 6), random_query(rng, 4)]
    made = assemble(job(*((query, (), None) for query in queries)), config)
    assert [letters(row) for row in made.msa] == ["".join(map(letters, queries))]
    assert made.first.all() and not made.deletions.any() and len(made.templates) == 0


def test_unknown_letters_of_a_sequence():
    rng = np.random.default_rng(0)
    one = job((random_query(rng, 7), (), None))
    one = dataclasses.replace(one, chains=(dataclasses.replace(one.chains[0], sequence="ABZUOJX"),))
    made = assemble(one, MONOMER)
    np.testing.assert_array_equal(made.aatype, [0] + [20] * 6)
    assert letters(made.msa[0]) == "ADECXXX"


def test_errors_name_the_chains():
    rng = np.random.default_rng(0)
    a, b = _chain(rng, 20), _chain(rng, 15)
    with pytest.raises(UserError, match=r"chain A has 20 residues, but its uniref90 alignment has 15 columns"):
        assemble(job((a[0], b[1], None)), MONOMER)
    ready = [dataclasses.replace(paired, source="paired") for *_, paired in (a, b)]
    with pytest.raises(UserError, match=r"the rows of chain A are paired already, those of chain B"):
        assemble(job((a[0], a[1], ready[0]), b), MULTIMER)
    longer = dataclasses.replace(random_alignment(rng, b[0], 41, "paired"))
    with pytest.raises(UserError, match=r"40 for chain A, 41 for chain B"):
        assemble(job((a[0], a[1], ready[0]), (b[0], b[1], longer)), MULTIMER)
