"""Relaxation: clean structures come out, and all of a structure but its atoms' places stays as it was."""

import dataclasses
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import gemmi
import numpy as np
import pytest

from fastfold_jax.errors import UserError
from fastfold_jax.inference import relax_openmm
from fastfold_jax.inference.relax import RelaxOptions, check, relax
from fastfold_jax.inference.relax_chains import Peptides
from fastfold_jax.inference.relax_rings import pierced
from fastfold_jax.inference.relax_violations import find_violations

pytest.importorskip("openmm")
pytest.importorskip("pdbfixer")

STRUCTURES = Path(__file__).parents[1] / "data" / "structures"
CPU = RelaxOptions(relax_platform="cpu")


def read(name: str, directory: Path = STRUCTURES) -> gemmi.Structure:
    return gemmi.read_structure(str(directory / name))


def residues(structure) -> list[tuple]:
    return [(chain.name, str(residue.seqid), residue.name) for chain in structure[0] for residue in chain]


def heavy(structure) -> dict[tuple, np.ndarray]:
    return {
        (cra.chain.name, str(cra.residue.seqid), cra.atom.name): np.array(cra.atom.pos.tolist())
        for cra in structure[0].all()
        if not cra.atom.is_hydrogen()
    }


def test_a_short_model():
    given = read("1l2y.pdb")
    before = heavy(given)
    result = relax(given, CPU)
    assert result.after.count == 0 and result.rounds == 1 and result.platform == "CPU"
    assert result.final_energy < result.initial_energy
    assert 0 < result.rmsd < 0.5
    assert residues(result.structure) == residues(given)
    after = heavy(result.structure)
    assert set(before) <= set(after) and {name for *_, name in set(after) - set(before)} <= {"OXT"}
    moved = np.array([np.linalg.norm(after[key] - before[key]) for key in before])
    assert 0 < moved.max() < 1.5
    assert heavy(given).keys() == before.keys()  # what was given is not changed
    hydrogens = [cra for cra in result.structure[0].all() if cra.atom.is_hydrogen()]
    assert len(hydrogens) > 0.6 * len(after)


def test_stiff_springs_hold_atoms_and_a_loose_tolerance_ends_early():
    usual, stiff, early = (
        relax(read("1l2y.pdb"), dataclasses.replace(CPU, **changes))
        for changes in ({}, {"relax_stiffness": 1000.0}, {"relax_tolerance": 100.0})
    )
    assert stiff.rmsd < usual.rmsd / 3
    assert early.steps < usual.steps / 3 and early.final_energy > usual.final_energy


def test_b_factors_are_kept():
    given = read("1l2y.pdb")
    for number, residue in enumerate(given[0][0]):
        for atom in residue:
            atom.b_iso = 50.0 + number
    result = relax(given, CPU)
    for number, residue in enumerate(result.structure[0][0]):
        assert {atom.b_iso for atom in residue} == {50.0 + number}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["with_violations.pdb", "multiple_disulfides_target.pdb"])
def test_violations_are_gone(shared_data, name):
    """About 20 s of one core each."""
    result = relax(read(name, shared_data / "pdb"), RelaxOptions(relax_platform="cpu", relax_rounds=10))
    assert result.before.count >= 10
    assert result.after.count == 0 and result.rounds <= 3 and result.problem is None
    assert result.after.bonds == result.after.clashes == result.after.within == result.after.extreme_ca_ca == 0
    assert result.final_energy < result.initial_energy and result.rmsd < 1.0
    if name == "multiple_disulfides_target.pdb":
        sulfurs = [
            np.array(residue.find_atom("SG", "*").pos.tolist())
            for residue in result.structure[0][0]
            if residue.name == "CYS"
        ]
        gaps = np.linalg.norm(np.array(sulfurs)[:, None] - np.array(sulfurs), axis=-1)
        assert ((gaps > 1.9) & (gaps < 2.2)).sum() >= 4  # bridges have the length of a bond


