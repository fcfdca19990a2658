"""Traces of a release in what Cloudflare shows of a message, in any field and any spelling. Pure.

A trace proves no release, but it contradicts "still quarantined". Cloudflare's own pages spell one operation in three
ways: QUARANTINE_RELEASE (post_delivery_operations, action log), QUARANTINE_RELEASED (search parameter message_action)
and quarantineRelease (Logpush); RELEASE is the deprecated one, and `properties.allowlisted_pattern_type`, formerly
`whitelisted_pattern_type`, is quarantine_release for released mail that was processed again.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

_NOT_LETTERS: Final = re.compile(r"[^a-z]")
# Fields whose values Cloudflare chooses. In others a sender or an analyst may write "release".
_TELLING: Final = ("operation", "action", "type", "status", "state", "destination", "delivery", "propert")

# Objects whose members the sender chooses.
_SENT: Final = ("attachments", "links", "headers")

# Cloudflare nests these values two levels deep. Anything far deeper is treated as a trace instead of being followed.
_DEPTH: Final = 16


def as_list(value: Any) -> list[Any]:
    """Return a list as it is, and a single value as a list of it; nothing for null."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def letters(value: Any) -> str:
    """Return the letters of a text in lower case; nothing for any other value."""
    return _NOT_LETTERS.sub("", value.casefold()) if isinstance(value, str) else ""


def resembles_release(value: Any) -> bool:
    """Return whether a text names a release, or an object or list does in an operation, type or status."""
    return _hints(value, 0)


def hints_at_release(entry: Mapping[str, Any]) -> bool:
    statuses = [letters(status) for status in as_list(entry.get("delivery_status"))]
    was_delivered = any(status.startswith("deliver") for status in statuses)
    is_elsewhere = bool(statuses) and "quarantined" not in statuses
    return (
        was_delivered
        or is_elsewhere
        or any(_tells(name, value, 0) or _nests(name, value) for name, value in entry.items())
    )


def _nests(name: str, value: Any) -> bool:
    """Return whether an object in any field holds an operation, type or status that names a release."""
    if not isinstance(value, dict | list) or name in _SENT:
        return False
    return any(_hints(each, 1) for each in as_list(value) if isinstance(each, dict))


def _tells(name: str, value: Any, depth: int) -> bool:
    if not value:
        return False
    names_release, is_telling = _kind(name)
    if names_release:
        return letters(value) not in ("false", "no", "none") if isinstance(value, str) else True
    return is_telling and _hints(value, depth)


@lru_cache(maxsize=1024)
def _kind(name: str) -> tuple[bool, bool]:
    """Return whether a field's name names a release, and whether Cloudflare chooses its values."""
    word = letters(name)
    return "releas" in word, any(each in word for each in _TELLING)


def _hints(value: Any, depth: int) -> bool:
    if depth > _DEPTH:
        return True
    if isinstance(value, dict):
        return any(_tells(name, each, depth + 1) for name, each in value.items())
    if isinstance(value, list):
        return any(_hints(each, depth + 1) for each in value)
    return "releas" in letters(value)
