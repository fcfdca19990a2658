"""What an answer of Cloudflare's release call proves, message by message. Pure.

The source of each fact is Cloudflare's API reference, "Release messages from quarantine" (POST
/accounts/{account_id}/email-security/investigate/release): an HTTP 200 says nothing of delivery, each message carries
its own `delivered`, `undelivered` and `failed`, each of which may be null or absent.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from quarantine_release.cloudflare.entries import dicts, id_of, names_two, parts_named
from quarantine_release.cloudflare.reply import (
    Reply,
    envelope_of,
    gather_evidence,
    limited,
    refuses_credential,
    rest_of,
)
from quarantine_release.domain.ids import MessageId, PostfixPart, contradict, fullest, postfix_part
from quarantine_release.domain.states import Code, State
from quarantine_release.domain.verdicts import Answered, Evidence, NoEffect, Recipients, RefusalReason, Verdict

# A timeout or an abort, as a status: Cloudflare may have accepted the request.
_AMBIGUOUS_4XX: Final = frozenset({408, 425, 499})

Entry = dict[str, Any]


def classify(reply: Reply, ids: Sequence[MessageId], now: datetime, *, bulk_4xx_is_atomic: bool) -> Answered | NoEffect:
    """Return what the answer to a release call proves. An answer that proves nothing is UNKNOWN, never a guess.

    No two of the ids may name the same message. `bulk_4xx_is_atomic`: a call with several ids that is rejected has
    released none of them, which Cloudflare's documentation does not say.
    """
    evidence, envelope = gather_evidence(reply), envelope_of(reply) or {}
    if refuses_credential(reply):
        return NoEffect(RefusalReason.CREDENTIALS, evidence)
    if reply.status == 429:
        return limited(reply, now)
    if reply.status == 200 and envelope.get("success") is True:
        verdicts, unasked = _verdicts(ids, dicts(envelope.get("result")))
        return Answered(verdicts, evidence, unasked, rest_of(reply))
    is_rejected = _is_rejected(reply, envelope, evidence)
    if is_rejected and len(ids) > 1 and bulk_4xx_is_atomic:
        return NoEffect(RefusalReason.CALL_REJECTED, evidence)
    verdict = _rejected(ids) if is_rejected else Verdict(State.UNKNOWN, Code.UNCLEAR_ANSWER)
    return Answered(dict.fromkeys(ids, verdict), evidence, rest=rest_of(reply))


def _is_rejected(reply: Reply, envelope: Mapping[str, Any], evidence: Evidence) -> bool:
    """Return whether Cloudflare says that it has not accepted the call, and why."""
    is_plain_refusal = 400 <= reply.status < 500 and reply.status not in _AMBIGUOUS_4XX
    return is_plain_refusal and envelope.get("success") is False and bool(evidence.error_codes)


def _rejected(ids: Sequence[MessageId]) -> Verdict:
    if len(ids) == 1:
        return Verdict(State.FAILED, Code.CLOUDFLARE_REJECTED)
    # Of several ids nobody knows which was meant, and whether the others went through.
    return Verdict(State.UNKNOWN, Code.CALL_REJECTED)


def _verdicts(ids: Sequence[MessageId], entries: Sequence[Entry]) -> tuple[dict[MessageId, Verdict], int]:
    """Return the verdict on each id, and how many entries are about none of the ids."""
    named = _entries_by_id(ids, entries)
    about_ids = {id(entry) for some in named.values() for _, entry in some}
    unasked = sum(id(entry) not in about_ids for entry in entries)
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
    if any(entry.get("success") is False for entry in entries):  # even if it lists recipients
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
