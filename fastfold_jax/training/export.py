"""The command `python -m fastfold_jax.training.export`: parameters of a run that goes on, or ended early, as a file."""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import jax
import tyro
from rich.console import Console

from fastfold_jax import messages
from fastfold_jax.config.command_line import parse
from fastfold_jax.config.training import stage
from fastfold_jax.errors import UserError
from fastfold_jax.params import store
from fastfold_jax.training.checkpoint import Checkpoints
from fastfold_jax.training.step import start_state, whole
from parallel import make_mesh

PROGRAM = "python -m fastfold_jax.training.export"

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write the moving average of a run's latest checkpoint as DeepMind's code, ColabFold and infer.py read it."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR", help="Output directory of train.py.")]
    preset: Annotated[str, tyro.conf.arg(metavar="NAME", help="Of the run.")]
    out: Annotated[Path, tyro.conf.arg(metavar="FILE", help="To write, such as params_model_1.npz.")]


def export_latest(config: ExportConfig) -> int:
    """Writes the file and returns the checkpoint's step.

    Raises:
      UserError: if the run has no checkpoint that can be read, or the file cannot be written.
    """
    chosen = stage(config.preset)
    directory = config.run / "checkpoints"
    if not directory.is_dir():
        raise UserError(f"{config.run}: holds no checkpoints; accepted is an output directory of train.py")
    like = jax.device_put(start_state(chosen, 0), whole(make_mesh(devices=jax.devices()[:1])))
    checkpoints = Checkpoints(directory, facts={"network": chosen.model.name}, read_only=True)
    restored = checkpoints.restore(like)
    checkpoints.close()
    if restored is None:
        raise UserError(f"{directory}: holds no checkpoint yet")
    store.save(restored.state.average, chosen.model, config.out)
    return int(restored.state.step)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and returns the exit code."""
    messages.set_up(Console(stderr=True), logging.INFO)
    try:
        config = parse(ExportConfig, PROGRAM, argv)
        logger.info("wrote %s of step %d", config.out, export_latest(config))
    except UserError as error:
        sys.stderr.write(f"{PROGRAM}: error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
