"""From a prediction to a gemmi structure, and from that to PDB text."""

from itertools import product
from string import ascii_lowercase, ascii_uppercase, digits

import gemmi
import numpy as np

from fastfold_jax.constants.atoms import ATOM37_ELEMENTS, ATOM37_NAMES
from fastfold_jax.constants.residues import RESTYPE_3
from fastfold_jax.inference.provenance import Relaxation, remark_records
from fastfold_jax.inference.result import Prediction, ResidueRange

SINGLE_LETTER_IDS = ascii_uppercase + ascii_lowercase + digits
_PDB_MAX_SERIAL = 99_999
_PDB_MAX_RESIDUE = 9_999
_PDB_COORDINATES = (-999.999, 9_999.999)


def chain_ids(count: int) -> tuple[str, ...]:
    """Names for `count` chains: A-Z, a-z, 0-9, and beyond those 62 the pairs of capitals, then triples."""
    names = list(SINGLE_LETTER_IDS)
    length = 2
    while len(names) < count:
        names += ("".join(letters) for letters in product(ascii_uppercase, repeat=length))
        length += 1
    return tuple(names[:count])


def build_structure(prediction: Prediction, name: str) -> gemmi.Structure:
    """One model with an entity for each distinct sequence, pLDDT in the B factors, atoms where the mask has them."""
    structure = gemmi.Structure()
    structure.name = name
    structure.info["_struct.title"] = f"{name} predicted by {prediction.provenance.model}"
    structure.info["_exptl.method"] = "THEORETICAL MODEL"
    predicting = _software(prediction.provenance.program, gemmi.SoftwareItem.Classification.ModelBuilding)
    structure.meta.software = [predicting]
    structure.raw_remarks = list(remark_records(prediction))

    model = gemmi.Model(1)
    entities: dict[tuple[int, ...], gemmi.Entity] = {}
    for chain in prediction.chains:
        sequence = tuple(int(restype) for restype in chain.aatype)
        if sequence not in entities:
            entities[sequence] = _new_entity(str(len(entities) + 1), sequence)
        entity = entities[sequence]
        entity.subchains = [*entity.subchains, chain.id]
        model.add_chain(_build_chain(prediction, chain, entity.name))
    structure.add_model(model)
    structure.entities = gemmi.EntityList(list(entities.values()))
    structure.assign_serial_numbers()
    return structure


def mark_relaxed(structure: gemmi.Structure, prediction: Prediction, relaxation: Relaxation) -> None:
    """Has the files of a structure that is the relaxed one of a prediction say so."""
    relaxing = _software(relaxation.program, gemmi.SoftwareItem.Classification.Refinement)
    structure.meta.software = [*structure.meta.software, relaxing]
    structure.raw_remarks = list(remark_records(prediction, relaxation))


def _software(program: str, classification: gemmi.SoftwareItem.Classification) -> gemmi.SoftwareItem:
    software = gemmi.SoftwareItem()
    software.name, _, software.version = program.partition(" ")
    software.classification = classification
    return software


def _new_entity(name: str, sequence: tuple[int, ...]) -> gemmi.Entity:
    entity = gemmi.Entity(name)
    entity.entity_type = gemmi.EntityType.Polymer
    entity.polymer_type = gemmi.PolymerType.PeptideL
    entity.full_sequence = [RESTYPE_3[restype] for restype in sequence]
    return entity


def _build_chain(prediction: Prediction, chain: ResidueRange, entity_name: str) -> gemmi.Chain:
    # Three decimals are what a PDB file holds; both files say the same.
    positions = np.round(prediction.atom_positions[chain.start : chain.stop].astype(np.float64), 3)
    present = prediction.atom_mask[chain.start : chain.stop] > 0.5
    plddt = np.round(prediction.plddt[chain.start : chain.stop].astype(np.float64), 2)
    built = gemmi.Chain(chain.id)
    for i in np.flatnonzero(present.any(axis=-1)):
        residue = gemmi.Residue()
        residue.name = RESTYPE_3[chain.aatype[i]]
        residue.seqid = gemmi.SeqId(int(chain.numbers[i]), " ")
        residue.label_seq = int(i) + 1
        residue.subchain = chain.id
        residue.entity_id = entity_name
        residue.entity_type = gemmi.EntityType.Polymer
        residue.het_flag = "A"
        for column in np.flatnonzero(present[i]):
            atom = gemmi.Atom()
            atom.name = ATOM37_NAMES[column]
            atom.element = gemmi.Element(ATOM37_ELEMENTS[column])
            atom.pos = gemmi.Position(*positions[i, column])
            atom.occ = 1.0
            atom.b_iso = plddt[i]
            residue.add_atom(atom)
        built.add_residue(residue)
    return built


def pdb_obstacle(structure: gemmi.Structure) -> str | None:
    """Why the PDB format cannot hold the structure, or None if it can."""
    model = structure[0]
    if len(model) > len(SINGLE_LETTER_IDS):
        return f"{len(model)} chains, but the PDB format names at most {len(SINGLE_LETTER_IDS)}"
    records = model.count_atom_sites() + len(model)  # a TER record a chain takes a serial number too
    if records > _PDB_MAX_SERIAL:
        return f"{records:,} atom records, but the PDB format numbers at most {_PDB_MAX_SERIAL:,}"
    last = max((residue.seqid.num or 0 for chain in model for residue in chain), default=0)
    if last > _PDB_MAX_RESIDUE:
        return f"residue number {last}, but the PDB format ends at {_PDB_MAX_RESIDUE}"
    coordinates = [x for site in model.all() for x in site.atom.pos.tolist()]
    low, high = min(coordinates, default=0.0), max(coordinates, default=0.0)
    if low < _PDB_COORDINATES[0] or high > _PDB_COORDINATES[1]:
        return f"coordinates from {low:.3f} to {high:.3f} Å, but the PDB format holds -999.999 to 9999.999"
    return None


def pdb_text(structure: gemmi.Structure) -> str:
    """PDB format; ask `pdb_obstacle` first. Descriptions and names that are not ASCII lose those letters."""
    options = gemmi.PdbWriteOptions()
    options.cryst1_record = False  # there is no crystal
    text = structure.make_pdb_string(options)
    return text.encode("ascii", "replace").decode("ascii")
