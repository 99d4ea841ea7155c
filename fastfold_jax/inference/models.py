"""Which networks a run uses, where their parameters come from, and that they fit before anything is computed."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastfold_jax.config.model import ModelConfig, MultimerConfig
from fastfold_jax.config.presets import PRESETS, preset
from fastfold_jax.data.job import Job
from fastfold_jax.errors import UserError
from fastfold_jax.inference.config import RANDOM, InferenceConfig, SamplingOptions
from fastfold_jax.model.alphafold import init_state
from fastfold_jax.params.fit import require
from fastfold_jax.params.locate import find
from fastfold_jax.params.npz import Npz, ParamsError
from fastfold_jax.params.store import load

DEFAULT_MONOMER = "model_1_ptm"
DEFAULT_MULTIMER = "model_1_multimer_v3"

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
      config: The run. What it names itself is found and checked here and now.
      networks: In place of those that it names.

    Raises:
      UserError: if a name is no preset's, the networks' rankings cannot be compared, or a file is missing, damaged or
        of another network.
    """

    def __init__(self, config: InferenceConfig, networks: Sequence[ModelConfig] | None = None):
        self._config = config
        self._given = networks
        self._located: dict[tuple[ModelConfig, ...], list[Network]] = {}
        if networks is not None or (config.model and ALL not in config.model):
            self._locate(networks if networks is not None else choose(config, None))

    def networks(self, job: Job) -> list[Network]:
        """Those for a job.

        Raises:
          UserError: see above.
        """
        return self._locate(self._given if self._given is not None else choose(self._config, job))

    def _locate(self, chosen: Sequence[ModelConfig]) -> list[Network]:
        key = tuple(chosen)
        if key not in self._located:
            self._located[key] = locate(chosen, self._config.params, seed=self._config.sampling.seed)
        return self._located[key]


def choose(config: InferenceConfig, job: Job | None) -> list[ModelConfig]:
    """The networks asked for, else the one for a chain or a complex, with the run's sampling sizes.

    Args:
      config: The run.
      job: May be None where the run names networks itself.

    Raises:
      UserError: if a name is no preset's, or the networks' rankings cannot be compared.
    """
    names: Sequence[str] = config.model
    if ALL in names:
        if len(names) > 1:
            raise UserError(f"--model {' '.join(names)}: {ALL} means all five of a kind, and stands alone")
        names = _ALL_MULTIMERS if job and is_complex(job) else _ALL_MONOMERS
    elif not names:
        names = (_named_by_file(config.params) or (DEFAULT_MULTIMER if job and is_complex(job) else DEFAULT_MONOMER),)
    chosen = [_sized(preset(name), config.sampling) for name in dict.fromkeys(names)]
    if len({isinstance(network, MultimerConfig) for network in chosen}) > 1:
        raise UserError(
            f"--model {' '.join(names)}: monomer and multimer models rank on different scales; give one kind at a time"
        )
    return chosen


def _named_by_file(params: str | None) -> str | None:
    """The preset that a released parameter file is named after."""
    match = _FILE_NAME.fullmatch(Path(params).name) if params else None
    return match[1] if match and match[1] in PRESETS else None


def is_complex(job: Job) -> bool:
    """Whether a job has several chains."""
    if job.features is not None:
        return "asym_id" in job.features and len(np.unique(job.features["asym_id"])) > 1
    return len(job.chains) > 1


def _sized(network: ModelConfig, options: SamplingOptions) -> ModelConfig:
    network = dataclasses.replace(network, num_ensemble=options.num_ensemble)
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


def _find(place: Path | None, name: str) -> Path:
    try:
        return find(place, name)
    except ParamsError as error:
        if place is not None:
            raise
        raise ParamsError(f"no --params given, and {error}") from error
