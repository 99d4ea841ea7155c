"""The command `fastfold-train`, and what `train.py` runs."""

import logging
import sys
from collections.abc import Sequence

from rich.console import Console

from fastfold_jax import messages
from fastfold_jax.backend.allocator import claim_memory
from fastfold_jax.backend.compile_cache import use_compile_cache
from fastfold_jax.config.command_line import parse
from fastfold_jax.errors import UserError
from fastfold_jax.training.options import TrainConfig
from fastfold_jax.training.processes import leave

PROGRAM = "fastfold-train"
OK, DEFECT, USER_ERROR = 0, 1, 2

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line, trains, and returns the exit code; errors a user can cause take one line on stderr.

    Raises:
      SystemExit: after --help, with 0.
    """
    console = Console(stderr=True)
    try:
        config = parse(TrainConfig, PROGRAM, argv)
        _set_up_logging(console, config.verbose)
        claim_memory()
        use_compile_cache(config.machine.cache_directory)
        from fastfold_jax.training.run import run  # after the options are known to be good: it imports everything

        run(config, console)
    except UserError as error:
        logger.debug("where it was raised:", exc_info=True)
        sys.stderr.write(f"{PROGRAM}: error: {error}\n")
        return leave(USER_ERROR)
    except Exception:
        sys.excepthook(*sys.exc_info())
        return leave(DEFECT)
    return OK


def _set_up_logging(console: Console, verbose: bool) -> None:
    messages.set_up(console, logging.DEBUG if verbose else logging.INFO)
    # What featurisation says about one protein at a time, nobody wants to hear about millions.
    logging.getLogger("fastfold_jax.data").setLevel(logging.DEBUG if verbose else logging.WARNING)
