"""Template embedding: picks the network's way of using templates from the type of its configuration."""

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig, MonomerConfig, MultimerConfig
from fastfold_jax.model.template_pairs import TemplateEmbedder
from fastfold_jax.model.templates_monomer import MonomerTemplates
from fastfold_jax.model.templates_multimer import MultimerTemplates


def template_embedder(config: ModelConfig, execution: Execution) -> TemplateEmbedder:
    """The template embedder of a network that has one.

    Raises:
      ValueError: if the network takes no templates, or is of neither known type.
    """
    if not config.num_templates:
        raise ValueError(f"{config.name} takes no templates (num_templates=0), so it has no template embedder")
    match config:
        case MonomerConfig():
            return MonomerTemplates(config, execution)
        case MultimerConfig():
            return MultimerTemplates(config, execution)
    raise ValueError(f"{type(config).__name__}: accepted are MonomerConfig, MultimerConfig")
