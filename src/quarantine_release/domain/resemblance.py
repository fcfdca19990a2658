"""Which known name a misspelt one was meant for. Without this check a misspelt limit is silently no limit. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from types import MappingProxyType
from typing import Final

# Known names shorter than this match only but for case, separators and number: one edit turns `id` into other words.
_LEAST_LETTERS: Final = 4

_SEPARATORS: Final = re.compile(r"[-_]")

_NAMEABLE: Final = re.compile(r"\A[A-Za-z0-9_-]{1,64}\Z")

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Index:
    """The forms of the known names. `near` finds a form by itself and by each text that lacks one of its letters."""

    exact: dict[str, str]
    near: dict[str, list[tuple[str, str]]]
    longest: int


def resembles(name: str, known: tuple[str, ...]) -> str | None:
    """Return the known name that this unknown one was probably meant for; None if there is none, or if it is known.

    Names resemble each other if they differ only in case, hyphens, underscores, or singular and plural, or by one
    edit: a character inserted, left out or replaced, or two neighbors swapped. Costs a few microseconds, whatever
    the name, so it may be asked about every member of a body.
    """
    if name in known:
        return None
    index = _index(known)
    forms = _forms(name)
    for form in forms:
        if form in index.exact:
            return index.exact[form]
    for form in forms:
        if len(form) > index.longest + 1:
            continue
        for lacking in _shortened(form):
            for other, meant in index.near.get(lacking, ()):
                if _is_one_edit(form, other):
                    return meant
    return None


def check_names(
    names: Iterable[str], known: tuple[str, ...], meant: Mapping[str, str] = _NONE, place: str = ""
) -> None:
    """Refuse an unknown name that resembles a known one. Raises ValueError with both names, never a value.

    `meant` holds further names that are mistaken for others, each with the one that was meant; names that resemble
    these are refused too. `place` goes before the text.
    """
    for name in sorted(set(names).difference(known)):
        found = name if name in meant else resembles(name, (*known, *meant))
        if found is not None:
            shown = name if _NAMEABLE.match(name) else "a misspelt member"
            raise ValueError(f"{place}{shown}: is not known; {meant.get(found, found)} was probably meant")


@lru_cache(maxsize=32)
def _index(known: tuple[str, ...]) -> _Index:
    exact: dict[str, str] = {}
    near: dict[str, list[tuple[str, str]]] = {}
    # Every name as it is before any in the singular: `Id` is `id` and not `ids`.
    forms = sorted(((at, form, name) for name in known for at, form in enumerate(_forms(name))), key=itemgetter(0))
    for _, form, name in forms:
        exact.setdefault(form, name)
        for lacking in _shortened(form) if len(form) >= _LEAST_LETTERS else ():
            near.setdefault(lacking, []).append((form, name))
    return _Index(exact, near, max(map(len, exact), default=0))


def _forms(name: str) -> tuple[str, ...]:
    """Return the name in lower case without separators, and the same in the singular if it looks like a plural."""
    plain = _SEPARATORS.sub("", name.casefold())
    if plain.endswith("ies"):
        return (plain, f"{plain[:-3]}y", plain[:-1])
    return (plain, plain[:-1]) if plain.endswith("s") else (plain,)


def _shortened(form: str) -> Iterator[str]:
    yield form
    for position in range(len(form)):
        yield form[:position] + form[position + 1 :]


def _is_one_edit(one: str, other: str) -> bool:
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    end = 0
    while end < min(len(one), len(other)) - start and one[-1 - end] == other[-1 - end]:
        end += 1
    rest, others = one[start : len(one) - end], other[start : len(other) - end]
    is_swap = len(rest) == len(others) == 2 and rest == others[::-1]
    return is_swap or (len(rest) <= 1 and len(others) <= 1)
