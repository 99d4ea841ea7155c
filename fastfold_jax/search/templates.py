"""Gives every chain of a job its templates."""

from fastfold_jax.data.job import Job
from fastfold_jax.search.config import SearchOptions, TemplateOptions
from fastfold_jax.search.report import Report, silent


def attach(job: Job, options: TemplateOptions, search: SearchOptions | None = None, report: Report = silent) -> Job:
    """The job with templates for every chain (work in progress)."""
    return job
