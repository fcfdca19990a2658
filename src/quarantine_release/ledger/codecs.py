"""How one attribute of a row is written and read back: a codec for each shape that DynamoDB knows. Pure.

Times are milliseconds since 1970, but for `expires_at`, which DynamoDB's time to live wants in seconds.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

Attribute = dict[str, Any]
Item = Mapping[str, Attribute]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Codec:
    """Both ways of one kind of value."""

    encode: Callable[[Any], Attribute]
    decode: Callable[[Attribute], Any]


def text(kind: Callable[[str], Any]) -> Codec:
    """Keep a value as a string, read back as its kind."""
    return Codec(lambda value: {"S": str(value)}, lambda attribute: kind(attribute["S"]))


def texts(kind: Callable[[str], Any]) -> Codec:
    """Keep values as a set of strings, read back as their kind."""
    return Codec(lambda value: {"SS": sorted(value)}, lambda attribute: frozenset(map(kind, attribute["SS"])))


def time_in(unit: timedelta) -> Codec:
    """Keep a time as a whole number of units since 1970."""
    return Codec(
        lambda value: {"N": str((value - EPOCH) // unit)}, lambda attribute: EPOCH + int(attribute["N"]) * unit
    )


def packed(to_json: Callable[[Any], Any], from_json: Callable[[Any], Any]) -> Codec:
    """Keep a value as compressed JSON."""
    return Codec(lambda value: {"B": pack(to_json(value))}, lambda attribute: from_json(unpack(attribute["B"])))


def in_json(to_json: Callable[[Any], Any], from_json: Callable[[Any], Any]) -> Codec:
    """Keep a value as JSON."""
    return Codec(
        lambda value: {"S": json.dumps(to_json(value), separators=(",", ":"))},
        lambda attribute: from_json(json.loads(attribute["S"])),
    )


def pack(value: Any) -> bytes:
    """Return a value as compressed JSON."""
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode())


def unpack(content: bytes) -> Any:
    """Read a value back from compressed JSON."""
    return json.loads(zlib.decompress(content))


def check_types(kind: type, values: Iterable[Any], *, or_none: bool = False) -> None:
    """Raise TypeError unless each value is of this type: damaged JSON may hold any other."""
    if not all(type(value) is kind or (or_none and value is None) for value in values):
        raise TypeError


TEXT: Final = text(str)
NUMBER: Final = Codec(lambda value: {"N": str(value)}, lambda attribute: int(attribute["N"]))
FLAG: Final = Codec(lambda value: {"BOOL": value}, lambda attribute: bool(attribute["BOOL"]))
MILLISECONDS: Final = time_in(timedelta(milliseconds=1))
SECONDS: Final = time_in(timedelta(seconds=1))