def test_a_clash_is_resolved_and_its_residues_let_go():
    given = read("1l2y.pdb")
    chain = given[0][0]
    # Two peptide bonds torn open by a displaced residue.
    for atom in chain[2]:
        atom.pos += gemmi.Position(1.6, 1.6, 0)
    result = relax(given, RelaxOptions(relax_platform="cpu", relax_rounds=6))
    assert result.before.count > 0 and result.after.count == 0


def test_atoms_in_one_place_part():
    given = read("1l2y.pdb")
    residue = next(residue for residue in given[0][0] if residue.find_atom("CB", "*"))
    residue.find_atom("CB", "*").pos = residue.find_atom("CA", "*").pos
    result = relax(given, RelaxOptions(relax_platform="cpu", relax_rounds=6))
    assert np.isfinite(result.final_energy) and result.after.count == 0


def collapsed(given: gemmi.Structure, radius: float) -> gemmi.Structure:
    """The residues turned at random, with their Cα atoms anywhere in a ball: what untrained networks make."""
    draw = np.random.default_rng(0)
    structure = given.clone()
    for residue in structure[0][0]:
        centre = np.array(residue.find_atom("CA", "*").pos.tolist())
        turn = np.linalg.qr(draw.normal(size=(3, 3)))[0]
        turn *= np.sign(np.linalg.det(turn))
        place = draw.normal(size=3)
        place *= radius * draw.uniform() ** (1 / 3) / np.linalg.norm(place)
        for atom in residue:
            atom.pos = gemmi.Position(*(turn @ (np.array(atom.pos.tolist()) - centre) + place))
    return structure


def test_what_does_not_converge_ends_and_says_so():
    given = collapsed(read("glucagon.pdb"), radius=3)
    result = relax(given, RelaxOptions(relax_platform="cpu", relax_iterations=300))
    assert result.before.count == 29
    assert result.problem == "not converged after 300 steps" and result.steps == 300
    assert result.final_energy < result.initial_energy and np.isfinite(result.final_energy)
    assert residues(result.structure) == residues(given)
    assert all(np.isfinite(place).all() for place in heavy(result.structure).values())
    again = relax(given, RelaxOptions(relax_platform="cpu", relax_iterations=300))
    assert [item.tolist() for item in heavy(again.structure).values()] == [
        item.tolist() for item in heavy(result.structure).values()
    ]


def test_time_ends_a_relaxation():
    given = collapsed(read("glucagon.pdb"), radius=3)
    result = relax(given, RelaxOptions(relax_platform="cpu", relax_minutes=0.005))
    assert "not converged" in result.problem and result.steps < 1000  # of 10,000


def test_the_last_good_structure_is_kept(monkeypatch):
    """OpenMM takes five steps and then loses all atoms."""
    import openmm

    def minimise(*args):
        if len(args) != 4:  # PDBFixer's own are watched by nobody
            return real(*args)
        context, force, _, watch = args
        real(context, force, 5, watch)
        context.setPositions(np.full((context.getSystem().getNumParticles(), 3), np.nan))

    real = openmm.LocalEnergyMinimizer.minimize
    monkeypatch.setattr(openmm.LocalEnergyMinimizer, "minimize", minimise)
    result = relax(read("1l2y.pdb"), CPU)
    assert "not converged after" in result.problem and result.steps >= 5
    assert result.final_energy < result.initial_energy and 0 < result.rmsd < 0.5
    assert result.after.count == 0


def test_a_round_that_fails_leaves_what_the_one_before_made(monkeypatch):
    rounds = []

    def minimise(*args, **kwargs):
        rounds.append(1)
        if len(rounds) > 1:
            raise relax_openmm.RelaxFailed("the energy cannot be minimised (CPU: NaN)")
        return real(*args, **kwargs)

    def violations(structure):
        found = find_violations(structure)
        return dataclasses.replace(found, per_residue=np.ones_like(found.per_residue))

    real = relax_openmm.minimise
    monkeypatch.setattr(relax_openmm, "minimise", minimise)
    monkeypatch.setattr("fastfold_jax.inference.relax.find_violations", violations)
    result = relax(read("1l2y.pdb"), CPU)
    assert result.problem == "round 2 failed: the energy cannot be minimised (CPU: NaN)" and result.rounds == 1
    assert result.final_energy < result.initial_energy and 0 < result.rmsd < 0.5


