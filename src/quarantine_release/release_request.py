"""From an authenticated payload to a ReleaseRequest: schema, limits, id shapes. Pure; never echoes input back."""

import base64
import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from quarantine_release.authentication import AuthenticatedPayload
from quarantine_release.clients import Client
from quarantine_release.json_body import JsonInvalid, Number, parse_json
from quarantine_release.outcome import ANY_ID, HEADER_ID, AccountId, MessageId, RequestId, is_header
from quarantine_release.trace import ANY, FailOn, Narrowing, RequestRow, RequestState

BODY_LIMIT: Final = 64 * 1024
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
_ACCOUNT_ID: Final = re.compile(r"\A[0-9a-f]{32}\Z")
_KEY: Final = re.compile(r"\A[\x21-\x7e]{1,255}\Z")
_QUOTED_KEY: Final = re.compile(r'\A"([\x20\x21\x23-\x5b\x5d-\x7e]{1,255})"\Z')
_NAMEABLE: Final = re.compile(r"\A[A-Za-z0-9_.-]{1,64}\Z")
_TRACEPARENT: Final = re.compile(r"\A00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}\Z")
_GATEWAY_TRACE: Final = re.compile(r"\A(?:Self=[^;]{1,64};)?Root=([0-9a-f-]{35})(?:;|\Z)")
_WARNINGS_LIMIT: Final = 20
_EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(2100, 1, 1, tzinfo=UTC)
_REQUEST_ID: Final = re.compile(r"\Arq_[a-z2-7]{26}\Z")


class InvalidRequest(Exception):
    """The request cannot be accepted as it is: a stable code, the member, and the rule it breaks."""

    def __init__(self, code: str, detail: str, field: str = "body") -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.field = field


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """What a caller wants, checked. `ids` are distinct and as given; `account_id` None means the default account."""

    client: Client
    ids: tuple[MessageId, ...]
    account_id: AccountId | None
    reason: str | None
    ticket: str | None
    requested_by: str | None
    force: bool
    fail_on: FailOn
    idempotency_key: str | None
    trace_id: str | None
    prefers_async: bool
    warnings: tuple[str, ...]
    override: bool = False
    dry_run: bool = False
    confirm: bool = False
    narrowing: Narrowing = ANY

    @property
    def is_inline(self) -> bool:
        """Say whether the caller waits for the release itself; it may still come to be left to the worker."""
        is_now_or_never = self.force or self.dry_run
        return is_now_or_never or (len(self.ids) <= INLINE_LIMIT and not self.prefers_async)


def parse_release_request(payload: AuthenticatedPayload) -> ReleaseRequest:
    """Check a payload and make it a request. Raises InvalidRequest."""
    content = _content(payload)
    flags = {name: _flag(content, name) for name in _FLAGS}
    is_now_or_never = flags["force"] or flags["dry_run"]
    texts = {name: _text(content, name, limit) for name, limit in _TEXT_LIMITS.items()}
    key = _idempotency_key(payload)
    ids = _ids(content, min(INLINE_LIMIT if is_now_or_never else IDS_LIMIT, payload.client.max_ids or IDS_LIMIT))
    request = ReleaseRequest(
        client=payload.client,
        ids=ids,
        account_id=parse_account_id(content.get("account_id")),
        reason=texts["reason"],
        ticket=texts["ticket"],
        requested_by=texts["requested_by"],
        narrowing=_narrowing(content),
        **flags,
        fail_on=_fail_on(content),
        idempotency_key=key,
        trace_id=_trace_id(payload),
        prefers_async=_prefers_async(payload),
        warnings=_warnings(content, ids),
    )
    force = request.force
    if request.override and request.reason is None:
        raise InvalidRequest("override_needs_reason", "override needs a reason.", "reason")
    if force and request.reason is None:
        raise InvalidRequest("force_needs_reason", "force needs a reason.", "reason")
    if force and key is None:
        raise InvalidRequest("force_needs_key", "force needs the header Idempotency-Key.", "Idempotency-Key")
    return request


