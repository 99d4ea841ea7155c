"""The command `fastfold-infer`, and what `infer.py` runs."""

import logging
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from fastfold_jax import messages
from fastfold_jax.backend.allocator import claim_memory
from fastfold_jax.backend.compile_cache import use_compile_cache
from fastfold_jax.config.command_line import parse
from fastfold_jax.errors import UserError
from fastfold_jax.inference.config import PROGRAM, InferenceConfig
from fastfold_jax.inference.elsewhere import ELSEWHERE
from fastfold_jax.search.report import bars

OK, USER_ERROR, SOME_FAILED, INTERRUPTED = 0, 2, 3, 130

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line, predicts, and returns the exit code; errors a user can cause take one line on stderr.

    Raises:
      SystemExit: after --help, with 0.
    """
    try:
        return _run(parse(InferenceConfig, PROGRAM, argv, ELSEWHERE))
    except UserError as error:
        logger.debug("where it was raised:", exc_info=True)
        sys.stderr.write(f"{PROGRAM}: error: {error}\n")
        return USER_ERROR


def _run(config: InferenceConfig) -> int:
    """Predicts, or plans; the exit code."""
    console = Console(stderr=True)
    _set_up_logging(console, verbose=config.verbose, quiet=config.jobs.dry_run)
    claim_memory()
    use_compile_cache(config.execution.cache_directory)
    # After the options are known to be good: these import the whole model.
    from fastfold_jax.inference import dry_run
    from fastfold_jax.inference.run import run

    try:
        if config.jobs.dry_run:
            planned = dry_run.plan(config)
            dry_run.show(planned, config.out, Console())
            return SOME_FAILED if any(job.error is not None for job in planned) else OK
        with bars(console) as report:
            outcomes = run(config, report=report)
    except KeyboardInterrupt:
        sys.stderr.write(f"{PROGRAM}: interrupted; what was finished is in {config.out}\n")
        return _leave(INTERRUPTED)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed:
        sys.stderr.write(
            f"{PROGRAM}: error: {len(failed)} of {len(outcomes)} jobs failed; see {config.out}/summary.csv\n"
        )
        return SOME_FAILED
    return OK


def _leave(code: int) -> int:
    """Ends the process without the wait for the pass that the device is busy with, which cannot be called off."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _set_up_logging(console: Console, *, verbose: bool, quiet: bool) -> None:
    messages.set_up(console, logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
