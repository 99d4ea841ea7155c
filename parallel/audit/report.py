"""An audit's findings: figures for JSON, and a table."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from parallel.audit.cost import Machine
from parallel.audit.hlo import parse
from parallel.audit.schedule import Collective, Timeline, play


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit:
    """One compiled program on one machine.

    Attributes:
      devices: Number of devices that share a protein.
      timeline: What `play` returned.
      memory: GiB a device: arguments, temporaries, outputs, peak.
    """

    devices: int
    timeline: Timeline
    memory: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """Predicted time of one run of the program."""
        return self.timeline.seconds

    def hidden(self) -> float:
        """The share of all bytes sent that compute hides; 1 where none are."""
        runs = [(times, collective) for times, line in self.timeline.all() for collective in line.collectives]
        total = sum(times * collective.bytes for times, collective in runs)
        return sum(times * collective.hidden_bytes for times, collective in runs) / total if total else 1.0

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "devices": self.devices,
            "seconds": self.seconds,
            "hidden": self.hidden(),
            "memory_gib": dict(self.memory),
            "computations": [
                {
                    "name": line.name,
                    "runs": times,
                    "seconds": line.seconds,
                    "compute_seconds": line.compute,
                    "exposed_seconds": line.exposed,
                    "bytes": line.bytes,
                    "collectives": [
                        {**dataclasses.asdict(collective), "hidden_bytes": collective.hidden_bytes}
                        for collective in line.collectives
                    ],
                }
                for times, line in self.timeline.all()
                if line.collectives
            ],
        }


def audit(compiled: Any, devices: int, machine: Machine, *, fused: bool = False) -> Audit:
    """Reads a compiled program.

    Args:
      fused: See `play`.
    """
    stats = compiled.memory_analysis()
    sizes = {
        "arguments": stats.argument_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
    }
    sizes["peak"] = sum(sizes.values()) - stats.alias_size_in_bytes
    return Audit(
        devices=devices,
        timeline=play(parse(compiled.as_text()), machine, fused=fused),
        memory={name: size / 2**30 for name, size in sizes.items()},
    )


def table(found: Audit, baseline: Audit | None = None) -> str:
    """The audit in words and columns.

    Args:
      baseline: The same on one device, for the efficiency.
    """
    lines = []
    for times, line in found.timeline.all():
        if line.collectives:
            lines += [_heading(times, line), *_rows(line.collectives), ""]
    memory = ", ".join(f"{name} {size:.2f}" for name, size in found.memory.items())
    lines.append(f"memory a device, GiB: {memory}")
    lines.append(f"time of a run: {found.seconds * 1e3:.2f} ms; bytes hidden: {found.hidden():.1%}")
    if baseline is not None:
        efficiency = baseline.seconds / (found.devices * found.seconds)
        lines.append(f"one device: {baseline.seconds * 1e3:.2f} ms; efficiency on {found.devices}: {efficiency:.1%}")
    return "\n".join(lines)


def _heading(times: int, line: Timeline) -> str:
    return (
        f"{line.name}, runs {times} times: {line.seconds * 1e3:.3f} ms, of which compute {line.compute * 1e3:.3f}, "
        f"waits {line.exposed * 1e3:.3f}; {line.bytes / 1e6:.1f} MB sent"
    )


def _rows(collectives: tuple[Collective, ...]) -> list[str]:
    """One line for each; equal neighbours share one."""
    header = ("collective", "MB", "time µs", "compute between µs", "waits µs", "", "source")
    rows: list[tuple[str, ...]] = [header]
    for item in collectives:
        hidden = item.exposed < 0.05 * item.seconds
        state = "hidden" if hidden else "exposed" if item.exposed > 0.95 * item.seconds else "partly"
        figures = (item.bytes / 1e6, item.seconds * 1e6, item.between * 1e6, item.exposed * 1e6)
        rows.append((item.kind, *(f"{figure:.1f}" for figure in figures), state, _tail(item.source)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column in (0, 5, 6) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _tail(source: str) -> str:
    """The last scopes of a source's path, without what every path has."""
    parts = [part for part in source.split("/") if part not in ("while", "body", "closed_call", "shard_map")]
    return "/".join(parts[-3:])