def accept(request: ReleaseRequest, account_id: AccountId, now: datetime, random: bytes) -> RequestRow:
    """Make the request row: its id from client and key, or from at least 17 random bytes where there is no key."""
    seed = hashlib.sha256(f"{request.client.name}\0{request.idempotency_key}".encode()).digest()
    name = base64.b32encode(random if request.idempotency_key is None else seed).decode().lower()
    return RequestRow(
        request_id=RequestId(f"rq_{name[:26]}"),
        client=request.client.name,
        account_id=account_id,
        fingerprint=_fingerprint(request, account_id),
        nonce=random.hex(),
        ids=request.ids,
        created_at=now,
        state=RequestState.OPEN,
        reason=request.reason,
        ticket=request.ticket,
        requested_by=request.requested_by,
        force=request.force,
        fail_on=request.fail_on,
        trace_id=request.trace_id,
        override=request.override,
        dry_run=request.dry_run,
        confirm=request.confirm,
        narrowing=request.narrowing,
        policy=request.client.policy,
    )


def parse_message_id(given: str, field: str = "id") -> MessageId:
    """Check an id's shape. Raises InvalidRequest."""
    if not ANY_ID.match(given):
        raise InvalidRequest("invalid_id", "An id must be 8 to 128 of A-Z a-z 0-9 . _ : -.", field)
    return MessageId(given)


def _any_id(given: str, field: str) -> MessageId:
    """Check the shape of an id that may be a Message-ID too: in its angle brackets, or with an @."""
    if "@" not in given and not given.startswith("<"):
        return parse_message_id(given, field)
    if not HEADER_ID.match(given if given.startswith("<") else f"<{given}>"):
        raise InvalidRequest("invalid_id", "A Message-ID must be 1 to 250 printable ASCII characters, in < >.", field)
    return MessageId(given)


def parse_request_id(given: str) -> RequestId | None:
    """Return a request id, or None for what cannot be one."""
    return RequestId(given) if _REQUEST_ID.match(given) else None


