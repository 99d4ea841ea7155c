"""mmCIF text of a predicted structure: what gemmi writes, and what only a prediction has."""

import gemmi

from fastfold_jax.inference.modelcif import add_modelcif
from fastfold_jax.inference.provenance import LICENCE, LICENCE_NAME, LICENCE_URL, Relaxation, citation_category
from fastfold_jax.inference.result import Prediction


def mmcif_text(structure: gemmi.Structure, prediction: Prediction, relaxation: Relaxation | None = None) -> str:
    """The structure in mmCIF, with full sequences, program, licence and citation (or the warning), and confidence.

    pLDDT is in the B factors too. ModelCIF's categories say that it is a prediction, and how it was made.
    """
    groups = gemmi.MmcifOutputGroups(True)
    groups.cell = groups.symmetry = groups.scale = False  # there is no crystal
    document = gemmi.cif.Document()
    block = document.add_new_block(_block_name(structure.name))
    structure.update_mmcif_block(block, groups)
    for row in block.find("_chem_comp.", ["id", "type"]):
        row[1] = gemmi.cif.quote("peptide linking" if row[0] == "GLY" else "L-peptide linking")
    _add_entities(block, structure, prediction)
    _add_terms(block, prediction)
    add_modelcif(block, structure, prediction, relaxation)
    return document.as_string()


def _block_name(name: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name) or "model"


def _add_entities(block: gemmi.cif.Block, structure: gemmi.Structure, prediction: Prediction) -> None:
    described = {chain.id: _single_line(chain.description) for chain in prediction.chains}
    block.set_mmcif_category(
        "_entity.",
        {
            "id": [entity.name for entity in structure.entities],
            "type": ["polymer"] * len(structure.entities),
            "pdbx_description": [described[entity.subchains[0]] or None for entity in structure.entities],
            "pdbx_number_of_molecules": [str(len(entity.subchains)) for entity in structure.entities],
        },
    )


def _single_line(text: str) -> str:
    return " ".join(text.split())


def _add_terms(block: gemmi.cif.Block, prediction: Prediction) -> None:
    """Licence and citation; a structure from drawn parameters has neither, but a warning."""
    warning = prediction.provenance.warning
    if warning:
        usage = {"id": ["1"], "type": ["warning"], "details": [warning]}
    else:
        usage = {"id": ["1"], "type": ["license"], "details": [LICENCE], "url": [LICENCE_URL], "name": [LICENCE_NAME]}
        block.set_mmcif_category("_citation.", citation_category(prediction))
    block.set_mmcif_category("_pdbx_data_usage.", usage)
