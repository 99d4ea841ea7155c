"""What of a structure is relaxed: its peptides, cut where residues are missing, and put back where they were."""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import gemmi
import numpy as np
from jaxtyping import Bool, Int

from fastfold_jax.inference import relax_openmm

logger = logging.getLogger(__name__)

_KEPT = ("N", "CA", "C", "O", "OXT", "CB")  # of a residue whose side chain is built anew
_LONGEST_BOND = 2.0  # Å between C and N of residues whose numbers do not follow each other


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peptides:
    """The amino acids of a structure's first model, as runs of connected ones.

    Attributes:
      source: The structure.
      runs: For each run the chain's index and the residues' indices in it; two residues at least.
      single: Chain and index of amino acids that are connected with no other, which stay as they are.
    """

    source: gemmi.Structure
    runs: tuple[tuple[int, tuple[int, ...]], ...]
    single: frozenset[tuple[int, int]]

    @classmethod
    def of(cls, structure: gemmi.Structure) -> "Peptides":
        """Finds them.

        Raises:
          RelaxFailed: if there are none.
        """
        runs, single, left_out = [], set(), set()
        for number, chain in enumerate(structure[0] if len(structure) else ()):
            fits = [_is_amino_acid(residue) for residue in chain]
            left_out |= {residue.name for residue, fit in zip(chain, fits, strict=True) if not fit}
            for run in _split(chain, [index for index, fit in enumerate(fits) if fit]):
                if len(run) > 1:
                    runs.append((number, tuple(run)))
                else:
                    single.add((number, run[0]))
        if left_out:
            logger.warning("relaxation leaves out what is no amino acid: %s", ", ".join(sorted(left_out)))
        if not runs:
            name = structure.name or "the structure"
            raise relax_openmm.RelaxFailed(f"{name}: holds no chain of two or more amino acids, so nothing to relax")
        return cls(source=structure, runs=tuple(runs), single=frozenset(single))

    @property
    def num_residues(self) -> int:
        """In all runs."""
        return sum(len(run) for _, run in self.runs)

    def completed(self) -> relax_openmm.Complete:
        """The runs with all their atoms."""
        return relax_openmm.complete([[self.source[0][chain][index] for index in run] for chain, run in self.runs])

    def rebuilt(
        self, state: relax_openmm.Complete, side_chains: Bool[np.ndarray, " residues"]
    ) -> relax_openmm.Complete:
        """The same atoms, with the side chains of some residues beyond Cβ, and all hydrogens, placed anew."""
        made = dict(self._relaxed(state))
        runs = [[made[chain, index] for index in run] for chain, run in self.runs]
        for residue, stripped in zip((residue for run in runs for residue in run), side_chains, strict=True):
            if stripped:
                for name in [atom.name for atom in residue if atom.name not in _KEPT]:
                    residue.remove_atom(name, "\0")
        return relax_openmm.complete(runs)

    def residue(self, state: relax_openmm.Complete) -> Int[np.ndarray, " atoms"]:
        """Which residue of all runs each atom belongs to."""
        return np.array([atom.residue.index for atom in state.topology.atoms()], int)

    def heavy(self, state: relax_openmm.Complete) -> Bool[np.ndarray, " atoms"]:
        """Which atoms are no hydrogens."""
        return np.array([atom.element.symbol != "H" for atom in state.topology.atoms()], bool)

    def in_structure(self, structure: gemmi.Structure) -> Bool[np.ndarray, " n"]:
        """Which residues of what `structure` made are those of runs, all others being single."""
        kept = sorted({(chain, index) for chain, run in self.runs for index in run} | self.single)
        return np.array([place not in self.single for place in kept], bool)

    def structure(self, state: relax_openmm.Complete) -> gemmi.Structure:
        """The source with the runs' atoms in its chains: names, numbers, ids and B factors as they were."""
        chains: list[list[gemmi.Residue]] = [[] for _ in self.source[0]]
        made = dict(self._relaxed(state))
        for chain, residues in enumerate(self.source[0]):
            for index, residue in enumerate(residues):
                if (chain, index) in made:
                    chains[chain].append(made[chain, index])
                elif (chain, index) in self.single:
                    chains[chain].append(residue.clone())
        result = self.source.clone()
        for number in range(len(result) - 1, 0, -1):
            del result[number]
        for emptied, filling in zip(result[0], chains, strict=True):
            for index in range(len(emptied) - 1, -1, -1):
                del emptied[index]
            for residue in filling:
                emptied.add_residue(residue)
        result.remove_empty_chains()
        result.assign_serial_numbers()
        return result

    def _relaxed(self, state: relax_openmm.Complete) -> Iterator[tuple[tuple[int, int], gemmi.Residue]]:
        """Chain, index and new atoms of each residue of the runs."""
        model = self.source[0]
        last = {chain: run[-1] for chain, run in self.runs}  # runs are in order, so the last of a chain stays
        for (chain, run), made in zip(self.runs, state.topology.chains(), strict=True):
            for index, residue in zip(run, made.residues(), strict=True):
                given = model[chain][index]
                new = gemmi.Residue()
                new.name, new.seqid, new.subchain = residue.name, given.seqid, given.subchain
                new.label_seq, new.entity_type, new.het_flag = given.label_seq, given.entity_type, "A"
                for atom in residue.atoms():
                    # OpenMM ends every run; where a chain goes on after a gap, that is no end.
                    if atom.name != "OXT" or index == last[chain]:
                        new.add_atom(_atom(atom, state.positions[atom.index], given))
                yield (chain, index), new


def _is_amino_acid(residue: gemmi.Residue) -> bool:
    known = {atom.name for atom in residue}
    return relax_openmm.standard_name(residue) is not None and {"N", "CA", "C"} <= known


def _split(chain: gemmi.Chain, peptide: list[int]) -> list[list[int]]:
    """Runs of residues that follow each other by number or are bonded."""
    runs: list[list[int]] = []
    for index in peptide:
        if runs and _follows(chain[runs[-1][-1]], chain[index]):
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def _follows(first: gemmi.Residue, second: gemmi.Residue) -> bool:
    step = (second.seqid.num or 0) - (first.seqid.num or 0)
    if step == 1 or (step == 0 and second.seqid.icode != first.seqid.icode):
        return True
    c, n = first.find_atom("C", "*"), second.find_atom("N", "*")
    return bool(c and n and c.pos.dist(n.pos) < _LONGEST_BOND)


def _atom(atom: Any, position: np.ndarray, given: gemmi.Residue) -> gemmi.Atom:
    """An OpenMM atom as gemmi's, with the B factor that it, or its residue's Cα, had."""
    new = gemmi.Atom()
    new.name = atom.name
    new.element = gemmi.Element(atom.element.symbol)
    new.pos = gemmi.Position(*(round(float(x), 3) for x in position))
    known = given.find_atom(new.name, "*") or given.find_atom("CA", "*")
    new.b_iso = known.b_iso if known else 0.0
    new.occ = 1.0
    return new
