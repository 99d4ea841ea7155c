"""Random features and activations: masked tails, holes, empty rows and templates, gaps in the residue index, chains."""

import numpy as np

from fastfold_jax.data.batch import Features


def _letters(rng, shape, *, high: int) -> np.ndarray:
    return rng.integers(0, high, shape)


def _one_hot(letters: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[letters]


def _deletions(rng, shape) -> np.ndarray:
    """Deletion counts, mostly zero."""
    return np.where(rng.random(shape) < 0.1, rng.integers(1, 30, shape), 0).astype(np.float32)


def _squash(count: np.ndarray) -> np.ndarray:
    return (np.arctan(count / 3.0) * 2.0 / np.pi).astype(np.float32)


def msa_features(rng, rows: int, num_res: int) -> np.ndarray:
    """[rows, num_res, 49] as AlphaFold concatenates them: letters, deletions, profile, deletion mean."""
    deletions = _deletions(rng, (rows, num_res))
    profile = rng.dirichlet(np.full(23, 0.3), (rows, num_res)).astype(np.float32)
    return np.concatenate(
        [
            _one_hot(_letters(rng, (rows, num_res), high=23), 23),
            np.clip(deletions, 0, 1)[..., None],
            _squash(deletions)[..., None],
            profile,
            _squash(rng.random((rows, num_res)).astype(np.float32))[..., None],
        ],
        axis=-1,
    ).astype(np.float32)


def coordinates(rng, templates: int, num_res: int) -> np.ndarray:
    """[templates, num_res, 37, 3]: a random walk of 3.8 Å steps with atoms scattered around each of its points."""
    steps = rng.standard_normal((templates, num_res, 3))
    walk = np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=-1, keepdims=True), axis=1)
    return (walk[:, :, None] + 1.5 * rng.standard_normal((templates, num_res, 37, 3))).astype(np.float32)


def features(
    seed: int,
    *,
    num_res: int = 24,
    rows: int = 6,
    extra_rows: int = 7,
    templates: int = 2,
    chains: int = 1,
    masked: bool = True,
) -> Features:
    """Random features of one pass.

    With `masked`: a masked tail, holes in the MSA and extra masks, an empty MSA row, missing template atoms, an empty
    last template, and gaps in the residue index. The first MSA row stays whole where there are residues, as the
    query's does.
    """
    rng = np.random.default_rng(seed)
    live = num_res - 3 if masked else num_res
    seq_mask = (np.arange(num_res) < live).astype(np.float32)

    def mask(count: int) -> np.ndarray:
        holes = (rng.random((count, num_res)) < 0.8) if masked else np.ones((count, num_res))
        if masked and count > 2:
            holes[-1] = 0
        return (holes * seq_mask).astype(np.float32)

    msa_mask = mask(rows)
    msa_mask[0] = seq_mask
    chain = np.minimum(np.arange(num_res) * chains // live, chains - 1)
    starts = np.searchsorted(chain, np.arange(chains))
    index = np.arange(num_res) - starts[chain]
    if masked:
        index = index + 40 * (np.arange(num_res) > live // 3)
    atom_mask = np.ones((templates, num_res, 37), np.float32)
    template_mask = np.ones(templates, np.float32)
    if masked and templates:
        atom_mask = (rng.random(atom_mask.shape) < 0.9).astype(np.float32) * seq_mask[:, None]
        if templates > 1:
            atom_mask[-1] = 0
            template_mask[-1] = 0
    # Two entities at most: chains alternate, so that three chains hold two copies of the first.
    entity = chain % 2 + 1
    copies = chain // 2 + 1
    return Features(
        aatype=_letters(rng, num_res, high=21).astype(np.int32),
        residue_index=index.astype(np.int32),
        asym_id=(chain + 1).astype(np.int32),
        entity_id=entity.astype(np.int32),
        sym_id=copies.astype(np.int32),
        seq_mask=seq_mask,
        msa_feat=msa_features(rng, rows, num_res),
        msa_mask=msa_mask,
        extra_msa=_letters(rng, (extra_rows, num_res), high=23).astype(np.int8),
        extra_deletion_value=_squash(_deletions(rng, (extra_rows, num_res))),
        extra_msa_mask=mask(extra_rows),
        template_aatype=_letters(rng, (templates, num_res), high=21).astype(np.int32),
        template_all_atom_positions=coordinates(rng, templates, num_res),
        template_all_atom_mask=atom_mask,
        template_mask=template_mask,
    )


def activations(
    seed: int, *, rows: int, num_res: int, c_m: int, c_z: int, masked: bool = True
) -> dict[str, np.ndarray]:
    """Random `msa` [rows, num_res, c_m], `pair` [num_res, num_res, c_z] and their masks, for single blocks."""
    rng = np.random.default_rng([seed, 17])
    live = (np.arange(num_res) < (num_res - 3 if masked else num_res)).astype(np.float32)
    holes = rng.random((rows, num_res)) < (0.8 if masked else 2.0)
    if masked and rows > 2:
        holes[-1] = False
    holes[0] = True
    return {
        "msa": rng.standard_normal((rows, num_res, c_m), np.float32),
        "pair": rng.standard_normal((num_res, num_res, c_z), np.float32),
        "msa_mask": (holes * live).astype(np.float32),
        "pair_mask": live[:, None] * live,
    }