def test_energies_that_are_never_numbers(monkeypatch):
    monkeypatch.setattr(relax_openmm, "_energy", lambda context: float("nan"))
    with pytest.raises(relax_openmm.RelaxFailed, match=r"cannot be minimised \(CPU: energy nan"):
        relax(read("1l2y.pdb"), CPU)


def test_side_chains_through_rings_are_found_and_built_anew(shared_data):
    peptides = Peptides.of(read("multiple_disulfides_target.pdb", shared_data / "pdb"))
    state = peptides.completed()
    threaded = pierced(state)
    names = [residue.name for residue in state.topology.residues()]
    assert [names[i] for i in np.flatnonzero(threaded)] == ["TYR", "ARG"]  # the arginine goes through the tyrosine
    rebuilt = peptides.rebuilt(state, threaded)
    assert not pierced(rebuilt).any()
    where = peptides.residue(state)
    moved = np.linalg.norm(rebuilt.positions - state.positions, axis=-1)[peptides.heavy(state)] > 0.01
    assert set(where[peptides.heavy(state)][moved]) == set(np.flatnonzero(threaded))


@pytest.mark.parametrize("name", ["ERR550519_2213899_unrelaxed_model_1.pdb", "glucagon.pdb"])
def test_sound_structures_have_no_bond_through_a_ring(shared_data, name):
    assert not pierced(Peptides.of(read(name, shared_data / "pdb")).completed()).any()


def test_missing_atoms_are_added():
    given = read("1l2y.pdb")
    whole = heavy(relax(given, CPU).structure).keys()
    for residue in given[0][0]:
        for name in [atom.name for atom in residue if atom.name not in ("N", "CA", "C", "O", "CB")]:
            residue.remove_atom(name, "\0")
    assert heavy(relax(given, CPU).structure).keys() == whole


def test_chains_gaps_and_single_residues():
    given = read("glucagon.pdb")
    model = given[0]
    chain = model[0]
    del chain[10:12]  # a gap
    for residue in chain:
        residue.seqid.num += 100
    short = chain.clone()
    short.name = "XY"
    del short[3:]
    single = chain.clone()
    single.name = "Z"
    del single[1:]
    for other, shift in ((short, 60), (single, -60)):
        for residue in other:
            for atom in residue:
                atom.pos += gemmi.Position(shift, 0, 0)
        model.add_chain(other)
    water = gemmi.Residue()
    water.name, water.seqid = "HOH", gemmi.SeqId(900, " ")
    oxygen = gemmi.Atom()
    oxygen.name, oxygen.element = "O", gemmi.Element("O")
    water.add_atom(oxygen)
    wet = given.clone()
    wet[0][0].add_residue(water)
    result = relax(wet, RelaxOptions(relax_platform="cpu", relax_iterations=20))
    assert residues(result.structure) == residues(given)
    names = [{atom.name for atom in residue} for residue in result.structure[0][0]]
    ends = [number for number, held in enumerate(names) if "OXT" in held]
    assert ends == [len(names) - 1]  # none at the gap
    kept = heavy(result.structure)
    for key, place in heavy(given).items():
        if key[0] == "Z":
            np.testing.assert_array_equal(kept[key], place)
    # The atoms at both sides of the gap are not drawn together.
    before, after = (
        chain[9].find_atom("CA", "*").pos.dist(chain[10].find_atom("CA", "*").pos)
        for chain in (given[0][0], result.structure[0][0])
    )
    assert after == pytest.approx(before, abs=0.5) and before > 5


def test_modified_residues_become_standard_ones():
    given = read("1l2y.pdb")
    residue = given[0][0][1]
    residue.name = "MSE"
    for name in [atom.name for atom in residue if atom.name not in ("N", "CA", "C", "O", "CB")]:
        residue.remove_atom(name, "\0")
    result = relax(given, RelaxOptions(relax_platform="cpu", relax_iterations=20))
    assert result.structure[0][0][1].name == "MET"
    assert result.structure[0][0][1].find_atom("SD", "*") is not None


