"""The Cloudflare client over real sockets: every way a call can end, what is made again, and what is never shown."""

import gzip
import json
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from moto import mock_aws

from quarantine_release import telemetry
from quarantine_release.aws.secret_store import CachedSecret
from quarantine_release.cloudflare import client as cloudflare
from quarantine_release.cloudflare import connection as deadline
from quarantine_release.cloudflare.client import CloudflareClient
from quarantine_release.cloudflare.connection import ANSWER_LIMIT, DeadlineSession
from quarantine_release.config.accounts import Accounts, parse_accounts
from quarantine_release.config.secret import SecretMalformed, SecretUnavailable
from quarantine_release.domain.ids import AccountId, MessageId
from quarantine_release.domain.rows import WireForm
from quarantine_release.domain.states import Code, State
from quarantine_release.domain.verdicts import (
    Answered,
    CredentialCheck,
    Evidence,
    NoEffect,
    Recipients,
    RefusalReason,
    Verdict,
)
from tests.support.fault_server import (
    Certificate,
    FaultServer,
    Peer,
    Play,
    Received,
    answers,
    black_hole,
    closes_after_reading,
    http,
    reads_nothing,
    refusing_port,
    resets_after_reading,
    resets_before_reading,
    resets_in_handshake,
    says,
    says_and_hangs,
    speaks_no_tls,
    trickles,
    trickles_its_handshake,
)
from tests.support.stand_ins import ACCOUNT, FULL, OTHER, Clock, RememberingBudget, UnreadableBudget

pytestmark = pytest.mark.outside

TOKEN, NEW_TOKEN, KEY, EMAIL = "secret-canary", "new-secret-canary", "key-secret-canary", "analyst.canary@example.com"
BY_TOKEN = {"account_id": ACCOUNT, "api_token": TOKEN}
BY_KEY = {"account_id": ACCOUNT, "api_email": EMAIL, "api_key": KEY}
ROTATED = {"account_id": ACCOUNT, "api_token": NEW_TOKEN}
ELSEWHERE = {"account_id": "b" * 32, "api_token": NEW_TOKEN}
SECONDS = 0.5
RECIPIENT = "ann.canary@example.com"


def accounts(document: dict[str, Any]) -> Accounts:
    return parse_accounts(json.dumps(document))


@dataclass
class Secret:
    """A secret that is cached, and what it is when it is fetched again."""

    cached: Accounts | Exception
    current: Accounts | Exception | None = None
    refetches: int = 0

    def get(self) -> Accounts:
        if isinstance(self.cached, Exception):
            raise self.cached
        return self.cached

    def refetch(self) -> Accounts:
        self.refetches += 1
        self.cached, self.current = self.current or self.cached, None
        return self.get()


