"""What a search reads from, looked for before the first one."""

from fastfold_jax.search.config import SearchOptions, TemplateOptions
from fastfold_jax.search.databases import find_databases
from fastfold_jax.search.templates import local_library


def check(search: SearchOptions, templates: TemplateOptions) -> None:
    """Nothing, where the databases and structures that the options name are there.

    Raises:
      UserError: if any of them is not.
    """
    find_databases(search.databases)
    if templates.template_mmcif is not None:
        local_library(templates)
