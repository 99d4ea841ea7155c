"""What every output file says about its origin: program, model, licence of the weights, citation, warning."""

import dataclasses
import importlib.metadata
import textwrap
from collections.abc import Iterator

from fastfold_jax.inference.result import Prediction
from fastfold_jax.params.release import ATTRIBUTION

PROGRAM = "FastFold-JAX"
DISTRIBUTION = "fastfold-jax"

RANDOM_WARNING = (
    "THIS STRUCTURE MEANS NOTHING: it was computed with randomly drawn parameters (--params random), "
    "to try the program, not to predict a protein."
)

DEMO_WARNING = (
    "FOR TRYING THE SOFTWARE ONLY: computed with the demo parameters (--params demo), a toy network that has "
    "memorised a handful of proteins and knows nothing of any other."
)

LICENCE_NAME = "CC BY 4.0"
LICENCE_URL = "https://creativecommons.org/licenses/by/4.0/"
LICENCE = f"{ATTRIBUTION}. Whoever uses this structure names DeepMind and cites the papers listed here."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paper:
    """What a citation says."""

    key: str
    authors: str
    title: str
    journal: str
    year: str
    doi: str
    volume: str | None = None
    page: str | None = None

    def __str__(self) -> str:
        volume = f" {self.volume}, {self.page}" if self.volume else ""
        return f"{self.authors} {self.title}. {self.journal}{volume} ({self.year}). doi:{self.doi}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relaxation:
    """How a structure was changed after it was predicted.

    Attributes:
      program: Name and version of what computed it.
      details: A sentence about it.
    """

    program: str
    details: str


ALPHAFOLD = Paper(
    key="Jumper2021",
    authors="Jumper, J. et al.",
    title="Highly accurate protein structure prediction with AlphaFold",
    journal="Nature",
    volume="596",
    page="583",
    year="2021",
    doi="10.1038/s41586-021-03819-2",
)
MULTIMER = Paper(
    key="Evans2021",
    authors="Evans, R. et al.",
    title="Protein complex prediction with AlphaFold-Multimer",
    journal="bioRxiv",
    year="2021",
    doi="10.1101/2021.10.04.463034",
)
_REMARK = 6  # the first number that the PDB format leaves to free text
_REMARK_COLUMNS = 69


def program() -> str:
    """Name and version of this program."""
    try:
        return f"{PROGRAM} {importlib.metadata.version(DISTRIBUTION)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{PROGRAM} (not installed)"


def _papers(prediction: Prediction) -> tuple[Paper, ...]:
    return (ALPHAFOLD, MULTIMER) if "multimer" in prediction.provenance.model else (ALPHAFOLD,)


def citation_category(prediction: Prediction) -> dict[str, list[str | None]]:
    """Columns of mmCIF's `_citation`."""
    papers = _papers(prediction)
    columns = {
        "title": "title",
        "journal_abbrev": "journal",
        "journal_volume": "volume",
        "page_first": "page",
        "year": "year",
        "pdbx_database_id_DOI": "doi",
    }
    ids: list[str | None] = ["primary", *(str(i) for i in range(1, len(papers)))]
    return {"id": ids} | {column: [getattr(paper, field) for paper in papers] for column, field in columns.items()}


def statements(prediction: Prediction, relaxation: Relaxation | None = None) -> Iterator[str]:
    """What a reader of the file should know, one statement at a time."""
    source = prediction.provenance
    if source.warning:
        yield source.warning
    number = len(prediction.passes)
    yield f"Predicted by {source.program}, an implementation of AlphaFold 2."
    yield (
        f"Model {source.model}, parameters {source.parameters}, seed {source.seed}, MSA rows {source.rows}, "
        f"{'dropout, ' if source.dropout else ''}"
        f"{f'initial guess {source.initial_guess}, ' if source.initial_guess else ''}"
        f"{number} pass{'es' if number > 1 else ''}, {source.precision} activations, {source.platform}."
    )
    if relaxation is not None:
        yield relaxation.details
    scores = [f"Mean pLDDT {prediction.mean_plddt:.2f}"]
    scores += [f"pTM {prediction.ptm:.4f}"] if prediction.ptm is not None else []
    scores += [f"ipTM {prediction.iptm:.4f}"] if prediction.iptm is not None else []
    scores += [f"ranking confidence {prediction.ranking_confidence:.4f}"]
    yield ", ".join(scores) + ". The B factor of each atom is the pLDDT of its residue (0 to 100)."
    for chain in prediction.chains:
        if chain.description:
            yield f"Chain {chain.id}: {chain.description}"
    if not source.warning:
        yield LICENCE
        yield from map(str, _papers(prediction))


def remark_records(prediction: Prediction, relaxation: Relaxation | None = None) -> Iterator[str]:
    """The statements as REMARK records of a PDB file, at most 80 columns wide."""
    yield f"REMARK {_REMARK:3d}"
    for statement in statements(prediction, relaxation):
        for line in textwrap.wrap(statement, _REMARK_COLUMNS):
            yield f"REMARK {_REMARK:3d} {line}"
