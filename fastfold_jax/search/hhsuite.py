"""Alignments by HH-suite's hhblits, where it is installed."""

import threading
from collections.abc import Sequence
from pathlib import Path

from fastfold_jax.search import programs
from fastfold_jax.search.report import Report

# AlphaFold's: three iterations, E-values up to 1e-3, no filter that would drop rows.
_SETTINGS = (
    *("-n", "3"),
    *("-e", "0.001"),
    *("-maxseq", "1000000"),
    *("-realign_max", "100000"),
    *("-maxfilt", "100000"),
    *("-min_prefilter_hits", "1000"),
)


class HHblits:
    """hhblits over one or more databases at once, as AlphaFold searches BFD and UniClust30.

    Args:
      program: The program's name on the PATH, or its file.
      stop: Ends a search early once set.

    Raises:
      UserError: if there is no such program.
    """

    def __init__(self, program: str, stop: threading.Event):
        self._stop = stop
        self._program = programs.locate(program, option="--hhblits", package="HH-suite 3")

    def version(self) -> str:
        """hhblits has no option that tells its version, so its file stands for it."""
        stat = Path(self._program).stat()
        return f"hhblits {stat.st_size} {stat.st_mtime_ns}"

    def settings(self) -> str:
        """The options that results depend on."""
        return " ".join(_SETTINGS)

    def command(self, query: Path, output: Path, databases: Sequence[Path], threads: int) -> list[str]:
        """The command line for one query."""
        given = [word for database in databases for word in ("-d", str(database.absolute()))]
        files = ["-i", str(query), "-oa3m", str(output), "-o", "/dev/null"]
        return [self._program, *files, "-cpu", str(threads), *_SETTINGS, *given]

    def search(self, sequences: Sequence[str], databases: Sequence[Path], threads: int, report: Report) -> list[bytes]:
        """An A3M of each sequence; see `programs.Program`.

        Raises:
          UserError: if hhblits fails.
        """
        texts = []
        stage = f"hhblits {', '.join(database.name for database in databases)}"
        with programs.scratch() as directory:
            query, output = Path(directory) / "query.a3m", Path(directory) / "hits.a3m"
            for done, sequence in enumerate(sequences):
                report(stage, done, len(sequences))
                query.write_text(f">query\n{sequence}\n", encoding="ascii")
                output.unlink(missing_ok=True)
                programs.run(self.command(query, output, databases, threads), cwd=Path(directory), stop=self._stop)
                texts.append(programs.read_result(output, program="hhblits"))
        report(stage, len(sequences), len(sequences))
        return texts