def test_structures_with_nothing_to_relax():
    empty = gemmi.Structure()
    empty.add_model(gemmi.Model(1))
    with pytest.raises(UserError, match="holds no chain of two or more amino acids"):
        relax(empty, CPU)


def test_without_openmm(monkeypatch):
    monkeypatch.setitem(sys.modules, "openmm", None)
    with pytest.raises(UserError, match=r"pip install 'fastfold-jax\[relax\]'"):
        relax(read("1l2y.pdb"), CPU)


def test_a_platform_that_is_not_there(monkeypatch):
    monkeypatch.setitem(relax_openmm._PLATFORMS, "cuda", "NoSuchPlatform")
    with pytest.raises(UserError, match="--relax-platform cuda: this OpenMM has no such platform, only "):
        relax(read("1l2y.pdb"), RelaxOptions(relax_platform="cuda"))


def test_platforms_are_tried_before_anything_is_predicted(monkeypatch):
    check(RelaxOptions(relax="best", relax_platform="cpu"))
    monkeypatch.setitem(relax_openmm._PLATFORMS, "cuda", "NoSuchPlatform")
    with pytest.raises(UserError, match="--relax-platform cuda: this OpenMM has no such platform, only "):
        check(RelaxOptions(relax="best", relax_platform="cuda"))
    check(RelaxOptions(relax="none", relax_platform="cuda"))


def test_a_platform_that_does_not_work(monkeypatch):
    import openmm

    def context(*args):
        if len(args) == 4:  # PDBFixer's own have no properties
            raise openmm.OpenMMException("no such device")
        return real(*args)

    real = openmm.Context
    monkeypatch.setattr(openmm, "Context", context)
    with pytest.raises(UserError, match=r"--relax-platform cpu: does not work here \(CPU: no such device\)"):
        relax(read("1l2y.pdb"), CPU)


def test_auto_falls_back_to_a_platform_that_works(monkeypatch):
    monkeypatch.setattr(relax_openmm, "_PLATFORMS", {"cuda": "NoSuchPlatform", "reference": "Reference"})
    result = relax(read("1l2y.pdb"), RelaxOptions(relax_iterations=5))
    assert result.platform == "Reference"


def test_a_gpu_has_one_structure_at_a_time_and_where_it_fails_that_is_said_once(monkeypatch, caplog):
    """Contexts and platforms in place of OpenMM's: the GPU refuses the first two systems, then takes the others."""
    import openmm

    refused, together, most = [1, 1], [], []

    class Context:
        def __init__(self, system, integrator, platform, properties):
            if platform == "CUDA" and refused:
                refused.pop()
                raise openmm.OpenMMException("out of memory")
            self.platform = platform

        def getPlatform(self):
            return types.SimpleNamespace(getName=lambda: self.platform)

    class Platform:
        getPlatformByName = staticmethod(lambda name: types.SimpleNamespace(getPropertyNames=tuple, name=name))

    def use(_):
        with closing(relax_openmm._contexts(None, relax_openmm.Device(platform="auto"))) as contexts:
            name = next(contexts).platform
            if name == "CUDA":
                together.append(1)
                most.append(len(together))
                time.sleep(0.02)
                together.pop()
        return name

    monkeypatch.setattr(relax_openmm, "_candidates", lambda platform: ["CUDA", "CPU"])
    monkeypatch.setattr(openmm, "Platform", Platform)
    monkeypatch.setattr(openmm, "Context", lambda *args: Context(*args[:2], args[2].name, args[3]))
    relax_openmm._tell.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(use, range(6))) == ["CPU"] * 2 + ["CUDA"] * 4
    assert most == [1] * 4
    assert caplog.messages == ["no relaxation on CUDA: out of memory; on CPU then"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relax_rounds": 0}, "--relax-rounds 0"),
        ({"relax_iterations": -1}, "--relax-iterations -1"),
        ({"relax_stiffness": 0.0}, "--relax-stiffness 0"),
        ({"relax_tolerance": float("inf")}, "--relax-tolerance inf"),
        ({"relax_minutes": 0.0}, "--relax-minutes 0"),
    ],
)
def test_options_that_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        RelaxOptions(**changes)
