"""Experimental and predicted structures from mmCIF and PDB files: sequence, known atoms, resolution, date, assembly.

Residues are numbered by the polymer's whole sequence (`label_seq_id`), so what the experiment did not see is there and
masked out. Only polypeptides are read, and of several models the first.
"""

import dataclasses
import datetime
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import gemmi
import numpy as np
from jaxtyping import Float, Float32

from fastfold_jax.constants import ATOM37_INDEX, ATOM37_MASK, RESTYPES, SEQUENCE_LETTER_TO_INDEX, UNKNOWN
from fastfold_jax.data.textfile import InputError, also_packed, normalise, read_bytes

MMCIF = also_packed(".cif", ".mmcif")
SUFFIXES = (*MMCIF, *also_packed(".pdb", ".ent"))
"""Names of structure files end so."""

_PEPTIDES = (gemmi.PolymerType.PeptideL, gemmi.PolymerType.PeptideD)
_RESOLUTIONS = ("_refine.ls_d_res_high", "_em_3d_reconstruction.resolution", "_reflns.d_resolution_high")
_DATES = ("_pdbx_audit_revision_history.revision_date", "_database_PDB_rev.date")
_MONTHS = (b"JAN", b"FEB", b"MAR", b"APR", b"MAY", b"JUN", b"JUL", b"AUG", b"SEP", b"OCT", b"NOV", b"DEC")
_BACKBONE_OF_UNKNOWN = ("N", "CA", "C", "O", "CB")
_ARGININE = RESTYPES.index("R")


class StructureError(InputError):
    """A structure file that cannot be read, or that lacks what is asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ChainStructure:
    """One polypeptide of N residues.

    Attributes:
        label: `label_asym_id`, unique in a file.
        sequence: letters A to Z, modified residues as the amino acid they derive from, X where there is none.
        positions: Å, atom37; zeros where unknown.
        atom_mask: 1 where an atom is known.
        confidence: mean B-factor of each residue's atoms, which predicted structures use for pLDDT (0 to 100).
    """

    label: str
    sequence: str
    positions: Float32[np.ndarray, "n 37 3"]
    atom_mask: Float32[np.ndarray, "n 37"]
    confidence: Float32[np.ndarray, " n"]

    def moved(self, operator: gemmi.Transform) -> "ChainStructure":
        """The chain under a symmetry operator of a biological assembly."""
        matrix, vector = np.array(operator.mat.tolist()), np.array(operator.vec.tolist())
        positions = self.positions @ matrix.T.astype(np.float32) + vector.astype(np.float32)
        return dataclasses.replace(self, positions=positions * self.atom_mask[..., None])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Polymer:
    """A polypeptide of a file before its atoms are looked at.

    Attributes:
        label, author: `label_asym_id`, and the chain's name in publications and in names of alignments.
        entity: `entity_id`.
        residues: three-letter code of each residue of the whole sequence.
        letters: the same as one letter each.
    """

    label: str
    author: str
    entity: str
    residues: tuple[str, ...]
    letters: str


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Structure:
    """What a file says; atoms of a chain are read when asked for.

    Attributes:
        file: its name, for messages.
        release_date: ISO, the earliest revision; None if the file tells none.
        resolution: Å, None where there is none (NMR, predictions).
        method: such as ``X-RAY DIFFRACTION``; "" if the file tells none.
        polymers: polypeptides by `label_asym_id`, in the file's order.
        assemblies: chains of each biological assembly, each with the operator that moves it.
    """

    file: str
    release_date: str | None
    resolution: float | None
    method: str
    polymers: Mapping[str, Polymer]
    assemblies: tuple[tuple[tuple[str, gemmi.Transform], ...], ...]
    _model: gemmi.Structure

    def chain(self, label: str) -> ChainStructure:
        """Sequence and atoms of a polypeptide.

        Raises:
            StructureError: there is no such polypeptide, none of its atoms is known, or a coordinate is no number.
        """
        if label not in self.polymers:
            held = ", ".join(self.polymers) or "none"
            raise StructureError(f"{self.file}: no polypeptide has the label_asym_id {label!r}; found are {held}")
        polymer = self.polymers[label]
        arrays = _atoms(self._model[0].get_subchain(label), polymer)
        if not arrays["atom_mask"].any():
            raise StructureError(f"{self.file}: the chain {label} has no atom with known coordinates")
        damaged = np.argwhere(~np.isfinite(arrays["positions"]).all(axis=(1, 2)))
        if len(damaged):
            raise StructureError(
                f"{self.file}: residue {damaged[0, 0] + 1} of the chain {label} has a coordinate that is not a number"
            )
        return ChainStructure(label=label, sequence=polymer.letters, **arrays)

    def resolved(self, label: str) -> int:
        """How many residues of a polypeptide have a known Cα."""
        residues = self._model[0].get_subchain(label)
        numbers = {residue.label_seq for residue in residues if any(atom.name == "CA" for atom in residue)}
        return len(numbers - {None})

    def assembly_of(self, label: str) -> tuple[tuple[str, gemmi.Transform], ...]:
        """Chains of the first biological assembly that holds this one; where none does, of the whole file in place."""
        holding = (assembly for assembly in self.assemblies if any(label == part for part, _ in assembly))
        return next(holding, tuple((part, gemmi.Transform()) for part in self.polymers))


def is_structure(path: Path) -> bool:
    """Whether a file's name is that of a structure."""
    return path.name.lower().endswith(SUFFIXES)


