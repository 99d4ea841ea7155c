"""What the commands say on standard error: the packages' own messages, and of others warnings only."""

import logging

from rich.console import Console
from rich.logging import RichHandler

_PACKAGES = ("fastfold_jax", "pallas_kernels", "parallel")


def set_up(console: Console, level: int) -> None:
    """Sends messages to standard error, in colour and above progress bars on a terminal.

    Args:
      console: Standard error.
      level: The level from which our own packages' messages are shown; of others warnings are.
    """
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, markup=False)
        handler.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    if level > logging.DEBUG:
        handler.addFilter(_in_a_line)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in _PACKAGES:
        logging.getLogger(package).setLevel(level)


def _in_a_line(record: logging.LogRecord) -> bool:
    """JAX shows a traceback where its plug-in for GPUs is installed and there is no GPU; one line says as much."""
    if record.name == "jax._src.xla_bridge" and record.exc_info and "plugin" in str(record.msg):
        record.msg, record.args = f"JAX's plug-in for GPUs does not work here: {record.exc_info[1]}", ()
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.exc_info = record.exc_text = None
    return True
