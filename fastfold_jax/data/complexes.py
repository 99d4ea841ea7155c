"""The alignment of a whole complex: rows joined across its chains, and rows of one chain with gaps under the others."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from fastfold_jax.constants import GAP
from fastfold_jax.data.job import Chain
from fastfold_jax.data.msa import Limits, Msa, cap, first_occurrences, merge, not_in, query_only
from fastfold_jax.data.pairing import pair_by_index, pair_by_species, rows_by_species
from fastfold_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entity:
    """One distinct sequence of a complex; its copies share these rows.

    Attributes:
        chain: id of the chain that the rows were given for.
        unpaired: all rows that are not for pairing, query first.
        paired: rows for pairing, query first.
        species: rows of `paired` by species, most similar first; None where rows correspond by their index.
    """

    chain: str
    unpaired: Msa
    paired: Msa
    species: Mapping[str, list[int]] | None


def entity(chains: Sequence[Chain], limits: Limits) -> Entity:
    """The rows of a sequence, from the first of its copies that has any.

    Raises:
        UserError: if an alignment's width is not the chain's length.
    """
    for chain in chains:
        for alignment in (*chain.alignments, *([chain.paired] if chain.paired else [])):
            if alignment.residues.shape[1] != len(chain.sequence):
                raise UserError(
                    f"chain {chain.id} has {len(chain.sequence)} residues, but its {alignment.source} alignment has "
                    f"{alignment.residues.shape[1]} columns; they must be equal"
                )
    searched = next((chain for chain in chains if chain.alignments), chains[0])
    unpaired = merge(searched.sequence, searched.alignments, limits)
    given = next((chain for chain in chains if chain.paired), chains[0])
    if given.paired is None:
        return Entity(chain=given.id, unpaired=unpaired, paired=query_only(given.sequence), species={})
    paired = cap(given.paired, limits)
    if given.paired.source == "paired":
        return Entity(chain=given.id, unpaired=unpaired, paired=paired, species=None)
    kept = first_occurrences(paired.residues)
    names = [given.paired.descriptions[row] for row in kept]
    paired = paired[kept]
    return Entity(chain=given.id, unpaired=unpaired, paired=paired, species=rows_by_species(names, paired.residues))


def complex_rows(entities: Sequence[Entity], entity_of: Sequence[int], *, most: int | None) -> Msa:
    """The alignment of a complex, row 0 its queries side by side.

    A complex of copies of one sequence (or a single chain) repeats each row under each copy. Otherwise joined rows come
    first, then for each sequence in turn its own rows that are not among the joined ones, under each of its copies,
    with gaps under all other chains.

    Args:
        entities: distinct sequences.
        entity_of: for each chain in order, which of them it is a copy of.
        most: keep so many rows of each chain, at most half of them joined ones; None keeps all.

    Raises:
        UserError: if alignments cannot be paired with each other.
    """
    if len(entities) == 1:
        rows = entities[0].unpaired[:most]
        return _side_by_side([rows] * len(entity_of))
    pairs = _pairs([entities[index] for index in entity_of])
    chains = [_with_gap_row(entities[index].paired)[column] for index, column in zip(entity_of, pairs.T, strict=True)]
    distinct = first_occurrences(*(rows.residues for rows in chains))
    chains = [rows[distinct] for rows in chains]
    blocks = [_side_by_side([rows[: None if most is None else most // 2] for rows in chains])]
    for index, given in enumerate(entities):
        joined = chains[entity_of.index(index)]
        unpaired = given.unpaired[not_in(given.unpaired.residues, joined.residues)]
        if most is not None:
            used = np.count_nonzero((joined.residues[: most // 2] != GAP).any(axis=1))
            unpaired = unpaired[: max(most - used, 0)]
        gaps = [_gaps(len(unpaired), entities[other].unpaired.residues.shape[1]) for other in entity_of]
        blocks.append(
            _side_by_side([unpaired if other == index else gap for other, gap in zip(entity_of, gaps, strict=True)])
        )
    return Msa(
        residues=np.concatenate([block.residues for block in blocks]),
        deletions=np.concatenate([block.deletions for block in blocks]),
    )


def _pairs(chains: Sequence[Entity]) -> Int[np.ndarray, "p chains"]:
    """Which rows for pairing of each chain make up each joined row."""
    ready = [chain for chain in chains if chain.species is None]
    if not ready:
        return pair_by_species([chain.species for chain in chains if chain.species is not None])
    by_species = [chain for chain in chains if chain.species]
    if by_species:
        raise UserError(
            f"the rows of chain {ready[0].chain} are paired already, those of chain {by_species[0].chain} are to be "
            "paired by species; give one kind for all chains of a complex"
        )
    if len({len(chain.paired) for chain in ready}) > 1:
        counts = ", ".join(f"{len(chain.paired)} for chain {chain.chain}" for chain in ready)
        raise UserError(f"paired alignments must have a row for each row of every other one, but have {counts}")
    return pair_by_index([len(chain.paired) for chain in chains])


def _side_by_side(parts: Sequence[Msa]) -> Msa:
    return Msa(
        residues=np.concatenate([part.residues for part in parts], axis=1),
        deletions=np.concatenate([part.deletions for part in parts], axis=1),
    )


def _gaps(rows: int, columns: int) -> Msa:
    return Msa(residues=np.full((rows, columns), GAP, np.int8), deletions=np.zeros((rows, columns), np.uint8))


def _with_gap_row(msa: Msa) -> Msa:
    """The rows and a last one of gaps, which index `MISSING` (-1) then takes."""
    gap = _gaps(1, msa.residues.shape[1])
    return Msa(
        residues=np.concatenate([msa.residues, gap.residues]), deletions=np.concatenate([msa.deletions, gap.deletions])
    )
