"""What an AlphaFold 2 network is: sizes and choices that decide its parameters and its function."""

import dataclasses
from typing import Literal

TriangleLayout = Literal["split", "fused"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of one network. Use a subclass: its type decides which variant of each module is built.

    Attributes:
      name: Preset name, such as `model_1_ptm`.
      num_msa: MSA clusters a pass, template rows included where `msa_includes_templates`.
      num_extra_msa: Unclustered MSA rows a pass.
      num_templates: Most templates used; 0 builds a network without template parameters.
      msa_includes_templates: Sample `num_msa - num_templates` clusters, as the monomers with templates do.
      num_recycles: Passes after the first.
      recycle_tolerance: Stop recycling when the Cα distances change by less than this (Å), or None to never stop early.
      num_ensemble: Feature samples whose representations are averaged in each pass.
      eval_dropout: Dropout in predictions as in training, drawn by their seed.
      evoformer_blocks, extra_msa_blocks, template_blocks, structure_layers: Depths.
      c_m, c_z, c_s, c_e, c_t: Channels of MSA, pair, single, extra MSA and template pair representations.
      c_template_attention: Channels of the template pair stack's attention.
      outer_product_first: The outer product mean opens a block instead of following the MSA track.
      triangle_layout: How DeepMind's file stores the triangle projections; the model itself always fuses them.
      ptm_head: The network predicts aligned errors, hence pTM.
      position_scale: Å in one unit of the structure module's translations.
      ipa_heads, ipa_scalars, ipa_query_points, ipa_value_points: Invariant point attention: heads, and in each the
        channels of queries, keys and values, the points of queries and keys, and those of values.
      c_sidechain, c_lddt: Channels inside the side chains' network and inside the predicted lDDT's head.
      target_feat_dim: Features of a residue's type; fixed by the kind of network.
      masked_msa_classes: Letters that the masked MSA head tells apart; fixed likewise.
    """

    name: str
    num_msa: int = 512
    num_extra_msa: int = 1024
    num_templates: int = 0
    msa_includes_templates: bool = False
    num_recycles: int = 3
    recycle_tolerance: float | None = None
    num_ensemble: int = 1
    eval_dropout: bool = False
    evoformer_blocks: int = 48
    extra_msa_blocks: int = 4
    template_blocks: int = 2
    structure_layers: int = 8
    c_m: int = 256
    c_z: int = 128
    c_s: int = 384
    c_e: int = 64
    c_t: int = 64
    c_template_attention: int = 64
    c_outer: int = 32
    msa_heads: int = 8
    pair_heads: int = 4
    outer_product_first: bool = False
    triangle_layout: TriangleLayout = "split"
    ptm_head: bool = False
    position_scale: float = 10.0
    max_relative_idx: int = 32
    ipa_heads: int = 12
    ipa_scalars: int = 16
    ipa_query_points: int = 4
    ipa_value_points: int = 8
    c_sidechain: int = 128
    c_lddt: int = 128
    target_feat_dim: int = dataclasses.field(init=False)
    masked_msa_classes: int = dataclasses.field(init=False)

    def __post_init__(self):
        ipa = ("ipa_heads", "ipa_scalars", "ipa_query_points", "ipa_value_points")
        counts = ("num_msa", "evoformer_blocks", "structure_layers", "num_ensemble", *ipa)
        for field in counts:
            if getattr(self, field) < 1:
                raise ValueError(f"{self.name}: {field}={getattr(self, field)}, but must be at least 1")
        for field in ("num_extra_msa", "num_templates", "num_recycles", "extra_msa_blocks", "template_blocks"):
            if getattr(self, field) < 0:
                raise ValueError(f"{self.name}: {field}={getattr(self, field)}, but cannot be negative")
        for channels, heads in (("c_m", "msa_heads"), ("c_e", "msa_heads"), ("c_z", "pair_heads")):
            if getattr(self, channels) % getattr(self, heads):
                raise ValueError(f"{self.name}: {channels}={getattr(self, channels)} does not divide by {heads}")
        if self.num_clusters < 1:
            raise ValueError(
                f"{self.name}: num_msa={self.num_msa} leaves no cluster beside {self.num_templates} templates"
            )

    @property
    def num_clusters(self) -> int:
        """MSA rows sampled as cluster centres."""
        return self.num_msa - (self.num_templates if self.msa_includes_templates else 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonomerConfig(ModelConfig):
    """A network of AlphaFold 2 (Jumper et al. 2021), trained on single chains.

    Attributes:
      fill_undefined_torsions: Templates' torsion angles that do not exist, or lack an atom, enter as
        (sin, cos) = (1, 0) instead of what the missing atoms' coordinates give. The released networks were trained
        without; DeepMind's code does it when `zero_init` is off, as in test set-ups.
    """

    fill_undefined_torsions: bool = False
    target_feat_dim: int = dataclasses.field(default=22, init=False)  # 21 residue types and an unused chain-break flag
    masked_msa_classes: int = dataclasses.field(default=23, init=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultimerConfig(ModelConfig):
    """A network of AlphaFold-Multimer (Evans et al. 2022), trained on complexes.

    Attributes:
      max_relative_chain: Largest difference of chain copies that is told apart.
    """

    num_templates: int = 4
    num_recycles: int = 20
    recycle_tolerance: float | None = 0.5
    outer_product_first: bool = True
    ptm_head: bool = True
    position_scale: float = 20.0
    max_relative_chain: int = 2
    target_feat_dim: int = dataclasses.field(default=21, init=False)
    masked_msa_classes: int = dataclasses.field(default=22, init=False)