def structure_name(path: Path) -> str:
    """A file's name without what says its format: ``2q2k`` of ``2q2k.cif.gz`` and of ``pdb2q2k.ent``."""
    name = path.name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    return re.sub(r"^pdb([0-9][a-z0-9]{3})$", r"\1", name, flags=re.IGNORECASE)


def read_structure(path: Path) -> Structure:
    """The structure in an mmCIF or PDB file, packed or not.

    Raises:
        StructureError: the file cannot be parsed, is truncated, or has no polypeptide.
        InputError: it cannot be read at all.
    """
    data = read_bytes(path)
    if ".cif" in path.name.lower() or ".mmcif" in path.name.lower():
        return parse_mmcif(data, file=str(path))
    parsed, header = _parse_pdb(normalise(data, file=str(path)), str(path))
    return _structure(parsed, header, {}, str(path))


def parse_mmcif(data: bytes, *, file: str) -> Structure:
    """The structure in an mmCIF text; `file` names it in messages.

    Raises:
        StructureError: as `read_structure`.
    """
    return _structure(*_parse_mmcif(normalise(data, file=file), file), file)


def _structure(parsed: gemmi.Structure, header: dict, canonical: Mapping[str, str], file: str) -> Structure:
    if not len(parsed) or not any(len(chain) for chain in parsed[0]):
        raise StructureError(f"{file}: no atoms; a truncated file, or not a structure")
    if not any(entity.entity_type == gemmi.EntityType.Polymer for entity in parsed.entities):
        parsed.setup_entities()  # a prediction's file may hold atoms alone
        parsed.assign_label_seq_id()
    polymers = _polymers(parsed, canonical)
    if not polymers:
        raise StructureError(f"{file}: no polypeptide among its chains")
    return Structure(file=file, polymers=polymers, assemblies=_assemblies(parsed, polymers), _model=parsed, **header)


def _parse_mmcif(text: bytes, file: str) -> tuple[gemmi.Structure, dict, dict[str, str]]:
    """What the file holds, its header, and each entity's canonical sequence."""
    lines = text[:1000].split(b"\n", 2)
    # The PDB separates categories by lines with '#', also after the last one.
    if len(lines) > 1 and lines[1].strip() == b"#" and not text.rstrip().endswith(b"#"):
        raise StructureError(f"{file}: a truncated mmCIF file: the '#' that ends it is missing")
    try:
        block = gemmi.cif.read_string(text).sole_block()
        parsed = gemmi.make_structure_from_block(block)
    except (ValueError, RuntimeError, IndexError) as error:
        raise StructureError(f"{file}: not an mmCIF file, or a truncated one ({_one_line(error)})") from None
    dates = [date for tag in _DATES for date in map(_date, block.find_values(tag)) if date]
    numbers = (number for tag in _RESOLUTIONS for number in map(_number, block.find_values(tag)) if number)
    methods = [gemmi.cif.as_string(value) for value in block.find_values("_exptl.method")]
    header = {
        "release_date": min(dates, default=None),
        "resolution": next(numbers, None),
        "method": ", ".join(methods).upper(),
    }
    rows = block.find("_entity_poly.", ["entity_id", "pdbx_seq_one_letter_code_can"])
    return parsed, header, {row.str(0): "".join(row.str(1).split()) for row in rows}


