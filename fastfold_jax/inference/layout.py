"""Which residues of a prediction are which chain of the files, and how they are numbered there."""

from itertools import pairwise

import numpy as np
from jaxtyping import Int

from fastfold_jax.data.job import Job
from fastfold_jax.data.raw import RawFeatures
from fastfold_jax.inference.result import ResidueRange
from fastfold_jax.inference.structure import chain_ids


def chain_layout(raw: RawFeatures, job: Job) -> tuple[ResidueRange, ...]:
    """The chains in the order of the residues, named A, B, C, ....

    Residues of a chain given as a sequence are numbered from 1, whatever gaps the network sees in the residue index.
    AlphaFold's own features keep theirs, which may leave numbers out.
    """
    breaks = np.flatnonzero(np.diff(raw.asym_id)) + 1
    bounds = list(pairwise([0, *breaks.tolist(), raw.num_res]))
    names = chain_ids(len(bounds))
    given = job.chains if job.features is None else ()
    return tuple(
        ResidueRange(
            id=names[i],
            description=given[i].description if given else "",
            start=start,
            aatype=raw.aatype[start:stop],
            numbers=_one_based(raw.residue_index[start:stop], keep_gaps=not given),
        )
        for i, (start, stop) in enumerate(bounds)
    )


def _one_based(residue_index: Int[np.ndarray, " n"], *, keep_gaps: bool) -> Int[np.ndarray, " n"]:
    ascending = residue_index.min() >= 0 and (np.diff(residue_index) > 0).all()
    return residue_index + 1 if keep_gaps and ascending else np.arange(1, len(residue_index) + 1)
