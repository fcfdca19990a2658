"""How the rows of `trace.py` lie in DynamoDB: attribute by attribute, both ways. Pure.

An attribute has the name of its field. What is None, empty or the default is left out. Times are milliseconds since
1970, but for `expires_at`, which DynamoDB's time to live wants in seconds.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from quarantine_release.allowance import AccountRow
from quarantine_release.guard import Candidate, Ended, Guarded, policy_entry, policy_of
from quarantine_release.outcome import (
    AccountId,
    AttemptId,
    Code,
    Evidence,
    MessageId,
    OperationId,
    Outcome,
    PostfixPart,
    Recipients,
    RequestId,
    Seen,
    State,
    Stop,
    Verdict,
    is_header,
    postfix_part,
)
from quarantine_release.trace import (
    AttemptRow,
    AttemptState,
    FailOn,
    MessageRow,
    Narrowing,
    OperationKind,
    OperationRow,
    RequestRow,
    RequestState,
    Target,
    WireForm,
)

Attribute = dict[str, Any]
Item = Mapping[str, Attribute]

OPEN_SHARDS: Final = 4
_CALLS: Final = "calls_"
# What lookup and guard made of the id at a position: each written once, by whoever comes first.
_RESOLVED: Final = "resolved_"
_ENDED: Final = "end_"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PACKED_LIMIT: Final = 300_000  # of DynamoDB's 400 KB an item
_CANDIDATES_LIMIT: Final = 1000  # of about 100 bytes each, in one request


def message_key(account_id: AccountId, part: PostfixPart) -> str:
    """Return the partition key of a message."""
    return f"M#{account_id}#{part}"


def attempt_key(account_id: AccountId, attempt: AttemptId) -> str:
    """Return the partition key of an attempt."""
    return f"T#{account_id}#{attempt}"


def request_key(request_id: RequestId) -> str:
    """Return the partition key of a request."""
    return f"R#{request_id}"


def alias_key(account_id: AccountId, question: str) -> str:
    """Return the partition key of what a question for a message was answered; the question itself is not kept."""
    return f"I#{account_id}#{sha256(question.encode()).hexdigest()}"


def unclaimed_key(account_id: AccountId, part: PostfixPart) -> str:
    """Return the partition key of who asked for a message without a claim."""
    return f"N#{account_id}#{part}"


def account_key(account_id: AccountId) -> str:
    """Return the partition key of an account."""
    return f"A#{account_id}"


def operation_key(account_id: AccountId, operation: OperationId) -> str:
    """Return the partition key of an operation."""
    return f"O#{account_id}#{operation}"


@dataclass(frozen=True, slots=True)
class _Codec:
    encode: Callable[[Any], Attribute]
    decode: Callable[[Attribute], Any]


def _text(kind: Callable[[str], Any]) -> _Codec:
    return _Codec(lambda value: {"S": str(value)}, lambda attribute: kind(attribute["S"]))


def _texts(kind: Callable[[str], Any]) -> _Codec:
    return _Codec(lambda value: {"SS": sorted(value)}, lambda attribute: frozenset(map(kind, attribute["SS"])))


def _time(unit: timedelta) -> _Codec:
    return _Codec(
        lambda value: {"N": str((value - _EPOCH) // unit)}, lambda attribute: _EPOCH + int(attribute["N"]) * unit
    )


def _packed(to_json: Callable[[Any], Any], from_json: Callable[[Any], Any]) -> _Codec:
    return _Codec(lambda value: {"B": _pack(to_json(value))}, lambda attribute: from_json(_unpack(attribute["B"])))


def _json(to_json: Callable[[Any], Any], from_json: Callable[[Any], Any]) -> _Codec:
    return _Codec(
        lambda value: {"S": json.dumps(to_json(value), separators=(",", ":"))},
        lambda attribute: from_json(json.loads(attribute["S"])),
    )


def _pack(value: Any) -> bytes:
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode())


def _unpack(packed: bytes) -> Any:
    return json.loads(zlib.decompress(packed))


def _recipients_to_json(recipients: Recipients) -> list[Any]:
    return [recipients.delivered, recipients.undelivered, recipients.failed, recipients.counts]


def _recipients_from_json(value: list[list[Any]]) -> Recipients:
    delivered, undelivered, failed, counts = (tuple(part) for part in value)
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
    codes = tuple(value["error_codes"])
    return Evidence(value["status"], codes, value["cf_ray"], value["failure"], seen, value.get("operation"))


def _switch_to_json(row: AccountRow) -> dict[str, Any]:
    stops = {
        client: [stop.reason, stop.by, (stop.since - _EPOCH) // timedelta(milliseconds=1), stop.operation]
        for client, stop in row.stops.items()
    }
    return {"stops": stops, "operations": row.operations}


def _switch_from_json(value: dict[str, Any]) -> tuple[dict[str, Stop], tuple[OperationId, ...]]:
    stops = {
        client: Stop(reason, by, _EPOCH + since * timedelta(milliseconds=1), operation)
        for client, (reason, by, since, operation) in value["stops"].items()
    }
    return stops, tuple(value["operations"])


def _narrowing_to_json(value: Narrowing) -> list[Any]:
    return [value.recipient, value.sender, value.since.isoformat() if value.since else None, value.expect_count]


def _narrowing_from_json(value: list[Any]) -> Narrowing:
    recipient, sender, since, expect_count = value
    return Narrowing(recipient, sender, datetime.fromisoformat(since) if since else None, expect_count)


def _ended_to_json(value: Ended) -> list[Any]:
    candidates = [
        [one.message_id, one.at.isoformat() if one.at else None, one.disposition, one.is_quarantined]
        for one in value.candidates
    ]
    return [value.outcome, value.code, value.detail, candidates]


def _ended_from_json(value: list[Any]) -> Ended:
    outcome, code, detail, candidates = value
    known = tuple(
        Candidate(MessageId(name), datetime.fromisoformat(at) if at else None, disposition, is_quarantined)
        for name, at, disposition, is_quarantined in candidates
    )
    return Ended(Outcome(outcome), Code(code) if code else None, detail, known)


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
    return {
        PostfixPart(part): Verdict(
            State(state), Code(code) if code else None, _recipients_from_json(recipients), message_id
        )
        for part, (state, code, message_id, recipients) in value.items()
    }


def _encode_verdicts(verdicts: Mapping[PostfixPart, Verdict]) -> Attribute:
    packed = _pack(_verdicts_to_json(verdicts))
    if len(packed) > _PACKED_LIMIT:  # the outcome is written whatever Cloudflare sends; message rows keep the names
        packed = _pack(_verdicts_to_json(verdicts, named=False))
    return {"B": packed}


_MILLISECONDS: Final = _time(timedelta(milliseconds=1))
_SECONDS: Final = _time(timedelta(seconds=1))
_NUMBER: Final = _Codec(lambda value: {"N": str(value)}, lambda attribute: int(attribute["N"]))
_FLAG: Final = _Codec(lambda value: {"BOOL": value}, lambda attribute: bool(attribute["BOOL"]))
_EVIDENCE: Final = _json(_evidence_to_json, _evidence_from_json)

_MESSAGE: Final = {
    "state": _text(State),
    "attempt": _text(AttemptId),
    "message_id": _text(MessageId),
    "updated_at": _MILLISECONDS,
    "owner": _text(RequestId),
    "deadline": _MILLISECONDS,
    "expires_at": _SECONDS,
    "code": _text(Code),
    "recipients": _json(_recipients_to_json, _recipients_from_json),
    "evidence": _EVIDENCE,
    "attempts": _texts(AttemptId),
    "refusals": _NUMBER,
    "last_refused": _text(AttemptId),
    "forced_over": _text(State),
    "forced_after": _MILLISECONDS,
    "asks": _texts(RequestId),
    "asks_uncounted": _NUMBER,
    "largest_call": _NUMBER,
    "guard": _text(Guarded),
    "disposition": _text(str),
    "confirmed_at": _MILLISECONDS,
    "operations": _texts(OperationId),
}
_REQUEST: Final = {
    "client": _text(str),
    "account_id": _text(AccountId),
    "fingerprint": _text(str),
    "nonce": _text(str),
    "ids": _Codec(
        lambda value: {"S": "\n".join(value)}, lambda attribute: tuple(map(MessageId, attribute["S"].split("\n")))
    ),
    "created_at": _MILLISECONDS,
    "reason": _text(str),
    "ticket": _text(str),
    "requested_by": _text(str),
    "force": _FLAG,
    "fail_on": _text(FailOn),
    "trace_id": _text(str),
    "operation": _text(OperationId),
    "cancelled_at": _MILLISECONDS,
    "state": _text(RequestState),
    "letters": _text(str),
    "closed_at": _MILLISECONDS,
    "expires_at": _SECONDS,
    "override": _FLAG,
    "dry_run": _FLAG,
    "confirm": _FLAG,
    "narrowing": _json(_narrowing_to_json, _narrowing_from_json),
    "policy": _json(policy_entry, policy_of),
    "notes": _NUMBER,
}
_ENDED_CODEC: Final = _json(_ended_to_json, _ended_from_json)
_ATTEMPT: Final = {
    "wire_form": _text(WireForm),
    "targets": _packed(
        lambda value: [t.message_id for t in value], lambda ids: tuple(Target(postfix_part(i), i) for i in ids)
    ),
    "owners": _packed(dict, dict),
    "sent_at": _MILLISECONDS,
    "deadline": _MILLISECONDS,
    "state": _text(AttemptState),
    "ended_at": _MILLISECONDS,
    "expires_at": _SECONDS,
    "evidence": _EVIDENCE,
    "verdicts": _Codec(_encode_verdicts, lambda attribute: _verdicts_from_json(_unpack(attribute["B"]))),
}
_OPERATION: Final = {
    "kind": _text(OperationKind),
    "at": _MILLISECONDS,
    "by": _text(str),
    "reason": _text(str),
    "client": _text(str),
    "part": _text(PostfixPart),
    "settled_as": _text(State),
    "redriven": _text(RequestId),
    "request_id": _text(RequestId),
}
_SWITCH: Final = _json(_switch_to_json, _switch_from_json)
_DEFAULTS: Final = {
    kind: {field.name: field.default for field in fields(kind) if field.default is not MISSING}
    for kind in (MessageRow, AttemptRow, RequestRow, OperationRow)
}


def message_item(row: MessageRow) -> Item:
    """Return the attributes of a message; under review also those of the open index, where people look for it."""
    item = {"pk": {"S": message_key(row.account_id, row.part)}, **_encode(row, _MESSAGE)}
    return {**item, **_open(item["pk"], row.updated_at)} if row.state is State.NEEDS_REVIEW else item


def message_row(item: Item) -> MessageRow:
    """Read a message back."""
    _, account_id, part = item["pk"]["S"].split("#")
    return MessageRow(account_id=AccountId(account_id), part=PostfixPart(part), **_decode(item, _MESSAGE))


def attempt_item(row: AttemptRow, *, stays_open: bool = False) -> Item:
    """Return the attributes of an attempt; while it is, or stays, open also those of the open index."""
    item = {"pk": {"S": attempt_key(row.account_id, row.attempt)}, **_encode(row, _ATTEMPT)}
    return {**item, **_open(item["pk"], row.ended_at or row.deadline)} if row.is_open or stays_open else item


def attempt_row(item: Item) -> AttemptRow:
    """Read an attempt back."""
    _, account_id, attempt = item["pk"]["S"].split("#")
    return AttemptRow(account_id=AccountId(account_id), attempt=AttemptId(attempt), **_decode(item, _ATTEMPT))


def request_item(row: RequestRow) -> Item:
    """Return the attributes of a request; while it is open also those of the open index."""
    item = {"pk": {"S": request_key(row.request_id)}, **_encode(row, _REQUEST), **checks_item(row)}
    return {**item, **_open(item["pk"], row.created_at)} if row.state is RequestState.OPEN else item


def request_row(item: Item) -> RequestRow:
    """Read a request back."""
    row = RequestRow(request_id=RequestId(item["pk"]["S"].split("#")[1]), **_decode(item, _REQUEST))
    found = {name.partition("_")[2]: name for name in item if name.startswith(_RESOLVED)}
    ends = {name.partition("_")[2]: name for name in item if name.startswith(_ENDED)}
    if not found and not ends:
        return row
    return replace(
        row,
        resolved={row.ids[int(at)]: MessageId(item[name]["S"]) for at, name in found.items()},
        ended={row.ids[int(at)]: _ENDED_CODEC.decode(item[name]) for at, name in ends.items()},
    )


def checks_item(row: RequestRow) -> dict[str, Attribute]:
    """Return the attributes that hold what lookup and guard made of a request's ids.

    Of many ids that may mean several messages, few of these are kept, so that the row can be written.
    """
    item: dict[str, Attribute] = {}
    kept = max(1, _CANDIDATES_LIMIT // len(row.ids))
    for position, given in enumerate(row.ids) if row.resolved or row.ended else ():
        if given in row.resolved:
            item[f"{_RESOLVED}{position}"] = {"S": row.resolved[given]}
        if given in row.ended:
            ended = row.ended[given]
            item[f"{_ENDED}{position}"] = _ENDED_CODEC.encode(replace(ended, candidates=ended.candidates[:kept]))
    return item


def ended_parts(row: RequestRow, checks: Item) -> list[PostfixPart]:
    """Return the messages whose end is among these attributes; none for a Message-ID that was not found out."""
    given = [row.ids[int(name.removeprefix(_ENDED))] for name in checks if name.startswith(_ENDED)]
    ids = dict.fromkeys(row.resolved.get(each, each) for each in given)
    return list(dict.fromkeys(postfix_part(each) for each in ids if not is_header(each)))


def other_check(name: str) -> str:
    """Return the attribute for the other of the two things that may be found out of the same id."""
    kind, other = (_RESOLVED, _ENDED) if name.startswith(_RESOLVED) else (_ENDED, _RESOLVED)
    return other + name.removeprefix(kind)


def operation_item(row: OperationRow) -> Item:
    """Return the attributes of an operation."""
    return {"pk": {"S": operation_key(row.account_id, row.operation)}, **_encode(row, _OPERATION)}


def operation_row(item: Item) -> OperationRow:
    """Read an operation back."""
    _, account_id, operation = item["pk"]["S"].split("#")
    return OperationRow(account_id=AccountId(account_id), operation=OperationId(operation), **_decode(item, _OPERATION))


def calls_name(slot: int) -> str:
    """Return the attribute of an account that counts the calls of a slot."""
    return f"{_CALLS}{slot}"


def account_row(item: Item) -> AccountRow:
    """Read an account back; but for the switch it is written by additions alone."""
    stops, operations = _SWITCH.decode(item["switch"]) if "switch" in item else ({}, ())
    return AccountRow(
        calls={int(name.removeprefix(_CALLS)): int(item[name]["N"]) for name in item if name.startswith(_CALLS)},
        paused_until=_MILLISECONDS.decode(item["paused_until"]) if "paused_until" in item else None,
        resumed=int(item["resumed"]["N"]) if "resumed" in item else 0,
        troubles=int(item["troubles"]["N"]) if "troubles" in item else 0,
        stops=stops,
        operations=operations,
    )


def switch(row: AccountRow) -> Attribute | None:
    """Return the attribute that holds what a person has paused and the last who did; None if nobody ever has."""
    return _SWITCH.encode(row) if row.operations else None


def open_kind(key: Attribute) -> Attribute:
    """Return the partition of the open index in which a row stands: by the kind of its key, over a few shards."""
    kind, _, name = key["S"].partition("#")
    return {"S": f"{kind}#{zlib.crc32(name.encode()) % OPEN_SHARDS}"}


def open_at(at: datetime) -> Attribute:
    """Return from when on an open row is due."""
    return _MILLISECONDS.encode(at)


def _open(key: Attribute, at: datetime) -> Item:
    return {"open_kind": open_kind(key), "open_at": open_at(at)}


def _encode(row: Any, codecs: Mapping[str, _Codec]) -> dict[str, Attribute]:
    defaults = _DEFAULTS[type(row)]
    encoded = {}
    for name, codec in codecs.items():
        value = getattr(row, name)
        if value is not None and value != defaults.get(name):
            encoded[name] = codec.encode(value)
    return encoded


def _decode(item: Item, codecs: Mapping[str, _Codec]) -> dict[str, Any]:
    return {name: codec.decode(item[name]) for name, codec in codecs.items() if name in item}