@dataclass
class Caller:
    """A client on its way to one server."""

    url: str
    context: ssl.SSLContext = field(default_factory=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    secret: Secret = field(default_factory=lambda: Secret(accounts(BY_TOKEN)))
    clock: Clock = field(default_factory=Clock)
    bulk_4xx_is_atomic: bool = False

    def __post_init__(self) -> None:
        self.session = DeadlineSession(self.context)
        self.client = CloudflareClient(
            f"{self.url}/client/v4",
            self.secret,
            self.session,
            self.clock,
            bulk_4xx_is_atomic=self.bulk_4xx_is_atomic,
        )

    def release(
        self, *ids: str, seconds: float = 10.0, wire_form: WireForm = WireForm.OBJECT, account_id: str = ACCOUNT
    ) -> Answered | NoEffect:
        wanted = [MessageId(each) for each in ids or (FULL,)]
        return self.client.release(AccountId(account_id), wire_form, wanted, seconds)

    def check(self, seconds: float = 5.0, budget: RememberingBudget | None = None) -> CredentialCheck:
        return self.client.check(ACCOUNT, seconds, budget or RememberingBudget())

    def close(self) -> None:
        self.session.close()


def ids_of(request: Received) -> list[str]:
    content = json.loads(request.body or b"[]")
    return list(content["ids"] if isinstance(content, dict) else content)


def delivers(peer: Peer) -> None:
    """Release whatever is asked for."""
    result = [{"id": each, "delivered": [RECIPIENT]} for each in ids_of(peer.read_request())]
    peer.send(http(200, json.dumps({"success": True, "result": result}).encode()))


def refuses(status: int, *codes: int) -> Play:
    """Answer as Cloudflare refuses."""
    return answers(status, envelope(*codes))


def envelope(*codes: int) -> bytes:
    errors = [{"code": code, "message": f"of {RECIPIENT}"} for code in codes]
    return json.dumps({"success": False, "errors": errors, "messages": [], "result": None}).encode()


def knows_only(*tokens: str) -> Play:
    """Deliver for these tokens, refuse every other."""

    def play(peer: Peer) -> None:
        request = peer.read_request()
        if request.headers["authorization"][0].removeprefix("Bearer ") not in tokens:
            peer.send(http(403, envelope(9109)))
            return
        result = [{"id": each, "delivered": [RECIPIENT]} for each in ids_of(request)]
        peer.send(http(200, json.dumps({"success": True, "result": result}).encode()))

    return play


# --- Every way a call can end --------------------------------------------------------------------------------------

CREDENTIALS, LIMITED, UNREACHABLE = (
    RefusalReason.CREDENTIALS,
    RefusalReason.RATE_LIMITED,
    RefusalReason.UNREACHABLE,
)
RELEASED = (State.RELEASED, None)
REJECTED = (State.FAILED, Code.CLOUDFLARE_REJECTED)
NO_ANSWER = (State.UNKNOWN, Code.NO_ANSWER)
UNCLEAR = (State.UNKNOWN, Code.UNCLEAR_ANSWER)
CALL_REJECTED = (State.UNKNOWN, Code.CALL_REJECTED)
MISSING = (State.UNKNOWN, Code.MISSING_IN_ANSWER)
GOOD = json.dumps(
    {"success": True, "result": [{"id": each, "delivered": [RECIPIENT]} for each in (FULL, OTHER)]}
).encode()
CHUNKED_GOOD = b"%x\r\n%b\r\n" % (len(GOOD), GOOD)
HTML = b"<!DOCTYPE html><title>Just a moment...</title>"
CHUNKED, GZIP = "Transfer-Encoding: chunked", "Content-Encoding: gzip"
LARGE = GOOD + b" " * 50 * 1024**2
Outcome = RefusalReason | tuple[State, Code | None]


def no_reply(failure: str) -> Evidence:
    return Evidence(failure=failure)


def status(status: int, *codes: int) -> Evidence:
    return Evidence(status=status, error_codes=codes)


# What a call comes to with one id and with several; and under it what goes wrong, what plays it, what is kept of it.
TABLE: dict[tuple[Outcome, Outcome], dict[str, tuple[Play, Evidence]]] = {
    # Nothing was sent.
    (UNREACHABLE, UNREACHABLE): {
        "handshake hangs, over TLS": (reads_nothing, no_reply("deadline")),
        "handshake trickles, over TLS": (trickles_its_handshake, no_reply("deadline")),
        "no TLS there, over TLS": (speaks_no_tls, no_reply("tls_failure")),
        "reset in the handshake, over TLS": (resets_in_handshake, no_reply("connection_lost")),
    },
    # No whole answer came.
    (NO_ANSWER, NO_ANSWER): {
        "reset before reading": (resets_before_reading, no_reply("connection_lost")),
        "reset after reading": (resets_after_reading, no_reply("connection_lost")),
        "closed after reading": (closes_after_reading, no_reply("connection_lost")),
        "no answer": (says_and_hangs(b""), no_reply("deadline")),
        "no answer, over TLS": (says_and_hangs(b""), no_reply("deadline")),
        "half a status": (says(b"HTTP/1.1 20"), no_reply("connection_lost")),
        "half a status, then silence": (says_and_hangs(b"HTTP/1.1 20"), no_reply("deadline")),
        "headers trickle": (trickles(b"X: " + b"y" * 99, b"HTTP/1.1 200\r\n"), no_reply("deadline")),
        "body trickles": (trickles(GOOD, http(200, length=len(GOOD))), no_reply("deadline")),
        "body trickles, over TLS": (trickles(GOOD, http(200, length=len(GOOD))), no_reply("deadline")),
        "chunks trickle": (trickles(CHUNKED_GOOD, http(200, b"", CHUNKED, length=-1)), no_reply("deadline")),
        "whole, but goes on": (trickles(b" " * 99, http(200, GOOD, length=-1)), no_reply("deadline")),
        "truncated": (says(http(200, GOOD, length=len(GOOD) + 1)), no_reply("truncated_answer")),
        "truncated chunk": (says(http(200, CHUNKED_GOOD[:-9], CHUNKED, length=-1)), no_reply("truncated_answer")),
        "no last chunk": (says(http(200, CHUNKED_GOOD, CHUNKED, length=-1)), no_reply("truncated_answer")),
        "50 MB": (answers(200, LARGE), no_reply("answer_too_large")),
        "50 MB in gzip": (answers(200, gzip.compress(LARGE, 1), GZIP), no_reply("answer_too_large")),
        "gzip that is none": (answers(200, GOOD, GZIP), no_reply("undecodable_answer")),
        "interim answer, then 200": (says(http(103, length=-1) + http(200, GOOD)), no_reply("interim_answer")),
    },
    # An answer came that proves nothing.
    (UNCLEAR, UNCLEAR): {
        "200 and no more": (says(b"HTTP/1.1 200"), status(200)),
        "200, half the headers": (says(b"HTTP/1.1 200 OK\r\nContent-Ty"), status(200)),
        "200 with an empty body": (answers(200), status(200)),
        "200 cut without a length": (says(http(200, GOOD[:-1], length=-1)), status(200)),
        "200 in HTML": (answers(200, HTML), status(200)),
        "200, success false": (answers(200, envelope(7003)), status(200, 7003)),
        "204": (answers(204), status(204)),
        "301": (answers(301, b"", "Location: /client/v4"), status(301)),
        "302 to a broken place": (answers(302, b"", "Location: http://["), status(302)),
        "307": (answers(307, b"", "Location: /client/v4"), status(307)),
        "408": (refuses(408, 7003), status(408, 7003)),
        "425": (refuses(425, 7003), status(425, 7003)),
        "499": (refuses(499, 7003), status(499, 7003)),
        "400, empty": (answers(400), status(400)),
        "404 in HTML": (answers(404, HTML), status(404)),
        "500": (refuses(500, 1001), status(500, 1001)),
        "500, though it says success": (answers(500, GOOD), status(500)),
        "502": (answers(502, HTML), status(502)),
        "520": (answers(520, HTML), status(520)),
    },
    (MISSING, MISSING): {"200 that names nobody": (answers(200, b'{"success": true, "result": []}'), status(200))},
    # An answer came that proves a refusal.
    (CREDENTIALS, CREDENTIALS): {
        "400 with 6003": (refuses(400, 6003), status(400, 6003)),
        "401": (refuses(401, 1000), status(401, 1000)),
        "403": (refuses(403, 10000), status(403, 10000)),
        "403 in HTML": (answers(403, HTML), status(403)),
    },
    (LIMITED, LIMITED): {
        "429": (refuses(429, 10429), status(429, 10429)),
        "429 in HTML": (answers(429, HTML), status(429)),
    },
    (REJECTED, CALL_REJECTED): {
        "400": (refuses(400, 7003), status(400, 7003)),
        "404": (refuses(404, 7003), status(404, 7003)),
        "422": (refuses(422, 1001), status(422, 1001)),
    },
    # A good answer came, in whatever way.
    (RELEASED, RELEASED): {
        "nothing": (delivers, status(200)),
        "nothing, over TLS": (delivers, status(200)),
        "chunks": (says(http(200, CHUNKED_GOOD + b"0\r\n\r\n", CHUNKED, length=-1), keep=True), status(200)),
        "gzip though not asked for": (answers(200, gzip.compress(GOOD), GZIP), status(200)),
        "100 Continue before it": (says(http(100, length=-1) * 2 + http(200, GOOD), keep=True), status(200)),
        "no length": (says(http(200, GOOD, length=-1)), status(200)),
    },
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.make(tmp_path_factory.mktemp("tls") / "server.pem")


def assert_came_to(called: Answered | NoEffect, expected: Outcome, ids: Sequence[str], evidence: Evidence) -> None:
    assert called.evidence == evidence
    if isinstance(called, NoEffect):
        assert called.reason == expected
    else:
        assert {each: (found.state, found.code) for each, found in called.verdicts.items()} == dict.fromkeys(
            map(MessageId, ids), expected
        )


@pytest.mark.parametrize("ids", [(FULL,), (FULL, OTHER)], ids=["one id", "several ids"])
@pytest.mark.parametrize(
    ("fault", "outcomes"),
    [pytest.param(fault, outcomes, id=fault) for outcomes, faults in TABLE.items() for fault in faults],
)
def test_what_is_not_provably_unsent_or_refused_is_unknown(
    fault: str,
    outcomes: tuple[Outcome, Outcome],
    ids: tuple[str, ...],
    certificate: Certificate,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    play, evidence = TABLE[outcomes][fault]
    tls = certificate.serve() if fault.endswith("over TLS") else None
    # What takes as long as it is given is given little; the rest is given what a busy machine may need.
    seconds = SECONDS if evidence.failure == "deadline" else 3.0
    with FaultServer([play], tls=tls) as server, closing(Caller(server.url, certificate.trust())) as caller:
        began = time.monotonic()
        called = caller.release(*ids, seconds=seconds)
        took = time.monotonic() - began
        assert_came_to(called, outcomes[len(ids) - 1], ids, evidence)
        assert took < seconds + 1, "how exactly a deadline holds stands in test_deadline.py"
        assert len(server.requests) <= 1
        assert server.requests == [] or outcomes != (UNREACHABLE, UNREACHABLE)
        server.plays = [delivers]
        assert_came_to(caller.release(*ids), RELEASED, ids, status(200))
    shown = repr((called, caller.client, caller.secret, caller.session)) + caplog.text
    assert "canary" not in shown.replace(RECIPIENT, "")


@pytest.mark.parametrize("ids", [(FULL,), (FULL, OTHER)], ids=["one id", "several ids"])
def test_what_never_reached_a_server_is_unreachable(
    ids: tuple[str, ...], certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def came_to(url: str, failure: str) -> None:
        with closing(Caller(url, certificate.trust())) as caller:
            called = caller.release(*ids, seconds=SECONDS)
            assert_came_to(called, UNREACHABLE, ids, no_reply(failure))

    with refusing_port() as port:
        came_to(f"http://127.0.0.1:{port}", "connection_refused")
    with black_hole() as port:
        came_to(f"http://127.0.0.1:{port}", "deadline")
        monkeypatch.setattr(deadline, "CONNECT_SECONDS", 0.1)
        came_to(f"http://127.0.0.1:{port}", "connect_timeout")
    untrusted = Certificate.make(tmp_path / "untrusted.pem")
    with FaultServer([delivers], tls=untrusted.serve()) as server:
        monkeypatch.setattr(deadline, "CONNECT_SECONDS", 2.0)
        with closing(Caller(server.url, certificate.trust())) as caller:
            called = caller.release(*ids, seconds=3)
            assert_came_to(called, UNREACHABLE, ids, no_reply("tls_failure"))
        assert server.bytes_received == 0

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    came_to("https://api.cloudflare.example", "name_not_resolved")


def test_a_rejected_call_with_several_ids_had_no_effect_only_if_the_setting_says_so() -> None:
    with (
        FaultServer([refuses(400, 7003)]) as server,
        closing(Caller(server.url, bulk_4xx_is_atomic=True)) as caller,
    ):
        assert caller.release(FULL, OTHER) == NoEffect(RefusalReason.CALL_REJECTED, status(400, 7003))
        assert_came_to(caller.release(FULL), REJECTED, [FULL], status(400, 7003))
    assert len(server.requests) == 2


def test_how_little_is_left_is_told_with_the_answer() -> None:
    headers = ['Ratelimit: "default";r=0;t=42', 'Ratelimit-Policy: "default";q=1200;w=300']
    with FaultServer([answers(200, GOOD, *headers)]) as server, closing(Caller(server.url)) as caller:
        called = caller.release(FULL, OTHER)
    assert isinstance(called, Answered)
    assert called.rest == 42


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 300),
        ("17", 17),
        ("Sun, 22 Nov 2026 12:01:00 GMT", 59),
        ("Sun, 22 Nov 2020 12:01:00 GMT", 1),
        ("86400", 3600),
        ("nonsense", 300),
    ],
)
def test_a_rate_limit_tells_how_long_to_wait(value: str | None, seconds: int) -> None:
    headers = [f"Retry-After: {value}"] if value else []
    with FaultServer([answers(429, envelope(10429), *headers)]) as server, closing(Caller(server.url)) as caller:
        assert caller.release() == NoEffect(LIMITED, status(429, 10429), seconds)


def test_a_good_answer_tells_of_every_recipient_and_keeps_the_ray() -> None:
    entry = {"id": FULL, "postfix_id": "4Njp3P0STMz2c02Q", "delivered": ["a"], "undelivered": ["b"], "failed": None}
    body = json.dumps({"success": True, "errors": [], "messages": [], "result": [entry, {"id": "x" * 20}]}).encode()
    with FaultServer([answers(200, body, "CF-RAY: 8d1-FRA")]) as server, closing(Caller(server.url)) as caller:
        called = caller.release()
    verdict = Verdict(State.PARTIAL, Code.PARTLY_DELIVERED, Recipients.of(["a"], ["b"]), FULL)
    assert called == Answered({FULL: verdict}, Evidence(200, (), "8d1-FRA"), unasked=1)
    assert telemetry.metrics.metric_set["UnaskedIds"]["Value"] == [1]


# --- What is sent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire_form", "content"), [(WireForm.ARRAY, [FULL, OTHER]), (WireForm.OBJECT, {"ids": [FULL, OTHER]})]
)
def test_a_release_is_one_post_in_the_wire_form_asked_for(wire_form: WireForm, content: Any) -> None:
    with FaultServer([delivers]) as server, closing(Caller(server.url)) as caller:
        caller.release(FULL, OTHER, wire_form=wire_form)
    (request,) = server.requests
    assert request.method == "POST"
    assert request.path == f"/client/v4/accounts/{ACCOUNT}/email-security/investigate/release"
    assert json.loads(request.body) == content
    assert request.headers["content-type"] == ["application/json"]
    assert request.headers["user-agent"][0].startswith("quarantine-release/")


