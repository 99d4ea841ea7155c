"""Command line of the parameters: download a release, check files."""

import contextlib
import dataclasses
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import rich.progress
import tyro
from rich.console import Console
from rich.markup import escape

from fastfold_jax import messages
from fastfold_jax.config.command_line import parse
from fastfold_jax.errors import UserError
from fastfold_jax.params.fetch import Progress
from fastfold_jax.params.npz import Npz, ParamsError
from fastfold_jax.params.release import ATTRIBUTION, MANIFEST, NOTICE, RELEASES, ReleaseDate, install, verify

PROGRAM = "python -m fastfold_jax.params"

_console = Console(highlight=False, soft_wrap=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Download:
    """Fetch DeepMind's parameters (5.6 GB): resumed if interrupted, verified, unpacked. Licence: CC BY 4.0.

    Attributes:
      directory: Where the params_*.npz files go; made if absent.
      release: Archive. 2022-12-06 has multimer v3, 2022-03-02 v2, 2022-01-19 v1; all have the monomers.
      url: Address of a mirror.
      sha256: Digest the archive must have. Without it, size and the checksums its server announces are compared.
      keep_archive: Keep the tar file beside what was in it.
    """

    directory: tyro.conf.Positional[Path]
    release: ReleaseDate = "2022-12-06"
    url: str | None = None
    sha256: str | None = None
    keep_archive: bool = False

    def run(self) -> int:
        """Download; returns the exit status."""
        chosen = RELEASES[self.release]
        _console.print(ATTRIBUTION)
        with _progress() as report:
            digests = install(
                chosen,
                self.directory,
                url=self.url,
                sha256=self.sha256,
                keep_archive=self.keep_archive,
                progress=report,
            )
        for name, digest in digests.items():
            _console.print(f"{digest}  {self.directory / name}")
        _console.print(f"{len(digests)} files; licence and attribution are in {self.directory / NOTICE}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """Say which presets parameter files fit, and whether they are sound; exit status 2 if one is not.

    Attributes:
      path: A params_*.npz file, or a directory of them.
      deep: Read all numbers too: checksums inside the files, the noted SHA-256, and that all are finite.
    """

    path: tyro.conf.Positional[Path]
    deep: bool = False

    def run(self) -> int:
        """Check; returns the exit status."""
        jax.config.update("jax_platforms", "cpu")  # shapes are traced; no accelerator need wake up for that
        sound = [_report(file, deep=self.deep) for file in _files(self.path)]
        return 0 if all(sound) else 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """DeepMind's AlphaFold parameters: download a release, check files."""

    chosen: Annotated[
        Annotated[Download, tyro.conf.subcommand("download")] | Annotated[Check, tyro.conf.subcommand("check")],
        tyro.conf.arg(name=""),
    ]


def _files(path: Path) -> list[Path]:
    """The file, or the parameter files in a directory."""
    if not path.exists():
        raise ParamsError(f"{path} does not exist; accepted are a params_*.npz file or a directory of them")
    if not path.is_dir():
        return [path]
    files = sorted([*path.glob("params_*.npz"), *path.glob("params/params_*.npz")])
    if not files:
        raise ParamsError(
            f"{path}: holds no params_*.npz; `python -m fastfold_jax.params download {path}` fetches them"
        )
    return files


def _report(path: Path, *, deep: bool) -> bool:
    """Print one line about a file; true if nothing is wrong."""
    try:
        _console.print("[green]ok[/green]  ", escape(_examine(path, deep=deep)))
    except ParamsError as error:
        _console.print("[red]bad[/red] ", escape(str(error)))
        return False
    return True


def _examine(path: Path, *, deep: bool) -> str:
    from fastfold_jax.config.presets import PRESETS
    from fastfold_jax.params import fit

    with Npz(path) as file:
        name = path.stem.removeprefix("params_")
        names = fit.fitting(file.specs)
        if name in PRESETS:
            fit.require(path, file.specs, PRESETS[name])
        elif not names:
            raise ParamsError(f"{path}: {fit.presets_note(file.specs)}")
        count = sum(int(np.prod(spec.shape)) for spec in file.specs.values())
        note = f"{path}: {len(file.specs)} arrays, {count / 1e6:.1f} M parameters; fits {', '.join(names)}"
        if not deep:
            return note
        for key in file.specs:
            fit.require_finite(path, key, file.read(key))
    digest = verify(path)
    if digest is False:
        raise ParamsError(f"{path}: is not the file that was unpacked (SHA-256 differs from {MANIFEST})")
    return f"{note}; all finite" + ("; SHA-256 as noted" if digest else "")


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """A bar for each stage, on stderr."""
    columns = (
        rich.progress.TextColumn("{task.description:>8}"),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, rich.progress.TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    messages.set_up(Console(stderr=True), logging.WARNING)
    try:
        return parse(Command, PROGRAM, arguments).chosen.run()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from here\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
