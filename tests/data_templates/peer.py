"""DeepMind's template code, as ColabFold carries it, and the tests that its fork leaves out before it."""

import numpy as np
import pytest

from fastfold_jax.constants import HHBLITS_TO_RESTYPE


def modules():
    """Its parsers and its templates module."""
    pytest.importorskip("alphafold.data.templates")
    from alphafold.data import parsers, templates

    return parsers, templates


def worth(hit, query: str) -> bool:
    """DeepMind's prefilter but for the date, which the fork has dropped."""
    letters = hit.hit_sequence.replace("-", "")
    copy = letters in query and len(letters) / len(query) > 0.95
    return hit.aligned_cols / len(query) > 0.1 and not copy and len(letters) >= 10


def featurize(hits, query: str, mmcif_dir, *, date="2100-01-01", most=20, hmmsearch=False):
    """Template features of hits, in the order of letters that the model sees."""
    _, templates = modules()
    kind = templates.HmmsearchHitFeaturizer if hmmsearch else templates.HhsearchHitFeaturizer
    featurizer = kind(
        mmcif_dir=str(mmcif_dir),
        max_template_date=date,
        max_hits=most,
        kalign_binary_path="not-there",
        release_dates_path=None,
        obsolete_pdbs_path=None,
    )
    features = featurizer.get_templates(query, hits).features
    return {
        "aatype": HHBLITS_TO_RESTYPE[np.asarray(features["template_aatype"]).argmax(-1)],
        "positions": features["template_all_atom_positions"],
        "atom_mask": features["template_all_atom_masks"],
        "names": [name.decode() for name in features["template_domain_names"]],
    }
