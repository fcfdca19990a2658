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

# `maxIDs` and `is_disabled` in words; a run of capitals before a lower-case word is a word of its own.
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

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


def holds(name: str, limits: tuple[str, ...]) -> str | None:
    """Return the limit whose name stands in this one as a word or several, in singular or plural; None if none does."""
    forms = _numbers(limits)
    longest = max(map(len, forms), default=0)
    words = [word.casefold() for word in _WORDS.findall(name)]
    for start in range(len(words)):
        run = ""
        for word in words[start:]:
            run += word
            if len(run) > longest:
                break
            if run in forms:
                return forms[run]
    return None


def check_names(
    names: Iterable[str],
    known: tuple[str, ...],
    meant: Mapping[str, str] = _NONE,
    place: str = "",
    limits: tuple[str, ...] = (),
) -> None:
    """Refuse an unknown name that resembles a known one. Raises ValueError with both names, never a value.

    `meant` holds further names that are mistaken for others, each with the one that was meant; names that resemble
    these are refused too. So are names that hold one of `limits`. `place` goes before the text.
    """
    for name in sorted(set(names).difference(known)):
        found = name if name in meant else resembles(name, (*known, *meant)) or holds(name, limits)
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


@lru_cache(maxsize=32)
def _numbers(known: tuple[str, ...]) -> dict[str, str]:
    """Return the known names by all their forms, in singular and plural."""
    exact = _index(known).exact
    plurals = {form: name for each, name in exact.items() for form in (f"{each}s", re.sub("y$", "ies", each))}
    return plurals | exact


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
