"""What an answer of Cloudflare's release call proves, message by message. Pure.

The source of each fact is Cloudflare's API reference, "Release messages from quarantine" (POST
/accounts/{account_id}/email-security/investigate/release): an HTTP 200 says nothing of delivery, each message carries
its own `delivered`, `undelivered` and `failed`, each of which may be null or absent.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from quarantine_release.outcome import (
    ANY_ID,
    Answered,
    Code,
    Evidence,
    MessageId,
    Recipients,
    RefusalReason,
    Refused,
    State,
    Verdict,
    contradict,
    fullest,
    postfix_part,
)

# "Invalid request headers": a malformed credential is refused before anything is done (API reference, error 6003).
_INVALID_HEADERS: Final = 6003
# A timeout or an abort told by a status: the request may have been taken on.
_AMBIGUOUS_4XX: Final = frozenset({408, 425, 499})
# Cloudflare blocks every call for five minutes once the limit is passed (fundamentals/api/reference/limits).
LOCKOUT_SECONDS: Final = 300
_LONGEST_WAIT: Final = 3600


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer as received; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def classify(reply: Reply, ids: Sequence[MessageId], now: datetime) -> Answered | Refused:
    """Say what the answer to a release call for these ids proves. What proves nothing is UNKNOWN, never a guess."""
    envelope = _envelope(reply.body)
    codes = _error_codes(envelope)
    evidence = Evidence(reply.status, codes, _cf_ray(reply))
    if reply.status in (401, 403) or (reply.status == 400 and _INVALID_HEADERS in codes):
        return Refused(RefusalReason.CREDENTIALS, evidence)
    if reply.status == 429:
        return Refused(RefusalReason.RATE_LIMITED, evidence, _retry_after(reply, now))
    if reply.status == 200 and envelope is not None and envelope.get("success") is True:
        entries = _entries(envelope.get("result"))
        unasked = sum(not any(_belongs(entry, asked) for asked in ids) for entry in entries)
        return Answered({asked: _verdict(asked, entries) for asked in ids}, evidence, unasked)
    is_plain_refusal = 400 <= reply.status < 500 and reply.status not in _AMBIGUOUS_4XX
    if is_plain_refusal and envelope is not None and envelope.get("success") is False and codes and len(ids) == 1:
        return Answered({ids[0]: Verdict(State.FAILED, Code.CLOUDFLARE_REJECTED)}, evidence)
    return Answered({asked: Verdict(State.UNKNOWN, Code.UNCLEAR_ANSWER) for asked in ids}, evidence)


def evidence_of(reply: Reply) -> Evidence:
    """Return what is kept of an answer."""
    return Evidence(reply.status, _error_codes(_envelope(reply.body)), _cf_ray(reply))


def _error_codes(envelope: Mapping[str, Any] | None) -> tuple[int, ...]:
    errors = (envelope or {}).get("errors")
    if not isinstance(errors, list):
        return ()
    codes = [error.get("code") for error in errors if isinstance(error, dict)]
    return tuple(code for code in codes if isinstance(code, int) and not isinstance(code, bool))[:8]


def _envelope(body: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _cf_ray(reply: Reply) -> str | None:
    ray = reply.headers.get("cf-ray", "")[:64]
    return ray if ray.isascii() and ray.isprintable() and ray else None


def _retry_after(reply: Reply, now: datetime) -> int:
    value = reply.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(int(value[:9]), _LONGEST_WAIT)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return LOCKOUT_SECONDS
    seconds = int((until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds())
    return min(max(seconds, 1), _LONGEST_WAIT)


def _entries(result: Any) -> list[dict[str, Any]]:
    entries = result if isinstance(result, list) else [result]
    return [entry for entry in entries if isinstance(entry, dict)]


def _id_of(entry: Mapping[str, Any], member: str = "id") -> MessageId | None:
    value = entry.get(member)
    return MessageId(value) if isinstance(value, str) and ANY_ID.match(value) else None


def _belongs(entry: Mapping[str, Any], asked: MessageId) -> bool:
    """Match on `id`, then on `postfix_id`; an `id` that tells another message is never overruled."""
    message_id, postfix_id = _id_of(entry), _id_of(entry, "postfix_id")
    if message_id is not None:
        return postfix_part(message_id) == postfix_part(asked) and not contradict(message_id, asked)
    return postfix_id is not None and postfix_part(postfix_id) == postfix_part(asked)


def _verdict(asked: MessageId, entries: Sequence[Mapping[str, Any]]) -> Verdict:
    own = [entry for entry in entries if _id_of(entry) == asked]
    own = own or [entry for entry in entries if _belongs(entry, asked)]
    if not own:
        return Verdict(State.UNKNOWN, Code.MISSING_IN_ANSWER)
    ids = [message_id for entry in own if (message_id := _id_of(entry)) is not None] or [asked]
    if any(contradict(fullest(ids), other) for other in ids):
        return Verdict(State.UNKNOWN, Code.UNCLEAR_ANSWER)
    lists = [_recipients(own, member) for member in ("delivered", "undelivered", "failed")]
    if any(names is None for names in lists):
        return Verdict(State.UNKNOWN, Code.UNCLEAR_ANSWER)
    delivered, undelivered, failed = (names or [] for names in lists)
    recipients, known = Recipients.of(delivered, undelivered, failed), fullest(ids)
    if delivered and not (undelivered or failed):
        return Verdict(State.RELEASED, None, recipients, known)
    if delivered:
        return Verdict(State.PARTIAL, Code.PARTLY_DELIVERED, recipients, known)
    if undelivered or failed:
        return Verdict(State.FAILED, Code.NOT_DELIVERED, recipients, known)
    return Verdict(State.UNKNOWN, Code.NO_RECIPIENTS, recipients, known)


def _recipients(entries: Sequence[Mapping[str, Any]], member: str) -> list[str] | None:
    """Gather one list over the entries of a message; None if it is not a list of strings, null or absent."""
    names: list[str] = []
    for entry in entries:
        value = entry.get(member)
        if value is None:
            continue
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            return None
        names += value
    return names
