"""What any reply of Cloudflare says about the credential, its limits, and the content that was read. Pure.

Sources: Cloudflare's "API reference" (errors, token verification) and "fundamentals/api/reference/limits".
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from quarantine_release.domain.details import Unreadable
from quarantine_release.domain.verdicts import Evidence, NoEffect, RefusalReason

# RFC 9110: no such resource, method not allowed, method not implemented.
_NOT_OFFERED: Final = frozenset({404, 405, 501})

# "Invalid request headers": a malformed credential is refused before anything is done (API reference, error 6003).
_INVALID_HEADERS: Final = 6003

# Cloudflare blocks every call for five minutes once the limit is passed (fundamentals/api/reference/limits).
LOCKOUT_SECONDS: Final = 300
_LONGEST_WAIT: Final = 3600
_DIGITS_LIMIT: Final = 4300  # int() refuses more
# A quarter of the quota is left to the dashboard and to others who call with the same credential.
_SHARE_OF_OTHERS: Final = 4
_LEFT: Final = re.compile(r"(?:\A|,)([^,;]{1,64});\s*r=([0-9]{1,6});\s*t=([0-9]{1,4})(?=[;,\s]|\Z)")
_QUOTA: Final = re.compile(r"(?:\A|,)([^,;]{1,64});\s*q=([0-9]{1,6})(?=[;,\s]|\Z)")
# Codes have four to six digits; JSON would let one have four thousand.
_CODE_LIMIT: Final = 10**9


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer as received; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def refuses_credential(reply: Reply) -> bool:
    """Return whether an answer to any call says that the credential is refused and nothing was done."""
    return reply.status in (401, 403) or (
        reply.status == 400 and _INVALID_HEADERS in gather_evidence(reply).error_codes
    )


def limited(reply: Reply, now: datetime) -> NoEffect:
    """Return what a 429 says, to whatever call."""
    return NoEffect(RefusalReason.RATE_LIMITED, gather_evidence(reply), _retry_after(reply, now))


def gather_evidence(reply: Reply) -> Evidence:
    """Return what is kept of an answer."""
    return Evidence(reply.status, _error_codes(envelope_of(reply)), _cf_ray(reply))


def is_verified(reply: Reply) -> bool | None:
    """Return what the answer to a call that verifies a credential says of it; None if nothing."""
    if reply.status in (400, 401, 403):
        return False
    envelope = envelope_of(reply)
    if reply.status != 200 or envelope is None or envelope.get("success") is not True:
        return None
    result = envelope.get("result")
    # A token's is active, disabled or expired; a person has none.
    return not isinstance(result, dict) or result.get("status", "active") == "active"


def content_of(reply: Reply) -> dict[str, Any] | Unreadable:
    """Return what the answer to a read holds, or why it holds nothing."""
    try:
        content = json.loads(reply.body)
    except (ValueError, RecursionError):
        content = None
    succeeded = content.get("success") if isinstance(content, dict) else None
    if reply.status == 200 and isinstance(content, dict) and succeeded is True:
        return content
    if reply.status == 404 and succeeded is False:
        return Unreadable.ABSENT
    # A 404 without Cloudflare's envelope is somebody else's, who knows of no messages.
    return Unreadable.NOT_OFFERED if reply.status in _NOT_OFFERED else Unreadable.FAILED


def _error_codes(envelope: Mapping[str, Any] | None) -> tuple[int, ...]:
    errors = (envelope or {}).get("errors")
    if not isinstance(errors, list):
        return ()
    codes = [error.get("code") for error in errors if isinstance(error, dict)]
    return tuple(code for code in codes if type(code) is int and 0 <= code < _CODE_LIMIT)[:8]


def envelope_of(reply: Reply) -> dict[str, Any] | None:
    """Return the object that a reply holds, if it holds one."""
    try:
        content = json.loads(reply.body.decode())
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _cf_ray(reply: Reply) -> str | None:
    ray = reply.headers.get("cf-ray", "")[:64]
    return ray if ray.isascii() and ray.isprintable() and ray else None


def _retry_after(reply: Reply, now: datetime) -> int:
    value = reply.headers.get("retry-after", "").strip()
    try:
        seconds = int(value[:_DIGITS_LIMIT]) if value.isascii() and value.isdigit() else _seconds_until(value, now)
    except (ValueError, OverflowError):  # the parser of dates lets the latter through
        return LOCKOUT_SECONDS
    return min(max(seconds, 1), _LONGEST_WAIT)


def rest_of(reply: Reply) -> int | None:
    """Return for how long to stop calling, by what Cloudflare says is left (fundamentals/api/reference/limits).

    The headers `Ratelimit: "name";r=<left>;t=<seconds>` and `Ratelimit-Policy: "name";q=<quota>;w=<window>` may be
    missing or name several limits; they can only make the budget smaller.
    """
    quotas = {name.strip(): int(quota) for name, quota in _QUOTA.findall(reply.headers.get("ratelimit-policy", ""))}
    largest = max(quotas.values(), default=_SHARE_OF_OTHERS)  # of how much, if it is not told
    rests = [
        min(max(int(seconds), 1), LOCKOUT_SECONDS)
        for name, left, seconds in _LEFT.findall(reply.headers.get("ratelimit", ""))
        if int(left) * _SHARE_OF_OTHERS < quotas.get(name.strip(), largest)
    ]
    return max(rests, default=None)


def _seconds_until(date: str, now: datetime) -> int:
    until = parsedate_to_datetime(date)
    return int((until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds())
