"""Reads the feature dicts that AlphaFold's own pipelines make, a monomer's or a multimer's."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int, Int8, Int32, Integer

from fastfold_jax.config.model import ModelConfig, MultimerConfig
from fastfold_jax.constants import HHBLITS_TO_RESTYPE, MASK, UNKNOWN
from fastfold_jax.data.alignment import smallest_counts
from fastfold_jax.data.msa import Limits
from fastfold_jax.data.raw import RawFeatures, Templates, number_residues
from fastfold_jax.errors import UserError


def from_alphafold_dict(
    features: Mapping[str, np.ndarray], config: ModelConfig, *, limits: Limits | None = None
) -> RawFeatures:
    """What AlphaFold's pipeline wrote (`features.pkl`), for any model: a monomer's features serve a multimer model too.

    A one-hot `aatype` tells a monomer's dict, whose MSA and templates are in HHblits' order of letters, from a
    multimer's. Keys that the model does not need are ignored.

    Args:
        features: the dict.
        config: the model that the features are for.
        limits: `complex_rows` caps a monomer's rows for a multimer model, as its own pipeline would.

    Raises:
        UserError: if a feature is missing, or has another shape or other values than AlphaFold gives it.
    """
    read = _Reader(features)
    is_monomer = np.ndim(features.get("aatype", ())) == 2
    aatype = read.monomer_aatype() if is_monomer else read.integers("aatype", "n", below=UNKNOWN + 1).astype(np.int32)
    read.sizes["n"] = len(aatype)
    msa, deletions, msa_mask = read.msa(is_monomer)
    rows = np.flatnonzero(msa_mask.any(axis=1))  # rows of nothing but padding go
    if is_monomer and isinstance(config, MultimerConfig):
        rows = rows[: (limits or Limits()).complex_rows]
    if not len(rows):
        raise UserError("the features' MSA has no row; it needs at least that of the query")
    first = read.optional("cluster_bias_mask", "r")
    ids = {key: read.ids(key) for key in ("asym_id", "entity_id", "sym_id")}
    seq_mask = read.optional("seq_mask", "n")
    return RawFeatures(
        aatype=aatype,
        residue_index=number_residues(read.integers("residue_index", "n"), ids["asym_id"], config),
        **ids,
        seq_mask=(ids["asym_id"] > 0).astype(np.float32) if seq_mask is None else seq_mask.astype(np.float32),
        msa=msa[rows],
        deletions=deletions[rows],
        msa_mask=msa_mask[rows],
        first=np.arange(len(rows)) == 0 if first is None else first[rows] > 0,
        templates=read.templates(is_monomer),
    )


class _Reader:
    """Takes features out of a dict and checks them.

    Args:
        features: the dict.

    Attributes:
        sizes: of dimensions met so far, by name.
    """

    def __init__(self, features: Mapping[str, np.ndarray]):
        self._features = features
        self.sizes: dict[str, int] = {}

    def array(self, key: str, dims: str) -> np.ndarray:
        """A feature with the named (or numbered) dimensions."""
        if key not in self._features:
            raise UserError(f"the features have no {key!r}; found are {', '.join(sorted(self._features)) or 'none'}")
        array = np.asarray(self._features[key])
        names = dims.split()
        wanted = [int(name) if name.isdigit() else self.sizes.get(name) for name in names]
        if array.ndim != len(names) or any(
            want not in (None, size) for want, size in zip(wanted, array.shape, strict=True)
        ):
            form = ", ".join(name if want is None else str(want) for name, want in zip(names, wanted, strict=True))
            raise UserError(f"feature {key!r} has shape {array.shape}, where ({form}) is needed")
        if array.dtype.kind not in "buif" or not np.isfinite(array).all():
            raise UserError(f"feature {key!r} ({array.dtype}) must hold finite numbers")
        self.sizes |= {name: size for name, size in zip(names, array.shape, strict=True) if not name.isdigit()}
        return array

    def optional(self, key: str, dims: str) -> np.ndarray | None:
        """A feature, or None where the dict has none or AlphaFold's empty stand-in for none."""
        found = self._features.get(key)
        return None if found is None or np.size(found) == 0 else self.array(key, dims)

    def integers(self, key: str, dims: str, *, below: int = 2**31) -> Int[np.ndarray, "..."]:
        """A feature whose values are whole numbers from 0 on, whatever type they are stored in."""
        array = self.array(key, dims)
        if array.size and not (array.min() >= 0 and array.max() < below and (array == np.floor(array)).all()):
            raise UserError(f"feature {key!r} must hold whole numbers from 0 to {below - 1}")
        return array.astype(np.int32)

    def _first_of(self, *keys: str) -> str:
        """Pipelines differ in what they call some features."""
        return next((key for key in keys if key in self._features), keys[0])

    def ids(self, key: str) -> Int32[np.ndarray, " n"]:
        """A numbering of chains; 1 throughout where the dict has none, being a single chain's."""
        if key not in self._features:
            return np.ones(self.sizes["n"], np.int32)
        return self.integers(key, "n").astype(np.int32)

    def monomer_aatype(self) -> Int32[np.ndarray, " n"]:
        """Residue types from their one-hot vectors."""
        return self.array("aatype", "n 21").argmax(axis=-1).astype(np.int32)

    def msa(self, is_monomer: bool) -> tuple[Int8[np.ndarray, "r n"], Integer[np.ndarray, "r n"], np.ndarray]:
        """Letters, deletion counts and mask of all rows."""
        letters = self.integers("msa", "r n", below=MASK)
        if is_monomer:
            letters = HHBLITS_TO_RESTYPE[letters]
        deletions = self.integers(self._first_of("deletion_matrix_int", "deletion_matrix"), "r n")
        mask = self.optional("msa_mask", "r n")
        mask = np.ones(letters.shape, bool) if mask is None else mask > 0
        return letters.astype(np.int8), deletions.astype(smallest_counts(deletions)), mask

    def templates(self, is_monomer: bool) -> Templates:
        """The templates, those of the highest sum of probabilities first where that is known."""
        positions = self.optional("template_all_atom_positions", "t n 37 3")
        if positions is None:
            return Templates.none(self.sizes["n"])
        if is_monomer:
            aatype = HHBLITS_TO_RESTYPE[self.array("template_aatype", "t n 22").argmax(axis=-1)]
        else:
            aatype = self.integers("template_aatype", "t n", below=MASK)
        atom_mask = self.array(self._first_of("template_all_atom_masks", "template_all_atom_mask"), "t n 37")
        worth = np.ravel(self._features.get("template_sum_probs", ()))
        best = np.argsort(-worth, kind="stable") if len(worth) == len(aatype) else np.arange(len(aatype))
        return Templates(
            aatype=aatype[best].astype(np.int32),
            positions=positions[best].astype(np.float32),
            atom_mask=atom_mask[best].astype(np.float32),
        )
