"""Find a network's parameter file by its name."""

from pathlib import Path

from fastfold_jax.params.npz import ParamsError
from fastfold_jax.params.release import RELEASES

DEFAULT_DIRECTORY = Path("params")


def find(path: Path | None, name: str) -> Path:
    """The parameter file of the preset `name`.

    Args:
      path: The file itself, or a directory that holds it, directly or in its sub-directory `params`, as AlphaFold's
        and ColabFold's data directories do. None looks into `params` in the working directory.
      name: Preset, such as `model_1_ptm` for `params_model_1_ptm.npz`.

    Raises:
      ParamsError: if there is none; the message says what is there and how to download the files.
    """
    path = Path(path or DEFAULT_DIRECTORY).expanduser()
    file = f"params_{name}.npz"
    try:
        if path.is_file():
            return path
        places = [path / file, path / "params" / file]
        found = next((place for place in places if place.is_file()), None)
        there = sorted({entry.name for place in places for entry in place.parent.glob("params_*.npz")})
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror})") from error
    if found:
        return found
    what = f"holds no {file}" if path.is_dir() else "does not exist"
    holds = f", only {', '.join(there)}" if there else ""
    raise ParamsError(
        f"{path} {what}{holds}; accepted are a params_*.npz file or a directory of them,"
        f" which `{_download_command(path, file)}` fetches"
    )


def _download_command(path: Path, file: str) -> str:
    """What fetches `file`; the newest release holds what no release names."""
    newest, *older = RELEASES.values()
    release = next((release for release in older if file in release.files and file not in newest.files), None)
    directory = DEFAULT_DIRECTORY if path.suffix == ".npz" else path
    return f"python -m fastfold_jax.params download {directory}" + (f" --release {release.date}" if release else "")
