"""Pairing: species from headers, and which rows are put together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastfold_jax.data.pairing import (
    MISSING,
    MOST_OF_A_SPECIES,
    pair_by_index,
    pair_by_species,
    rows_by_species,
    species,
)

HEADERS = {
    "sp|P69905|HBA_HUMAN/2-142": "HUMAN",
    "tr|A0A146SKV9|A0A146SKV9_FUNHE": "FUNHE",
    "sp|P0C2L1_1|A3X1_LOXLA Some protein OS=Loxosceles": "LOXLA",
    "tr|A0A0K0ME10|A0A0K0ME10_9STAP/1-51": "9STAP",
    "tr|A0A024|A0A024_ECOLI_12": "ECOLI",
    "UniRef100_A0A1B2": "",
    "sp|P69905|HBA_TOOLONG": "",
    "query": "",
    "": "",
    "  ": "",
}


@pytest.mark.parametrize(("header", "code"), HEADERS.items())
def test_species(header, code):
    assert species(header) == code


TAXA = {
    "UniRef90_A0A8C0C0Z5/2-90 [subseq from] A protein n=1 Tax=Buteo japonicus TaxID=224669 RepID=X_9AVES": "224669",
    "UniRef90_UPI001863CDCB TNF n=2 Tax=Megalops TaxID=118141 RepID=UPI001863CDCB": "118141",
    "UniRef100_A0A1B2 no taxon RepID=X": "",
    "query TaxID=9606": "",
    "sp|P69905|HBA_HUMAN TaxID=9606": "HUMAN",
}


@pytest.mark.parametrize(("header", "taxon"), TAXA.items())
def test_headers_of_uniref_name_a_taxon(header, taxon):
    assert species(header) == taxon


@pytest.mark.parametrize("header", HEADERS)
def test_species_equal_the_reference(header):
    identifiers = pytest.importorskip("alphafold.data.msa_identifiers")
    assert species(header) == identifiers.get_identifiers(header).species_id


def test_rows_are_ordered_by_similarity_to_the_query():
    residues = np.array([[1, 2, 3, 4], [1, 2, 0, 0], [1, 2, 3, 0], [1, 0, 0, 0], [1, 2, 3, 4]], np.int8)
    headers = ["query", "sp|P00001|A_HUMAN", "sp|P00002|B_HUMAN", "sp|P00003|C_MOUSE", "hit"]
    assert rows_by_species(headers, residues) == {"HUMAN": [2, 1], "MOUSE": [3]}


def test_the_best_are_paired_down_to_the_chain_with_the_fewest():
    first = {"HUMAN": [4, 1, 2], "MOUSE": [3], "YEAST": [5]}
    second = {"HUMAN": [2, 6], "MOUSE": [1]}
    np.testing.assert_array_equal(pair_by_species([first, second]), [[0, 0], [3, 1], [1, 6], [4, 2]])


def test_rows_of_all_chains_come_before_those_of_some():
    chains = [{"HUMAN": [9], "MOUSE": [1]}, {"HUMAN": [9], "MOUSE": [1]}, {"HUMAN": [9]}]
    np.testing.assert_array_equal(pair_by_species(chains), [[0, 0, 0], [9, 9, 9], [1, 1, MISSING]])


def test_a_species_with_very_many_rows_is_left_out():
    many = {"HUMAN": list(range(1, MOST_OF_A_SPECIES + 2))}
    np.testing.assert_array_equal(pair_by_species([many, {"HUMAN": [1]}]), [[0, 0]])
    most = {"HUMAN": list(range(1, MOST_OF_A_SPECIES + 1))}
    assert len(pair_by_species([most, {"HUMAN": [1]}])) == 2


_SPECIES = st.dictionaries(st.sampled_from("ABCD"), st.integers(1, 4), max_size=4)


@given(st.lists(_SPECIES, min_size=2, max_size=4))
def test_pairs_use_each_row_once_and_one_species(counts):
    chains = []
    for per_species in counts:
        rows = iter(range(1, 100))
        chains.append({name: [next(rows) for _ in range(count)] for name, count in per_species.items()})
    pairs = pair_by_species(chains)
    np.testing.assert_array_equal(pairs[0], 0)
    for chain, column in zip(chains, pairs[1:].T, strict=True):
        used = column[column != MISSING]
        assert len(set(used)) == len(used) <= sum(map(len, chain.values()))
    for pair in pairs[1:]:
        names = {name for chain, row in zip(chains, pair, strict=True) for name, rows in chain.items() if row in rows}
        assert len(names) == 1 and (pair != MISSING).sum() >= 2
    present = (pairs != MISSING).sum(axis=1)
    assert (np.diff(present) <= 0).all()


def test_rows_paired_already_go_together_by_index():
    np.testing.assert_array_equal(pair_by_index([3, 1, 3]), [[0, 0, 0], [1, MISSING, 1], [2, MISSING, 2]])