def _parse_pdb(text: bytes, file: str) -> tuple[gemmi.Structure, dict]:
    try:
        parsed = gemmi.read_pdb_string(text.decode())
        parsed.setup_entities()
        parsed.assign_label_seq_id()
    except (ValueError, RuntimeError) as error:
        raise StructureError(f"{file}: not a PDB file ({_one_line(error)})") from None
    revisions = re.findall(rb"^REVDAT\s+\d+\s+(\d\d-[A-Z]{3}-\d\d)", text, re.MULTILINE)
    dates = [date for date in map(_pdb_date, revisions) if date]
    return parsed, {
        "release_date": min(dates, default=None),
        "resolution": parsed.resolution or None,
        "method": parsed.info["_exptl.method"].upper() if "_exptl.method" in parsed.info else "",
    }


def _date(value: str) -> str | None:
    """An ISO date, or None where the file has none."""
    try:
        return datetime.date.fromisoformat(gemmi.cif.as_string(value)).isoformat()
    except ValueError:
        return None


def _pdb_date(value: bytes) -> str | None:
    """An ISO date of one such as ``04-MAY-10``; the PDB began in 1976."""
    day, month, year = value.split(b"-")
    if month not in _MONTHS:
        return None
    century = "19" if year >= b"70" else "20"
    return _date(f"{century}{year.decode()}-{_MONTHS.index(month) + 1:02}-{day.decode()}")


def _number(value: str) -> float | None:
    number = gemmi.cif.as_number(value)
    return number if np.isfinite(number) and number > 0 else None


def _one_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:150]


def _polymers(parsed: gemmi.Structure, canonical: Mapping[str, str]) -> dict[str, Polymer]:
    """Polypeptides of the first model by label. Where a file tells no sequence, it is that of the known residues."""
    polymers: dict[str, Polymer] = {}
    for entity in parsed.entities:
        if entity.entity_type != gemmi.EntityType.Polymer or entity.polymer_type not in _PEPTIDES:
            continue
        whole = tuple(gemmi.Entity.first_mon(item) for item in entity.full_sequence)
        for label in entity.subchains:
            span = parsed[0].get_subchain(label)
            names = whole or tuple(residue.name for residue in span.first_conformer())
            if not names:
                continue
            if not whole:
                for number, residue in enumerate(span.first_conformer(), start=1):
                    residue.label_seq = number
            letters = _letters(names, canonical.get(entity.name, ""))
            polymers[label] = Polymer(
                label=label, author=_author(parsed, label), entity=entity.name, residues=names, letters=letters
            )
    order = [span.subchain_id() for span in parsed[0].subchains()]
    return {label: polymers[label] for label in order if label in polymers}


def _author(parsed: gemmi.Structure, label: str) -> str:
    """Name of the author's chain that a subchain is part of; the label itself for one without atoms."""
    held = (chain.name for chain in parsed[0] if any(residue.subchain == label for residue in chain.first_conformer()))
    return next(held, label)


def _letters(names: tuple[str, ...], canonical: str) -> str:
    """The amino acids that residues are or derive from (MSE: M), X for any other.

    gemmi knows the residues that are common; the rest is as the file's canonical sequence says, unless one residue of
    it stands for several, as in a chromophore.
    """
    letters = [gemmi.find_tabulated_residue(name).one_letter_code.upper().strip() for name in names]
    if len(canonical) == len(names):
        letters = [letter or other for letter, other in zip(letters, canonical, strict=True)]
    return "".join(letter if letter in SEQUENCE_LETTER_TO_INDEX else "X" for letter in letters)


