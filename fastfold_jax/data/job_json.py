"""Jobs in AlphaFold 3's JSON, its own dialect and its server's, as far as they are proteins."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastfold_jax.data import layout
from fastfold_jax.data.a3m import parse_a3m
from fastfold_jax.data.alignment import Alignment, Source
from fastfold_jax.data.fasta import CHAIN_BREAK, Record, clean_sequence
from fastfold_jax.data.job_chains import HEAD, Job, chains_of, read_alignment
from fastfold_jax.data.names import safe_name
from fastfold_jax.data.raw import Templates
from fastfold_jax.data.structure import parse_mmcif
from fastfold_jax.data.template_features import Rejected, stack, template_of_indices
from fastfold_jax.data.textfile import InputError, Unusable, at, normalise, read_bytes, read_head, shown

_PROTEIN = ("protein", "proteinChain")
_MOST_COPIES = 1000
_MOST_SEED = 2**32 - 1
# What a protein of AlphaFold 2 cannot have; an empty list or nothing is no request.
_NOT_SUPPORTED = {
    "modifications": "modified residues",
    "glycans": "glycans",
}
_NOT_SUPPORTED_JOB = {
    "bondedAtomPairs": "bonds between chains",
    "userCCD": "compounds",
    "userCCDPath": "compounds",
}


def parse_json_jobs(data: bytes, *, file: str) -> tuple[Job | Unusable, ...]:
    """The jobs of a document: an object is one, a list several.

    One that asks for what AlphaFold 2 cannot do (other molecules, modifications, bonds), or with an alignment or a
    template that is not its chain's, is unusable.

    Of each protein `sequence`, `id` (a list is that many copies) or `count`, `description`, `unpairedMsa`, `pairedMsa`,
    their paths (from the document's directory) and `templates` are read: what is absent or null is to be searched for,
    what is empty is not. `modelSeeds` become the job's seeds.

    Raises:
        InputError: it is no JSON, or an empty list.
    """
    try:
        document = json.loads(normalise(data, file=file).decode())
    except json.JSONDecodeError as error:
        raise InputError(f"{at(file, error.lineno, error.colno)}: not JSON: {error.msg}") from None
    except (RecursionError, ValueError) as error:  # nested without end; a number too long to convert
        raise InputError(f"{file}: JSON that cannot be read ({error})") from None
    entries = document if isinstance(document, list) else [document]
    if not entries:
        raise InputError(f"{file}: an empty list; each entry is a job")
    numbered = [f", job {number}" if isinstance(document, list) else "" for number in range(1, len(entries) + 1)]
    return tuple(_usable(entry, Path(file), file + place) for entry, place in zip(entries, numbered, strict=True))


def _usable(entry: Any, file: Path, place: str) -> Job | Unusable:
    """The job of an entry, or why there is none."""
    try:
        return _job(entry, file, place)
    except InputError as error:
        return Unusable(name=_name(entry, file), error=error)


def _name(entry: Any, file: Path) -> str:
    given = entry.get("name") if isinstance(entry, dict) else None
    return safe_name(given if isinstance(given, str) and given else layout.stem(file), otherwise="job")


def _job(entry: Any, file: Path, place: str) -> Job:
    entry = _require(entry, dict, "a job", place)
    _refuse(entry, _NOT_SUPPORTED_JOB, place)
    name = _require(entry.get("name", ""), str, "the name", place)
    molecules = _require(entry.get("sequences"), list, "'sequences'", place)
    records: list[Record] = []
    unpaired: list[tuple[Alignment, ...]] = []
    paired: list[Alignment | None] = []
    templates: list[Templates | None] = []
    names: list[str] = []
    labels: list[str] = []
    for number, molecule in enumerate(molecules, start=1):
        where = f"{place}, sequence {number}"
        protein = _protein(molecule, where)
        ids = _ids(protein, where)
        sequence = clean_sequence(_require(protein.get("sequence"), str, "'sequence'", where), place=where, name=name)
        if CHAIN_BREAK in sequence:
            raise InputError(f"{where}: ':' in a sequence; each chain is an entry of 'sequences'")
        described = _require(protein.get("description", ""), str, "'description'", where)
        own = _alignment(protein, "unpairedMsa", "other", sequence, file, where)
        pairs = _alignment(protein, "pairedMsa", "uniprot", sequence, file, where)
        records += [Record(description=described or id_ or name, sequence=sequence) for id_ in ids]
        unpaired += [(own,) if own else ()] * len(ids)
        paired += [pairs] * len(ids)
        templates += [_templates(protein, len(sequence), file, where)] * len(ids)
        names += [id_ or f"chain{len(names) + copy}" for copy, id_ in enumerate(ids, start=1)]
        labels += ids
    if not records:
        raise InputError(f"{place}: 'sequences' is empty; accepted is at least one protein")
    chains = chains_of(records, unpaired, paired if len(records) > 1 else None, names)
    return Job(
        name=_name(entry, file),
        chains=tuple(
            dataclasses.replace(chain, templates=given, label=label)
            for chain, given, label in zip(chains, templates, labels, strict=True)
        ),
        seeds=_seeds(entry, place),
    )


def _protein(molecule: Any, where: str) -> Mapping[str, Any]:
    molecule = _require(molecule, dict, "an entry of 'sequences'", where)
    kinds = [kind for kind in molecule if kind in _PROTEIN]
    if len(molecule) != 1 or not kinds:
        raise InputError(
            f"{where}: {shown(', '.join(map(str, molecule)) or 'nothing')}; accepted are proteins ('protein' or "
            "'proteinChain'): AlphaFold 2 knows no other molecules"
        )
    protein = _require(molecule[kinds[0]], dict, f"{kinds[0]!r}", where)
    _refuse(protein, _NOT_SUPPORTED, where)
    return protein


def _refuse(entry: Mapping[str, Any], fields: Mapping[str, str], place: str) -> None:
    for field, what in fields.items():
        if entry.get(field):
            raise InputError(f"{place}: {field!r}: AlphaFold 2 has no {what}; remove the field")


def _ids(protein: Mapping[str, Any], where: str) -> Sequence[str]:
    """A name for each copy; "" where the document gives none."""
    if "id" in protein:
        given = protein["id"]
        ids = given if isinstance(given, list) else [given]
        if ids and all(isinstance(id_, str) and id_ for id_ in ids) and len(ids) <= _MOST_COPIES:
            return ids
        raise InputError(f"{where}: 'id' {shown(str(given))}; accepted are a name, or a list of names, one a copy")
    count = protein.get("count", 1)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST_COPIES:
        raise InputError(f"{where}: 'count' {shown(str(count))}; accepted are numbers from 1 to {_MOST_COPIES}")
    return [""] * count


def _alignment(
    protein: Mapping[str, Any], field: str, source: Source, sequence: str, file: Path, where: str
) -> Alignment | None:
    """An alignment in the document or beside it; an empty one of the chain's own rows is the query alone."""
    given = _given(protein, field, file, where)
    if given is None:
        return None
    what = str(given) if isinstance(given, Path) else f"{where}, {field}"
    if not (read_head(given, HEAD) if isinstance(given, Path) else given).strip():
        if source != "other":
            return None
        given = f">query\n{sequence}\n".encode()
    found = read_alignment(given, source) if isinstance(given, Path) else parse_a3m(given, file=what, source=source)
    if found.query != sequence:
        raise InputError(f"{what}: the first row is not the chain's sequence; it must be the query itself")
    return found


def _given(entry: Mapping[str, Any], field: str, file: Path, where: str) -> bytes | Path | None:
    """The text in a field, or the path in the field of that name with `Path` behind it; None if there is neither."""
    text, beside = entry.get(field), entry.get(f"{field}Path")
    if text is not None and beside is not None:
        raise InputError(f"{where}: both {field!r} and {field + 'Path'!r}; give one of them")
    if beside is not None:
        return file.parent / _require(beside, str, f"'{field}Path'", where)
    return None if text is None else _require(text, str, f"{field!r}", where).encode(errors="replace")


def _templates(protein: Mapping[str, Any], num_res: int, file: Path, where: str) -> Templates | None:
    """The templates of a protein, empty if it is to have none; None if they are to be searched for."""
    if (given := protein.get("templates")) is None:
        return None
    found = []
    for number, entry in enumerate(_require(given, list, "'templates'", where), start=1):
        place = f"{where}, template {number}"
        template = _require(entry, dict, "a template", place)
        text = _given(template, "mmcif", file, place)
        if text is None:
            raise InputError(f"{place}: neither 'mmcif' nor 'mmcifPath'; give one of them")
        query, target = (_indices(template, field, place) for field in ("queryIndices", "templateIndices"))
        if len(query) != len(target) or len(set(query)) < len(query):
            raise InputError(
                f"{place}: {len(query)} 'queryIndices' and {len(target)} 'templateIndices'; accepted are as many of "
                "either, and each residue of the query once"
            )
        what = f"{place}, mmcif"
        if isinstance(text, Path):
            what, text = str(text), read_bytes(text)
        try:
            found.append(template_of_indices(parse_mmcif(text, file=what), query, target, num_res))
        except Rejected as reason:
            raise InputError(f"{place}: {reason}") from None
    return stack(found, num_res)


def _indices(template: Mapping[str, Any], field: str, place: str) -> list[int]:
    given = _require(template.get(field), list, f"{field!r}", place)
    if wrong := [index for index in given if isinstance(index, bool) or not isinstance(index, int)]:
        raise InputError(f"{place}: {field!r} holds {shown(json.dumps(wrong[0]))}; accepted are whole numbers from 0")
    return given


def _seeds(entry: Mapping[str, Any], place: str) -> tuple[int, ...]:
    given = entry.get("modelSeeds") or []
    seeds = []
    for seed in _require(given, list, "'modelSeeds'", place):
        number = int(seed) if isinstance(seed, str) and seed.isdecimal() and len(seed) < 12 else seed
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _MOST_SEED:
            raise InputError(f"{place}: the seed {shown(str(seed))}; accepted are numbers from 0 to {_MOST_SEED}")
        seeds.append(number)
    return tuple(dict.fromkeys(seeds))


def _require(value: Any, kind: type, what: str, place: str) -> Any:
    if isinstance(value, kind):
        return value
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a text"}
    raise InputError(f"{place}: {what} must be {names[kind]}, not {shown(json.dumps(value))}")
