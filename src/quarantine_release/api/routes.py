"""The routes: what each does for a caller who is known, and the answer it gives."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from secrets import token_bytes
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from quarantine_release import telemetry, wiring
from quarantine_release.api.authentication import AuthenticatedPayload
from quarantine_release.api.event import HttpRequest
from quarantine_release.api.problems import Declined, problem_body
from quarantine_release.api.release_answer import answer_body, is_failure
from quarantine_release.api.release_request import accept, parse_release_request
from quarantine_release.api.request_fields import InvalidRequest, parse_account_id, parse_message_id, parse_request_id
from quarantine_release.api.trace_answer import attempts_of, evidence_body, trace_body
from quarantine_release.config.clients import Client, Scope
from quarantine_release.config.secret import SecretMalformed, SecretUnavailable
from quarantine_release.domain.guard import Mode
from quarantine_release.domain.ids import AccountId, MessageId, RequestId, is_header, postfix_part
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.rows import RequestRow, RequestState, UnreadableRequest
from quarantine_release.releasing.ports import Ports
from quarantine_release.releasing.progress import Answer
from quarantine_release.usecases.accepted_request import KeyReused, cancel, look_up
from quarantine_release.usecases.release_now import Refusal, release

PROBLEM_TYPE: Final = {"Content-Type": "application/problem+json"}

_POLL_SECONDS: Final = 5

_LIST_LIMIT: Final = 50

_HEALTH_SECONDS: Final = 5.0

_NOTE: Final = "An accepted credential proves no permission: only a release shows that it may release."

_UNGUARDED: Final = " The guard is off: mail is released whatever it is, malicious mail included."

Content = TypeVar("Content")

Found = Mapping[RequestId, RequestRow | UnreadableRequest]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a known caller. Exists only after authentication."""

    request: HttpRequest
    payload: AuthenticatedPayload
    ports: Ports

    @property
    def client(self) -> Client:
        """Return who is calling."""
        return self.payload.client


