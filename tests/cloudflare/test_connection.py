"""HTTP with a total deadline, over real sockets: it ends in time, tells what was sent, and leaves nothing behind."""

import gc
import gzip
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarantine_release.cloudflare import connection as deadline
from quarantine_release.cloudflare.connection import ANSWER_LIMIT, IDLE_SECONDS, DeadlineSession, NoReply
from quarantine_release.cloudflare.reply import Reply
from tests.support.fault_server import (
    Certificate,
    FaultServer,
    Peer,
    Play,
    answers,
    black_hole,
    closes_after_reading,
    http,
    reads_nothing,
    refusing_port,
    repeats,
    resets_after_reading,
    resets_before_reading,
    resets_in_handshake,
    says,
    says_and_hangs,
    speaks_no_tls,
    trickles,
    trickles_its_handshake,
)

pytestmark = pytest.mark.outside

SECONDS = 0.5
TOLERANCE = 0.2
CHUNKED = "Transfer-Encoding: chunked"
OK = http(200, b'{"well": "done"}')


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.make(tmp_path_factory.mktemp("tls") / "server.pem")


class WallClock:
    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def wall_clock() -> WallClock:
    return WallClock()


@pytest.fixture
def session(certificate: Certificate, wall_clock: WallClock) -> Iterator[DeadlineSession]:
    with closing(DeadlineSession(certificate.trust(), wall_clock)) as session:
        yield session


def post(
    session: DeadlineSession,
    url: str,
    seconds: float = 5.0,
    body: bytes = b'["4Njp3P0STMz2c02Q"]',
    headers: Mapping[str, str] | None = None,
) -> Reply | NoReply:
    return session.send("POST", f"{url}/release", headers or {}, body, seconds)


def in_time(call: Callable[[], Reply | NoReply], seconds: float = SECONDS) -> Reply | NoReply:
    """Make a call that must end within so many seconds; late once it met a busy machine, late five times it is slow."""
    for _ in range(5):
        began = time.monotonic()
        reply = call()
        took = time.monotonic() - began
        if took <= seconds + TOLERANCE:
            return reply
    raise AssertionError(f"took {took:.2f} s instead of {seconds} s")


