"""What the operations tool prints for people: tables of text. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

_GAP: Final = "  "
_NOTHING: Final[tuple[Any, ...]] = (None, "", [])


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return columns as wide as what stands in them; None and "" show as a dash."""
    lines = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = (_GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join(text)


def facts(body: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return members one below the other, with their names."""
    width = max(map(len, names))
    return "\n".join(f"{name.ljust(width)}{_GAP}{_cell(body[name])}" for name in names)


def listed(title: str, bodies: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Return a table of members below a title, without columns in which nothing stands, or that there is none."""
    if not bodies:
        return f"{title}: none"
    names = [name for name in names if any(body.get(name) not in _NOTHING for body in bodies)]
    return f"{title}:\n" + table(names, ([body.get(name) for name in names] for body in bodies))


def _cell(value: Any) -> str:
    if value in _NOTHING:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(each)}" for name, each in value.items() if each not in _NOTHING)
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    # What a caller sent is shown on a terminal: it must not be able to steer it.
    return "".join(character if character.isprintable() else "?" for character in str(value))
