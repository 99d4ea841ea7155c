"""The options of `train.py` about data: what is trained and validated on, and what examples are made of."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastfold_jax.config.options import at_least, option
from fastfold_jax.config.training import Stage
from fastfold_jax.data.training.augment import Augmentation
from fastfold_jax.data.training.selection import Filters
from fastfold_jax.data.training.templates import TemplateConfig
from fastfold_jax.errors import UserError
from fastfold_jax.training.dataset import DataConfig


def _useless_without(group: Any, source: str, what: str) -> None:
    """Raises a `UserError` if options of a group are given that do nothing, because its source of data is not."""
    if getattr(group, source) is not None:
        return
    for field in dataclasses.fields(group):
        if getattr(group, field.name) != field.default:
            raise UserError(f"{_flag(field.name)}: needs {_flag(source)}, {what}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainOptions:
    """Which chains are trained on, and what an example of one holds."""

    index: Annotated[
        Path,
        option(
            "Index of experimental structures and alignments, made by `python -m fastfold_jax.training.index`.",
            metavar="FILE",
        ),
    ]
    clusters: Annotated[
        Path | None,
        option(
            "Clusters of similar sequences, a line each: names of chains, as 2q2k_A, or of entities, as 2q2k_1. A "
            "chain is drawn the less often the larger its cluster is.",
            metavar="FILE",
            default="those of the index",
        ),
    ] = None
    need_cluster: Annotated[bool, tyro.conf.FlagCreatePairsOff, option("Leave out chains that are in no cluster.")] = (
        False
    )
    max_resolution: Annotated[
        float, option("Structures of a lower resolution (a larger number, Å) are left out.", metavar="Å")
    ] = Filters.max_resolution
    released_after: Annotated[
        str | None, option("Leave out structures released before this day.", metavar="YYYY-MM-DD", default="all")
    ] = None
    released_before: Annotated[
        str | None, option("Leave out structures released after this day.", metavar="YYYY-MM-DD", default="all")
    ] = None
    min_length: Annotated[int, option("Leave out shorter chains.", metavar="N")] = Filters.min_length
    max_length: Annotated[int | None, option("Leave out longer chains.", metavar="N", default="any length")] = None
    max_residue_share: Annotated[
        float, option("Leave out chains of which one residue type makes up more.", metavar="X")
    ] = Filters.max_residue_share
    allow_no_alignment: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        option("Use chains without an alignment too; their own sequence is then all that they have."),
    ] = False
    deleted_blocks: Annotated[
        int, option("Runs of alignment rows left out of each example at random.", metavar="N")
    ] = Augmentation.deleted_blocks
    max_chains: Annotated[
        int, option("Most chains of a complex, the nearest to the drawn one; for multimers.", metavar="N")
    ] = DataConfig.max_chains
    max_copies: Annotated[int, option("Most chains of equal sequence among them.", metavar="N")] = DataConfig.max_copies
    loader_workers: Annotated[int, option("Processes that make examples; 0 makes them in a thread.", metavar="N")] = (
        DataConfig.workers
    )

    def __post_init__(self):
        at_least(1, max_chains=self.max_chains, max_copies=self.max_copies)
        at_least(0, loader_workers=self.loader_workers)

    @property
    def filters(self) -> Filters:
        """Which chains count."""
        return Filters(
            max_resolution=self.max_resolution,
            released_after=self.released_after,
            released_before=self.released_before,
            min_length=self.min_length,
            max_length=self.max_length,
            max_residue_share=self.max_residue_share,
            need_alignment=not self.allow_no_alignment,
            need_cluster=self.need_cluster,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationOptions:
    """Predicted structures to train on beside the experimental ones, and which of them."""

    distillation_index: Annotated[
        Path | None,
        option("Index of predicted structures, for self-distillation.", metavar="FILE", default="none"),
    ] = None
    distillation_fraction: Annotated[
        float, option("Share of examples drawn from predicted structures, if there are any.", metavar="X")
    ] = DataConfig.distillation_fraction
    distillation_min_confidence: Annotated[
        float, option("Predicted residues of a lower pLDDT (0 to 100) are masked out.", metavar="X")
    ] = DataConfig.min_confidence
    distillation_min_length: Annotated[int, option("Leave out shorter predicted chains.", metavar="N")] = (
        Filters.min_length
    )
    distillation_max_length: Annotated[
        int | None, option("Leave out longer predicted chains.", metavar="N", default="any length")
    ] = None

    def __post_init__(self):
        at_least(1, distillation_min_length=self.distillation_min_length)
        if not 0 <= self.distillation_min_confidence <= 100:
            raise UserError(
                f"--distillation-min-confidence {self.distillation_min_confidence}: accepted are numbers from 0 to 100"
            )
        _useless_without(self, "distillation_index", "the index of predicted structures")

    def filters(self, chains: ChainOptions) -> Filters:
        """Which predicted chains count; alignments and composition are held to the same as experimental ones."""
        return Filters(
            min_length=self.distillation_min_length,
            max_length=self.distillation_max_length,
            max_residue_share=chains.max_residue_share,
            need_alignment=not chains.allow_no_alignment,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemplateOptions:
    """Known structures that the network may look at; hits are read beside the alignments (.hhr, pdb_hits.sto).

    Each example gets a random few of its hits, none of them released on the day of its own release or later.
    """

    template_mmcif: Annotated[
        Path | None,
        option(
            "Directory of mmCIF files (1abc.cif, packed or not, also in sub-directories by the middle letters) that "
            "templates are made from.",
            metavar="DIR",
            default="no templates",
        ),
    ] = None
    template_pool: Annotated[int, option("Templates are drawn from the best so many hits.", metavar="N")] = (
        TemplateConfig.pool
    )
    max_template_date: Annotated[
        str | None,
        option("Leave out templates released after this day.", metavar="YYYY-MM-DD", default="no limit of its own"),
    ] = None
    obsolete_pdbs: Annotated[
        Path | None,
        option(
            "The PDB's list of replaced entries, obsolete.dat; hits to them lead to their successors.",
            metavar="FILE",
            default="none",
        ),
    ] = None

    def __post_init__(self):
        at_least(1, template_pool=self.template_pool)
        _useless_without(self, "template_mmcif", "the directory of structures")

    def config(self, chosen: Stage) -> TemplateConfig | None:
        """Where templates come from.

        Raises:
          UserError: if the stage's network takes none, or they cannot be used.
        """
        if self.template_mmcif is None:
            return None
        if not chosen.model.num_templates:
            raise UserError(f"--template-mmcif: the network {chosen.model.name} takes no templates")
        return TemplateConfig(
            structures=self.template_mmcif,
            obsolete=self.obsolete_pdbs,
            latest=self.max_template_date,
            pool=self.template_pool,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """What the averaged parameters are judged by meanwhile."""

    validation_index: Annotated[
        Path | None, option("Index of structures to validate on.", metavar="FILE", default="no validation")
    ] = None
    validation_released_after: Annotated[
        str | None,
        option("Leave out those of them released before this day.", metavar="YYYY-MM-DD", default="all"),
    ] = None
    validation_limit: Annotated[
        int | None, option("Validate on so many chains.", metavar="N", default="all of them")
    ] = None
    validate_every: Annotated[int, option("Steps between two validations.", metavar="N")] = 1000

    def __post_init__(self):
        at_least(1, validate_every=self.validate_every, validation_limit=self.validation_limit)
        _useless_without(self, "validation_index", "the index of structures to validate on")
