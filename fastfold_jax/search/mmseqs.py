"""Alignments by MMseqs2, where it is installed, as ColabFold's local search makes them."""

import threading
from collections.abc import Sequence
from pathlib import Path

from fastfold_jax.search import programs
from fastfold_jax.search.report import Report

_SEARCH = ("--num-iterations", "3", "-a", "-e", "0.1", "--max-seqs", "10000", "-s", "8")
_EXPAND = ("--expansion-mode", "0", "-e", "inf", "--expand-filter-clusters", "1", "--max-seq-id", "0.95")
_ALIGN = ("-e", "10", "--max-accept", "100000", "--alt-ali", "10", "-a")
_FILTER = ("--qid", "0", "--qsc", "0.8", "--diff", "0", "--max-seq-id", "1.0", "--filter-min-enable", "100")
_ROWS = ("--msa-format-mode", "6", "--filter-msa", "1", "--filter-min-enable", "1000", "--diff", "3000")
_ROWS_DIVERSITY = ("--qid", "0.0,0.2,0.4,0.6,0.8,1.0", "--qsc", "0", "--max-seq-id", "0.95")


class MMseqs:
    """MMseqs2 over a sequence database, or one of clusters as ColabFold sets them up (UniRef30, environmental).

    Args:
      program: The program's name on the PATH, or its file.
      stop: Ends a search early once set.

    Raises:
      UserError: if there is no such program.
    """

    def __init__(self, program: str, stop: threading.Event):
        self._stop = stop
        self._program = programs.locate(program, option="--mmseqs", package="MMseqs2")

    def version(self) -> str:
        """As the program tells it."""
        return f"mmseqs {programs.run([self._program, 'version'], cwd=Path.cwd(), stop=self._stop).strip()}"

    def settings(self) -> str:
        """The options that results depend on."""
        return " ".join((*_SEARCH, *_EXPAND, *_ALIGN, *_FILTER, *_ROWS, *_ROWS_DIVERSITY))

    def commands(self, database: Path, threads: int) -> list[list[str]]:
        """The command lines from `query.fasta` to `0.a3m`, `1.a3m` and so on, all in one directory.

        In a database of clusters hits are expanded to the members and aligned to the profile of the last iteration.
        """
        target = str(database.absolute())
        expandable = all(database.with_name(database.name + part).is_file() for part in ("_seq.dbtype", "_aln.dbtype"))
        has_index = any(database.with_name(f"{database.name}{end}").is_file() for end in (".idx", ".idx.index"))
        members, clusters = (f"{target}.idx",) * 2 if has_index else (f"{target}_seq", f"{target}_aln")
        # An index may be mapped into memory and shared; without one there is nothing to map.
        how = ("--db-load-mode", "2" if has_index else "0", "--threads", str(threads))
        # Without --shuffle 0 results would come in another order than the queries.
        steps = [
            ["createdb", "query.fasta", "query", "--shuffle", "0"],
            ["search", "query", target, "hits", "tmp", *how, *_SEARCH],
        ]
        result, subject = "hits", target
        if expandable:
            subject, result = members, "filtered"
            steps += [
                ["mvdb", "tmp/latest/profile_1", "profile"],
                ["lndb", "query_h", "profile_h"],
                ["expandaln", "query", members, "hits", clusters, "expanded", *how, *_EXPAND],
                ["align", "profile", members, "expanded", "aligned", *how, *_ALIGN],
                ["filterresult", "query", members, "aligned", "filtered", *how, *_FILTER],
            ]
        steps += [
            ["result2msa", "query", subject, result, "msa", *how, *_ROWS, *_ROWS_DIVERSITY],
            ["unpackdb", "msa", ".", "--unpack-name-mode", "0", "--unpack-suffix", ".a3m"],
        ]
        return [[self._program, *step] for step in steps]

    def search(self, sequences: Sequence[str], databases: Sequence[Path], threads: int, report: Report) -> list[bytes]:
        """An A3M of each sequence, all searched in one run; see `programs.Program`.

        Raises:
          UserError: if MMseqs2 fails.
        """
        (database,) = databases
        with programs.scratch() as directory:
            records = "".join(f">{number}\n{sequence}\n" for number, sequence in enumerate(sequences))
            (Path(directory) / "query.fasta").write_text(records, encoding="ascii")
            commands = self.commands(database, threads)
            for done, command in enumerate(commands):
                report(f"mmseqs {database.name}", done, len(commands))
                programs.run(command, cwd=Path(directory), stop=self._stop)
            report(f"mmseqs {database.name}", len(commands), len(commands))
            results = [Path(directory) / f"{number}.a3m" for number in range(len(sequences))]
            return [programs.read_result(path, program="mmseqs") for path in results]
