"""What an answer of Cloudflare's release call proves, message by message. Pure.

The source of each fact is Cloudflare's API reference, "Release messages from quarantine" (POST
/accounts/{account_id}/email-security/investigate/release): an HTTP 200 says nothing of delivery, each message carries
its own `delivered`, `undelivered` and `failed`, each of which may be null or absent.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from quarantine_release.cloudflare.entries import id_of, names_two, parts_named
from quarantine_release.domain.ids import MessageId, PostfixPart, contradict, fullest, postfix_part
from quarantine_release.domain.states import Code, State
from quarantine_release.domain.verdicts import Answered, Evidence, Recipients, RefusalReason, Refused, Verdict

# "Invalid request headers": a malformed credential is refused before anything is done (API reference, error 6003).
_INVALID_HEADERS: Final = 6003

# A timeout or an abort told by a status: the request may have been taken on.
_AMBIGUOUS_4XX: Final = frozenset({408, 425, 499})

# Cloudflare blocks every call for five minutes once the limit is passed (fundamentals/api/reference/limits).
LOCKOUT_SECONDS: Final = 300

_LONGEST_WAIT: Final = 3600

_DIGITS_LIMIT: Final = 4300  # int() refuses more

# Of the quota, as far as it is told, so much is left to the dashboard and to others who call with the same credential.
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


Entry = dict[str, Any]


def classify(reply: Reply, ids: Sequence[MessageId], now: datetime, *, bulk_4xx_is_atomic: bool) -> Answered | Refused:
    """Say what the answer to a release call proves. What proves nothing is UNKNOWN, never a guess.

    No two of the ids may name the same message. `bulk_4xx_is_atomic`: a call with several ids that is rejected has
    released none of them, which Cloudflare's documentation does not say.
    """
    envelope = _envelope(reply.body)
    codes = _error_codes(envelope)
    evidence, rest = Evidence(reply.status, codes, _cf_ray(reply)), _rest(reply)
    if refuses_credential(reply):
        return Refused(RefusalReason.CREDENTIALS, evidence)
    if reply.status == 429:
        return limited(reply, now)
    if reply.status == 200 and envelope is not None and envelope.get("success") is True:
        entries = _entries(envelope.get("result"))
        told = _told_of(ids, entries)
        known = {id(entry) for own in told.values() for _, entry in own}
        unasked = sum(id(entry) not in known for entry in entries)
        return Answered({asked: _verdict(own) for asked, own in told.items()}, evidence, unasked, rest)
    is_plain_refusal = 400 <= reply.status < 500 and reply.status not in _AMBIGUOUS_4XX
    verdict = Verdict(State.UNKNOWN, Code.UNCLEAR_ANSWER)
    if is_plain_refusal and envelope is not None and envelope.get("success") is False and codes:
        if len(ids) > 1 and bulk_4xx_is_atomic:
            return Refused(RefusalReason.CALL_REJECTED, evidence)
        # Of several ids nobody knows which was meant, and whether the others went through.
        is_single = len(ids) == 1
        verdict = (
            Verdict(State.FAILED, Code.CLOUDFLARE_REJECTED) if is_single else Verdict(State.UNKNOWN, Code.CALL_REJECTED)
        )
    return Answered(dict.fromkeys(ids, verdict), evidence, rest=rest)


def refuses_credential(reply: Reply) -> bool:
    """Say whether an answer, to whatever call, is that the credential is refused and nothing was done."""
    return reply.status in (401, 403) or (reply.status == 400 and _INVALID_HEADERS in evidence_of(reply).error_codes)


def limited(reply: Reply, now: datetime) -> Refused:
    """Return what a 429 says, to whatever call."""
    return Refused(RefusalReason.RATE_LIMITED, evidence_of(reply), _retry_after(reply, now))


def evidence_of(reply: Reply) -> Evidence:
    """Return what is kept of an answer."""
    return Evidence(reply.status, _error_codes(_envelope(reply.body)), _cf_ray(reply))


def is_verified(reply: Reply) -> bool | None:
    """Say what the answer to a call that verifies a credential tells of it; None if nothing."""
    if reply.status in (400, 401, 403):
        return False
    envelope = _envelope(reply.body)
    if reply.status != 200 or envelope is None or envelope.get("success") is not True:
        return None
    result = envelope.get("result")
    # A token's is active, disabled or expired; a person has none.
    return not isinstance(result, dict) or result.get("status", "active") == "active"


def _error_codes(envelope: Mapping[str, Any] | None) -> tuple[int, ...]:
    errors = (envelope or {}).get("errors")
    if not isinstance(errors, list):
        return ()
    codes = [error.get("code") for error in errors if isinstance(error, dict)]
    return tuple(code for code in codes if type(code) is int and 0 <= code < _CODE_LIMIT)[:8]


def _envelope(body: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(body.decode())
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


def _rest(reply: Reply) -> int | None:
    """Return for how long to call no more, going by what Cloudflare says is left (fundamentals/api/reference/limits).

    The headers `Ratelimit: "name";r=<left>;t=<seconds>` and `Ratelimit-Policy: "name";q=<quota>;w=<window>` may be
    missing or tell of several limits; they can only make the budget smaller.
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


