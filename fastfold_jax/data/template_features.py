"""One template: the atoms of a known structure at the residues of a query that they are aligned to."""

import dataclasses
import re
from collections.abc import Sequence

import gemmi
import numpy as np
from jaxtyping import Float32, Int, Int32

from fastfold_jax.constants import ATOM37_INDEX, GAP, MSA_LETTER_TO_INDEX
from fastfold_jax.data.raw import TemplateOrigin, Templates
from fastfold_jax.data.structure import Polymer, Structure, StructureError
from fastfold_jax.data.template_hits import TemplateHit

_IDENTITY = 0.9  # of the shorter sequence, where a hit's differs from the structure's
_FEWEST_ATOMS = 5  # as many as alanine has
_LONGEST_STEP = 150.0  # Å between the Cα of neighbours


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Match:
    """Residues of a chain (`target`) with their letters, at residues of the query."""

    polymer: Polymer
    query: Int[np.ndarray, " k"]
    target: Int[np.ndarray, " k"]
    letters: str
    note: str


class Rejected(Exception):
    """A hit or a structure that makes no template; the message says why."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Template:
    """One structure aligned to N residues.

    Attributes:
        name: entry and chain.
        source: the same, and the date.
        aatype: residue types in the order of `MSA_LETTERS`, gap where nothing is aligned.
        positions: Å, atom37.
        atom_mask: 1 where an atom is known.
        note: what a reader should know about how it was made, "" if nothing.
    """

    name: str
    source: TemplateOrigin
    aatype: Int32[np.ndarray, " n"]
    positions: Float32[np.ndarray, "n 37 3"]
    atom_mask: Float32[np.ndarray, "n 37"]
    note: str = ""


def stack(templates: list[Template], num_res: int) -> Templates:
    """Templates as the features hold them."""
    if not templates:
        return Templates.none(num_res)
    return Templates(
        aatype=np.stack([template.aatype for template in templates]),
        positions=np.stack([template.positions for template in templates]),
        atom_mask=np.stack([template.atom_mask for template in templates]),
        sources=tuple(template.source for template in templates),
    )


def template_of_hit(hit: TemplateHit, structure: Structure, query: str) -> Template:
    """The template of a hit: where its sequence is found in the structure, else after a realignment.

    Raises:
        Rejected: if it is in no chain of the structure, or nothing is known of the atoms it is aligned to.
    """
    try:
        polymer, offset = _find(hit, structure)
        letters = "".join(hit.sequence[index] for index in hit.hit)
        match = _Match(polymer=polymer, query=hit.query, target=hit.hit + offset, letters=letters, note="")
    except LookupError:
        polymer = _named(hit.chain, structure)
        target = _realigned(hit.sequence, polymer.letters)[hit.hit]
        note = f"realigned to the sequence of chain {polymer.author}, which differs from the hit's"
        match = _matched(polymer, hit.query, target, note)
    return _template(f"{hit.entry}_{polymer.author}", hit.entry, structure, match, len(query))


def template_of_chain(structure: Structure, chain: str | None, query: str) -> Template:
    """A structure given by the user, aligned to the query by BLOSUM62.

    Args:
        structure: the structure.
        chain: the author's name of the chain; None for the one most alike.
        query: sequence of the chain to predict.

    Raises:
        Rejected: if there is no such chain, or nothing is known of the atoms it is aligned to.
    """
    polymers = [polymer for polymer in structure.polymers.values() if chain in (None, polymer.author, polymer.label)]
    if not polymers:
        held = ", ".join(polymer.author for polymer in structure.polymers.values())
        raise Rejected(f"has no chain {chain}; its chains of amino acids are {held}")
    alignments = [(_aligned(query, polymer.letters), polymer) for polymer in polymers]
    target, polymer = max(alignments, key=lambda item: _same(query, item[1].letters, item[0]))
    same, aligned = _same(query, polymer.letters, target), int((target >= 0).sum())
    note = f"{aligned} residues aligned, {same / max(aligned, 1):.0%} identical"
    match = _matched(polymer, np.arange(len(query)), target, note)
    return _template(f"{structure.file}:{polymer.author}", structure.file, structure, match, len(query))


def template_of_indices(structure: Structure, query: Sequence[int], target: Sequence[int], num_res: int) -> Template:
    """The template of a structure of one chain, from residues that are aligned already.

    Args:
        structure: the structure.
        query: residues of the chain to predict, from 0, each once.
        target: the residue of the structure's whole sequence, from 0, that each is aligned to.
        num_res: how many residues the chain to predict has.

    Raises:
        Rejected: if the structure has several chains, an index is beyond a sequence, or nothing is known of the atoms.
    """
    if len(structure.polymers) != 1:
        held = ", ".join(polymer.author for polymer in structure.polymers.values())
        raise Rejected(f"has {len(structure.polymers)} chains of amino acids ({held}), but only one is accepted")
    (polymer,) = structure.polymers.values()
    for name, indices, length in (("queryIndices", query, num_res), ("templateIndices", target, len(polymer.letters))):
        if wrong := [index for index in indices if not 0 <= index < length]:
            raise Rejected(f"{name!r} holds {wrong[0]}, but there are {length} residues, counted from 0")
    match = _matched(polymer, np.array(query, int), np.array(target, int), "aligned by the input")
    return _template(f"{structure.file}:{polymer.author}", structure.file, structure, match, num_res)


def _matched(polymer: Polymer, query: Int[np.ndarray, " k"], target: Int[np.ndarray, " k"], note: str) -> _Match:
    """The pairs whose target is known (-1 stands for none)."""
    query, target = query[target >= 0], target[target >= 0]
    letters = "".join(polymer.letters[index] for index in target)
    return _Match(polymer=polymer, query=query, target=target, letters=letters, note=note)


def _find(hit: TemplateHit, structure: Structure) -> tuple[Polymer, int]:
    """The chain that holds the hit's sequence, and where: the named chain, any chain, any chain but for unknowns.

    Raises:
        LookupError: if there is none.
    """
    polymers = sorted(structure.polymers.values(), key=lambda polymer: polymer.author != hit.chain)
    for polymer in polymers:
        if (offset := polymer.letters.find(hit.sequence)) >= 0:
            return polymer, offset
    pattern = re.compile("".join("." if letter == "X" else f"[{letter}X]" for letter in hit.sequence))
    for polymer in structure.polymers.values():
        if found := pattern.search(polymer.letters):
            return polymer, found.start()
    raise LookupError


def _named(chain: str, structure: Structure) -> Polymer:
    """The chain of that name, or the only one there is."""
    polymers = list(structure.polymers.values())
    named = [polymer for polymer in polymers if polymer.author == chain] or (polymers if len(polymers) == 1 else [])
    if not named:
        held = ", ".join(polymer.author for polymer in polymers)
        raise Rejected(f"the structure has no chain {chain} and no chain of its sequence; its chains are {held}")
    return named[0]


def _realigned(old: str, new: str) -> Int[np.ndarray, " k"]:
    """For each residue of the hit's sequence the one of the structure's, -1 for none.

    DISCREPANCY: AlphaFold maps residues that the realignment leaves out to the chain's last one; here they are left
    out.

    Raises:
        Rejected: if less than 90 % of the shorter sequence are equal.
    """
    target = _aligned(old, new)
    same = _same(old, new, target) / min(len(old), len(new))
    if same < _IDENTITY:
        raise Rejected(
            f"its sequence differs from the structure's: {same:.0%} of the shorter one are equal, of which "
            f"{_IDENTITY:.0%} are needed"
        )
    return target


def _aligned(query: str, target: str) -> Int[np.ndarray, " q"]:
    """For each letter of the query the one of the target that BLOSUM62 aligns it to, -1 for none."""
    first, second = (gemmi.expand_one_letter_sequence(letters, gemmi.ResidueKind.AA) for letters in (query, target))
    result = gemmi.align_string_sequences(first, second, [], gemmi.AlignmentScoring("b"))
    top, bottom = (
        np.frombuffer(result.add_gaps(sequence, which).encode(), np.uint8) != ord("-")
        for sequence, which in ((query, 1), (target, 2))
    )
    place = np.where(bottom, np.cumsum(bottom) - 1, -1)
    return place[top]


def _same(query: str, target: str, aligned: Int[np.ndarray, " q"]) -> int:
    """How many aligned residues are equal."""
    return sum(index >= 0 and letter == target[index] for letter, index in zip(query, aligned, strict=True))


def _template(name: str, entry: str, structure: Structure, match: _Match, num_res: int) -> Template:
    """Puts a chain's residues where the query's are."""
    try:
        chain = structure.chain(match.polymer.label)
    except StructureError as error:
        raise Rejected(str(error)) from None
    _require_continuous(chain.positions, chain.atom_mask)
    aatype = np.full(num_res, GAP, np.int32)
    positions = np.zeros((num_res, 37, 3), np.float32)
    mask = np.zeros((num_res, 37), np.float32)
    aatype[match.query] = [MSA_LETTER_TO_INDEX[letter] for letter in match.letters]
    positions[match.query], mask[match.query] = chain.positions[match.target], chain.atom_mask[match.target]
    if mask.sum() < _FEWEST_ATOMS:
        raise Rejected(f"{int(mask.sum())} of the atoms that it is aligned to are known, fewer than {_FEWEST_ATOMS}")
    source = TemplateOrigin(name=entry, chain=match.polymer.author, released=structure.release_date)
    return Template(name=name, source=source, aatype=aatype, positions=positions, atom_mask=mask, note=match.note)


def _require_continuous(positions: Float32[np.ndarray, "n 37 3"], mask: Float32[np.ndarray, "n 37"]) -> None:
    alpha = ATOM37_INDEX["CA"]
    both = (mask[1:, alpha] > 0) & (mask[:-1, alpha] > 0)
    steps = np.where(both, np.linalg.norm(np.diff(positions[:, alpha], axis=0), axis=-1), 0)
    if steps.size and steps.max() > _LONGEST_STEP:
        raise Rejected(f"neighbouring residues are {steps.max():.0f} Å apart, more than {_LONGEST_STEP:.0f}")
