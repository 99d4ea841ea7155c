"""Single modules of the peer as pure functions of (parameters, inputs), to compare values and gradients.

Each entry of `MODULES` says which DeepMind scope a module has and how the peer calls it. Inputs are `msa` [s, i, c],
`pair` [i, j, c] and their masks; what a module returns is the update it makes (before the residual), blocks return
both arrays.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import reference
from alphafold.model import modules, modules_multimer, prng, utils

TRUNK = "alphafold/alphafold_iteration/evoformer"
HEADS = "alphafold/alphafold_iteration"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the blocks of the trunk read: activations [s, i, c_m], [i, j, c_z] and masks [s, i], [i, j]."""

    msa: Any
    pair: Any
    msa_mask: Any
    pair_mask: Any


jax.tree_util.register_dataclass(Inputs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Module:
    """One module of the peer.

    Attributes:
      scope: its DeepMind scope; the last component is its own name.
      call: `(model_config, name, inputs, training) -> output`, called inside a Haiku transform.
      layer: index into the stack it belongs to, None if it is not stacked.
      casts: whether it casts its parameters to bf16 by itself, as the whole trunk does; a part of it has to be told.
    """

    scope: str
    call: Callable[..., Any]
    layer: int | None = 0
    casts: bool = False


def scoped(flat: reference.Flat, scope: str, layer: int | None = None) -> dict[str, np.ndarray]:
    """The flat parameters below a scope, keyed from its last component on, one layer of a stack."""
    parent = scope.rpartition("/")[0]
    chosen = {k: v for k, v in flat.items() if k.startswith((f"{scope}/", f"{scope}//"))}
    if not chosen:
        raise KeyError(f"no parameters below {scope}")
    return {k.removeprefix(f"{parent}/"): v if layer is None else v[layer] for k, v in chosen.items()}


def parameters(module: Module, flat: reference.Flat, *, fuse: bool = False) -> dict[str, dict[str, jax.Array]]:
    """The module's Haiku parameters out of a whole network's flat ones; `fuse` joins split triangle projections."""
    if fuse:
        flat = reference.flatten(utils.flat_params_to_haiku(dict(flat), fuse=True, to_jnp=False))
    return reference.parameters(scoped(flat, module.scope, module.layer))


def function(module: Module, model_config, *, training: bool = True) -> Callable[[Mapping[str, Any], Any], Any]:
    """`(parameters, inputs) -> output` of a module, to jit or differentiate; `training` turns sub-batching off."""
    name = module.scope.rpartition("/")[2]

    def forward(inputs):
        with contextlib.nullcontext() if module.casts else utils.half_context():
            return module.call(model_config, name, inputs, training)

    apply = hk.transform(forward).apply
    return lambda params, inputs: apply(params, jax.random.PRNGKey(0), inputs)


def _on_pair(kind):
    def call(model_config, name, x: Inputs, training):
        block = model_config.embeddings_and_evoformer.evoformer
        return kind(block[name], model_config.global_config, name=name)(x.pair, x.pair_mask, is_training=training)

    return call


def _added(update, field: str):
    """The peer adds a transition where it calls it, ours in it."""

    def call(model_config, name, x: Inputs, training):
        return getattr(x, field) + update(model_config, name, x, training)

    return call


def _on_msa(kind, config_name: str | None = None):
    def call(model_config, name, x: Inputs, training):
        block = model_config.embeddings_and_evoformer.evoformer
        module = kind(block[config_name or name], model_config.global_config, name=name)
        return module(x.msa, x.msa_mask, is_training=training)

    return call


def _row_attention(model_config, name, x: Inputs, training):
    block = model_config.embeddings_and_evoformer.evoformer
    module = modules.MSARowAttentionWithPairBias(block[name], model_config.global_config, name=name)
    return module(x.msa, x.msa_mask, pair_act=x.pair, is_training=training)


def _outer_product_mean(model_config, name, x: Inputs, training):
    block = model_config.embeddings_and_evoformer.evoformer
    channels = x.pair.shape[-1]
    module = modules.OuterProductMean(block[name], model_config.global_config, channels, name=name)
    return module(x.msa, x.msa_mask, is_training=training)


def _block(extra: bool):
    def call(model_config, name, x: Inputs, training):
        shared, trunk = model_config.global_config, model_config.embeddings_and_evoformer
        iteration = modules.EvoformerIteration(trunk.evoformer, shared, is_extra_msa=extra, name=name)
        masks = {"msa": x.msa_mask, "pair": x.pair_mask}
        out = iteration({"msa": x.msa, "pair": x.pair}, masks, is_training=training)
        return out["msa"], out["pair"]

    return call


def _stack(extra: bool, layers: int):
    """Every layer of a stack in a row; parameters carry the leading layer axis."""
    from alphafold.model import layer_stack

    def call(model_config, name, x: Inputs, training):
        shared, trunk = model_config.global_config, model_config.embeddings_and_evoformer
        iteration = modules.EvoformerIteration(trunk.evoformer, shared, is_extra_msa=extra, name=name)
        masks = {"msa": x.msa_mask, "pair": x.pair_mask}
        body = lambda act: iteration(act, masks, is_training=training)  # noqa: E731
        out = layer_stack.layer_stack(layers)(body)({"msa": x.msa, "pair": x.pair})
        return out["msa"], out["pair"]

    return call


def _evoformer(name: str, call, **options) -> Module:
    return Module(scope=f"{TRUNK}/evoformer_iteration/{name}", call=call, **options)


def _extra(name: str, call, **options) -> Module:
    return Module(scope=f"{TRUNK}/extra_msa_stack/{name}", call=call, **options)


MODULES: dict[str, Module] = {
    "msa_row_attention_with_pair_bias": _evoformer("msa_row_attention_with_pair_bias", _row_attention),
    "msa_column_attention": _evoformer("msa_column_attention", _on_msa(modules.MSAColumnAttention)),
    "msa_transition": _evoformer("msa_transition", _added(_on_msa(modules.Transition), "msa")),
    "outer_product_mean": _evoformer("outer_product_mean", _outer_product_mean),
    "pair_transition": _evoformer("pair_transition", _added(_on_pair(modules.Transition), "pair")),
    **{
        f"triangle_multiplication_{way}": _evoformer(
            f"triangle_multiplication_{way}", _on_pair(modules.TriangleMultiplication)
        )
        for way in ("outgoing", "incoming")
    },
    **{
        f"triangle_attention_{node}_node": _evoformer(
            f"triangle_attention_{node}_node", _on_pair(modules.TriangleAttention)
        )
        for node in ("starting", "ending")
    },
    "msa_column_global_attention": _extra(
        "msa_column_global_attention", _on_msa(modules.MSAColumnGlobalAttention, "msa_column_attention")
    ),
    "evoformer_iteration": Module(scope=f"{TRUNK}/evoformer_iteration", call=_block(extra=False)),
    "extra_msa_stack": Module(scope=f"{TRUNK}/extra_msa_stack", call=_block(extra=True)),
}


def _template_embedding_monomer(model_config, name, x, training):
    features, query, mask = x
    batch = {k: v for k, v in reference.monomer_batch(features).items() if k.startswith("template_")}
    batch["template_mask"] = jnp.asarray(batch["template_mask"])
    template, shared = model_config.embeddings_and_evoformer.template, model_config.global_config
    return modules.TemplateEmbedding(template, shared, name=name)(query, batch, mask, is_training=training)


def _template_embedding_multimer(model_config, name, x, training):
    features, query, mask = x
    batch = {k: v for k, v in reference.multimer_batch(features).items() if k.startswith("template_")}
    chain = jnp.asarray(features.asym_id)
    template, shared = model_config.embeddings_and_evoformer.template, model_config.global_config
    return modules_multimer.TemplateEmbedding(template, shared, name=name)(
        query, batch, mask, chain[:, None] == chain, is_training=training, safe_key=prng.SafeKey(jax.random.PRNGKey(0))
    )


def template_embedding(name: str) -> Module:
    """Inputs `(features, pair [i, j, c_z], pair_mask [i, j])` -> the templates' update of the pair array."""
    call = _template_embedding_multimer if reference.is_multimer(name) else _template_embedding_monomer
    return Module(scope=f"{TRUNK}/template_embedding", call=call, layer=None)


def trunk(name: str) -> Module:
    """Inputs `(features, prev)` -> the peer's `single`, `pair`, `msa` and `msa_first_row`."""
    kind = modules_multimer if reference.is_multimer(name) else modules

    def call(model_config, scope_name, x, training):
        features, prev = x
        batch = reference.multimer_batch(features) if reference.is_multimer(name) else reference.monomer_batch(features)
        batch |= prev
        embed = kind.EmbeddingsAndEvoformer(
            model_config.embeddings_and_evoformer, model_config.global_config, name=scope_name
        )
        return embed(batch, is_training=training)

    return Module(scope=TRUNK, call=call, layer=None, casts=True)


def structure(name: str) -> Module:
    """Inputs `(features, representations)` -> the structure module's `final_atom_positions` [i, 37, 3], Å."""
    from alphafold.model import folding, folding_multimer

    def call(model_config, scope_name, x, training):
        features, representations = x
        if reference.is_multimer(name):
            batch, kind = reference.multimer_batch(features), folding_multimer.StructureModule
            module = kind(model_config.heads.structure_module, model_config.global_config, name=scope_name)
            out = module(representations, batch, is_training=training)
            return {"positions": out["final_atom_positions"], "act": out["act"]}
        batch, kind = reference.monomer_batch(features), folding.StructureModule
        module = kind(
            model_config.heads.structure_module, model_config.global_config, compute_loss=False, name=scope_name
        )
        out = module(representations, batch, is_training=training)
        return {"positions": out["final_atom_positions"], "act": out["representations"]["structure_module"]}

    return Module(scope=f"{HEADS}/structure_module", call=call, layer=None)
