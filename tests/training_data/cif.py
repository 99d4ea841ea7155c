"""Small structures, written as the PDB writes them, and whole data sets of them."""

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

import gemmi
import numpy as np

from fastfold_jax.constants import RESTYPE_3, RESTYPE_INDEX
from fastfold_jax.training.index import IndexConfig, build_index

CODE = {letter: RESTYPE_3[index] for letter, index in RESTYPE_INDEX.items()}
ATOMS = {
    "N": (-0.5, 1.4, 0.0),
    "CA": (0.0, 0.0, 0.0),
    "C": (1.5, 0.0, 0.0),
    "O": (2.0, 1.1, 0.0),
    "CB": (-0.5, -0.8, 1.2),
}


def codes(letters: str) -> list[str]:
    return [CODE[letter] for letter in letters]


def structure(chains: Mapping[str, Sequence[str]], missing: Mapping[str, set[int]] | None = None) -> gemmi.Structure:
    """Chains (author's names) of residues in a straight line each, 8 Å apart; `missing` are 1-based numbers."""
    made = gemmi.Structure()
    model = gemmi.Model(1)
    entities: dict[tuple[str, ...], gemmi.Entity] = {}
    for row, (name, residues) in enumerate(chains.items()):
        label = f"{name}x"
        chain = gemmi.Chain(name)
        for number, code in enumerate(residues, start=1):
            if number in (missing or {}).get(name, set()):
                continue
            residue = gemmi.Residue()
            residue.name, residue.seqid, residue.label_seq = code, gemmi.SeqId(str(number + 100)), number
            residue.subchain, residue.entity_type = label, gemmi.EntityType.Polymer
            for atom_name, offset in ATOMS.items():
                if atom_name == "CB" and code == "GLY":
                    continue
                residue.add_atom(atom(atom_name, np.add(offset, (3.8 * number, 8.0 * row, 0.0))))
            chain.add_residue(residue)
        model.add_chain(chain)
        key = tuple(residues)
        if key not in entities:
            entity = gemmi.Entity(str(len(entities) + 1))
            entity.entity_type, entity.polymer_type = gemmi.EntityType.Polymer, gemmi.PolymerType.PeptideL
            entity.full_sequence = list(residues)
            entities[key] = entity
        entities[key].subchains = [*entities[key].subchains, label]
    made.add_model(model)
    for entity in entities.values():
        made.entities.append(entity)
    return made


def atom(
    name: str, position: Sequence[float], *, occupancy: float = 1.0, altloc: str = "\0", b: float = 20.0
) -> gemmi.Atom:
    made = gemmi.Atom()
    made.name, made.element, made.occ, made.altloc, made.b_iso = (
        name,
        gemmi.Element(name[:2] if name == "SE" else name[0]),
        occupancy,
        altloc,
        b,
    )
    made.pos = gemmi.Position(*position)
    return made


def write(
    path: Path,
    made: gemmi.Structure,
    *,
    date: str | None = "2010-05-04",
    resolution: float | None = 2.0,
    method: str = "X-RAY DIFFRACTION",
    canonical: str | None = None,
) -> Path:
    """Writes an mmCIF file that ends as those of the PDB do; gzipped if the name says so."""
    block = made.make_mmcif_document().sole_block()
    if canonical:
        block.find_mmcif_category("_entity_poly.").erase()
        block.set_pairs("_entity_poly.", {"entity_id": "1", "type": "'polypeptide(L)'"}, raw=True)
        block.set_pair("_entity_poly.pdbx_seq_one_letter_code_can", canonical)
    if date:
        block.set_pair("_pdbx_audit_revision_history.revision_date", date)
    if resolution:
        block.set_pair("_refine.ls_d_res_high", str(resolution))
    block.set_pair("_exptl.method", gemmi.cif.quote(method))
    lines = block.as_string().split("\n", 1)
    text = f"{lines[0]}\n# \n{lines[1]}\n# \n".encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text) if path.name.endswith(".gz") else text)
    return path


def write_a3m(directory: Path, query: str, rows: Sequence[str] = (), name: str = "bfd_uniclust_hits.a3m") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text("".join(f">row{number}\n{row}\n" for number, row in enumerate([query, *rows])))
    return path


def random_letters(rng: np.random.Generator, length: int) -> str:
    return "".join(rng.choice(list("ARNDCQEGHILKMFPSTWYV"), length))


def mutated(rng: np.random.Generator, query: str, share: float = 0.3) -> str:
    other = random_letters(rng, len(query))
    return "".join(b if rng.random() < share else a for a, b in zip(query, other, strict=True))


def write_dataset(root: Path, chains_of: Mapping[str, Mapping[str, str]], *, rows: int = 12, **options) -> Path:
    """Structures, alignments and index of names like `1abc`, each with chains as letters; returns the index."""
    rng = np.random.default_rng(0)
    for name, chains in chains_of.items():
        write(root / "structures" / f"{name}.cif", structure({key: codes(value) for key, value in chains.items()}))
        for key, letters in chains.items():
            write_a3m(root / "alignments" / f"{name}_{key}", letters, [mutated(rng, letters) for _ in range(rows)])
    config = IndexConfig(
        structures=root / "structures", alignments=root / "alignments", out=root / "index.jsonl", workers=1, **options
    )
    build_index(config)
    return config.out
