"""How the values of our domain are kept in one attribute each: as JSON, compressed JSON, or lines. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from quarantine_release.domain.facts import Facts
from quarantine_release.domain.guard import Candidate, Ended, Guarded
from quarantine_release.domain.ids import MessageId, PostfixPart, postfix_part
from quarantine_release.domain.policy import parse_policy, policy_entry
from quarantine_release.domain.request_options import Narrowing
from quarantine_release.domain.rows import Target
from quarantine_release.domain.states import Code, Outcome, State
from quarantine_release.domain.verdicts import Evidence, Recipients, Seen, Verdict
from quarantine_release.ledger.codecs import Attribute, Codec, check_types, in_json, pack, packed, unpack

_PACKED_LIMIT: Final = 300_000  # of DynamoDB's 400 KB an item


def _recipients_to_json(recipients: Recipients) -> list[Any]:
    return [recipients.delivered, recipients.undelivered, recipients.failed, recipients.counts]


def _recipients_from_json(value: list[list[Any]]) -> Recipients:
    delivered, undelivered, failed, counts = (tuple(part) for part in value)
    check_types(str, (*delivered, *undelivered, *failed))
    check_types(int, counts)
    return Recipients(delivered, undelivered, failed, (counts[0], counts[1], counts[2]))


def _evidence_to_json(evidence: Evidence) -> dict[str, Any]:
    return {
        "status": evidence.status,
        "error_codes": evidence.error_codes,
        "cf_ray": evidence.cf_ray,
        "failure": evidence.failure,
        "seen": evidence.seen,
        **({"operation": evidence.operation} if evidence.operation else {}),
    }


def _evidence_from_json(value: dict[str, Any]) -> Evidence:
    seen = Seen(value["seen"]) if value["seen"] else None
    status, codes, ray, failure = (value[name] for name in ("status", "error_codes", "cf_ray", "failure"))
    operation = value.get("operation")
    check_types(int, (status,), or_none=True)
    check_types(int, codes)
    check_types(str, (ray, failure, operation), or_none=True)
    return Evidence(status, tuple(codes), ray, failure, seen, operation)


def _narrowing_to_json(value: Narrowing) -> list[Any]:
    return [value.recipient, value.sender, value.since.isoformat() if value.since else None, value.expect_count]


def _narrowing_from_json(value: list[Any]) -> Narrowing:
    recipient, sender, since, expect_count = value
    check_types(str, (recipient, sender), or_none=True)
    check_types(int, (expect_count,), or_none=True)
    return Narrowing(recipient, sender, datetime.fromisoformat(since) if since else None, expect_count)


def _ended_to_json(value: Ended) -> list[Any]:
    candidates = [
        [
            candidate.message_id,
            candidate.at.isoformat() if candidate.at else None,
            candidate.disposition,
            candidate.is_quarantined,
        ]
        for candidate in value.candidates
    ]
    return [value.outcome, value.code, value.detail, candidates, value.disposition, value.guard]


def _ended_from_json(value: list[Any]) -> Ended:
    # Rows of before these were kept hold no disposition and no guard.
    outcome, code, detail, candidates, disposition_read, guard = [*value, None, None][:6]
    check_types(str, (detail, *(name for name, *_ in candidates)))
    check_types(str, (disposition_read, *(disposition for _, _, disposition, _ in candidates)), or_none=True)
    check_types(bool, (is_quarantined for *_, is_quarantined in candidates), or_none=True)
    read_candidates = tuple(
        Candidate(MessageId(name), datetime.fromisoformat(at) if at else None, disposition, is_quarantined)
        for name, at, disposition, is_quarantined in candidates
    )
    return Ended(
        Outcome(outcome),
        Code(code) if code else None,
        detail,
        read_candidates,
        disposition_read,
        Guarded(guard) if guard else None,
    )


def _facts_to_json(value: Facts) -> dict[str, Any]:
    return {
        "id": value.message_id,
        "read_at": value.read_at.isoformat(),
        "was_held": value.was_held,
        **({"disposition": value.disposition} if value.disposition is not None else {}),
        **({"at": value.at.isoformat()} if value.at is not None else {}),
        **({"recipients": value.recipients} if value.recipients is not None else {}),
        **({"others": value.other_dispositions} if value.other_dispositions else {}),
        **({} if value.is_clear else {"unclear": True}),
        **({"several": True} if value.is_several else {}),
    }


def _facts_from_json(value: dict[str, Any]) -> Facts:
    at, recipients = value.get("at"), value.get("recipients")
    return Facts(
        MessageId(value["id"]),
        datetime.fromisoformat(value["read_at"]),
        value["was_held"],
        value.get("disposition"),
        datetime.fromisoformat(at) if at is not None else None,
        tuple(recipients) if recipients is not None else None,
        tuple(value.get("others", ())),
        is_clear=not value.get("unclear", False),
        is_several=value.get("several", False),
    )


def _verdicts_to_json(verdicts: Mapping[PostfixPart, Verdict], *, named: bool = True) -> dict[str, Any]:
    return {
        part: [
            verdict.state,
            verdict.code,
            verdict.message_id,
            _recipients_to_json(verdict.recipients) if named else [[], [], [], verdict.recipients.counts],
        ]
        for part, verdict in verdicts.items()
    }


def _verdicts_from_json(value: dict[str, Any]) -> dict[PostfixPart, Verdict]:
    check_types(str, (message_id for _, _, message_id, _ in value.values()), or_none=True)
    return {
        PostfixPart(part): Verdict(
            _stored_state(state), Code(code) if code else None, _recipients_from_json(recipients), message_id
        )
        for part, (state, code, message_id, recipients) in value.items()
    }


def _ids(values: Iterable[str]) -> tuple[MessageId, ...]:
    """Return ids; raise ValueError if there are none, or what stands there is no id."""
    ids = tuple(map(MessageId, values))
    check_types(str, ids)
    if not ids or not all(ids):
        raise ValueError
    return ids


def _stored_state(value: str) -> State:
    state = State(value)
    if state is State.UNREADABLE:
        raise ValueError
    return state


def _encode_verdicts(verdicts: Mapping[PostfixPart, Verdict]) -> Attribute:
    content = pack(_verdicts_to_json(verdicts))
    if len(content) > _PACKED_LIMIT:  # the outcome is written whatever Cloudflare sends; message rows keep the names
        content = pack(_verdicts_to_json(verdicts, named=False))
    return {"B": content}


IDS: Final = Codec(lambda value: {"S": "\n".join(value)}, lambda attribute: _ids(attribute["S"].split("\n")))
STATE: Final = Codec(lambda value: {"S": str(value)}, lambda attribute: _stored_state(attribute["S"]))
RECIPIENTS: Final = in_json(_recipients_to_json, _recipients_from_json)
EVIDENCE: Final = in_json(_evidence_to_json, _evidence_from_json)
NARROWING: Final = in_json(_narrowing_to_json, _narrowing_from_json)
POLICY: Final = in_json(policy_entry, parse_policy)
FACTS: Final = in_json(_facts_to_json, _facts_from_json)
ENDED: Final = in_json(_ended_to_json, _ended_from_json)
TARGETS: Final = packed(
    lambda value: [t.message_id for t in value], lambda ids: tuple(Target(postfix_part(i), i) for i in _ids(ids))
)
OWNERS: Final = packed(dict, lambda value: dict(zip(value, _ids(value.values()), strict=True)))
VERDICTS: Final = Codec(_encode_verdicts, lambda attribute: _verdicts_from_json(unpack(attribute["B"])))
