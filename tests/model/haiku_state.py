"""Carries Haiku's parameters over to modules whose attributes follow the same scopes."""

import numpy as np
from flax import nnx


def draw(shapes, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Random parameters (nested, as Haiku keeps them) of about unit gain for given arrays or shapes."""
    rng = np.random.default_rng(seed)

    def one(name, shape):
        values = rng.standard_normal(shape, dtype=np.float32)
        if name in ("scale", "gating_b"):
            return 1 + 0.1 * values
        if name in ("bias", "offset", "output_b"):
            return 0.1 * values
        inputs = shape[-3] * shape[-2] if name == "output_w" else shape[-3] if name.endswith("_w") else shape[0]
        return values / np.sqrt(max(inputs, 1), dtype=np.float32)

    return {scope: {name: one(name, x.shape) for name, x in arrays.items()} for scope, arrays in shapes.items()}


def load(module: nnx.Module, params, root: str) -> nnx.Module:
    """`module` with the arrays below the Haiku scope `root`; all must be used, and all of its parameters set."""
    flat = {
        (*scope.removeprefix(root).replace("/__layer_stack_no_state", "").strip("/").split("/"), name): value
        for scope, arrays in params.items()
        for name, value in arrays.items()
    }
    flat = {tuple(part for part in path if part): value for path, value in flat.items()}
    graphdef, state = nnx.split(module)
    ours = dict(nnx.to_flat_state(state))
    assert ours.keys() == flat.keys(), ours.keys() ^ flat.keys()
    for path, value in flat.items():
        assert ours[path].shape == value.shape, (path, ours[path].shape, value.shape)
    return nnx.merge(graphdef, nnx.from_flat_state([(path, ours[path].replace(flat[path])) for path in ours]))
