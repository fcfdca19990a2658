"""The members of a release request, each held against its rule: ids, texts, flags, what narrows a Message-ID down.

Pure; never echoes input back.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from quarantine_release.api.problems import InvalidRequest
from quarantine_release.api.strict_json import Number
from quarantine_release.domain.ids import (
    ACCOUNT_ID,
    ANY_ID,
    HEADER_ID,
    ID_CHARACTERS,
    REQUEST_ID,
    AccountId,
    MessageId,
    RequestId,
    is_header,
)
from quarantine_release.domain.request_options import FailOn, Narrowing

IDS_LIMIT: Final = 1000
# More are released while nobody waits. A forced request is done at once or not at all.
INLINE_LIMIT: Final = 25
_ID_MEMBERS: Final = ("ids", "postfix_ids", "postfix_id", "id", "alert_ids", "message_ids")
_TEXT_LIMITS: Final = {"reason": 500, "ticket": 100, "requested_by": 200}
_NARROWING: Final = ("recipient", "sender", "since", "expect_count")
_FLAGS: Final = ("force", "override", "dry_run", "confirm")
_MEMBERS: Final = frozenset({*_ID_MEMBERS, *_TEXT_LIMITS, *_NARROWING, *_FLAGS, "account_id", "fail_on"})
# In a list of ids a Message-ID may hold commas of its own.
_LISTED: Final = re.compile(r"<[^<>]*>|[^,]+")
_ADDRESS: Final = re.compile(r"\A(?:[\x21-\x3b\x3d\x3f-\x7e]{1,64}@)?[A-Za-z0-9.-]{1,253}\Z")
_COUNT: Final = re.compile(r"\A[1-9][0-9]{0,2}\Z")

_NAMEABLE: Final = re.compile(r"\A[A-Za-z0-9_.-]{1,64}\Z")
_WARNINGS_LIMIT: Final = 20
_EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(2100, 1, 1, tzinfo=UTC)


def parse_ids(content: dict[str, Any], limit: int, because: str = "") -> tuple[MessageId, ...]:
    """Return the different ids, under whichever name they are given. Raises InvalidRequest.

    `because` ends the sentence about the limit.
    """
    name = _ids_member(content)
    ids = _listed(content[name])
    if ids is None:
        raise InvalidRequest("invalid_id", "ids must be an array of strings, or one comma-separated string.", name)
    if not ids:
        raise InvalidRequest("ids_missing", "ids must hold at least one id.", name)
    distinct = tuple(dict.fromkeys(_any_id(entry, name, position) for position, entry in enumerate(ids, start=1)))
    if len(distinct) > limit:
        raise InvalidRequest("too_many_ids", f"At most {limit} different ids may be given{because}.", name)
    return distinct


def _ids_member(content: dict[str, Any]) -> str:
    """Return the one member that holds ids."""
    names = [name for name in _ID_MEMBERS if content.get(name) not in (None, "")]
    if not names:
        raise InvalidRequest("ids_missing", "ids must hold at least one id.", "ids")
    if len(names) > 1:
        raise InvalidRequest(
            "ids_ambiguous",
            f"Only one of {', '.join(_ID_MEMBERS)} may be given, and these are: {', '.join(names)}.",
            "ids",
        )
    return names[0]


def _listed(value: Any) -> list[str] | None:
    """Return the entries of an array or of a comma-separated string; None if it is neither."""
    if isinstance(value, str):
        return [part.strip() for part in _LISTED.findall(value) if part.strip()]
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        return None
    return value


def parse_message_id(text: str, field: str = "id", which: str = "An id") -> MessageId:
    """Check an id's shape. `which` begins the rule in the error. Raises InvalidRequest."""
    if not ID_CHARACTERS.match(text):
        raise InvalidRequest("invalid_id", f"{which} must be 8 to 128 of A-Z a-z 0-9 . _ : -.", field)
    if not ANY_ID.match(text):
        rule = "must have 10 to 24 letters and digits, alone or before its timestamp."
        raise InvalidRequest("invalid_id", f"{which} {rule}", field)
    return MessageId(text)


def _any_id(text: str, field: str, position: int) -> MessageId:
    """Check the shape of an id that may be a Message-ID too: in its angle brackets, or with an @."""
    if "@" not in text and not text.startswith("<"):
        return parse_message_id(text, field, f"Id {position}")
    if not HEADER_ID.match(text if text.startswith("<") else f"<{text}>"):
        rule = "is a Message-ID, which must be 1 to 250 printable ASCII characters, in < >."
        raise InvalidRequest("invalid_id", f"Id {position} {rule}", field)
    return MessageId(text)


