"""The papers that a user of a prediction cites: those of the networks, and of what else served."""

import dataclasses
from collections.abc import Sequence

from fastfold_jax.inference.config import InferenceConfig
from fastfold_jax.inference.provenance import ALPHAFOLD, MULTIMER, Paper

BIBLIOGRAPHY_FILE = "citations.bib"

_FASTFOLD = Paper(
    key="Cheng2024",
    authors="Cheng, S. et al.",
    title="FastFold: Optimizing AlphaFold Training and Inference on GPU Clusters",
    journal="PPoPP",
    year="2024",
    doi="10.1145/3627535.3638465",
)
_COLABFOLD = Paper(
    key="Mirdita2022",
    authors="Mirdita, M. et al.",
    title="ColabFold: making protein folding accessible to all",
    journal="Nature Methods",
    volume="19",
    page="679",
    year="2022",
    doi="10.1038/s41592-022-01488-1",
)
_HMMER = Paper(
    key="Eddy2011",
    authors="Eddy, S. R.",
    title="Accelerated Profile HMM Searches",
    journal="PLoS Computational Biology",
    volume="7",
    page="e1002195",
    year="2011",
    doi="10.1371/journal.pcbi.1002195",
)
_PYHMMER = Paper(
    key="Larralde2023",
    authors="Larralde, M. & Zeller, G.",
    title="PyHMMER: a Python library binding to HMMER for efficient sequence analysis",
    journal="Bioinformatics",
    volume="39",
    page="btad214",
    year="2023",
    doi="10.1093/bioinformatics/btad214",
)
_OPENMM = Paper(
    key="Eastman2017",
    authors="Eastman, P. et al.",
    title="OpenMM 7: Rapid development of high performance algorithms for molecular dynamics",
    journal="PLoS Computational Biology",
    volume="13",
    page="e1005659",
    year="2017",
    doi="10.1371/journal.pcbi.1005659",
)
_IPSAE = Paper(
    key="Dunbrack2025",
    authors="Dunbrack, R. L.",
    title="Rēs ipSAE loquunt: What's wrong with AlphaFold's ipTM score and how to fix it",
    journal="bioRxiv",
    year="2025",
    doi="10.1101/2025.02.10.637595",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """What a job's predictions owe something to."""

    multimer: bool
    complex: bool


def papers(served: Served, config: InferenceConfig) -> tuple[Paper, ...]:
    """Those to cite, the networks' first."""
    found = [ALPHAFOLD]
    found += [MULTIMER] if served.multimer else []
    found += [_FASTFOLD]
    if "server" in (config.search.mode, config.templates.mode):
        found += [_COLABFOLD]
    if config.search.mode == "local" or config.templates.mode == "local":
        found += [_HMMER, _PYHMMER]
    found += [_OPENMM] if config.relaxation.relax != "none" else []
    found += [_IPSAE] if served.complex else []
    return tuple(found)


def bibtex(cited: Sequence[Paper]) -> str:
    """BibTeX entries."""
    return "\n".join(_entry(paper) for paper in cited)


def _entry(paper: Paper) -> str:
    fields = {
        "author": paper.authors.replace(" et al.", " and others").replace(" & ", " and "),
        "title": f"{{{paper.title}}}",
        "journal": paper.journal,
        "volume": paper.volume,
        "pages": paper.page,
        "year": paper.year,
        "doi": paper.doi,
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@article{{{paper.key},", *lines, "}", ""])
