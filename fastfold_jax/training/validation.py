"""Validation: whole predictions with the averaged parameters, compared with the true structures."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.training import Stage
from fastfold_jax.model.alphafold import Apply
from fastfold_jax.training.step import make_prediction, put_batch
from fastfold_jax.training.structure_metrics import structure_metrics
from fastfold_jax.training.validation_data import ValidationConfig, ValidationSet
from parallel import DAP, DATA
from parallel.hosts import fetch

logger = logging.getLogger(__name__)


class Validation:
    """Predicts the structures of the validation set.

    Args:
      share: Which of how many processes' shares of each batch is this one's.
      transform: What happens to the network from outside, such as AutoChunk.

    Raises:
      UserError: if there is nothing to validate on.
    """

    def __init__(
        self,
        stage: Stage,
        execution: Execution,
        mesh: Mesh,
        config: ValidationConfig,
        share: tuple[int, int],
        *,
        transform: Callable[[Apply], Apply] = lambda apply: apply,
    ):
        self._mesh = mesh
        self._data = ValidationSet(
            config,
            stage.model,
            batch_size=mesh.shape[DATA],
            host=share[0],
            hosts=share[1],
            multiple=mesh.shape[DAP],
        )
        self._predict: Callable[..., Any] = make_prediction(
            stage, dataclasses.replace(execution, remat=False), mesh, transform=transform
        )

    def run(self, parameters: Any) -> dict[str, float]:
        """Mean scores over all chains, and how many there are."""
        scores: list[dict[str, float]] = []
        for names, batch in self._data:
            found = fetch(self._predict(parameters, put_batch(batch, self._mesh)))
            for place in range(len(found.mask)):
                mask = np.asarray(found.mask[place]) > 0
                metrics = structure_metrics(found.predicted[place], found.true[place], mask)
                if metrics:
                    scores.append({**metrics, "plddt": float(found.plddt[place])})
            logger.debug("validated %s: %s", ", ".join(names), scores[-1] if scores else "nothing known")
        if not scores:
            return {"chains": 0.0}
        means = {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}
        return {**means, "chains": float(len(scores))}
