"""Which rows of several chains' alignments belong together: those of one species, or those that a file has paired."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int, Int8

MISSING = -1
"""Stands for "no row of this chain" in paired rows."""

MOST_OF_A_SPECIES = 600
"""A species with more rows than this in any chain is not paired: its order says too little."""

_UNIPROT_NAME = re.compile(
    r"(?:tr|sp)\|[A-Za-z0-9]{6,10}(?:_\d)?\|"  # database, accession, isoform
    r"[A-Za-z0-9]+_(?P<species>[A-Za-z0-9]{1,5})(?:_\d+)?"  # entry name: protein and species
)
_UNIREF_TAXON = re.compile(r"UniRef\d+_\S+ .*?\bTaxID=(?P<taxon>\d+)\b", re.DOTALL)


def species(description: str) -> str:
    """The species in a row's header, "" if none is named.

    UniProt's code where there is one: ``HUMAN`` in ``sp|P69905|HBA_HUMAN/2-142``. UniRef's headers have no code of the
    species, but NCBI's number of the taxon: ``9606`` in ``UniRef90_P69905/2-142 Hemoglobin n=3 TaxID=9606``.
    """
    words = description.split(maxsplit=1)
    match = _UNIPROT_NAME.fullmatch(words[0].partition("/")[0]) if words else None
    if match:
        return match["species"]
    taxon = _UNIREF_TAXON.match(description)
    return taxon["taxon"] if taxon else ""


def rows_by_species(descriptions: Iterable[str], residues: Int8[np.ndarray, "r n"]) -> Mapping[str, list[int]]:
    """Rows of each species, most similar to the query (row 0) first; rows of no known species are left out."""
    identities = np.count_nonzero(residues == residues[0], axis=1)
    grouped: dict[str, list[int]] = {}
    for row, description in enumerate(descriptions):
        if name := species(description):
            grouped.setdefault(name, []).append(row)
    return {name: sorted(rows, key=lambda row: -identities[row]) for name, rows in grouped.items()}


def pair_by_species(chains: Sequence[Mapping[str, list[int]]]) -> Int[np.ndarray, "p chains"]:
    """Pairs rows of the same species, the best with the best, and so on down to the chain with the fewest.

    AlphaFold-Multimer, section 2.1 (Evans et al. 2022). Species found in a single chain are not paired.

    Args:
        chains: `rows_by_species` of each chain.

    Returns:
        One line for each joint row, `MISSING` where a chain has none; the queries (row 0) first, then by how many
        chains take part, then by the product of the rows' places in their alignments (which are sorted by E-value).
    """
    pairs: list[list[int]] = []
    for name in sorted({name for chain in chains for name in chain}):
        present = [chain[name] for chain in chains if name in chain]
        if len(present) < 2 or max(map(len, present)) > MOST_OF_A_SPECIES:
            continue
        depth = min(map(len, present))
        columns = [chain[name][:depth] if name in chain else [MISSING] * depth for chain in chains]
        pairs.extend(map(list, zip(*columns, strict=True)))

    def place(pair: list[int]) -> tuple[int, int]:
        return pair.count(MISSING), math.prod(map(abs, pair))

    return np.array([[0] * len(chains), *sorted(pairs, key=place)], np.int64)


def pair_by_index(rows: Sequence[int]) -> Int[np.ndarray, "p chains"]:
    """Pairs row i of each chain with row i of every other.

    Args:
        rows: how many rows each chain has: 1 for a chain with its query alone, the same number for all others.
    """
    depth = max(rows)
    index = np.arange(depth)[:, None]
    return np.where(index < np.array(rows), index, MISSING)
