"""From an authenticated payload to a ReleaseRequest, and from that to its row. Pure; never echoes input back.

`request_fields.py` has the rule of each member of the body, `request_headers.py` that of each header.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from quarantine_release.api.authentication import AuthenticatedRequest
from quarantine_release.api.problems import InvalidRequest
from quarantine_release.api.request_fields import (
    IDS_LIMIT,
    INLINE_LIMIT,
    list_warnings,
    parse_account_id,
    parse_fail_on,
    parse_flags,
    parse_ids,
    parse_narrowing,
    parse_texts,
)
from quarantine_release.api.request_headers import idempotency_key, prefers_async, trace_id
from quarantine_release.api.strict_json import JsonInvalid, parse_json
from quarantine_release.config.clients import Client, Scope
from quarantine_release.domain.ids import AccountId, MessageId, RequestId
from quarantine_release.domain.request_options import ANY, FailOn, Narrowing
from quarantine_release.domain.rows import RequestRow, RequestState

BODY_LIMIT: Final = 64 * 1024


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
    def scopes(self) -> tuple[Scope, ...]:
        """Return the scopes that it needs besides `release`."""
        wanted = {Scope.FORCE: self.force, Scope.OVERRIDE: self.override}
        return tuple(scope for scope, is_wanted in wanted.items() if is_wanted)

    @property
    def is_inline(self) -> bool:
        """Return whether the caller waits for the release. Some of it may still be left to the worker."""
        is_now_or_never = self.force or self.dry_run
        return is_now_or_never or (len(self.ids) <= INLINE_LIMIT and not self.prefers_async)


def parse_release_request(caller: AuthenticatedRequest) -> ReleaseRequest:
    """Check what a caller sent and make it a request. Raises InvalidRequest."""
    content = _content(caller)
    flags = parse_flags(content)
    texts = parse_texts(content)
    key = idempotency_key(caller.http.headers, caller.signed_id)
    ids = parse_ids(content, *_limit(caller.client, flags))
    request = ReleaseRequest(
        client=caller.client,
        ids=ids,
        account_id=parse_account_id(content.get("account_id")),
        reason=texts["reason"],
        ticket=texts["ticket"],
        requested_by=texts["requested_by"],
        narrowing=parse_narrowing(content),
        **flags,
        fail_on=parse_fail_on(content),
        idempotency_key=key,
        trace_id=trace_id(caller.http.headers),
        prefers_async=prefers_async(caller.http.headers),
        warnings=list_warnings(content, ids),
    )
    _check_reasons(request)
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
        fingerprint_v1=_fingerprint_v1(request, account_id),
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


def _check_reasons(request: ReleaseRequest) -> None:
    """Refuse what overrides a rule and does not say why, or could be made twice."""
    if request.override and request.reason is None:
        raise InvalidRequest("override_needs_reason", "override needs a reason.", "reason")
    if request.force and request.reason is None:
        raise InvalidRequest("force_needs_reason", "force needs a reason.", "reason")
    if request.force and request.idempotency_key is None:
        raise InvalidRequest("force_needs_key", "force needs the header Idempotency-Key.", "Idempotency-Key")


def _limit(client: Client, flags: Mapping[str, bool]) -> tuple[int, str]:
    """Return how many ids a request may name, and why, to end a sentence."""
    at_once = " and ".join(name for name in ("force", "dry_run") if flags[name])
    limit = INLINE_LIMIT if at_once else IDS_LIMIT
    if client.max_ids is not None and client.max_ids < limit:
        return client.max_ids, " by this client (max_ids)"
    return limit, f" with {at_once}" if at_once else " in a request"


def _content(caller: AuthenticatedRequest) -> dict[str, Any]:
    if caller.http.body is None:
        raise InvalidRequest("invalid_body", "The body is marked as base64 and is not base64.")
    try:
        content = parse_json(caller.http.body)
    except JsonInvalid as error:
        raise InvalidRequest("invalid_body", str(error)) from None
    if isinstance(content, list):
        return {"ids": content}
    if not isinstance(content, dict):
        raise InvalidRequest("invalid_body", "The body must be a JSON object, or an array of ids.")
    return content


def _fingerprint(request: ReleaseRequest, account_id: AccountId) -> str:
    """Return what tells this payload from another under the same key.

    Only members that differ from their default enter, by name, so a member that is added later changes no fingerprint
    of a request that does not use it. The prefix is the version of this rule.
    """
    narrowing = request.narrowing
    members = {
        "ids": sorted(request.ids),
        "account_id": account_id,
        "reason": request.reason,
        "ticket": request.ticket,
        "requested_by": request.requested_by,
        "force": request.force,
        "fail_on": None if request.fail_on is FailOn.NEVER else request.fail_on,
        "override": request.override,
        "dry_run": request.dry_run,
        "confirm": request.confirm,
        "recipient": narrowing.recipient,
        "sender": narrowing.sender,
        "since": narrowing.since.isoformat() if narrowing.since else None,
        "expect_count": narrowing.expect_count,
    }
    used = {name: value for name, value in members.items() if value not in (None, False)}
    return f"2:{hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()}"


def _fingerprint_v1(request: ReleaseRequest, account_id: AccountId) -> str:
    """Return the fingerprint that version 4c3b95d stored for this payload. Frozen: never add a member here."""
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
