"""Puts the chains of a job together: one alignment over all residues, and which residue belongs to which chain."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int32

from fastfold_jax.config.model import ModelConfig, MultimerConfig
from fastfold_jax.constants import SEQUENCE_LETTER_TO_INDEX
from fastfold_jax.data.alphafold_features import from_alphafold_dict
from fastfold_jax.data.complexes import complex_rows, entity
from fastfold_jax.data.job import Chain, Job
from fastfold_jax.data.msa import Limits
from fastfold_jax.data.raw import RawFeatures, Templates, number_residues
from fastfold_jax.errors import UserError

__all__ = ["Limits", "RawFeatures", "assemble", "from_alphafold_dict"]


def assemble(job: Job, config: ModelConfig, *, limits: Limits | None = None) -> RawFeatures:
    """Everything about a job's chain or complex that is known before sampling.

    DISCREPANCY: AlphaFold-Multimer moves the copies of a sequence together and numbers chains in that order. Here they
    keep the job's order: the network does not depend on the order of residues or on the value of a chain's number.

    Args:
        job: chains with their alignments, or AlphaFold's own features (whose maker has applied the limits already,
            `complex_rows` excepted).
        config: the model that the features are for. A monomer's takes a complex as one chain with breaks.
        limits: caps on rows.

    Raises:
        UserError: if alignments do not fit their chain or each other, or features are missing or misshaped.
    """
    limits = limits or Limits()
    if job.features is not None:
        return from_alphafold_dict(job.features, config, limits=limits)
    sequences = [chain.sequence for chain in job.chains]
    distinct = list(dict.fromkeys(sequences))
    entity_of = [distinct.index(sequence) for sequence in sequences]
    entities = [entity([chain for chain in job.chains if chain.sequence == sequence], limits) for sequence in distinct]
    most = limits.complex_rows if isinstance(config, MultimerConfig) else None
    msa = complex_rows(entities, entity_of, most=most)
    lengths = [len(sequence) for sequence in sequences]
    asym_id = _per_residue(range(1, len(lengths) + 1), lengths)
    return RawFeatures(
        aatype=np.array([SEQUENCE_LETTER_TO_INDEX[letter] for letter in "".join(sequences)], np.int32),
        residue_index=number_residues(np.concatenate([np.arange(length) for length in lengths]), asym_id, config),
        asym_id=asym_id,
        entity_id=_per_residue([index + 1 for index in entity_of], lengths),
        sym_id=_per_residue([entity_of[: i + 1].count(index) for i, index in enumerate(entity_of)], lengths),
        seq_mask=np.ones(sum(lengths), np.float32),
        msa=msa.residues,
        deletions=msa.deletions,
        msa_mask=np.ones(msa.residues.shape, bool),
        first=np.arange(len(msa)) == 0,
        templates=_templates([chain_templates(job, chain) for chain in job.chains], lengths),
    )


def chain_templates(job: Job, chain: Chain) -> Templates:
    """A chain's templates; where nobody has looked for any, those of its first copy that has been looked at."""
    copies = (other.templates for other in (chain, *job.chains) if other.sequence == chain.sequence)
    return next((found for found in copies if found is not None), Templates.none(len(chain.sequence)))


def _templates(chains: Sequence[Templates], lengths: Sequence[int]) -> Templates:
    """Those of a complex: the t-th of each chain side by side, with empty ones for chains that have fewer."""
    for found, length in zip(chains, lengths, strict=True):
        if found.aatype.shape[1] != length:
            raise UserError(f"a chain has {length} residues, but its templates have {found.aatype.shape[1]}")
    most = max(map(len, chains))
    sized = [found.resize(most) for found in chains]
    return Templates(
        aatype=np.concatenate([found.aatype for found in sized], axis=1),
        positions=np.concatenate([found.positions for found in sized], axis=1),
        atom_mask=np.concatenate([found.atom_mask for found in sized], axis=1),
    )


def _per_residue(values: Iterable[int], lengths: Sequence[int]) -> Int32[np.ndarray, " n"]:
    return np.repeat(np.array(list(values), np.int32), lengths)
