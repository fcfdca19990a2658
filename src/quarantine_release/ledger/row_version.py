"""The version of a row's schema, and what happens to a row that this code cannot read. Pure.

A row without a version is one of 4c3b95d, version 1. docs/operations.md says when the version is raised.
"""

import zlib
from collections.abc import Callable
from functools import wraps
from typing import Final, TypeVar

from quarantine_release.domain.ledger_errors import RowUnreadable
from quarantine_release.ledger.codecs import Attribute, Item

NAME: Final = "v"
VERSION: Final = 2

# No write passes a row that a newer version has written. `:v` is the stamp.
NOT_NEWER: Final = f"(attribute_not_exists({NAME}) OR {NAME} <= :v)"

STAMP: Final[Attribute] = {"N": str(VERSION)}
Row = TypeVar("Row")
# What decoding a damaged value raises: a missing attribute, an unknown value, another type, broken JSON or zlib.
_DAMAGE: Final = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, zlib.error)


def readable(decode: Callable[[Item], Row]) -> Callable[[Item], Row]:
    """Have a decoding function raise RowUnreadable, and nothing else, for a row that it cannot read."""

    @wraps(decode)
    def read(item: Item) -> Row:
        try:
            version = int(item[NAME]["N"]) if NAME in item else 1
            if not 1 <= version <= VERSION:
                raise RowUnreadable(item["pk"]["S"], f"version {version}")
            return decode(item)
        except _DAMAGE as error:
            raise RowUnreadable(item["pk"]["S"], type(error).__name__) from None

    return read