def parse_account_id(value: Any) -> AccountId | None:
    """Check an account id; None if there is none. Raises InvalidRequest."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _ACCOUNT_ID.match(value):
        raise InvalidRequest("invalid_field", "account_id must be 32 lower-case hexadecimal digits.", "account_id")
    return AccountId(value)


def _content(payload: AuthenticatedPayload) -> dict[str, Any]:
    if payload.body is None:
        raise InvalidRequest("invalid_body", "The body is marked as base64 and is not base64.")
    try:
        content = parse_json(payload.body)
    except JsonInvalid as error:
        raise InvalidRequest("invalid_body", str(error)) from None
    if isinstance(content, list):
        return {"ids": content}
    if not isinstance(content, dict):
        raise InvalidRequest("invalid_body", "The body must be a JSON object, or an array of ids.")
    return content


def _ids(content: dict[str, Any], limit: int) -> tuple[MessageId, ...]:
    given = [name for name in _ID_MEMBERS if content.get(name) not in (None, "")]
    if not given:
        raise InvalidRequest("ids_missing", "ids must hold at least one id.", "ids")
    if len(given) > 1:
        raise InvalidRequest(
            "ids_ambiguous",
            f"Only one of {', '.join(_ID_MEMBERS)} may be given, and these are: {', '.join(given)}.",
            "ids",
        )
    value = content[given[0]]
    ids = [part.strip() for part in _LISTED.findall(value) if part.strip()] if isinstance(value, str) else value
    if not isinstance(ids, list) or not all(isinstance(entry, str) for entry in ids):
        raise InvalidRequest("invalid_id", "ids must be an array of strings, or one comma-separated string.", given[0])
    if not ids:
        raise InvalidRequest("ids_missing", "ids must hold at least one id.", given[0])
    distinct = tuple(dict.fromkeys(_any_id(entry, given[0]) for entry in ids))
    if len(distinct) > limit:
        detail = f"At most {limit} different ids may be given; with force or dry_run at most {INLINE_LIMIT}."
        raise InvalidRequest("too_many_ids", detail, given[0])
    return distinct


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


def _flag(content: dict[str, Any], name: str) -> bool:
    value = content.get(name)
    known = {"true": True, "false": False}
    if isinstance(value, str) and value.lower() in known:
        return known[value.lower()]
    if value is None or isinstance(value, bool):
        return bool(value)
    raise InvalidRequest("invalid_field", f"{name} must be true or false.", name)


def _narrowing(content: dict[str, Any]) -> Narrowing:
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


def _fail_on(content: dict[str, Any]) -> FailOn:
    value = content.get("fail_on")
    if value is None:
        return FailOn.NEVER
    if isinstance(value, str) and value in set(FailOn):
        return FailOn(value)
    raise InvalidRequest("invalid_field", f"fail_on must be one of {', '.join(FailOn)}.", "fail_on")


def _idempotency_key(payload: AuthenticatedPayload) -> str | None:
    key = _sent_key(payload)
    if payload.signed_id is None:
        return key
    # What is signed decides: else a recorded request could be sent again under another key, and be another request.
    if key not in (None, payload.signed_id):
        detail = "The key of a signed request must equal its webhook-id."
        raise InvalidRequest("invalid_idempotency_key", detail, "Idempotency-Key")
    return payload.signed_id


def _sent_key(payload: AuthenticatedPayload) -> str | None:
    keys = []
    for name in ("idempotency-key", "webhook-id"):
        values = set(payload.headers.get(name, ()))
        if not values:
            continue
        value = values.pop().strip()
        quoted = _QUOTED_KEY.match(value)
        if values or not (quoted or (_KEY.match(value) and '"' not in value)):
            raise InvalidRequest(
                "invalid_idempotency_key", "The key must be one value of 1 to 255 printable ASCII characters.", name
            )
        keys.append(quoted.group(1) if quoted else value)
    return keys[0] if keys else None


def _trace_id(payload: AuthenticatedPayload) -> str | None:
    for value in payload.headers.get("traceparent", ()):
        known = _TRACEPARENT.match(value)
        if known:
            return known.group(1)
    gateway = _GATEWAY_TRACE.match(next(iter(payload.headers.get("x-amzn-trace-id", ())), ""))
    return gateway.group(1) if gateway else None


def _prefers_async(payload: AuthenticatedPayload) -> bool:
    """Say whether the caller wants to be answered before the release (RFC 7240, section 4.1)."""
    preferences = ",".join(payload.headers.get("prefer", ())).split(",")
    return any(preference.partition(";")[0].strip().lower() == "respond-async" for preference in preferences)


def _warnings(content: dict[str, Any], ids: Sequence[MessageId]) -> tuple[str, ...]:
    unknown = sorted(content.keys() - _MEMBERS)
    named = [name for name in unknown if _NAMEABLE.match(name)][:_WARNINGS_LIMIT]
    warnings = [f"Unknown member ignored: {name}" for name in named]
    without = [name for name in _NARROWING if content.get(name) is not None and not any(map(is_header, ids))]
    warnings += [f"Without effect, since no id is a Message-ID: {name}" for name in without]
    if len(unknown) > len(named):
        warnings.append(f"Further unknown members ignored: {len(unknown) - len(named)}")
    return tuple(warnings)


def _fingerprint(request: ReleaseRequest, account_id: AccountId) -> str:
    canonical = [
        account_id,
        sorted(request.ids),
        request.reason,
        request.ticket,
        request.requested_by,
        request.force,
        request.fail_on,
        request.override,
        request.dry_run,
        request.confirm,
        [request.narrowing.recipient, request.narrowing.sender, str(request.narrowing.since)],
        request.narrowing.expect_count,
    ]
    return hashlib.sha256(json.dumps(canonical).encode()).hexdigest()
