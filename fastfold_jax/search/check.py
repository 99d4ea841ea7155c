"""What searches read from and run: looked for before the first one, and told apart from what was there before."""

import hashlib
from pathlib import Path

from fastfold_jax.data.job import Job
from fastfold_jax.errors import UserError
from fastfold_jax.search.alignments import require_programs
from fastfold_jax.search.config import SearchOptions, TemplateOptions
from fastfold_jax.search.databases import find_databases
from fastfold_jax.search.template_search import structure_files
from fastfold_jax.search.templates import local_library, named_files, require_templates


def check(search: SearchOptions, templates: TemplateOptions) -> None:
    """Checks that the databases, structures and files that the options name are there.

    Raises:
      UserError: if any of them is missing.
    """
    find_databases(search.databases)
    named_files(templates)
    if templates.template_mmcif is not None:
        local_library(templates)


def require(job: Job, search: SearchOptions, templates: TemplateOptions) -> None:
    """Checks that the programs that the job's searches need are installed, and that the user's templates are for it.

    Raises:
      UserError: if a program is missing, a template is for no chain of the job, or no database serves.
    """
    require_programs(job, search)
    require_templates(job, templates)


def fingerprint(search: SearchOptions, templates: TemplateOptions) -> str:
    """Changes whenever what searches read does.

    That is the content of the files that options name, and of databases and of the directory of structures, which are
    too large to be read for it, names, sizes and dates.

    Raises:
      UserError: if any of it is not there, or cannot be read.
    """
    parts = [database.fingerprint() for database in find_databases(search.databases)]
    parts += [_digest(path) for path in named_files(templates)]
    if templates.mode == "local" and templates.template_mmcif is not None:
        parts += [stat for _, stat in structure_files(templates.template_mmcif)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
