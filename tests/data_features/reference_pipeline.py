"""DeepMind's data pipeline on alignments of ours: what featurisation is compared with."""

import numpy as np
import pytest

from fastfold_jax.constants import MSA_LETTERS
from fastfold_jax.data.alignment import Alignment
from fastfold_jax.data.job import Job


def modules():
    """The reference's pipeline, multimer pipeline, feature processing, pairing and parsers."""
    pytest.importorskip("alphafold.data.pipeline")
    from alphafold.data import feature_processing, msa_pairing, parsers, pipeline, pipeline_multimer

    return pipeline, pipeline_multimer, feature_processing, msa_pairing, parsers


def without_repeats(msas):
    """DeepMind's own pipeline drops rows that came before; the fork that PyPI carries leaves that out."""
    *_, parsers = modules()
    seen, kept = set(), []
    for msa in msas:
        rows = [row for row, letters in enumerate(msa.sequences) if not (letters in seen or seen.add(letters))]
        kept.append(parsers.Msa(*([column[row] for row in rows] for column in _columns(msa))))
    return [msa for msa in kept if len(msa)]


def _columns(msa):
    return msa.sequences, msa.deletion_matrix, msa.descriptions


def reference_msa(alignment: Alignment):
    *_, parsers = modules()
    sequences = ["".join(MSA_LETTERS[index] for index in row) for row in alignment.residues]
    return parsers.Msa(sequences, alignment.deletions.tolist(), list(alignment.descriptions))


def chain_features(sequence: str, alignments, paired) -> dict[str, np.ndarray]:
    """A monomer's features, and those for pairing."""
    pipeline, _, _, msa_pairing, _ = modules()
    num_res = len(sequence)
    features = pipeline.make_sequence_features(sequence, "test", num_res)
    features |= pipeline.make_msa_features(without_repeats([reference_msa(alignment) for alignment in alignments]))
    features |= {
        "template_aatype": np.zeros((0, num_res, 22), np.float32),
        "template_all_atom_masks": np.zeros((0, num_res, 37), np.float32),
        "template_all_atom_positions": np.zeros((0, num_res, 37, 3), np.float32),
    }
    if paired is not None:
        for_pairing = pipeline.make_msa_features(without_repeats([reference_msa(paired)]))
        names = (*msa_pairing.MSA_FEATURES, "msa_species_identifiers")
        features |= {f"{name}_all_seq": value for name, value in for_pairing.items() if name in names}
    return features


def multimer_features(job: Job) -> dict[str, np.ndarray]:
    """A complex's features before they are padded to 512 rows."""
    _, pipeline_multimer, feature_processing, _, _ = modules()
    chains = {
        chain.id: pipeline_multimer.convert_monomer_features(
            chain_features(chain.sequence, chain.alignments, chain.paired), chain.id
        )
        for chain in job.chains
    }
    return feature_processing.pair_and_merge(pipeline_multimer.add_assembly_features(chains))