@pytest.mark.parametrize("base_url", ["", "/"])
def test_a_slash_at_the_end_of_the_base_url_changes_nothing(base_url: str) -> None:
    with FaultServer([delivers]) as server, closing(DeadlineSession(ssl.create_default_context())) as session:
        client = CloudflareClient(f"{server.url}/v4{base_url}", Secret(accounts(BY_TOKEN)), session, Clock())
        client.release(ACCOUNT, WireForm.ARRAY, [FULL], 5)
    assert server.requests[0].path.startswith("/v4/accounts/")


@pytest.mark.parametrize(
    ("document", "headers"),
    [
        (BY_TOKEN, {"authorization": [f"Bearer {TOKEN}"]}),
        (BY_KEY, {"x-auth-email": [EMAIL], "x-auth-key": [KEY]}),
    ],
)
def test_exactly_one_form_of_credential_is_sent(
    document: dict[str, Any], headers: dict[str, list[str]], certificate: Certificate
) -> None:
    plays = [answers(302, b"", "Set-Cookie: session=1", "Location: /"), delivers, refuses(403, 9109)]
    with FaultServer([*plays, *plays], tls=certificate.serve()) as server:
        secret = Secret(accounts(document))
        with closing(Caller(server.url, certificate.trust(), secret)) as caller:
            for _ in range(3):
                caller.release()
            caller.check()
    forms = {"authorization", "x-auth-email", "x-auth-key", "x-auth-user-service-key", "cookie", "proxy-authorization"}
    assert len(server.requests) >= 4
    for request in server.requests:
        assert {name: value for name, value in request.headers.items() if name in forms} == headers


