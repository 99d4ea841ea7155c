"""Which networks a run uses, where their parameters come from, and that they fit before anything is computed."""

import dataclasses
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from fastfold_jax.config.model import ModelConfig, MultimerConfig
from fastfold_jax.config.presets import PRESETS, preset
from fastfold_jax.data.job import Job
from fastfold_jax.errors import UserError
from fastfold_jax.inference.config import DEMO, RANDOM, InferenceConfig, SamplingOptions
from fastfold_jax.inference.provenance import DEMO_WARNING, RANDOM_WARNING
from fastfold_jax.model.alphafold import init_state
from fastfold_jax.params.fit import require
from fastfold_jax.params.locate import find
from fastfold_jax.params.npz import Npz, ParamsError
from fastfold_jax.params.store import load

DEFAULT_MONOMER = "model_1_ptm"
DEFAULT_MULTIMER = "model_1_multimer_v3"

WARNINGS = {RANDOM: RANDOM_WARNING, DEMO: DEMO_WARNING}
"""What to say where `--params` names no trained network."""

_FILE_NAME = re.compile(r"params_(\w+)\.npz")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A network and its parameters' source.

    Attributes:
      config: The preset, as the run's options change it.
      file: Parameter file, or None to draw parameters.
      seed: For drawing.
    """

    config: ModelConfig
    file: Path | None
    seed: int = 0

    @property
    def source(self) -> str:
        """What to call the parameters in files."""
        return self.file.name if self.file else RANDOM

    @property
    def warning(self) -> str | None:
        """What every file made with these parameters has to say, if they are not a trained network's."""
        if self.file is None:
            return WARNINGS[RANDOM]
        return WARNINGS[DEMO] if self.config.name == DEMO else None

    def state(self) -> Any:
        """The parameters, on the device.

        Raises:
          ParamsError: if the file cannot be read or is of another network.
        """
        if self.file:
            return load(self.file, self.config)
        # What training starts from is zero in the last layer of every branch, and would compute next to nothing.
        return init_state(self.config, self.seed, zero_final=False)


ALL = "all"
_ALL_MONOMERS = tuple(f"model_{number}_ptm" for number in range(1, 6))
_ALL_MULTIMERS = tuple(f"model_{number}_multimer_v3" for number in range(1, 6))


class NetworkTable:
    """The networks of each job of a run; each parameter file's headers are checked once.

    Args:
      config: The run. Networks and files that it names are found and checked at once.
      networks: Networks to use in place of those that the run names.

    Raises:
      UserError: if a name is no preset's, the networks' rankings cannot be compared, or a file is missing, damaged or
        of another network.
    """

    def __init__(self, config: InferenceConfig, networks: Sequence[ModelConfig] | None = None):
        self._config = config
        self._given = networks
        self._located: dict[tuple[ModelConfig, ...], list[Network]] = {}
        self._require_some()

    def networks(self, job: Job) -> list[Network]:
        """Those for a job.

        Raises:
          UserError: see above.
        """
        return self._networks(multimer=is_complex(job))

    def _require_some(self) -> None:
        """Raises unless there are parameters for chains or for complexes; which of them jobs are is not known yet."""
        try:
            self._networks(multimer=False)
        except ParamsError as error:
            try:
                self._networks(multimer=True)
            except ParamsError:
                raise error from None

    def _networks(self, *, multimer: bool) -> list[Network]:
        return self._locate(self._given if self._given is not None else choose(self._config, multimer=multimer))

    def _locate(self, chosen: Sequence[ModelConfig]) -> list[Network]:
        key = tuple(chosen)
        if key not in self._located:
            self._located[key] = locate(chosen, self._config.params, seed=self._config.sampling.first_seed)
        return self._located[key]


def choose(config: InferenceConfig, *, multimer: bool) -> list[ModelConfig]:
    """The networks asked for, else the one for a chain or a complex, with the run's sampling sizes.

    Args:
      config: The run.
      multimer: For a complex, where the run leaves it open.

    Raises:
      UserError: if a name is no preset's, or the networks' rankings cannot be compared.
    """
    names: Sequence[str] = config.model
    if ALL in names:
        if len(names) > 1:
            raise UserError(f"--model {' '.join(names)}: {ALL} means all five of a kind, and stands alone")
        names = _ALL_MULTIMERS if multimer else _ALL_MONOMERS
    elif not names:
        names = (_named_by_file(config.params) or (DEFAULT_MULTIMER if multimer else DEFAULT_MONOMER),)
    chosen = [_sized(preset(name), config.sampling) for name in dict.fromkeys(names)]
    if len({isinstance(network, MultimerConfig) for network in chosen}) > 1:
        raise UserError(
            f"--model {' '.join(names)}: monomer and multimer models rank on different scales; give one kind at a time"
        )
    return chosen


def _named_by_file(params: str | None) -> str | None:
    """The preset that a released parameter file, or `demo`, is named after."""
    if params == DEMO:
        return DEMO
    match = _FILE_NAME.fullmatch(Path(params).name) if params else None
    return match[1] if match and match[1] in PRESETS else None


def is_complex(job: Job) -> bool:
    """Whether a job has several chains."""
    if job.features is not None:
        return "asym_id" in job.features and len(np.unique(job.features["asym_id"])) > 1
    return len(job.chains) > 1


def _sized(network: ModelConfig, options: SamplingOptions) -> ModelConfig:
    network = dataclasses.replace(network, num_ensemble=options.num_ensemble, eval_dropout=options.dropout)
    rows = options.rows()
    if rows is None:
        return network
    templates = network.num_templates if network.msa_includes_templates else 0
    if rows[0] <= templates:
        raise UserError(
            f"--max-msa {options.max_msa}: {network.name} counts its {templates} templates among the clusters, so it "
            f"needs at least {templates + 1}"
        )
    return dataclasses.replace(network, num_msa=rows[0], num_extra_msa=rows[1])


def locate(networks: Sequence[ModelConfig], params: str | None, *, seed: int) -> list[Network]:
    """Where each network's parameters are; reads no more than the files' headers.

    Raises:
      ParamsError: if a file is missing, damaged or of another network.
    """
    if params == DEMO:
        _require_demo(networks)
        params = str(demo_file())
    if params == RANDOM:
        return [Network(config=network, file=None, seed=seed) for network in networks]
    place = Path(params) if params else None
    if place and place.is_file() and len(networks) > 1:
        raise ParamsError(f"--params {place} is one file, but there are {len(networks)} models; give its directory")
    located = []
    for network in networks:
        file = _find(place, network.name)
        named = _named_by_file(str(file))
        if named and named != network.name:
            raise ParamsError(f"{file} holds the parameters of {named}, not of {network.name}: give --model {named}")
        with Npz(file) as arrays:
            require(file, arrays.specs, network)
        located.append(Network(config=network, file=file))
    return located


def demo_file() -> Path:
    """The toy network's parameters, which come with the package."""
    return Path(str(resources.files("fastfold_jax.params") / "demo" / f"params_{DEMO}.npz"))


def _require_demo(networks: Sequence[ModelConfig]) -> None:
    """Raises unless the toy network alone is asked for: its parameters are no other's."""
    others = [network.name for network in networks if network.name != DEMO]
    if others:
        raise ParamsError(
            f"--params {DEMO} holds the parameters of the model {DEMO} alone, not of {', '.join(others)}: leave "
            "--model out, or give the directory of DeepMind's parameters"
        )


def _find(place: Path | None, name: str) -> Path:
    try:
        return find(place, name)
    except ParamsError as error:
        if place is not None:
            raise
        raise ParamsError(f"no --params given, and {error}") from error
