"""Plans kept on disk, so that a program that was planned before is not planned again."""

import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax

from fastfold_jax.atomic import replacing
from fastfold_jax.autochunk.estimate import Estimate
from fastfold_jax.autochunk.plan import Item
from fastfold_jax.autochunk.program import Level, Value
from fastfold_jax.autochunk.region import Region, options, walk
from fastfold_jax.autochunk.schedule import LevelPlan, Placed

logger = logging.getLogger(__name__)

Kept = TypeVar("Kept")


def directory() -> Path | None:
    """Where plans are kept: beside JAX's compiled programs, if those are kept on this machine."""
    base = jax.config.values["jax_compilation_cache_dir"]
    return Path(base) / "autochunk" if base and os.path.isdir(base) else None


def key(*parts: Any) -> str:
    """A name for a program and what it is planned for; other code or another JAX give other names."""
    return hashlib.sha256("\n".join(map(str, (_code(), jax.__version__, *parts))).encode()).hexdigest()[:32]


@functools.cache
def _code() -> str:
    """What this package's own source hashes to: plans of other versions of it are none of ours."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def load(name: str, level: Level) -> tuple[LevelPlan, int] | None:
    """A plan for the level, and the budget in bytes that it was made for; None if none is kept that can be used."""
    return _load(name, lambda kept: (_read(kept["plan"], level), int(kept["budget"])))


def save(name: str, plan: LevelPlan, budget: int) -> None:
    """Keeps a plan; one that cannot be written is not kept."""
    if directory() is not None:
        _save(name, {"budget": budget, "plan": _written(plan)})


def load_smaller(name: str) -> int | None:
    """The budget in bytes with which a program was compiled, in place of the plan's own; None if none is kept."""
    return _load(f"{name}.smaller", lambda kept: int(kept["budget"]))


def save_smaller(name: str, budget: int) -> None:
    """Keeps the budget for which XLA's program met the plan's."""
    _save(f"{name}.smaller", {"budget": budget})


def _load(name: str, read: Callable[[Any], Kept]) -> Kept | None:
    folder = directory()
    if folder is None:
        return None
    try:
        return read(json.loads((folder / f"{name}.json").read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError) as error:
        logger.warning("the plan %s in %s cannot be used (%s): planning again", name, folder, error)
        return None


def _save(name: str, data: dict[str, Any]) -> None:
    folder = directory()
    if folder is None:
        return
    try:
        folder.mkdir(exist_ok=True)
        with replacing(folder / f"{name}.json") as file:
            file.write(json.dumps(data).encode())
    except OSError as error:
        logger.warning("no plan is kept in %s: %s", folder, error.strerror)


def _written(plan: LevelPlan) -> dict[str, Any]:
    places = _places(plan.level)
    return {
        "peak": plan.peak,
        "seconds": plan.seconds,
        "whole": [plan.whole.bytes, plan.whole.seconds],
        "placed": [_written_item(entry, plan.level, places) for entry in plan.placed],
    }


def _written_item(entry: Placed, level: Level, places: dict[Value, str]) -> dict[str, Any]:
    region = entry.item.region
    written: dict[str, Any] = {
        "index": entry.item.index,
        "size": entry.size,
        "in_place": [[places[made], places[source]] for made, source in entry.in_place.items()],
        "figures": [entry.bytes, entry.alive, entry.seconds],
        "waits": entry.waits,
        "inner": {name: [_written(plan) for plan in plans] for name, plans in entry.inner.items()},
    }
    if region is not None:
        written["sources"] = [places[value] for value in region.sources]
        written["roots"] = [
            [places[root.value], list(options(level.equations[root.value.source or 0], root.value)).index(root)]
            for root in region.roots
        ]
    return written


def _read(kept: dict[str, Any], level: Level) -> LevelPlan:
    values = {place: value for value, place in _places(level).items()}
    placed = [_read_item(item, level, values) for item in kept["placed"]]
    return LevelPlan(level, placed, kept["peak"], kept["seconds"], Estimate(*kept["whole"]))


def _read_item(kept: dict[str, Any], level: Level, values: dict[str, Value]) -> Placed:
    equation, region = level.equations[kept["index"]], None
    if "roots" in kept:
        region = _read_region(kept, level, values)
        item = Item(kept["index"], list(region.sources), [root.value for root in region.roots], region)
    else:
        item = Item(kept["index"], [v for v in equation.inputs if v.literal is None], list(equation.outputs))
    inner = {
        name: tuple(_read(plan, body) for plan, body in zip(plans, equation.bodies[name], strict=True))
        for name, plans in kept["inner"].items()
    }
    in_place = {values[made]: values[source] for made, source in kept["in_place"]}
    own, alive, seconds = kept["figures"]
    figures = {"bytes": own, "alive": alive, "seconds": seconds, "waits": kept["waits"]}
    return Placed(item, kept["size"], in_place, inner=inner, **figures)


def _read_region(kept: dict[str, Any], level: Level, values: dict[str, Value]) -> Region:
    sources = {values[place] for place in kept["sources"]}
    roots = []
    for place, option in kept["roots"]:
        value = values[place]
        assert value.source is not None
        roots.append(list(options(level.equations[value.source], value))[option])
    region = walk(level, roots, sources.__contains__)
    if set(region.sources) != sources:
        raise ValueError("it does not belong to this program")
    return region


def _places(level: Level) -> dict[Value, str]:
    """A name for each value of a level that depends on the program alone."""
    places = {value: f"input {i}" for i, value in enumerate(level.inputs)}
    places |= {value: f"constant {i}" for i, (value, _) in enumerate(level.constants)}
    for index, equation in enumerate(level.equations):
        places |= {value: f"{index} {i}" for i, value in enumerate(equation.outputs)}
    return places
