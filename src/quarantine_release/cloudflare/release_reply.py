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
    evidence, envelope = evidence_of(reply), _envelope(reply.body) or {}
    if refuses_credential(reply):
        return Refused(RefusalReason.CREDENTIALS, evidence)
    if reply.status == 429:
        return limited(reply, now)
    if reply.status == 200 and envelope.get("success") is True:
        verdicts, unasked = _verdicts(ids, _entries(envelope.get("result")))
        return Answered(verdicts, evidence, unasked, _rest(reply))
    is_rejected = _rejects(reply, envelope)
    if is_rejected and len(ids) > 1 and bulk_4xx_is_atomic:
        return Refused(RefusalReason.CALL_REJECTED, evidence)
    verdict = _rejected(ids) if is_rejected else Verdict(State.UNKNOWN, Code.UNCLEAR_ANSWER)
    return Answered(dict.fromkeys(ids, verdict), evidence, rest=_rest(reply))


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


def _rejects(reply: Reply, envelope: Mapping[str, Any]) -> bool:
    """Return whether Cloudflare says that it has not accepted the call, and why."""
    is_plain_refusal = 400 <= reply.status < 500 and reply.status not in _AMBIGUOUS_4XX
    return is_plain_refusal and envelope.get("success") is False and bool(_error_codes(envelope))


def _rejected(ids: Sequence[MessageId]) -> Verdict:
    if len(ids) == 1:
        return Verdict(State.FAILED, Code.CLOUDFLARE_REJECTED)
    # Of several ids nobody knows which was meant, and whether the others went through.
    return Verdict(State.UNKNOWN, Code.CALL_REJECTED)


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


def _verdicts(ids: Sequence[MessageId], entries: Sequence[Entry]) -> tuple[dict[MessageId, Verdict], int]:
    """Return the verdict on each id, and how many entries are about none of the ids."""
    named = _entries_by_id(ids, entries)
    asked = {id(entry) for some in named.values() for _, entry in some}
    unasked = sum(id(entry) not in asked for entry in entries)
    return {message_id: _verdict(some) for message_id, some in named.items()}, unasked


def _entries_by_id(
    ids: Sequence[MessageId], entries: Sequence[Entry]
) -> dict[MessageId, list[tuple[MessageId, Entry]]]:
    """Give each id asked for the entries about its message, each with the id it names.

    An entry with two ids that contradict each other is given to both.
    """
    by_part: dict[PostfixPart, list[tuple[MessageId, Entry]]] = {}
    for entry in entries:
        entry_id = id_of(entry)
        if entry_id is not None:
            for part in parts_named(entry) if names_two(entry) else {postfix_part(entry_id)}:
                by_part.setdefault(part, []).append((entry_id, entry))
    return {
        message_id: [
            (entry_id, entry)
            for entry_id, entry in by_part.get(postfix_part(message_id), ())
            if names_two(entry) or not contradict(entry_id, message_id)
        ]
        for message_id in ids
    }


def _verdict(named: Sequence[tuple[MessageId, Entry]]) -> Verdict:
    """Return what the entries about one message prove together."""
    if not named:
        return Verdict(State.UNKNOWN, Code.MISSING_IN_ANSWER)
    known = fullest(entry_id for entry_id, _ in named)
    recipients = _all_recipients([entry for _, entry in named])
    if recipients is None or any(contradict(known, entry_id) or names_two(entry) for entry_id, entry in named):
        return Verdict(State.UNKNOWN, Code.UNCLEAR_ANSWER)
    return _delivery(recipients, known)


def _delivery(recipients: Recipients, known: MessageId) -> Verdict:
    """Return what the recipients listed prove about the message known by this id."""
    has_missed = bool(recipients.undelivered or recipients.failed)
    if recipients.delivered and not has_missed:
        return Verdict(State.RELEASED, None, recipients, known)
    if recipients.delivered:
        return Verdict(State.PARTIAL, Code.PARTLY_DELIVERED, recipients, known)
    if has_missed:
        return Verdict(State.FAILED, Code.NOT_DELIVERED, recipients, known)
    return Verdict(State.UNKNOWN, Code.NO_RECIPIENTS, message_id=known)


def _all_recipients(entries: Sequence[Entry]) -> Recipients | None:
    """Return the recipients that the entries of a message list; None if an entry failed or a list cannot be read."""
    if any(entry.get("success") is False for entry in entries):  # whatever it lists beside that
        return None
    delivered, undelivered, failed = (_recipients(entries, name) for name in ("delivered", "undelivered", "failed"))
    if delivered is None or undelivered is None or failed is None:
        return None
    return Recipients.of(delivered, undelivered, failed)


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
