"""What the commands say on standard error: the packages' own messages, and of others warnings only."""

import logging

from rich.console import Console
from rich.logging import RichHandler


def set_up(console: Console, level: int) -> None:
    """Sends messages to standard error, in colour and above progress bars on a terminal.

    Args:
      level: From which our own are shown.
    """
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, markup=False)
        handler.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("fastfold_jax").setLevel(level)