# --- What was provably not sent is tried again ---------------------------------------------------------------------


def test_a_server_that_listens_half_a_second_later_gets_exactly_one_request() -> None:
    with FaultServer([delivers], listens_after=0.5) as server, closing(Caller(server.url)) as caller:
        began = time.monotonic()
        assert_came_to(caller.release(), RELEASED, [FULL], status(200))
        assert 0.5 <= time.monotonic() - began < 5
    assert len(server.requests) == 1


def test_a_handshake_that_fails_is_tried_again_and_the_request_sent_once(certificate: Certificate) -> None:
    plays = [resets_in_handshake, speaks_no_tls, delivers]
    with (
        FaultServer(plays, tls=certificate.serve()) as server,
        closing(Caller(server.url, certificate.trust())) as caller,
    ):
        assert_came_to(caller.release(), RELEASED, [FULL], status(200))
    assert server.connections == 3
    assert len(server.requests) == 1


def test_what_cannot_be_sent_is_given_up_while_there_would_be_time_for_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cloudflare, "_SECONDS_BETWEEN_TRIES", 0.05)
    looked_up = []
    status_of = socket.getaddrinfo

    def counted(*arguments: Any, **named: Any) -> Any:
        looked_up.append(arguments)
        return status_of(*arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", counted)
    with refusing_port() as port, closing(Caller(f"http://127.0.0.1:{port}")) as caller:
        began = time.monotonic()
        called = caller.release(seconds=4.5)
        took = time.monotonic() - began
    assert called == NoEffect(UNREACHABLE, no_reply("connection_refused"))
    assert took < 3
    assert len(looked_up) > 4, "tried more than once"


@pytest.mark.parametrize("play", [resets_after_reading, says_and_hangs(b""), refuses(500, 1), refuses(429, 1)])
def test_what_may_have_been_sent_is_never_tried_again(play: Play) -> None:
    with FaultServer([play, delivers]) as server, closing(Caller(server.url)) as caller:
        caller.release(seconds=1)
    assert len(server.requests) == 1


def test_a_deadline_that_is_already_over_is_unreachable_and_sends_nothing() -> None:
    with FaultServer([delivers]) as server, closing(Caller(server.url)) as caller:
        assert caller.release(seconds=-1) == NoEffect(UNREACHABLE, no_reply("deadline"))
    assert server.connections == 0


# --- What the credential was refused for is tried again with a newer one -------------------------------------------


@pytest.mark.parametrize(
    "refusal", [refuses(401, 1000), refuses(403, 9109), refuses(400, 6003), answers(403, b"<html>")]
)
def test_a_refused_credential_is_fetched_anew_once_and_the_call_repeated_with_another(refusal: Play) -> None:
    secret = Secret(accounts(BY_TOKEN), accounts(ROTATED))
    with FaultServer([refusal, delivers]) as server, closing(Caller(server.url, secret=secret)) as caller:
        called = caller.release()
    assert_came_to(called, RELEASED, [FULL], status(200))
    assert called.calls == 2
    assert [request.headers["authorization"] for request in server.requests] == [
        [f"Bearer {TOKEN}"],
        [f"Bearer {NEW_TOKEN}"],
    ]
    assert secret.refetches == 1


def test_the_same_credential_is_not_tried_twice() -> None:
    secret = Secret(accounts(BY_TOKEN), accounts(BY_TOKEN))
    with FaultServer([refuses(403, 9109), delivers]) as server, closing(Caller(server.url, secret=secret)) as caller:
        assert caller.release() == NoEffect(CREDENTIALS, status(403, 9109), calls=1)
    assert len(server.requests) == 1
    assert secret.refetches == 1
    assert telemetry.metrics.metric_set["CredentialsRefused"]["Value"] == [1]


def test_a_newer_credential_that_is_refused_as_well_ends_it() -> None:
    secret = Secret(accounts(BY_TOKEN), accounts(ROTATED))
    plays = [refuses(403, 9109), refuses(401, 1000), delivers]
    with FaultServer(plays) as server, closing(Caller(server.url, secret=secret)) as caller:
        assert caller.release() == NoEffect(CREDENTIALS, status(401, 1000), calls=2)
    assert len(server.requests) == 2
    assert secret.refetches == 1


def test_a_limit_that_is_met_by_the_newer_credential_is_told_with_its_time_and_both_calls() -> None:
    secret = Secret(accounts(BY_TOKEN), accounts(ROTATED))
    plays = [refuses(401, 1000), answers(429, envelope(10429), "Retry-After: 17")]
    with FaultServer(plays) as server, closing(Caller(server.url, secret=secret)) as caller:
        assert caller.release() == NoEffect(LIMITED, status(429, 10429), 17, calls=2)


def test_without_time_for_an_answer_the_newer_credential_is_left_to_the_next_call() -> None:
    secret = Secret(accounts(BY_TOKEN), accounts(ROTATED))
    with FaultServer([knows_only(NEW_TOKEN)]) as server, closing(Caller(server.url, secret=secret)) as caller:
        assert caller.release(seconds=3) == NoEffect(CREDENTIALS, status(403, 9109))
        assert_came_to(caller.release(seconds=3), RELEASED, [FULL], status(200))
    assert len(server.requests) == 2
    assert secret.refetches == 1


@pytest.mark.parametrize("error", [SecretUnavailable("why"), SecretMalformed("why")])
def test_a_secret_that_cannot_be_had_is_a_refusal_before_and_after_the_call(error: Exception) -> None:
    with FaultServer([refuses(403, 9109)]) as server:
        with closing(Caller(server.url, secret=Secret(error))) as caller:
            assert caller.release() == NoEffect(CREDENTIALS, no_reply(type(error).__name__))
        assert server.connections == 0
        with closing(Caller(server.url, secret=Secret(accounts(BY_TOKEN), error))) as caller:
            assert caller.release() == NoEffect(CREDENTIALS, no_reply(type(error).__name__))
        assert len(server.requests) == 1


def test_an_account_that_is_not_in_the_secret_is_a_refusal_unless_the_newer_secret_has_it() -> None:
    with FaultServer([delivers]) as server:
        secret = Secret(accounts(ELSEWHERE), accounts(ELSEWHERE))
        with closing(Caller(server.url, secret=secret)) as caller:
            assert caller.release() == NoEffect(CREDENTIALS, no_reply("account_not_configured"))
        assert server.connections == 0
        secret = Secret(accounts(ELSEWHERE), accounts({"accounts": [ELSEWHERE, BY_TOKEN]}))
        with closing(Caller(server.url, secret=secret)) as caller:
            assert_came_to(caller.release(), RELEASED, [FULL], status(200))
    assert secret.refetches == 1


# --- Rotation ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secrets_manager() -> Iterator[Any]:
    with mock_aws():
        yield boto3.client("secretsmanager", region_name="eu-central-1")


@dataclass
class Rotating:
    """The real cache before moto, a Cloudflare that knows only the newest token, and a count of what is fetched."""

    client: Any
    clock: Clock = field(default_factory=Clock)
    fetches: int = 0
    tokens: int = 0
    before_fetch: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.name = self.client.create_secret(Name=str(uuid4()), SecretString="{}")["Name"]
        self.rotate()
        self.secret = CachedSecret(self, self.name, parse_accounts, self.clock)  # type: ignore[arg-type]

    @property
    def token(self) -> str:
        return f"token-{self.tokens}"

    def rotate(self) -> None:
        self.tokens += 1
        document = json.dumps({"account_id": ACCOUNT, "api_token": self.token})
        self.client.put_secret_value(SecretId=self.name, SecretString=document)

    def get_secret_value(self, **arguments: Any) -> Any:
        self.fetches += 1
        before, self.before_fetch = self.before_fetch, lambda: None
        before()
        return self.client.get_secret_value(**arguments)

    def play(self, peer: Peer) -> None:
        knows_only(self.token)(peer)


POINTS = ["first fetch", "before the call", "during the call", "second fetch"]


@pytest.mark.parametrize("point", POINTS)
def test_no_release_fails_because_the_token_was_rotated_at_any_one_point(point: str, secrets_manager: Any) -> None:
    rotating = Rotating(secrets_manager)

    def rotates_in_between(peer: Peer) -> None:
        request_came = peer.wait
        request_came()
        if point == "during the call":
            rotating.rotate()
        server.plays = [rotating.play]
        rotating.play(peer)

    with FaultServer([rotates_in_between]) as server, closing(DeadlineSession(ssl.create_default_context())) as session:
        client = CloudflareClient(server.url, rotating.secret, session, rotating.clock)
        if point == "first fetch":
            rotating.before_fetch = rotating.rotate
        rotating.secret.get()
        if point in ("before the call", "second fetch"):
            rotating.rotate()
        if point == "second fetch":
            rotating.before_fetch = rotating.rotate
        called = client.release(ACCOUNT, WireForm.OBJECT, [FULL], 10)
        assert_came_to(called, RELEASED, [FULL], status(200))
        assert rotating.fetches == (1 if point == "first fetch" else 2)
        assert client.check(ACCOUNT, 5, RememberingBudget()).is_accepted is not False


def test_while_the_credential_is_wrong_the_secret_is_fetched_once_in_thirty_seconds(secrets_manager: Any) -> None:
    rotating = Rotating(secrets_manager)
    with (
        FaultServer([refuses(403, 9109)]) as server,
        closing(DeadlineSession(ssl.create_default_context())) as session,
    ):
        client = CloudflareClient(server.url, rotating.secret, session, rotating.clock)
        for _ in range(5):
            assert isinstance(client.release(ACCOUNT, WireForm.OBJECT, [FULL], 10), NoEffect)
        assert rotating.fetches == 2
        rotating.clock.move(seconds=30)
        client.release(ACCOUNT, WireForm.OBJECT, [FULL], 10)
    assert rotating.fetches == 3
    assert len(server.requests) == 6


# --- The check of the credential -----------------------------------------------------------------------------------

VERIFIED = answers(200, b'{"success": true, "messages": [{"code": 10000}], "result": {"status": "active"}}')
USER = answers(200, b'{"success": true, "result": {"email": "analyst@example.com"}}')
AS_USER, AS_ACCOUNT = "/client/v4/user/tokens/verify", f"/client/v4/accounts/{ACCOUNT}/tokens/verify"


@pytest.mark.parametrize(
    ("document", "plays", "is_accepted", "evidence", "paths"),
    [
        (BY_TOKEN, [VERIFIED], True, status(200), [AS_USER]),
        (BY_TOKEN, [refuses(401, 1000), VERIFIED], True, status(200), [AS_USER, AS_ACCOUNT]),
        (BY_TOKEN, [refuses(401, 1000), refuses(403, 9109)], False, status(403, 9109), [AS_USER, AS_ACCOUNT]),
        (BY_TOKEN, [refuses(401, 1000), refuses(500, 1)], None, status(500, 1), [AS_USER, AS_ACCOUNT]),
        (BY_TOKEN, [refuses(429, 10429)], None, status(429, 10429), [AS_USER]),
        (BY_TOKEN, [answers(200, HTML)], None, status(200), [AS_USER]),
        (BY_TOKEN, [resets_after_reading], None, no_reply("connection_lost"), [AS_USER]),
        (BY_KEY, [USER], True, status(200), ["/client/v4/user"]),
        (BY_KEY, [refuses(403, 9103)], False, status(403, 9103), ["/client/v4/user"]),
    ],
)
def test_a_token_is_verified_as_a_users_then_as_an_accounts_and_a_key_as_a_users(
    document: dict[str, Any], plays: list[Play], is_accepted: bool | None, evidence: Evidence, paths: list[str]
) -> None:
    with FaultServer(plays) as server, closing(Caller(server.url, secret=Secret(accounts(document)))) as caller:
        assert caller.check() == CredentialCheck(is_accepted, evidence)
    assert [(request.method, request.path) for request in server.requests] == [("GET", path) for path in paths]


def test_the_whole_check_keeps_the_deadline() -> None:
    with FaultServer([refuses(401, 1000), says_and_hangs(b"")]) as server, closing(Caller(server.url)) as caller:
        began = time.monotonic()
        assert caller.check(seconds=SECONDS) == CredentialCheck(None, no_reply("deadline"))
        assert time.monotonic() - began < SECONDS + 1


def test_cloudflare_is_asked_at_most_once_in_sixty_seconds_whatever_it_said() -> None:
    for plays, is_accepted in (([VERIFIED], True), ([refuses(500, 1)], None)):
        with FaultServer(plays) as server, closing(Caller(server.url)) as caller:
            for seconds in (0, 30, 29):
                caller.clock.move(seconds=seconds)
                assert caller.check().is_accepted is is_accepted
            assert len(server.requests) == 1
            caller.clock.move(seconds=1)
            caller.check()
            assert len(server.requests) == 2


def test_a_credential_that_is_refused_is_checked_again_if_the_newer_secret_holds_another() -> None:
    secret = Secret(accounts(BY_TOKEN), accounts(ROTATED))
    plays = [refuses(401, 1000), refuses(401, 1000), VERIFIED]
    with FaultServer(plays) as server, closing(Caller(server.url, secret=secret)) as caller:
        assert caller.check() == CredentialCheck(True, status(200))
        assert caller.check() == CredentialCheck(True, status(200))
    assert [request.headers["authorization"][0] for request in server.requests] == [
        f"Bearer {TOKEN}",
        f"Bearer {TOKEN}",
        f"Bearer {NEW_TOKEN}",
    ]
    assert secret.refetches == 1


@pytest.mark.parametrize(
    ("allowed", "plays", "is_accepted", "evidence"),
    [
        ([False], [], None, no_reply("no_calls_left")),
        ([True], [VERIFIED], True, status(200)),
        ([True, False], [refuses(401, 1000)], None, no_reply("no_calls_left")),
        ([True, True], [refuses(401, 1000), VERIFIED], True, status(200)),
    ],
)
def test_each_call_of_a_check_is_asked_for_before(
    allowed: list[bool], plays: list[Play], is_accepted: bool | None, evidence: Evidence
) -> None:
    budget = RememberingBudget(waits=deque(0.0 if each else 5.0 for each in allowed))
    with FaultServer(plays or [VERIFIED]) as server, closing(Caller(server.url)) as caller:
        assert caller.check(budget=budget) == CredentialCheck(is_accepted, evidence)
    assert not budget.waits
    assert len(server.requests) == len(plays)


def test_a_newer_credential_is_not_checked_without_a_call_to_spare() -> None:
    secret = Secret(accounts(BY_TOKEN), accounts(ROTATED))
    budget = RememberingBudget(waits=deque([0.0, 0.0, 5.0]))
    with FaultServer([refuses(401, 1000)]) as server, closing(Caller(server.url, secret=secret)) as caller:
        assert caller.check(budget=budget) == CredentialCheck(None, no_reply("no_calls_left"))
    assert len(server.requests) == 2


def test_a_check_that_was_not_made_is_made_as_soon_as_there_are_calls() -> None:
    budget = RememberingBudget(waits=deque([5.0]))
    with FaultServer([VERIFIED]) as server, closing(Caller(server.url)) as caller:
        assert caller.check(budget=budget).is_accepted is None
        assert caller.check(budget=budget).is_accepted is True


def test_a_check_is_not_made_while_the_ledger_does_not_count() -> None:
    with FaultServer([VERIFIED]) as server, closing(Caller(server.url)) as caller:
        assert caller.check(budget=UnreadableBudget()) == CredentialCheck(None, no_reply("no_calls_left"))
    assert not server.requests


def test_a_check_that_is_told_to_wait_has_all_calls_wait() -> None:
    budget = RememberingBudget()
    with FaultServer([answers(429, b"", "Retry-After: 17")]) as server, closing(Caller(server.url)) as caller:
        assert caller.check(budget=budget).is_accepted is None
    assert budget.heard_of == [NoEffect(RefusalReason.RATE_LIMITED, Evidence(429), 17)]


def test_another_credential_is_checked_at_once() -> None:
    secret = Secret(accounts(BY_TOKEN))
    plays = [refuses(401, 1000), refuses(401, 1000), VERIFIED]
    with FaultServer(plays) as server, closing(Caller(server.url, secret=secret)) as caller:
        assert caller.check().is_accepted is False
        assert caller.check().is_accepted is False
        assert len(server.requests) == 2
        secret.cached = accounts(ROTATED)
        assert caller.check().is_accepted is True


def test_an_account_that_left_the_secret_is_refused_without_a_call() -> None:
    with FaultServer([VERIFIED]) as server, closing(Caller(server.url, secret=Secret(accounts(ELSEWHERE)))) as caller:
        assert caller.check() == CredentialCheck(False, no_reply("account_not_configured"))
    assert server.connections == 0


@pytest.mark.parametrize("error", [SecretUnavailable("why"), SecretMalformed("why")])
def test_a_check_without_a_secret_raises_as_the_secret_does(error: Exception) -> None:
    with closing(Caller("http://127.0.0.1:1", secret=Secret(error))) as caller, pytest.raises(type(error)):
        caller.check()


# --- What is logged ------------------------------------------------------------------------------------------------


def test_one_event_tells_of_a_call_and_of_no_id_recipient_or_credential(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(telemetry.logger, "info", lambda event, **fields: told.append((event, fields)))
    with FaultServer([answers(200, GOOD, "CF-Ray: 8d1")]) as server, closing(Caller(server.url)) as caller:
        caller.release()
    ((event, fields),) = told
    milliseconds = fields.pop("milliseconds")
    assert event == "cloudflare_call"
    assert 0 <= milliseconds < 10_000
    assert fields == {
        "account_id": ACCOUNT,
        "wire_form": WireForm.OBJECT,
        "ids": 1,
        "status": 200,
        "error_codes": (),
        "cf_ray": "8d1",
        "failure": None,
    }


def test_the_waits_are_those_of_the_design() -> None:
    assert deadline.CONNECT_SECONDS == 2
    assert deadline.IDLE_SECONDS == 5
    assert ANSWER_LIMIT == 8 * 1024 * 1024
    assert timedelta(seconds=cloudflare._HEALTH_EVERY_SECONDS) == timedelta(minutes=1)