def _assemblies(
    parsed: gemmi.Structure, polymers: Mapping[str, Polymer]
) -> tuple[tuple[tuple[str, gemmi.Transform], ...], ...]:
    """Polypeptides of each assembly, with the operators that place them."""
    found = []
    for assembly in parsed.assemblies:
        parts: list[tuple[str, gemmi.Transform]] = []
        for generator in assembly.generators:
            labels = [label for label in generator.subchains if label in polymers]
            if not generator.subchains:  # a PDB file names the authors' chains
                labels = [label for label, polymer in polymers.items() if polymer.author in generator.chains]
            parts += [(label, operator.transform) for operator in generator.operators for label in labels]
        found.append(tuple(parts))
    return tuple(found)


def _atoms(residues: Iterable[gemmi.Residue], polymer: Polymer) -> dict[str, np.ndarray]:
    """Positions, mask and mean B-factor of each residue of the whole sequence."""
    num_res = len(polymer.letters)
    positions = np.zeros((num_res, 37, 3), np.float32)
    mask = np.zeros((num_res, 37), np.float32)
    confidence = np.zeros(num_res, np.float32)
    for index, residue in _one_each(residues, polymer).items():
        restype = SEQUENCE_LETTER_TO_INDEX[polymer.letters[index]]
        chosen = _best_atoms(residue)
        for name, atom in chosen.items():
            column = ATOM37_INDEX.get(name)
            if column is None or not _belongs(name, column, restype):
                continue
            positions[index, column] = atom.pos.tolist()
            mask[index, column] = 1
        if chosen:
            confidence[index] = sum(atom.b_iso for atom in chosen.values()) / len(chosen)
        if restype == _ARGININE:
            _name_arginine(positions[index], mask[index])
    return {"positions": positions, "atom_mask": mask, "confidence": confidence}


def _belongs(name: str, column: int, restype: int) -> bool:
    """Whether a residue type has such an atom; an unknown one has a backbone at least."""
    return name in _BACKBONE_OF_UNKNOWN if restype == UNKNOWN else bool(ATOM37_MASK[restype, column])


def _one_each(residues: Iterable[gemmi.Residue], polymer: Polymer) -> dict[int, gemmi.Residue]:
    """The residue at each place of the sequence; of several kinds at one place the sequence's, else the fullest."""
    chosen: dict[int, gemmi.Residue] = {}
    rank: dict[int, tuple[bool, float]] = {}
    for residue in residues:
        if residue.label_seq is None or not 1 <= residue.label_seq <= len(polymer.residues):
            continue
        index = residue.label_seq - 1
        occupancy = max((atom.occ for atom in residue), default=0.0)
        worth = residue.name == polymer.residues[index], occupancy
        if index not in rank or worth > rank[index]:
            chosen[index], rank[index] = residue, worth
    return chosen


def _best_atoms(residue: gemmi.Residue) -> dict[str, gemmi.Atom]:
    """Atoms by name, of alternative places the one with the highest occupancy; selenium counts as the sulfur."""
    chosen: dict[str, gemmi.Atom] = {}
    for atom in residue:
        name = "SD" if residue.name == "MSE" and atom.name == "SE" else atom.name
        if name not in chosen or atom.occ > chosen[name].occ:
            chosen[name] = atom
    return chosen


def _name_arginine(positions: Float[np.ndarray, "37 3"], mask: Float[np.ndarray, " 37"]) -> None:
    """Names the nitrogens of arginine's end so that NH1 is the one near CD, as the standard says (in place)."""
    cd, first, second = (ATOM37_INDEX[name] for name in ("CD", "NH1", "NH2"))
    if mask[[cd, first, second]].all():
        far, near = (np.linalg.norm(positions[column] - positions[cd]) for column in (first, second))
        if far > near:
            positions[[first, second]] = positions[[second, first]]