def resolve_as(monkeypatch: pytest.MonkeyPatch, name: str, addresses: list[str], seconds: float = 0.0) -> None:
    """Have a name stand for these addresses, and the lookup take so long."""
    status_of = socket.getaddrinfo

    def found(host: Any, port: Any, *arguments: Any, **named: Any) -> Any:
        if host != name:
            return status_of(host, port, *arguments, **named)
        time.sleep(seconds)
        return [entry for address in addresses for entry in status_of(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", found)


# --- The deadline --------------------------------------------------------------------------------------------------


def unread(peer: Peer) -> None:
    """Take the first bytes of a request that is larger than what the network holds."""
    peer.wait()
    peer.server.stopped.wait(60)


STALLS: dict[str, tuple[Play, bytes]] = {
    "no answer": (says_and_hangs(b""), b""),
    "request not taken": (unread, bytes(32 * 1024 * 1024)),
    "half a status line": (says_and_hangs(b"HTTP/1.1 20"), b""),
    "status line trickles": (trickles(b"HTTP/1.1 200 " + b"O" * 100), b""),
    "headers trickle": (trickles(b"X-Header: " + b"x" * 100, before=b"HTTP/1.1 200 OK\r\n"), b""),
    "headers without end": (repeats(b"X: y\r\n", before=b"HTTP/1.1 200 OK\r\n", every=0.02), b""),
    "interim answers without end": (repeats(b"HTTP/1.1 100 Continue\r\n\r\n"), b""),
    "body stops": (says_and_hangs(http(200, b"{", length=100)), b""),
    "body trickles": (trickles(b"x" * 100, before=http(200, length=100)), b""),
    "body of unknown length trickles": (trickles(b" " * 100, before=http(200, length=-1)), b""),
    "chunk trickles": (trickles(b"x" * 100, before=http(200, b"64\r\n", CHUNKED, length=-1)), b""),
    "chunk size trickles": (trickles(b"0" * 100, before=http(200, b"", CHUNKED, length=-1)), b""),
    "chunk extension trickles": (trickles(b"a" * 100, before=http(200, b"1;", CHUNKED, length=-1)), b""),
    "trailers without end": (
        repeats(b"X: y\r\n", before=http(200, b"2\r\n{}\r\n0\r\n", CHUNKED, length=-1), every=0.02),
        b"",
    ),
    "redirect whose body trickles": (trickles(b"x" * 100, before=http(302, b"", "Location: /", length=100)), b""),
    "empty gzip members without end": (
        repeats(gzip.compress(b""), before=http(200, b"", "Content-Encoding: gzip", length=-1), every=0.001),
        b"",
    ),
}


@pytest.mark.parametrize("over", ["plain", "tls"])
@pytest.mark.parametrize("stall", STALLS)
def test_whatever_stalls_after_the_request_left_ends_at_the_deadline_as_sent(
    stall: str, over: str, session: DeadlineSession, certificate: Certificate
) -> None:
    play, body = STALLS[stall]
    with FaultServer([play], tls=certificate.serve() if over == "tls" else None) as server:
        reply = in_time(lambda: post(session, server.url, SECONDS, body))
    assert reply == NoReply(was_sent=True, failure="deadline")


def test_a_request_that_is_cut_off_among_its_headers_counts_as_sent(
    session: DeadlineSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = deadline.create_connection  # type: ignore[attr-defined]

    def narrow(*arguments: Any) -> socket.socket:
        connected: socket.socket = connect(*arguments)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return connected

    monkeypatch.setattr(deadline, "create_connection", narrow)
    with FaultServer([unread], holds=4096) as server:
        reply = post(session, server.url, 2 * SECONDS, headers={"X-Long": "x" * 1_000_000})
    assert reply == NoReply(was_sent=True, failure="deadline")


@pytest.mark.parametrize("play", [reads_nothing, trickles_its_handshake])
def test_a_handshake_that_stalls_ends_at_the_deadline_as_not_sent(
    play: Play, session: DeadlineSession, certificate: Certificate
) -> None:
    with FaultServer([play], tls=certificate.serve()) as server:
        reply = in_time(lambda: post(session, server.url, SECONDS))
    assert reply == NoReply(was_sent=False, failure="deadline")
    assert server.requests == []


def test_a_silent_handshake_does_not_use_up_a_long_deadline(
    session: DeadlineSession, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "CONNECT_SECONDS", 0.2)
    with FaultServer([reads_nothing], tls=certificate.serve()) as server:
        reply = in_time(lambda: post(session, server.url, 10), 0.2)
    assert reply == NoReply(was_sent=False, failure="no_answer_in_time")


def test_a_connection_that_does_not_come_about_ends_at_the_deadline_however_many_addresses_there_are(
    session: DeadlineSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "CONNECT_SECONDS", 0.1)
    resolve_as(monkeypatch, "many.example", ["127.0.0.1"] * 9)
    with black_hole() as port:
        reply = in_time(lambda: post(session, f"http://many.example:{port}", SECONDS))
    assert reply == NoReply(was_sent=False, failure="deadline")


def test_one_address_may_take_only_its_share_of_the_deadline(
    session: DeadlineSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "CONNECT_SECONDS", 0.2)
    with black_hole() as port:
        reply = in_time(lambda: post(session, f"http://127.0.0.1:{port}", 10), 0.2)
    assert reply == NoReply(was_sent=False, failure="connect_timeout")


def test_the_next_address_is_tried_when_one_is_dead(session: DeadlineSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "CONNECT_SECONDS", 1.0)
    resolve_as(monkeypatch, "two.example", ["::1", "127.0.0.1"])
    with FaultServer([answers(200, b"{}")]) as server, black_hole("::1", server.port):
        reply = post(session, f"http://two.example:{server.port}")
    assert isinstance(reply, Reply)
    assert len(server.requests) == 1


def test_a_name_that_is_found_after_the_deadline_is_not_called(
    session: DeadlineSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_as(monkeypatch, "slow.example", ["127.0.0.1"], seconds=SECONDS)
    with FaultServer([answers(200, b"{}")]) as server:
        reply = post(session, f"http://slow.example:{server.port}", SECONDS / 2)
        assert server.connections == 0
    assert reply == NoReply(was_sent=False, failure="deadline")


def test_a_connection_that_stands_just_after_the_deadline_is_cut_before_anything_is_sent(
    session: DeadlineSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = deadline.create_connection  # type: ignore[attr-defined]

    def late(*arguments: Any) -> socket.socket:
        connected = connect(*arguments)
        time.sleep(SECONDS)
        return connected

    monkeypatch.setattr(deadline, "create_connection", late)
    with FaultServer([answers(200, b"{}")]) as server:
        reply = post(session, server.url, SECONDS / 2)
    assert isinstance(reply, NoReply)
    assert reply.failure == "deadline"
    assert server.requests == []


@pytest.mark.parametrize("seconds", [0.0, -3.0])
def test_without_any_time_nothing_is_tried(seconds: float, session: DeadlineSession) -> None:
    with FaultServer([answers(200, b"{}")]) as server:
        assert post(session, server.url, seconds) == NoReply(was_sent=False, failure="deadline")
        assert server.connections == 0


def test_the_deadline_holds_on_a_connection_used_before(session: DeadlineSession) -> None:
    def call_again() -> Reply | NoReply:
        assert isinstance(post(session, server.url, 5), Reply)
        return post(session, server.url, SECONDS)

    with FaultServer([answers(200, b"{}"), says_and_hangs(b"HTTP/1.1 200")] * 3) as server:
        reply = in_time(call_again)
    assert reply == NoReply(was_sent=True, failure="deadline")
    assert server.connections == len(server.requests) / 2


@pytest.mark.parametrize("part", [b"", http(200, b"{", length=100)])
def test_the_read_itself_ends_if_the_timer_fails_to(
    part: bytes, session: DeadlineSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lazy(threading.Timer):
        def run(self) -> None:
            self.finished.wait()

    monkeypatch.setattr(deadline, "Timer", Lazy)
    with FaultServer([says_and_hangs(part)]) as server:
        reply = in_time(lambda: post(session, server.url, SECONDS))
    assert reply == NoReply(was_sent=True, failure="deadline")


def test_a_timer_that_was_cancelled_too_late_does_not_cut_the_next_call(
    session: DeadlineSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    class JustGoingOff(threading.Timer):
        def run(self) -> None:
            self.finished.wait()
            time.sleep(0.05)
            self.function()

    with FaultServer([answers(200, b"{}"), answers(200, b"{}"), says_and_hangs(b"")]) as server:
        monkeypatch.setattr(deadline, "Timer", JustGoingOff)
        assert post(session, server.url) == NoReply(was_sent=True, failure="deadline")
        monkeypatch.undo()
        assert isinstance(post(session, server.url), Reply)


def test_answers_that_come_just_at_the_deadline_are_taken_or_in_doubt_and_harm_no_later_call(
    session: DeadlineSession,
) -> None:
    def just_then(peer: Peer) -> None:
        peer.read_request()
        peer.pause(0.024 + 0.0003 * (len(peer.server.requests) // 2))
        peer.send(OK)

    with FaultServer([just_then, answers(200)] * 40) as server:
        for _ in range(40):
            reply = post(session, server.url, 0.03)
            assert isinstance(reply, Reply) or reply.failure == "deadline"
            later = post(session, server.url)
            assert isinstance(later, Reply)
            assert later.status == 200


# --- What was sent -------------------------------------------------------------------------------------------------


def test_a_refused_connection_is_proof_that_nothing_was_sent(session: DeadlineSession) -> None:
    with refusing_port() as port:
        reply = post(session, f"http://127.0.0.1:{port}")
    assert reply == NoReply(was_sent=False, failure="connection_refused")


@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")])
def test_a_name_that_is_not_found_is_proof_that_nothing_was_sent(
    error: Exception, session: DeadlineSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert post(session, "http://api.example") == NoReply(was_sent=False, failure="name_not_resolved")


@pytest.mark.parametrize(
    ("name", "days", "is_trusted"),
    [("127.0.0.1", 1, False), ("api.example", 1, True), ("127.0.0.1", -1, True)],
    ids=["self-signed", "another name", "expired"],
)
def test_a_certificate_that_proves_nothing_is_refused_before_a_byte_is_sent(
    name: str, days: int, is_trusted: bool, tmp_path: Path, certificate: Certificate
) -> None:
    shown = Certificate.make(tmp_path / "shown.pem", name, timedelta(days=days))
    context = shown.trust() if is_trusted else certificate.trust()
    with FaultServer([answers(200, b"{}")], tls=shown.serve()) as server, closing(DeadlineSession(context)) as session:
        assert post(session, server.url) == NoReply(was_sent=False, failure="tls_failure")
    assert server.connections == 1
    assert server.bytes_received == 0


@pytest.mark.parametrize(
    ("play", "failure"),
    [
        (speaks_no_tls, "tls_failure"),
        (resets_in_handshake, "connection_lost"),
        (resets_before_reading, "connection_lost"),
    ],
)
def test_a_handshake_that_fails_is_proof_that_nothing_was_sent(
    play: Play, failure: str, session: DeadlineSession, certificate: Certificate
) -> None:
    with FaultServer([play], tls=certificate.serve()) as server:
        reply = post(session, server.url)
    assert reply == NoReply(was_sent=False, failure=failure)
    assert server.requests == []


@pytest.mark.parametrize("over", ["plain", "tls"])
@pytest.mark.parametrize("play", [resets_after_reading, closes_after_reading])
def test_a_connection_that_breaks_once_the_request_was_read_proves_nothing(
    play: Play, over: str, session: DeadlineSession, certificate: Certificate
) -> None:
    with FaultServer([play], tls=certificate.serve() if over == "tls" else None) as server:
        assert post(session, server.url) == NoReply(was_sent=True, failure="connection_lost")
    assert len(server.requests) == 1, "nothing underneath repeats the request"


def test_a_reset_before_the_request_was_read_proves_nothing(session: DeadlineSession) -> None:
    with FaultServer([resets_before_reading]) as server:
        assert post(session, server.url) == NoReply(was_sent=True, failure="connection_lost")


def test_a_failed_connection_after_a_call_that_was_sent_is_again_proof_that_nothing_was_sent(
    session: DeadlineSession,
) -> None:
    with FaultServer([resets_after_reading]) as server:
        assert post(session, server.url) == NoReply(was_sent=True, failure="connection_lost")
    assert post(session, server.url) == NoReply(was_sent=False, failure="connection_refused")


@pytest.mark.parametrize(
    ("parts", "failure"),
    [
        ([http(200, b"{}", length=100)], "truncated_answer"),
        ([http(200, b"64\r\n{}", CHUNKED, length=-1)], "truncated_answer"),
        ([http(200, b"2\r\n{}\r\n", CHUNKED, length=-1)], "truncated_answer"),
        ([http(200, b"nonsense\r\n{}\r\n", CHUNKED, length=-1)], "truncated_answer"),
        ([http(200, b"-5\r\n{}\r\n", CHUNKED, length=-1)], "connection_lost"),
        ([http(200, b"not gzip", "Content-Encoding: gzip")], "undecodable_answer"),
        ([http(200, b"{}", "Content-Length: 3")], "connection_lost"),
        ([b"HTTP/1.1 20"], "connection_lost"),
        ([b"HTTP/1.1 two hundred\r\n\r\n"], "connection_lost"),
        ([b"SSH-2.0-OpenSSH_10.0\r\n"], "connection_lost"),
        ([b"HTTP/1.1 200 " + b"O" * 70_000], "connection_lost"),
        ([b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"], "connection_lost"),
        ([http(103, b"", "Link: </style>; rel=preload", length=-1), OK], "interim_answer"),
        ([http(101, b"", length=-1)], "interim_answer"),
    ],
)
def test_an_answer_that_is_no_whole_answer_is_none(parts: list[bytes], failure: str, session: DeadlineSession) -> None:
    with FaultServer([says(*parts)]) as server:
        assert post(session, server.url) == NoReply(was_sent=True, failure=failure)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "play",
    [
        answers(200, b" " * (50 * 1024 * 1024)),
        repeats(b"x" * 65536, before=http(200, length=-1)),
        repeats(b"10000\r\n" + b"x" * 65536 + b"\r\n", before=http(200, b"", CHUNKED, length=-1)),
        answers(200, gzip.compress(bytes(50 * 1024 * 1024), 1), "Content-Encoding: gzip"),
        answers(302, b" " * (50 * 1024 * 1024), "Location: /elsewhere"),
    ],
    ids=["50 MB", "without end", "chunks without end", "50 MB in 50 KB of gzip", "50 MB of redirect"],
)
def test_an_answer_of_any_size_is_read_no_further_than_the_limit(play: Play, session: DeadlineSession) -> None:
    with FaultServer([play]) as server:
        reply = in_time(lambda: post(session, server.url), 2)
    assert reply == NoReply(was_sent=True, failure="answer_too_large")


# --- The answer ----------------------------------------------------------------------------------------------------


def test_an_answer_comes_with_status_lower_case_headers_and_body(session: DeadlineSession) -> None:
    with FaultServer([answers(418, b"\x00\xff", "CF-Ray: 8d1", "Retry-After: 5")]) as server:
        reply = post(session, server.url)
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body) == (418, b"\x00\xff")
    assert reply.headers == {"content-length": "2", "cf-ray": "8d1", "retry-after": "5"}


@pytest.mark.parametrize(
    "data",
    [
        http(200, b'{"a": 1}'),
        http(200, b'{"a": 1}', length=-1),
        http(200, b'{"a": 1}', version="HTTP/1.0", length=-1),
        http(200, b'3\r\n{"a\r\n5;x=y\r\n": 1}\r\n0\r\nTrailer: t\r\n\r\n', CHUNKED, length=-1),
        http(200, gzip.compress(b'{"a": 1}'), "Content-Encoding: gzip"),
        http(100, length=-1) * 3 + http(200, b'{"a": 1}'),
    ],
    ids=["length", "until closed", "HTTP/1.0", "chunked", "gzip though identity was asked for", "after 100 Continue"],
)
def test_an_answer_is_whole_in_every_framing(data: bytes, session: DeadlineSession) -> None:
    with FaultServer([says(data)]) as server:
        reply = post(session, server.url)
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body) == (200, b'{"a": 1}')


def test_an_answer_as_large_as_the_limit_is_taken(session: DeadlineSession) -> None:
    with FaultServer([answers(200, b" " * ANSWER_LIMIT)]) as server:
        reply = post(session, server.url)
    assert isinstance(reply, Reply)
    assert len(reply.body) == ANSWER_LIMIT


def test_a_request_says_only_what_it_was_told_to_and_how_the_answer_may_come(session: DeadlineSession) -> None:
    with FaultServer([answers(200)]) as server:
        post(session, server.url, headers={"Authorization": "Bearer t", "User-Agent": "ours"}, body=b"[]")
        session.send("GET", f"{server.url}/user?a=b", {"User-Agent": "ours"}, None, 5)
    posted, got = server.requests
    host = [f"127.0.0.1:{server.port}"]
    common = {"host": host, "accept": ["application/json"], "accept-encoding": ["identity"], "user-agent": ["ours"]}
    assert (posted.method, posted.path, posted.body) == ("POST", "/release", b"[]")
    assert posted.headers == {**common, "authorization": ["Bearer t"], "content-length": ["2"]}
    assert (got.method, got.path, got.body, got.headers) == ("GET", "/user?a=b", b"", common)


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:{port}/elsewhere", "/elsewhere", "http://[", "http://\x80", "//", ""]
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_like_any_other(status: int, location: str, session: DeadlineSession) -> None:
    with FaultServer([]) as server:
        server.plays = [answers(status, b"moved", f"Location: {location}".format(port=server.port))]
        reply = post(session, server.url)
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body) == (status, b"moved")
    assert len(server.requests) == 1


def test_a_cookie_is_not_brought_back(session: DeadlineSession) -> None:
    with FaultServer([answers(200, b"", "Set-Cookie: session=1; Path=/", "Set-Cookie: \x00nonsense;;=")]) as server:
        post(session, server.url)
        post(session, server.url)
    assert "cookie" not in server.requests[1].headers


def test_the_environment_has_no_say(
    session: DeadlineSession, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\ndefault login a password b\n")
    with FaultServer([answers(418)]) as proxy, FaultServer([answers(200)], tls=certificate.serve()) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.lower(), proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(netrc))
        monkeypatch.setenv("CURL_CA_BUNDLE", str(netrc))
        reply = post(session, server.url, headers={"X-Auth-Key": "k"})
    assert isinstance(reply, Reply)
    assert reply.status == 200
    assert proxy.connections == 0
    assert "authorization" not in server.requests[0].headers


def test_the_certificates_to_trust_are_not_loaded_again_for_a_connection(
    session: DeadlineSession, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the CA bundle was loaded again")

    serving = certificate.serve()
    for name in ("load_verify_locations", "load_default_certs", "set_default_verify_paths", "load_cert_chain"):
        monkeypatch.setattr(ssl.SSLContext, name, never)
    monkeypatch.setattr(ssl, "create_default_context", never)
    with FaultServer([says(http(200, b"{}", "Connection: close"))], tls=serving) as server:
        assert isinstance(post(session, server.url), Reply)
        assert isinstance(post(session, server.url), Reply)
    assert server.connections == 2


def test_small_packets_are_sent_at_once(session: DeadlineSession, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    connect = deadline.create_connection  # type: ignore[attr-defined]

    def remembered(*arguments: Any) -> socket.socket:
        opened.append(connect(*arguments))
        return opened[-1]

    monkeypatch.setattr(deadline, "create_connection", remembered)
    with FaultServer([answers(200)]) as server:
        post(session, server.url)
        assert opened[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@settings(max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.integers(0, 999).map(lambda status: f"HTTP/1.1 {status} x\r\n".encode()),
            st.sampled_from(
                [
                    b"HTTP/1.1 200 OK\r\n",
                    b"Content-Length: 2\r\n",
                    b"Content-Length: -1\r\n",
                    b"Content-Length: 2, 3\r\n",
                    b"Transfer-Encoding: chunked\r\n",
                    b"Transfer-Encoding: gzip, chunked\r\n",
                    b"Content-Encoding: gzip\r\n",
                    b"Content-Encoding: deflate, br, x\r\n",
                    b"Content-Type: text/html; charset=utf-\xff; =\r\n",
                    b"Location: http://[\r\n",
                    b"Set-Cookie: =;=\r\n",
                    b"Connection: close\r\n",
                    b": nameless\r\n",
                    b" folded\r\n",
                    b"\r\n",
                    b"{}",
                    b"2\r\n{}\r\n",
                    b"-1\r\n",
                    b"-0x2\r\n",
                    b"1_0\r\n",
                    b"0\r\n\r\n",
                    gzip.compress(b"{}"),
                ]
            ),
        ),
        max_size=8,
    )
)
def test_no_bytes_that_a_server_could_send_lead_to_an_exception_or_to_not_sent(parts: list[bytes]) -> None:
    FUZZED.plays = [says(b"".join(parts))]
    reply = post(FUZZING, FUZZED.url, 2)
    assert isinstance(reply, Reply) or (reply.was_sent and reply.failure != "deadline")


@pytest.fixture(scope="module", autouse=True)
def _fuzzed(certificate: Certificate) -> Iterator[None]:
    global FUZZED, FUZZING
    with FaultServer([]) as FUZZED, closing(DeadlineSession(certificate.trust())) as FUZZING:
        yield


FUZZED: FaultServer
FUZZING: DeadlineSession


# --- The connection ------------------------------------------------------------------------------------------------


def test_a_connection_is_used_again_within_five_seconds(session: DeadlineSession, wall_clock: WallClock) -> None:
    with FaultServer([answers(200)]) as server:
        for _ in range(4):
            assert isinstance(post(session, server.url), Reply)
            wall_clock.seconds += IDLE_SECONDS
    assert server.connections == 1
    assert len(server.requests) == 4


@pytest.mark.parametrize("seconds", [IDLE_SECONDS + 0.01, 3600, -0.01])
def test_a_connection_idle_for_longer_or_from_the_future_is_not(
    seconds: float, session: DeadlineSession, wall_clock: WallClock
) -> None:
    with FaultServer([answers(200)]) as server:
        assert isinstance(post(session, server.url), Reply)
        wall_clock.seconds += seconds
        assert isinstance(post(session, server.url), Reply)
    assert server.connections == 2


def test_idle_time_counts_from_the_end_of_a_call(session: DeadlineSession, wall_clock: WallClock) -> None:
    def takes_long(peer: Peer) -> None:
        peer.read_request()
        wall_clock.seconds += 9
        peer.send(OK)

    with FaultServer([takes_long]) as server:
        post(session, server.url)
        wall_clock.seconds += 4
        post(session, server.url)
    assert server.connections == 1


@pytest.mark.parametrize("over", ["plain", "tls"])
def test_a_connection_that_the_server_closed_meanwhile_does_no_harm(
    over: str, session: DeadlineSession, certificate: Certificate
) -> None:
    for ending in (Peer.close, Peer.reset):
        closed = threading.Event()

        def then_ends(peer: Peer, ending: Callable[[Peer], None] = ending, closed: threading.Event = closed) -> None:
            peer.read_request()
            peer.send(OK)
            peer.pause(0.05)
            ending(peer)
            closed.set()

        with FaultServer([then_ends, answers(200)], tls=certificate.serve() if over == "tls" else None) as server:
            assert isinstance(post(session, server.url), Reply)
            assert closed.wait(5)
            assert isinstance(post(session, server.url), Reply)
        assert server.connections == 2
        assert len(server.requests) == 2


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next(session: DeadlineSession) -> None:
    sent = threading.Event()

    def says_more(peer: Peer) -> None:
        peer.read_request()
        peer.send(OK)
        peer.pause(0.05)
        peer.send(http(403, b"{}"))
        sent.set()

    with FaultServer([says_more, answers(200)]) as server:
        post(session, server.url)
        assert sent.wait(5)
        reply = post(session, server.url)
    assert isinstance(reply, Reply)
    assert reply.status == 200


@pytest.mark.parametrize(
    "play",
    [
        says_and_hangs(b""),
        says_and_hangs(http(200, b"{", length=100)),
        resets_after_reading,
        answers(200, b" " * (ANSWER_LIMIT + 1)),
        says(http(103, length=-1), keep=True),
        says(http(200, b"{}", length=100)),
    ],
    ids=["cut", "cut in the body", "reset", "too large", "interim answer", "truncated"],
)
def test_after_a_call_that_failed_the_next_goes_over_a_connection_of_its_own(
    play: Play, session: DeadlineSession
) -> None:
    with FaultServer([play, answers(200, b"{}")]) as server:
        assert isinstance(post(session, server.url, SECONDS), NoReply)
        reply = post(session, server.url)
    assert isinstance(reply, Reply)
    assert reply.status == 200
    assert server.connections == 2


def test_the_server_sees_the_end_of_a_connection_that_is_given_up(session: DeadlineSession) -> None:
    ended = threading.Event()

    def waits_for_the_end(peer: Peer) -> None:
        peer.read_request()
        peer.send(http(200, b"{}", length=100))
        try:
            peer.hang()
        finally:
            ended.set()

    with FaultServer([waits_for_the_end]) as server:
        post(session, server.url, SECONDS)
        assert ended.wait(SECONDS)


def test_no_call_leaves_a_thread_or_a_socket(certificate: Certificate) -> None:
    ends: list[Play] = [
        answers(200, b"{}"),
        says(OK),
        says(http(200, b"{}", "Connection: close")),
        resets_after_reading,
        says_and_hangs(http(200, b"{", length=9)),
        says(http(200, b"{}", length=9)),
        answers(302, b"", "Location: /"),
        answers(200, b" " * (ANSWER_LIMIT + 1)),
    ]
    before: list[str] = []
    for _ in range(2):
        with FaultServer(ends * 2, tls=certificate.serve()) as server, refusing_port() as port:
            session = DeadlineSession(certificate.trust())
            for _ in ends * 2:
                post(session, server.url, 0.2)
                assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
            post(session, f"https://127.0.0.1:{port}", 0.2)
            session.close()
        gc.collect()
        open_files = os.listdir("/dev/fd")
        assert len(open_files) <= len(before or open_files)
        before = open_files
