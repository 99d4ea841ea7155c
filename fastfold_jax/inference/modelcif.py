"""ModelCIF's categories (mmcif_ma.dic): what was modelled, from what, by which steps, and how sure it is."""

from collections.abc import Mapping, Sequence

import gemmi

from fastfold_jax.constants.residues import RESTYPE_3
from fastfold_jax.inference.provenance import Relaxation
from fastfold_jax.inference.result import Prediction

_DICTIONARY = {
    "dict_name": "mmcif_ma.dic",
    "dict_version": "1.4.6",
    "dict_location": "https://raw.githubusercontent.com/ihmwg/ModelCIF/master/dist/mmcif_ma.dic",
}
_MODEL = _ASSEMBLY = "1"
_SOFTWARE = _PARAMETERS = "1"  # groups
_RELAXING = "2"  # software that relaxes, and its group
_TARGET, _PREDICTED, _RELAXED = "1", "2", "3"  # data, each in a group of its own number


def add_modelcif(
    block: gemmi.cif.Block, structure: gemmi.Structure, prediction: Prediction, relaxation: Relaxation | None
) -> None:
    """Adds the categories to a block that holds the structure, which was relaxed unless `relaxation` is None."""
    _row(block, "_audit_conform.", _DICTIONARY)
    _add_data(block, relaxation)
    _add_targets(block, structure, prediction)
    _add_software(block, prediction, relaxation)
    _add_protocol(block, prediction, relaxation)
    _add_model(block, structure, _PREDICTED if relaxation is None else _RELAXED)
    _add_quality(block, prediction)


def _row(block: gemmi.cif.Block, category: str, values: Mapping[str, str | None]) -> None:
    block.set_mmcif_category(category, {name: [value] for name, value in values.items()})


def _rows(block: gemmi.cif.Block, category: str, names: Sequence[str], rows: Sequence[Sequence[str | None]]) -> None:
    columns = zip(*rows, strict=True)
    block.set_mmcif_category(category, {name: list(column) for name, column in zip(names, columns, strict=True)})


def _add_data(block: gemmi.cif.Block, relaxation: Relaxation | None) -> None:
    """What the steps take and give."""
    data = [(_TARGET, "Target sequences", "target"), (_PREDICTED, "Model", "model coordinates")]
    data += [] if relaxation is None else [(_RELAXED, "Relaxed model", "model coordinates")]
    _rows(block, "_ma_data.", ("id", "name", "content_type"), data)
    _rows(block, "_ma_data_group.", ("ordinal_id", "group_id", "data_id"), [(i, i, i) for i, _, _ in data])


def _add_targets(block: gemmi.cif.Block, structure: gemmi.Structure, prediction: Prediction) -> None:
    """The sequences that were asked for."""
    # The other origin that the dictionary knows is a reference database, whose entry would have to be named.
    entities = [(entity.name, _TARGET, "designed") for entity in structure.entities]
    _rows(block, "_ma_target_entity.", ("entity_id", "data_id", "origin"), entities)
    described = {chain.id: " ".join(chain.description.split()) or None for chain in prediction.chains}
    copies = [(chain, entity.name, described.get(chain)) for entity in structure.entities for chain in entity.subchains]
    _rows(block, "_ma_target_entity_instance.", ("asym_id", "entity_id", "details"), copies)


def _add_software(block: gemmi.cif.Block, prediction: Prediction, relaxation: Relaxation | None) -> None:
    """The program with what it was told, and the one that relaxed; `_software` has their names in this order."""
    source = prediction.provenance
    used: list[tuple[str | None, ...]] = [("1", _SOFTWARE, "1", _PARAMETERS)]
    used += [] if relaxation is None else [("2", _RELAXING, "2", None)]
    _rows(block, "_ma_software_group.", ("ordinal_id", "group_id", "software_id", "parameter_group_id"), used)
    told = [
        ("model", "string", source.model, "Network"),
        ("parameters", "string", source.parameters, "Parameter file"),
        ("seed", "integer", str(source.seed), "Seed of everything random"),
        ("max-msa", "string", source.rows, "Most MSA clusters and extra rows a pass"),
        ("dropout", "boolean", "YES" if source.dropout else "NO", "Whether dropout was on"),
        ("initial-guess", "string", source.initial_guess or ".", "File of the structure that the first pass refined"),
        ("passes", "integer", str(len(prediction.passes)), "Passes made, recycles and the first"),
        ("precision", "string", source.precision, "Type of activations"),
        ("platform", "string", source.platform, "What it ran on"),
    ]
    rows = [(str(i), _PARAMETERS, *parameter) for i, parameter in enumerate(told, start=1)]
    names = ("parameter_id", "group_id", "name", "data_type", "value", "description")
    _rows(block, "_ma_software_parameter.", names, rows)