def parse_request_id(text: str) -> RequestId | None:
    """Return a request id, or None for what cannot be one."""
    return RequestId(text) if REQUEST_ID.match(text) else None


def parse_account_id(value: Any) -> AccountId | None:
    """Check an account id; None if there is none. Raises InvalidRequest."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not ACCOUNT_ID.match(value):
        raise InvalidRequest("invalid_field", "account_id must be 32 lower-case hexadecimal digits.", "account_id")
    return AccountId(value)


def queried_account(query: Mapping[str, Sequence[str]]) -> AccountId | None:
    """Return the account that a query string names, if any. Raises InvalidRequest."""
    return parse_account_id(next(iter(query.get("account_id", ())), None))


def parse_texts(content: dict[str, Any]) -> dict[str, str | None]:
    """Return every text that tells why, None where there is none. Raises InvalidRequest."""
    return {name: _text(content, name, limit) for name, limit in _TEXT_LIMITS.items()}


def _text(content: dict[str, Any], name: str, limit: int) -> str | None:
    value = content.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidRequest("invalid_field", f"{name} must be a string.", name)
    if len(value) > limit:
        raise InvalidRequest("field_too_long", f"{name} must have at most {limit} characters.", name)
    # Controls, lone surrogates, and the separators that some log readers take for line ends.
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value):
        raise InvalidRequest("invalid_field", f"{name} must not hold control characters.", name)
    return value.strip() or None


def parse_flags(content: dict[str, Any]) -> dict[str, bool]:
    """Return every flag, false where it is not given. Raises InvalidRequest."""
    return {name: _flag(content, name) for name in _FLAGS}


def _flag(content: dict[str, Any], name: str) -> bool:
    value = content.get(name)
    spelled = {"true": True, "false": False}
    if isinstance(value, str) and value.lower() in spelled:
        return spelled[value.lower()]
    if value is None or isinstance(value, bool):
        return bool(value)
    raise InvalidRequest("invalid_field", f"{name} must be true or false.", name)


def parse_narrowing(content: dict[str, Any]) -> Narrowing:
    """Return what narrows a Message-ID down. Raises InvalidRequest."""
    for name in ("recipient", "sender"):
        value = content.get(name)
        if value is not None and not (isinstance(value, str) and _ADDRESS.match(value)):
            raise InvalidRequest("invalid_field", f"{name} must be an e-mail address or a domain.", name)
    return Narrowing(content.get("recipient"), content.get("sender"), _since(content), _count(content))


def _since(content: dict[str, Any]) -> datetime | None:
    value = content.get("since")
    if value is None:
        return None
    try:
        since = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        since = None
    if since is None or since.tzinfo is None or not value.isascii() or not _EARLIEST <= since <= _LATEST:
        raise InvalidRequest("invalid_field", "since must be an ISO 8601 time with its offset from UTC.", "since")
    return since.astimezone(UTC)


def _count(content: dict[str, Any]) -> int | None:
    value = content.get("expect_count")
    if value is None:
        return None
    text = value.text if isinstance(value, Number) else value
    if not isinstance(text, str) or not _COUNT.match(text):
        raise InvalidRequest("invalid_field", "expect_count must be a whole number from 1 to 999.", "expect_count")
    return int(text)


def parse_fail_on(content: dict[str, Any]) -> FailOn:
    """Return when the caller asks for a 400. Raises InvalidRequest."""
    value = content.get("fail_on")
    if value is None:
        return FailOn.NEVER
    if isinstance(value, str) and value in set(FailOn):
        return FailOn(value)
    raise InvalidRequest("invalid_field", f"fail_on must be one of {', '.join(FailOn)}.", "fail_on")


def list_warnings(content: dict[str, Any], ids: Sequence[MessageId]) -> tuple[str, ...]:
    """Return warnings about unknown members, and about members without effect."""
    unknown = sorted(content.keys() - _MEMBERS)
    named = [name for name in unknown if _NAMEABLE.match(name)][:_WARNINGS_LIMIT]
    warnings = [f"Unknown member ignored: {name}" for name in named]
    without = [name for name in _NARROWING if content.get(name) is not None and not any(map(is_header, ids))]
    warnings += [f"Without effect, since no id is a Message-ID: {name}" for name in without]
    if len(unknown) > len(named):
        warnings.append(f"Further unknown members ignored: {len(unknown) - len(named)}")
    return tuple(warnings)
