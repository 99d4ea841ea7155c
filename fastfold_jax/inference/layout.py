"""Which residues of a prediction are which chain of the files, and how they are numbered there."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from fastfold_jax.constants import GAP
from fastfold_jax.data.assemble import chain_templates
from fastfold_jax.data.job import Job
from fastfold_jax.data.raw import RawFeatures, TemplateOrigin, Templates, chain_bounds
from fastfold_jax.inference.result import ResidueRange, UsedTemplate
from fastfold_jax.inference.structure import SINGLE_LETTER_IDS, chain_ids


def chain_layout(raw: RawFeatures, job: Job, num_templates: int) -> tuple[ResidueRange, ...]:
    """The chains in the order of the residues, with so many of their templates, the first.

    Residues of a chain given as a sequence are numbered from 1, whatever gaps the network sees in the residue index.
    AlphaFold's own features keep theirs, which may leave numbers out.
    """
    bounds = chain_bounds(raw.asym_id)
    given = job.chains if job.features is None else ()
    names = _names([chain.label for chain in given], len(bounds))
    return tuple(
        ResidueRange(
            id=names[i],
            description=given[i].description if given else "",
            start=start,
            aatype=raw.aatype[start:stop],
            numbers=_one_based(raw.residue_index[start:stop], keep_gaps=not given),
            templates=_used(chain_templates(job, given[i]), raw.aatype[start:stop], num_templates) if given else (),
        )
        for i, (start, stop) in enumerate(bounds)
    )


def _names(labels: Sequence[str], count: int) -> Sequence[str]:
    """What the input calls the chains, if that is another letter or digit for each, all that PDB files hold.

    Else they are named A, B, C, ....
    """
    distinct = set(labels)
    return labels if len(distinct) == count and distinct <= set(SINGLE_LETTER_IDS) else chain_ids(count)


def _used(templates: Templates, aatype: Int[np.ndarray, " n"], most: int) -> tuple[UsedTemplate, ...]:
    """What is known of the first templates of a chain, those left out that have nothing of it."""
    used = []
    sources: Sequence[TemplateOrigin | None] = templates.sources or (None,) * len(templates)
    for source, letters in zip(sources[:most], templates.aatype[:most], strict=True):
        aligned = letters != GAP
        if aligned.any():
            used.append(
                UsedTemplate(
                    name=source.name if source else None,
                    chain=source.chain if source else None,
                    released=source.released if source else None,
                    identity=round(float((letters == aatype)[aligned].mean()), 4),
                    coverage=round(float(aligned.mean()), 4),
                )
            )
    return tuple(used)


def _one_based(residue_index: Int[np.ndarray, " n"], *, keep_gaps: bool) -> Int[np.ndarray, " n"]:
    ascending = residue_index.min() >= 0 and (np.diff(residue_index) > 0).all()
    return residue_index + 1 if keep_gaps and ascending else np.arange(1, len(residue_index) + 1)