@dataclass(frozen=True, slots=True)
class Response:
    """An answer before it is an API Gateway one."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


def read_secret(name: str, read: Callable[[], Content]) -> Content:
    """Read a secret; one that cannot be had or used is logged with what is wrong and declined without."""
    try:
        return read()
    except SecretUnavailable as error:
        telemetry.secret_unusable(name, f"cannot be fetched: {error}")
        raise Declined("secrets_unavailable", "A secret that is needed cannot be fetched for now.") from None
    except SecretMalformed as error:
        telemetry.secret_unusable(name, str(error))
        raise Declined(f"{name}_not_configured", f"The {name} secret cannot be used; the log says why.") from None


def unreadable(ids: Sequence[MessageId] = (), **members: Any) -> Declined:
    """Return the answer where a row cannot be read. `ids` are those of the caller that it is about."""
    detail = (
        "What the ledger holds about this cannot be read for now. Nothing was done for it; the operator is alerted."
    )
    return Declined("ledger_row_unreadable", detail, **members, **(dict[str, Any](ids=list(ids)) if ids else {}))


def _post_release(call: Call) -> Response:
    client = call.client
    _require(client, Scope.RELEASE)
    wanted = parse_release_request(call.payload)
    if wanted.force:
        _require(client, Scope.FORCE)
    if wanted.override:
        _require(client, Scope.OVERRIDE)
    account_id = _account(client, wanted.account_id)
    row = accept(wanted, account_id, call.ports.clock(), token_bytes(20))
    row = replace(row, confirm=row.confirm or call.ports.guard.confirms)
    answer = release(row, call.ports, inline=wanted.is_inline)
    if isinstance(answer, Refusal):
        detail = "Nothing was released, and nothing will be on behalf of this request."
        paused = {"pause_reason": answer.stop.reason} if answer.stop else {}
        raise Declined(answer.reason, detail, retry_after=answer.retry_after, **paused)
    if isinstance(answer, KeyReused):
        detail = "The key was used before with another payload: use a new key for a new request."
        raise Declined("idempotency_key_reused", detail, field="Idempotency-Key")
    for settled in answer.settled:
        telemetry.release_outcome(settled, answer.request)
    for result in answer.results:
        if result.ended is not None and not answer.replayed:
            telemetry.not_released(result, answer.request)
    response = _respond_with(answer, call, wanted.warnings)
    if wanted.prefers_async and not wanted.is_inline:
        return replace(response, headers={**response.headers, "Preference-Applied": "respond-async"})
    return response


def _get_release(call: Call, given: str) -> Response:
    _require(call.client, Scope.READ)
    request_id = parse_request_id(given)
    found = wiring.ledger().find_requests([request_id]) if request_id else {}
    return _respond_with(_look_up(found, request_id, call.client, call.ports), call)


def _post_cancel(call: Call, given: str) -> Response:
    """End what is not claimed yet; whoever asked for it may, and nobody else."""
    _require(call.client, Scope.RELEASE)
    request_id = parse_request_id(given)
    row = _visible(wiring.ledger().find_requests([request_id]) if request_id else {}, request_id, call.client)
    if row.client != call.client.name:
        raise Declined("not_found", "There is no such request of this client.")
    return _respond_with(cancel(row, call.ports), call)


def _get_releases(call: Call) -> Response:
    _require(call.client, Scope.READ)
    given = [name.strip() for value in call.request.query.get("ids", ()) for name in value.split(",") if name.strip()]
    if not 1 <= len(given) <= _LIST_LIMIT:
        raise InvalidRequest("invalid_field", f"ids must name 1 to {_LIST_LIMIT} requests.", "ids")
    request_ids = [parse_request_id(name) for name in given]
    found = wiring.ledger().find_requests([request_id for request_id in request_ids if request_id])
    bodies, pending = [], 0
    for request_id in request_ids:
        try:
            body = _answer_body(_look_up(found, request_id, call.client, call.ports), call.client)
            pending += body["outcome"] == "pending"
        except Declined as declined:
            body = problem_body(declined, call.request.gateway_request_id)
            pending += body["retryable"]  # what cannot be read now may be open, so that nobody may stop asking
        bodies.append(body)
    return Response(200, {"releases": bodies, "open": pending})


def _get_message(call: Call, given: str) -> Response:
    client = call.client
    _require(client, Scope.READ)
    if is_header(MessageId(given)):
        said = "A Message-ID is not looked up here: send the resolved_id that the result of its release has."
        raise InvalidRequest("invalid_id", said, "id")
    message_id = parse_message_id(given)
    account_id = _queried_account(call)
    part = postfix_part(message_id)
    row = call.ports.ledger.messages(account_id, [part]).get(part)
    if row is not None and not row.is_readable:
        raise unreadable([message_id])
    ledger = wiring.ledger()
    unclaimed = ledger.unclaimed(account_id, part)
    if row is None and not unclaimed:
        raise Declined("not_found", "Nobody has asked for this message, or what was asked still waits for its turn.")
    asks = row.asks if row is not None else frozenset()
    visible_to = None if Scope.READ_ALL in client.scopes else client.name
    requests = ledger.requests(sorted(asks | unclaimed))
    return Response(
        200,
        trace_body(
            row,
            requests,
            ledger.attempts(account_id, sorted(attempts_of(row))),
            ledger.operations_met(account_id, row, requests.values()),
            account_id=account_id,
            part=part,
            visible_to=visible_to,
            now=call.ports.clock(),
        ),
    )


def _get_health(call: Call) -> Response:
    client = call.client
    account_id = _queried_account(call)
    checks: dict[str, Any] = {"clients_secret": "ok", "cloudflare_secret": "ok"}
    try:
        call.ports.ledger.messages(account_id, [postfix_part(parse_message_id("health-check"))])
        checks["ledger"] = "ok"
        stop = call.ports.budget.stop_of(account_id, client.name)
        checks["releases"] = "paused" if stop else "ok"
    except LedgerUnavailable:
        checks["ledger"], checks["releases"], stop = "failed", "not_known", None
    seconds = min(_HEALTH_SECONDS, call.ports.time_left() - 1)
    checked = read_secret("cloudflare", lambda: wiring.cloudflare().check(account_id, seconds, call.ports.budget))
    names = {True: "accepted", False: "refused", None: "not_checked"}
    checks["credential"] = names[checked.is_accepted]
    content: dict[str, Any] = {
        "client": client.name,
        "scopes": sorted(client.scopes),
        "account_id": account_id,
        "checks": checks,
        "guard": call.ports.guard.mode,
        "evidence": evidence_body(checked.evidence),
        **({"pause_reason": stop.reason} if stop else {}),
        "note": _NOTE + (_UNGUARDED if call.ports.guard.mode is Mode.OFF else ""),
    }
    if checks["ledger"] != "ok" or not checked.is_accepted:
        raise Declined(
            "unhealthy", "Releases would fail or be unconfirmed; the checks say what does not work.", **content
        )
    return Response(200, {"ok": True, **content})


def _look_up(found: Found, request_id: RequestId | None, client: Client, ports: Ports) -> Answer:
    return look_up(_visible(found, request_id, client), ports)


def _visible(found: Found, request_id: RequestId | None, client: Client) -> RequestRow:
    """Return a request that this client may see; what it may not see is not there."""
    row = found.get(request_id) if request_id else None
    if isinstance(row, UnreadableRequest) and _may_see(client, row):
        raise unreadable()
    if not isinstance(row, RequestRow) or not _may_see(client, row) or row.state is RequestState.REFUSED:
        raise Declined("not_found", "There is no such request.")
    return row


def _may_see(client: Client, row: RequestRow | UnreadableRequest) -> bool:
    """Return whether a client may see a request: not one of an account that was taken from it, even its own.

    A row that is damaged so far that it names no client or account may be this client's own, who must hear of it.
    """
    is_read = row.client in (None, client.name) or Scope.READ_ALL in client.scopes
    return is_read and (row.account_id is None or client.may_act_for(row.account_id))


def _require(client: Client, scope: Scope) -> None:
    if scope not in client.scopes:
        raise Declined("scope_missing", f"The client needs the scope {scope}.")


def _account(client: Client, wanted: AccountId | None) -> AccountId:
    accounts = read_secret("cloudflare", wiring.accounts().get)
    account_id = wanted or accounts.default
    is_allowed = client.may_act_for(account_id)
    if is_allowed and account_id not in accounts.credentials:  # it may be newer than the copy at hand
        accounts = read_secret("cloudflare", wiring.accounts().refetch)
    if not is_allowed or account_id not in accounts.credentials:
        which = "this account" if wanted else "the default account, which is meant without account_id"
        raise Declined("account_not_allowed", f"The client may not act for {which}.", field="account_id")
    return account_id


def _queried_account(call: Call) -> AccountId:
    return _account(call.client, parse_account_id(next(iter(call.request.query.get("account_id", ())), None)))


Handler = Callable[..., Response]

_ROUTES: Final[tuple[tuple[re.Pattern[str], dict[str, Handler]], ...]] = (
    (re.compile(r"\A/v1/releases\Z"), {"POST": _post_release, "GET": _get_releases}),
    (re.compile(r"\A/v1/releases/([^/]+)\Z"), {"GET": _get_release}),
    (re.compile(r"\A/v1/releases/([^/]+)/cancel\Z"), {"POST": _post_cancel}),
    (re.compile(r"\A/v1/messages/([^/]+)\Z"), {"GET": _get_message}),
    (re.compile(r"\A/v1/health\Z"), {"GET": _get_health}),
)


def route(request: HttpRequest) -> tuple[Handler, tuple[str, ...]]:
    """Find what serves a request. Raises Declined: 404, or 405 naming the methods that the route knows."""
    for pattern, methods in _ROUTES:
        match = pattern.match(request.path)
        if match is None:
            continue
        handler = methods.get(request.method)
        if handler is None:
            raise Declined("method_not_allowed", f"The route knows {', '.join(methods)}.", allow=", ".join(methods))
        return handler, tuple(_decode(part) for part in match.groups())
    raise Declined("not_found", "There is no such route.")


def _decode(part: str) -> str:
    """Undo percent-encoding once, as REST APIs hand the path on encoded; what is not UTF-8 matches no id."""
    return unquote(part, errors="replace")


def _answer_body(answer: Answer, client: Client, warnings: tuple[str, ...] = ()) -> dict[str, Any]:
    if answer.unreadable_ids:
        raise unreadable(answer.unreadable_ids, request_id=answer.request.request_id)
    body = answer_body(answer, warnings, sees_all=Scope.READ_ALL in client.scopes)
    if not is_failure(answer):
        return body
    declined = Declined("release_incomplete", body["message"])
    return {**body, **problem_body(declined, answer.request.request_id)}


def _respond_with(answer: Answer, call: Call, warnings: tuple[str, ...] = ()) -> Response:
    body = _answer_body(answer, call.client, warnings)
    if body["outcome"] == "pending":
        location = f"{call.request.base_url}/v1/releases/{answer.request.request_id}"
        return Response(202, body, {"Location": location, "Retry-After": str(_POLL_SECONDS)})
    return Response(200, body) if "code" not in body else Response(400, body, PROBLEM_TYPE)