def _entries(result: Any) -> list[Entry]:
    entries = result if isinstance(result, list) else [result]
    return [entry for entry in entries if isinstance(entry, dict)]


def _told_of(ids: Sequence[MessageId], entries: Sequence[Entry]) -> dict[MessageId, list[tuple[MessageId, Entry]]]:
    """Give each id asked for the entries that tell of its message, each with the id it tells.

    An entry with two ids that contradict each other is given to both.
    """
    by_part: dict[PostfixPart, list[tuple[MessageId, Entry]]] = {}
    for entry in entries:
        told = id_of(entry)
        if told is not None:
            for part in parts_named(entry) if names_two(entry) else {postfix_part(told)}:
                by_part.setdefault(part, []).append((told, entry))
    return {
        asked: [
            (told, entry)
            for told, entry in by_part.get(postfix_part(asked), ())
            if names_two(entry) or not contradict(told, asked)
        ]
        for asked in ids
    }


def _verdict(told: Sequence[tuple[MessageId, Entry]]) -> Verdict:
    if not told:
        return Verdict(State.UNKNOWN, Code.MISSING_IN_ANSWER)
    known = fullest(other for other, _ in told)
    if any(contradict(known, other) or names_two(entry) for other, entry in told):
        return Verdict(State.UNKNOWN, Code.UNCLEAR_ANSWER)
    own = [entry for _, entry in told]
    if any(entry.get("success") is False for entry in own):  # whatever it lists beside that
        return Verdict(State.UNKNOWN, Code.UNCLEAR_ANSWER)
    lists = [_recipients(own, member) for member in ("delivered", "undelivered", "failed")]
    if any(names is None for names in lists):
        return Verdict(State.UNKNOWN, Code.UNCLEAR_ANSWER)
    delivered, undelivered, failed = (names or [] for names in lists)
    recipients = Recipients.of(delivered, undelivered, failed)
    if delivered and not (undelivered or failed):
        return Verdict(State.RELEASED, None, recipients, known)
    if delivered:
        return Verdict(State.PARTIAL, Code.PARTLY_DELIVERED, recipients, known)
    if undelivered or failed:
        return Verdict(State.FAILED, Code.NOT_DELIVERED, recipients, known)
    return Verdict(State.UNKNOWN, Code.NO_RECIPIENTS, message_id=known)


def _recipients(entries: Sequence[Entry], member: str) -> list[str] | None:
    """Gather one list over the entries of a message; None if it is not a list of texts, null or absent."""
    names: list[str] = []
    for entry in entries:
        value = entry.get(member)
        if value is None:
            continue
        if not isinstance(value, list) or not all(isinstance(name, str) and name.strip() for name in value):
            return None
        names += value
    return names
