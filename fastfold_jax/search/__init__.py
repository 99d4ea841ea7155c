"""Search for alignments and templates behind one interface."""

from fastfold_jax.search.alignments import complete
from fastfold_jax.search.check import check, fingerprint, require
from fastfold_jax.search.config import SearchOptions, TemplateOptions
from fastfold_jax.search.report import Report, bars, silent
from fastfold_jax.search.save import save, texts
from fastfold_jax.search.templates import attach

__all__ = [
    "Report",
    "SearchOptions",
    "TemplateOptions",
    "attach",
    "bars",
    "check",
    "complete",
    "fingerprint",
    "require",
    "save",
    "silent",
    "texts",
]