def _add_protocol(block: gemmi.cif.Block, prediction: Prediction, relaxation: Relaxation | None) -> None:
    """The steps in which the model was made."""
    made = f"{prediction.provenance.model} of AlphaFold 2, {len(prediction.passes)} passes"
    steps = [("modeling", "Structure prediction", made, _SOFTWARE, _TARGET, _PREDICTED)]
    if relaxation is not None:
        steps.append(("model refinement", "Relaxation", relaxation.details, _RELAXING, _PREDICTED, _RELAXED))
    what = ("method_type", "step_name", "details", "software_group_id", "input_data_group_id", "output_data_group_id")
    numbered = [(str(i), "1", str(i), *step) for i, step in enumerate(steps, start=1)]
    _rows(block, "_ma_protocol_step.", ("ordinal_id", "protocol_id", "step_id", *what), numbered)


def _add_model(block: gemmi.cif.Block, structure: gemmi.Structure, data: str) -> None:
    _row(block, "_ma_struct_assembly_details.", {"assembly_id": _ASSEMBLY, "assembly_name": "All chains"})
    assembly = [
        (entity.name, chain, "1", str(len(entity.full_sequence)))
        for entity in structure.entities
        for chain in entity.subchains
    ]
    _rows(
        block,
        "_ma_struct_assembly.",
        ("ordinal_id", "assembly_id", "entity_id", "asym_id", "seq_id_begin", "seq_id_end"),
        [(str(i), _ASSEMBLY, *part) for i, part in enumerate(assembly, start=1)],
    )
    _row(
        block,
        "_ma_model_list.",
        {
            "ordinal_id": "1",
            "model_id": _MODEL,
            "model_group_id": "1",
            "model_name": structure.name,
            "assembly_id": _ASSEMBLY,
            "data_id": data,
            "model_type": "Ab initio model",
        },
    )


def _add_quality(block: gemmi.cif.Block, prediction: Prediction) -> None:
    """pLDDT of each residue; its mean, pTM and ipTM of the model. Viewers colour by these."""
    scores = {"pLDDT": prediction.mean_plddt, "pTM": prediction.ptm, "ipTM": prediction.iptm}
    given = [(str(i), name, value) for i, (name, value) in enumerate(scores.items(), 1) if value is not None]
    local = str(len(scores) + 1)
    metrics = [(i, "global", name, name, _SOFTWARE) for i, name, _ in given]
    metrics.append((local, "local", "pLDDT", "pLDDT", _SOFTWARE))
    _rows(block, "_ma_qa_metric.", ("id", "mode", "name", "type", "software_group_id"), metrics)
    _rows(
        block,
        "_ma_qa_metric_global.",
        ("ordinal_id", "metric_id", "metric_value", "model_id"),
        [(str(n), i, f"{value:.4f}", _MODEL) for n, (i, _, value) in enumerate(given, start=1)],
    )
    residues = [
        (chain.id, RESTYPE_3[restype], str(i + 1), local, f"{prediction.plddt[chain.start + i]:.2f}", _MODEL)
        for chain in prediction.chains
        for i, restype in enumerate(chain.aatype)
    ]
    _rows(
        block,
        "_ma_qa_metric_local.",
        ("ordinal_id", "label_asym_id", "label_comp_id", "label_seq_id", "metric_id", "metric_value", "model_id"),
        [(str(n), *residue) for n, residue in enumerate(residues, start=1)],
    )
