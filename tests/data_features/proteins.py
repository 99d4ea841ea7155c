"""Random proteins, alignments and jobs that several tests of featurisation use."""

import numpy as np

from fastfold_jax.constants import MSA_LETTERS
from fastfold_jax.data.alignment import Alignment
from fastfold_jax.data.job import Chain, Job
from fastfold_jax.data.raw import RawFeatures, Templates


def random_query(rng: np.random.Generator, num_res: int) -> np.ndarray:
    return rng.integers(0, 20, num_res).astype(np.int8)


def random_rows(rng: np.random.Generator, query: np.ndarray, num_rows: int) -> np.ndarray:
    """Hits of varying identity to the query, which is row 0."""
    identity = rng.uniform(0.1, 0.9, (num_rows, 1))
    rows = np.where(rng.random((num_rows, len(query))) < identity, query, rng.integers(0, 22, (num_rows, len(query))))
    rows[0] = query
    return rows.astype(np.int8)


def random_deletions(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    deletions = np.where(rng.random(shape) < 0.05, rng.integers(1, 9, shape), 0).astype(np.uint8)
    deletions[0] = 0
    return deletions


def random_alignment(
    rng: np.random.Generator, query: np.ndarray, num_rows: int, source: str, num_species: int = 0
) -> Alignment:
    """Headers are UniProt's with one of `num_species` species, or name none where that is 0."""
    headers = ["query"]
    for row in range(1, num_rows):
        named = num_species and rng.random() < 0.8
        headers.append(f"tr|A0A{row:05d}|A0A{row:05d}_S{rng.integers(num_species)}/1-9" if named else f"hit_{row}")
    return Alignment(
        residues=random_rows(rng, query, num_rows),
        deletions=random_deletions(rng, (num_rows, len(query))),
        descriptions=tuple(headers),
        source=source,
    )


def letters(query: np.ndarray) -> str:
    return "".join(MSA_LETTERS[index] for index in query)


def job(*chains: tuple[np.ndarray, tuple[Alignment, ...], Alignment | None]) -> Job:
    """A job of chains given as query, alignments, and rows for pairing."""
    return Job(
        name="test",
        chains=tuple(
            Chain(id="ABCDEFGH"[i], description="", sequence=letters(query), alignments=alignments, paired=paired)
            for i, (query, alignments, paired) in enumerate(chains)
        ),
    )


def random_raw(
    rng: np.random.Generator, num_res: int, num_rows: int, *, holes: float = 0.0, num_templates: int = 0
) -> RawFeatures:
    """A single chain; a share `holes` of its alignment masked out, but not in row 0."""
    query = random_query(rng, num_res)
    ones = np.ones(num_res, np.int32)
    mask = rng.random((num_rows, num_res)) >= holes
    mask[0] = True
    return RawFeatures(
        aatype=query.astype(np.int32),
        residue_index=np.arange(num_res, dtype=np.int32),
        asym_id=ones,
        entity_id=ones,
        sym_id=ones,
        seq_mask=np.ones(num_res, np.float32),
        msa=random_rows(rng, query, num_rows),
        deletions=random_deletions(rng, (num_rows, num_res)),
        msa_mask=mask,
        first=np.arange(num_rows) == 0,
        templates=Templates(
            aatype=rng.integers(0, 22, (num_templates, num_res)).astype(np.int32),
            positions=rng.normal(size=(num_templates, num_res, 37, 3)).astype(np.float32),
            atom_mask=rng.integers(0, 2, (num_templates, num_res, 37)).astype(np.float32),
        ),
    )
