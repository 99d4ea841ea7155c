"""The command that makes a run again, from its configuration."""

import dataclasses
import shlex
from collections.abc import Iterator
from typing import Any

from fastfold_jax.inference.config import PROGRAM, InferenceConfig

# What decides whether and how much is said, not what is made.
_LEFT_OUT = ("dry_run", "redo", "verbose", "cluster", "cluster_gpus")


def command_line(config: InferenceConfig) -> str:
    """The command with every option that is not at its default, quoted for a shell."""
    return shlex.join([PROGRAM, *map(str, config.input), *_options(config)])


def _options(config: Any) -> Iterator[str]:
    """The options of a configuration and of the groups in it, which have no prefixes."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _options(value)
        elif field.name not in ("input", *_LEFT_OUT) and value != _default(field):
            name = field.name.replace("_", "-")
            if isinstance(value, bool):
                yield f"--{name}" if value else f"--no-{name}"
            else:
                yield f"--{name}"
                yield from map(str, value) if isinstance(value, tuple) else [str(value)]


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
