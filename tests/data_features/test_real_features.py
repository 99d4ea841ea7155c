"""Features of real complexes from files to RawFeatures, templates too, against DeepMind's parsers and pipeline."""

import dataclasses

import numpy as np
import pytest
import reference_pipeline

from fastfold_jax.config.presets import preset
from fastfold_jax.constants import HHBLITS_TO_RESTYPE
from fastfold_jax.data.assemble import assemble
from fastfold_jax.data.job import read_job
from fastfold_jax.data.raw import Templates
from fastfold_jax.errors import UserError

MULTIMER = preset("model_1_multimer_v3")


def _file(path):
    """A file of the MMseqs2 server's without the zero byte at its end, which DeepMind's parser takes for a letter."""
    *_, parsers = reference_pipeline.modules()
    return parsers.parse_a3m(path.read_text().rstrip("\0"))


def _paired(directory):
    """Both chains' rows for pairing, without those that repeat an earlier one in both.

    DeepMind's pipeline drops repeated rows, the fork that PyPI carries keeps them.
    """
    *_, parsers = reference_pipeline.modules()
    chains = [_file(directory / f"chain{number}_paired.a3m") for number in (1, 2)]
    joint = list(zip(*(chain.sequences for chain in chains), strict=True))
    rows = [row for row, letters in enumerate(joint) if letters not in joint[:row]]
    assert len(rows) < len(joint)
    columns = [(chain.sequences, chain.deletion_matrix, chain.descriptions) for chain in chains]
    return [parsers.Msa(*([column[row] for row in rows] for column in chain)) for chain in columns]


def _reference_chain(directory, number: int, sequence: str, templates: Templates):
    """A chain's features; each pair of rows is a species of its own, which makes DeepMind's pipeline pair them."""
    pipeline, _, _, msa_pairing, _ = reference_pipeline.modules()
    num_res = len(sequence)
    features = pipeline.make_sequence_features(sequence, "test", num_res)
    unpaired = _file(directory / f"chain{number}_unpaired.a3m")
    features |= pipeline.make_msa_features(reference_pipeline.without_repeats([unpaired]))
    paired = pipeline.make_msa_features([_paired(directory)[number - 1]])
    rows = len(paired["msa"])
    paired["msa_species_identifiers"] = np.array([b"", *(b"%04d" % row for row in range(1, rows))], object)
    names = (*msa_pairing.MSA_FEATURES, "msa_species_identifiers")
    features |= {f"{name}_all_seq": value for name, value in paired.items() if name in names}
    to_hhblits = np.argsort(HHBLITS_TO_RESTYPE)
    return features | {
        "template_aatype": np.eye(22, dtype=np.float32)[to_hhblits[templates.aatype]],
        "template_all_atom_masks": templates.atom_mask,
        "template_all_atom_positions": templates.positions,
    }


def _templates(rng: np.random.Generator, count: int, num_res: int) -> Templates:
    return Templates(
        aatype=rng.integers(0, 22, (count, num_res)).astype(np.int32),
        positions=rng.normal(size=(count, num_res, 37, 3)).astype(np.float32),
        atom_mask=rng.integers(0, 2, (count, num_res, 37)).astype(np.float32),
    )


def test_a_complex_paired_row_by_row_with_templates(shared_data):
    _, pipeline_multimer, feature_processing, _, _ = reference_pipeline.modules()
    directory = shared_data / "msa" / "3G5O"
    rng = np.random.default_rng(0)
    job = read_job(directory)
    templates = [_templates(rng, count, len(chain.sequence)) for count, chain in zip((3, 2), job.chains, strict=True)]
    chains = [dataclasses.replace(chain, templates=found) for chain, found in zip(job.chains, templates, strict=True)]
    made = assemble(dataclasses.replace(job, chains=tuple(chains)), MULTIMER)

    features = {
        chain.id: pipeline_multimer.convert_monomer_features(
            _reference_chain(directory, number, chain.sequence, found), chain.id
        )
        for number, (chain, found) in enumerate(zip(job.chains, templates, strict=True), start=1)
    }
    reference = feature_processing.pair_and_merge(pipeline_multimer.add_assembly_features(features))
    np.testing.assert_array_equal(made.msa, reference["msa"])
    np.testing.assert_array_equal(made.deletions, reference["deletion_matrix"])
    np.testing.assert_array_equal(made.aatype, reference["aatype"])
    for name in ("asym_id", "entity_id", "sym_id", "residue_index"):
        np.testing.assert_array_equal(getattr(made, name), reference[name])
    four = made.templates.resize(4)  # the reference fills up at once, sampling does here
    np.testing.assert_array_equal(four.aatype, reference["template_aatype"])
    np.testing.assert_array_equal(four.positions, reference["template_all_atom_positions"])
    np.testing.assert_array_equal(four.atom_mask, reference["template_all_atom_mask"])


def test_copies_share_the_templates_of_any_of_them(shared_data):
    (chain,) = read_job(shared_data / "msa" / "cobra73").chains
    found = _templates(np.random.default_rng(0), 2, len(chain.sequence))
    job = dataclasses.replace(read_job(shared_data / "msa" / "cobra73"))
    copies = (
        dataclasses.replace(chain, id="A", templates=Templates.none(len(chain.sequence))),
        dataclasses.replace(chain, id="B", templates=found),
        dataclasses.replace(chain, id="C"),
    )
    made = assemble(dataclasses.replace(job, chains=copies), MULTIMER).templates
    for part in np.split(made.aatype, 3, axis=1):
        np.testing.assert_array_equal(part, found.aatype)


def test_templates_of_another_length(shared_data):
    job = read_job(shared_data / "msa" / "cobra73")
    chain = dataclasses.replace(job.chains[0], templates=_templates(np.random.default_rng(0), 1, 9))
    with pytest.raises(UserError, match="has 73 residues, but its templates have 9"):
        assemble(dataclasses.replace(job, chains=(chain,)), MULTIMER)
