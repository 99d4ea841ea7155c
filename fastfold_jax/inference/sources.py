"""The jobs of a run: what INPUT holds, read as the options say."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from fastfold_jax.data import layout
from fastfold_jax.data.job_sources import JobSource, find_jobs
from fastfold_jax.errors import UserError
from fastfold_jax.inference.config import InferenceConfig


def job_sources(config: InferenceConfig) -> tuple[JobSource, ...]:
    """The jobs of a run, in the input's order; of several, those that cannot be used fail when they are read.

    Raises:
      UserError: if there is no INPUT, some of it is not there, or the only job cannot be used.
    """
    if not config.input and (taken := next(_taken(config), None)):
        option, value = taken
        raise UserError(
            f"no INPUT: {option} takes all that follows it, {value} too; if that is what to predict, put it first"
        )
    sources = find_jobs(
        config.input, joined=config.jobs.complex, copies=config.jobs.copies(), reserved=(layout.SUMMARY,)
    )
    if len(sources) == 1 and sources[0].error is not None:
        raise sources[0].error
    return sources


def _taken(config: InferenceConfig) -> Iterator[tuple[str, str | Path]]:
    """Options of several values that look to have taken the INPUT for one, and what they took."""
    given: dict[str, Sequence[str | Path]] = {
        "--model": config.model,
        "--databases": config.search.databases,
        "--custom-templates": config.templates.custom_templates,
        "--template-hits": config.templates.template_hits,
    }
    for option, values in given.items():
        for value in values[1:]:  # the first is the option's own
            path = Path(value)
            if path.is_dir() or (path.is_file() and layout.format_of(path)):
                yield option, value
