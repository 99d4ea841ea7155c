"""Names taken from headers and paths, made safe to be names of output files."""

import re
from collections.abc import Iterable

_MAX_LENGTH = 64
_RESERVED = re.compile(
    r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE
)  # devices on Windows, whatever the suffix


def safe_name(text: str, *, otherwise: str) -> str:
    """`text` as a file name: ASCII letters, digits, ``._-`` only, 1 to 64 of them, none of ``.-`` first.

    Every run of other characters becomes one underscore, so no name holds a path separator, is ``..`` or looks like a
    command-line option. `otherwise` is the name when nothing is left.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".-_")[:_MAX_LENGTH].rstrip("._")
    if not name:
        return otherwise
    return f"_{name}"[:_MAX_LENGTH] if _RESERVED.fullmatch(name) else name


def unique_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names in order, with ``_2``, ``_3``, ... behind those that came before; upper and lower case are alike."""
    taken: set[str] = set()
    unique = []
    for name in names:
        candidate, number = name, 1
        while candidate.casefold() in taken:
            number += 1
            suffix = f"_{number}"
            candidate = name[: _MAX_LENGTH - len(suffix)] + suffix
        taken.add(candidate.casefold())
        unique.append(candidate)
    return tuple(unique)
