"""The reader over real HTTP: in packs first, never more calls than agreed, and nothing said that was not shown."""

import json
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from local.services import Service, start_simulated_cloudflare
from quarantine_release.cloudflare import search as cloudflare_calls
from quarantine_release.cloudflare.after_release import CloudflareReader
from quarantine_release.cloudflare.connection import DeadlineSession, NoReply
from quarantine_release.cloudflare.entries import RELEASE
from quarantine_release.cloudflare.log_pages import PAGES
from quarantine_release.cloudflare.reply import Reply
from quarantine_release.cloudflare.search import SearchApi
from quarantine_release.config.accounts import parse_accounts
from quarantine_release.config.secret import SecretMalformed, SecretUnavailable
from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.ids import AccountId, MessageId, PostfixPart, postfix_part
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.verdicts import (
    Evidence,
    NoEffect,
    ReadBack,
    ReadBackTarget,
    Recipients,
    RefusalReason,
    Seen,
)
from tests.support.cloudflare_entries import (
    DAY,
    FREED,
    HELD,
    HOUR,
    MINUTE,
    action,
    anything,
    full_id,
    likely,
    queue_id,
    want,
)
from tests.support.cloudflare_reads import (
    AROUND_BARE,
    AROUND_THREE,
    AT,
    BY_TOKEN,
    FULLS,
    INVESTIGATE,
    TOKEN,
    Held,
    escaped,
    log_of,
    logged,
    ok,
    page,
    refusal,
)
from tests.support.fault_server import (
    FaultServer,
    Play,
    answers,
    closes_after_reading,
    http,
    resets_after_reading,
    resets_before_reading,
    says,
    says_and_hangs,
    trickles,
)
from tests.support.stand_ins import ACCOUNT, NOON, RememberingBudget, UnreadableBudget

pytestmark = pytest.mark.outside

Readings = Mapping[PostfixPart, ReadBack]
BY_KEY = {"account_id": ACCOUNT, "api_email": "analyst@example.com", "api_key": "0123456789abcdef0123456789abcdef01234"}
BARES = [postfix_part(each) for each in FULLS]
LISTED: Mapping[str, Any] = {"post_delivery_operations": [RELEASE]}
RELEASED, QUARANTINED, UNCLEAR, ABSENT = Seen.RELEASED, Seen.QUARANTINED, Seen.UNCLEAR, Seen.ABSENT


@contextmanager
def reader_at(
    url: str,
    secret: Held | None = None,
    clock: Callable[[], datetime] = lambda: NOON,
    *,
    keeps_recipients: bool = True,
) -> Iterator[CloudflareReader]:
    with closing(DeadlineSession(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))) as session:
        yield CloudflareReader(
            SearchApi(f"{url}/client/v4", secret or Held(), session, clock), keeps_recipients=keeps_recipients
        )


def shown(readings: Readings) -> dict[str, Seen]:
    return {part: reading.seen for part, reading in readings.items()}


# --- A server that plays what the simulator cannot -------------------------------------------------------------------


def read(
    plays: Sequence[Play],
    *wanted: str | ReadBackTarget,
    seconds: float = 10.0,
    secret: Held | None = None,
    budget: RememberingBudget | None = None,
) -> tuple[Readings, list[str]]:
    """Read from a server that plays these, one per call; return the readings and the calls, without their base."""
    with FaultServer(plays) as server, reader_at(server.url, secret) as reader:
        some = [each if isinstance(each, ReadBackTarget) else want(each) for each in wanted]
        readings = reader.read(ACCOUNT, some, seconds, budget or RememberingBudget())
    assert all(request.method == "GET" and request.path.startswith(INVESTIGATE) for request in server.requests)
    return readings, [request.path.removeprefix(INVESTIGATE) for request in server.requests]


# --- Packs -----------------------------------------------------------------------------------------------------------


def test_many_are_listed_page_by_page_with_exactly_the_documented_query() -> None:
    first, second, third = FULLS[:3]
    readings, calls = read(
        [
            page({"id": first, **FREED}, {"id": FULLS[9], **FREED}, following="to/the+next="),
            page({"id": second, "postfix_id": BARES[1], **HELD}, {"postfix_id": BARES[2], **FREED}),
            logged(),
        ],
        *(first, second, third),
    )
    evidence = Evidence(200, (), "ray-1")
    assert readings == {
        BARES[0]: ReadBack(RELEASED, evidence, first),
        BARES[1]: ReadBack(QUARANTINED, evidence, second),
        BARES[2]: ReadBack(RELEASED, evidence, MessageId(BARES[2])),
    }
    assert calls == [AROUND_THREE, AROUND_THREE + "&cursor=to%2Fthe%2Bnext%3D", log_of(second)]


@pytest.mark.parametrize(
    ("secret", "headers"),
    [
        (BY_TOKEN, {"authorization": f"Bearer {TOKEN}"}),
        (BY_KEY, {"x-auth-email": BY_KEY["api_email"], "x-auth-key": BY_KEY["api_key"]}),
    ],
    ids=["token", "key"],
)
def test_each_call_carries_the_one_credential_and_the_name_of_the_product(
    secret: Mapping[str, str], headers: Mapping[str, str]
) -> None:
    held = Held(parse_accounts(json.dumps(secret)))
    with FaultServer([page(), refusal(404)]) as server, reader_at(server.url, held) as reader:
        reader.read(ACCOUNT, [want(each) for each in FULLS[:3]], 10, RememberingBudget())
    assert len(server.requests) == 4
    for request in server.requests:
        common = {"host", "accept", "accept-encoding", "user-agent"}
        assert request.headers.keys() == common | headers.keys()
        assert {name: request.headers[name] for name in headers} == {name: [value] for name, value in headers.items()}
        assert request.headers["user-agent"] == ["quarantine-release/1"]


def test_up_to_two_are_read_one_by_one() -> None:
    freed = [ok({"id": each, **FREED}) for each in FULLS[:2]]
    readings, calls = read(freed, *FULLS[:2])
    assert shown(readings) == dict.fromkeys(BARES[:2], RELEASED)
    assert calls == [escaped(each) for each in FULLS[:2]]


def test_a_list_is_read_to_its_end_because_a_later_row_may_contradict_an_earlier_one() -> None:
    first = page(*({"id": each, **FREED} for each in FULLS[:2]), {"id": FULLS[2], **HELD}, following="more")
    second = page({"id": FULLS[0], **HELD}, {"id": FULLS[2], **FREED})
    readings, calls = read([first, second, logged(action()), logged()], *FULLS[:3])
    assert shown(readings) == {BARES[0]: RELEASED, BARES[1]: RELEASED, BARES[2]: UNCLEAR}
    assert calls[2:] == [log_of(FULLS[0]), log_of(FULLS[2])]


def test_a_release_in_a_list_that_was_cut_off_is_read_once_more() -> None:
    first = page(*({"id": each, **FREED} for each in FULLS[:3]), following="more")
    singles = [ok({"id": FULLS[0], **FREED}), ok({"id": FULLS[1], **HELD, **LISTED}), logged(), refusal(500)]
    readings, calls = read([first, refusal(500), *singles], *FULLS[:3])
    assert shown(readings) == {BARES[0]: RELEASED, BARES[1]: UNCLEAR}
    assert calls[2:] == [escaped(FULLS[0]), escaped(FULLS[1]), log_of(FULLS[1]), escaped(FULLS[2])]


def test_the_latest_window_comes_first() -> None:
    late, early = full_id(NOON - HOUR), full_id(NOON - 5 * DAY)
    readings, calls = read(
        [page({"id": late, **FREED}), page({"id": early, **FREED}), page({"id": FULLS[0], **FREED})],
        *(FULLS[0], late, early),
    )
    assert shown(readings) == dict.fromkeys(map(postfix_part, (late, early, FULLS[0])), RELEASED)
    assert [call[:21] for call in calls] == [
        *("?start=2026-11-22T10%", "?start=2026-11-17T11%", "?start=2026-11-13T11%"),
    ]


def test_what_no_list_can_show_is_read_singly() -> None:
    odd = MessageId("an:odd.shape_1")
    readings, calls = read(
        [page(*({"id": each, **FREED} for each in FULLS[:3])), ok({"id": odd, **FREED})],
        *(odd, *FULLS[:3]),
    )
    assert shown(readings) == dict.fromkeys([*BARES[:3], odd], RELEASED)
    assert calls == [AROUND_THREE, "/an%3Aodd.shape_1"]


def test_a_run_lists_at_most_12_pages_and_makes_at_most_100_single_reads() -> None:
    many = [full_id(AT + seconds * timedelta(seconds=30)) for seconds in range(120)]
    readings, calls = read([page({"id": "4WtWkr6nlBz9sNH", **FREED}, following="for ever")], *many)
    assert readings == {}
    assert [call[0] for call in calls] == ["?"] * 12 + ["/"] * 100
    assert len(set(calls[12:])) == 100


def test_logs_count_among_the_100_single_reads() -> None:
    many = [full_id(AT + seconds * timedelta(seconds=30)) for seconds in range(120)]
    listed = page(*({"id": each, **HELD} for each in many))
    readings, calls = read([listed, logged()], *many)
    assert shown(readings) == {postfix_part(each): QUARANTINED for each in many[:100]}
    assert calls == [calls[0], *map(log_of, many[:100])]


def test_no_log_is_read_for_what_would_not_free_the_message_yet() -> None:
    three = [ReadBackTarget(postfix_part(each), each, may_free=False) for each in FULLS[:3]]
    listed = page({"id": FULLS[0], **HELD}, {"id": FULLS[1], **HELD, **LISTED}, {"id": FULLS[2], **FREED})
    readings, calls = read([listed, logged(action())], *three)
    assert shown(readings) == {BARES[1]: RELEASED, BARES[2]: RELEASED}
    assert calls == [AROUND_THREE, log_of(FULLS[1])]


@pytest.mark.parametrize(("call_seconds", "runs"), [(0.2, 1), (0.5, 3)])
def test_98_messages_that_are_still_quarantined_take_one_call_each_and_one_list(call_seconds: float, runs: int) -> None:
    """A run of the reconciler has 25 s for an account and comes once a minute."""
    many, now, urls = [full_id(AT + seconds * timedelta(seconds=30)) for seconds in range(98)], [0.0], list[str]()
    entries = [{"id": each, **HELD} for each in many]

    class Slow(DeadlineSession):
        def __init__(self) -> None:
            pass

        def send(self, _: str, url: str, __: Mapping[str, str], ___: bytes | None, seconds: float) -> Reply:
            now[0] += min(call_seconds, seconds)
            urls.append(url)
            result: Any = [] if "/action_log" in url else entries
            info = {"per_page": 20, "count": len(result), "next": None}
            return Reply(200, {}, json.dumps({"success": True, "result": result, "result_info": info}).encode())

    reader = CloudflareReader(SearchApi("https://api.example", Held(), Slow(), lambda: NOON, lambda: now[0]))
    left, taken = list(map(want, many)), 0
    while left and taken < 9:
        readings = reader.read(ACCOUNT, left, 25, RememberingBudget())
        left, taken = [one for one in left if one.part not in readings], taken + 1
    assert (left, taken) == ([], runs)
    assert len(urls) <= 98 + 2 * runs  # a list for each run, or the message itself where few are left
    assert len({url for url in urls if "/action_log" in url}) == 98


def test_the_12_pages_are_all_that_several_windows_have() -> None:
    apart = [full_id(NOON - days * DAY) for days in range(1, 16)]
    _, calls = read([page()], *apart)
    assert [call[0] for call in calls] == ["?"] * 12 + ["/"] * 15
    assert calls[0].startswith("?start=2026-11-21T11")
    assert calls[11].startswith("?start=2026-11-10T11")


@pytest.mark.parametrize(
    "second_page",
    [
        page({"id": full_id(AT, "87654321"), **HELD}),
        page({"id": full_id(AT, "87654321"), **FREED}),
        page({"id": full_id(AT), **HELD}, {"id": full_id(AT, "87654321")}),
    ],
)
def test_a_second_message_by_the_same_postfix_id_on_another_page_leaves_nothing_clear(second_page: Play) -> None:
    three = [{"id": each, **HELD} for each in FULLS[:3]]
    plays = [page(*three, following="more"), second_page, refusal(404), logged()]
    readings, calls = read(plays, *BARES[:3])
    assert shown(readings) == {BARES[0]: UNCLEAR, BARES[1]: QUARANTINED, BARES[2]: QUARANTINED}
    assert calls[2:] == [escaped(BARES[0]), *map(log_of, FULLS[1:3])]


def test_a_postfix_id_counts_as_still_quarantined_only_when_the_list_was_read_on() -> None:
    first = page(*({"id": each, **HELD} for each in FULLS[:3]), following="2")
    readings, calls = read([first, page(), logged()], *BARES[:3])
    assert shown(readings) == dict.fromkeys(BARES[:3], QUARANTINED)
    assert {reading.message_id for reading in readings.values()} == set(FULLS[:3])
    assert len(calls) == 5


@pytest.mark.parametrize("second_page", [page(following="3"), refusal(500)])
def test_a_list_that_was_not_read_to_its_end_proves_no_quarantine_of_a_postfix_id(second_page: Play) -> None:
    first = page(*({"id": each, **HELD} for each in FULLS[:3]), following="2")
    held = [page({"id": each, **HELD}) for each in FULLS[:3]]
    plays = [first, second_page, held[0], page(), held[1], page(), held[2], page()]
    readings, _ = read(plays, *BARES[:3])
    assert shown(readings) == {}


# --- One by one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (logged(action()), RELEASED),
        (logged(action(success=False)), UNCLEAR),
        (logged(), UNCLEAR),
        (ok(None), UNCLEAR),
        (ok([action(success=False)]), UNCLEAR),
    ],
)
def test_what_is_unclear_in_the_list_is_clarified_by_the_log(log: Play, expected: Seen) -> None:
    """Read by the full id, which the list has told."""
    entries = [{"id": FULLS[0], "is_quarantined": False}, *({"id": each, **FREED} for each in FULLS[1:3])]
    for wanted in (FULLS, BARES):
        readings, calls = read([page(*entries), log], *wanted[:3])
        assert readings[BARES[0]].seen is expected
        assert readings[BARES[0]].message_id == FULLS[0]
        assert shown(readings).keys() == set(BARES[:3])
        assert set(calls[1:]) <= {log_of(FULLS[0]), log_of(FULLS[0], 2)}


@pytest.mark.parametrize(
    ("single", "expected"),
    [
        ([ok({"id": FULLS[0], **HELD})], QUARANTINED),
        ([refusal(404)], UNCLEAR),
        ([ok({"id": FULLS[0], **FREED})], RELEASED),
    ],
)
def test_a_listed_message_without_a_log_is_read_itself(single: list[Play], expected: Seen) -> None:
    """Because it may be that this id cannot be read at all."""
    entries = [{"id": FULLS[0], **HELD}, *({"id": each, **FREED} for each in FULLS[1:3])]
    readings, calls = read([page(*entries), refusal(404), *single], *FULLS[:3])
    assert readings[BARES[0]].seen is expected
    assert calls[1:] == [log_of(FULLS[0]), escaped(FULLS[0])]


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (logged(), {BARES[0]: QUARANTINED}),
        (ok([]), {BARES[0]: QUARANTINED}),
        (logged(action(operation="MOVE")), {BARES[0]: QUARANTINED}),
        (refusal(404), {BARES[0]: QUARANTINED}),
        (logged(action()), {BARES[0]: RELEASED}),  # the message lags behind its log
        (logged(action(success=False)), {BARES[0]: UNCLEAR}),
        (logged(action(success=None)), {BARES[0]: UNCLEAR}),  # a release under way
        (logged(action(operation="RELEASED")), {BARES[0]: UNCLEAR}),
        (refusal(500), {}),
        (answers(404, b"<html>"), {}),
        (answers(200, b""), {}),
        (answers(200, b'{"success": false, "result": []}'), {}),
        (ok({"operation": RELEASE, "success": True}), {}),
        (ok([action(), "RELEASE"]), {}),
    ],
)
def test_one_message_is_still_quarantined_only_if_its_log_does_not_tell_otherwise(
    log: Play, expected: Mapping[str, Seen]
) -> None:
    readings, calls = read([ok({"id": FULLS[0], **HELD}), log], FULLS[0])
    assert shown(readings) == expected
    assert calls == [escaped(FULLS[0]), log_of(FULLS[0])]


@pytest.mark.parametrize("held", [{**HELD}, {**HELD, "post_delivery_operations": [RELEASE]}])
def test_a_partial_release_is_told_with_its_recipients(held: Mapping[str, Any]) -> None:
    log = logged(action(recipient="ann"), action(recipient="bob", success=False))
    readings, _ = read([ok({"id": FULLS[0], **held}), log], FULLS[0])
    expected = Recipients.of(["ann"], [], ["bob"])
    assert readings == {BARES[0]: ReadBack(Seen.PARTIAL, Evidence(200, (), "ray-1"), FULLS[0], expected)}


def test_a_reader_that_keeps_no_recipients_keeps_their_number() -> None:
    log = logged(action(recipient="ann"), action(recipient="bob", success=False))
    with (
        FaultServer([ok({"id": FULLS[0], **HELD}), log]) as server,
        reader_at(server.url, keeps_recipients=False) as reader,
    ):
        readings = reader.read(ACCOUNT, [want(FULLS[0])], 10, RememberingBudget())
    assert readings[BARES[0]].recipients == Recipients(counts=(1, 0, 1))


# --- Action logs -----------------------------------------------------------------------------------------------------


MOVE = action(operation="MOVE")
FAILED = action(success=False)


@pytest.mark.parametrize(
    ("pages", "expected", "count"),
    [
        ([logged(MOVE, size=1), logged(FAILED, size=1), logged(action(), size=1), logged(size=1)], RELEASED, 4),
        ([logged(MOVE, size=1), logged(FAILED, size=1), logged(size=1)], UNCLEAR, 3),
        ([logged(MOVE, size=1), logged(size=1)], QUARANTINED, 2),
        ([ok([MOVE]), ok([])], QUARANTINED, 2),
        ([ok([MOVE]), ok([MOVE])], QUARANTINED, 2),  # a server that does not know `page`
        ([ok([MOVE]), ok(None)], QUARANTINED, 2),
        ([ok([MOVE]), ok([action()]), ok([])], RELEASED, 3),
        ([logged(MOVE, next="2"), logged(action())], RELEASED, 2),
        ([logged(MOVE, total_count=2), logged(action(), total_count=2)], RELEASED, 2),
        ([logged(MOVE, total_pages=2), logged(action(), total_pages=2)], RELEASED, 2),
        ([logged(MOVE, total_count=0, total_pages=0, next=None)], QUARANTINED, 1),
        ([logged(MOVE, next="2"), logged(MOVE, next="2")], None, 2),
        ([logged(next="2")], None, 1),
        ([logged(MOVE, size=1), refusal(500)], None, 2),
        ([logged(MOVE, size=1), refusal(404)], None, 2),
        ([logged(FAILED, size=1), refusal(500)], None, 2),
        ([logged(action(), size=1), refusal(500)], RELEASED, 2),
        ([logged(action(), size=1), ok("x")], RELEASED, 2),
        ([logged({**MOVE, "n": n}, next="more") for n in range(PAGES)], None, PAGES),
        ([logged({**action(), "n": n}, next="more") for n in range(PAGES)], RELEASED, PAGES),
    ],
)
def test_a_log_is_read_to_its_end_and_else_proves_only_the_successes_in_it(
    pages: list[Play], expected: Seen | None, count: int
) -> None:
    readings, calls = read([ok({"id": FULLS[0], **HELD}), *pages], FULLS[0])
    assert shown(readings) == ({} if expected is None else {BARES[0]: expected})
    assert calls == [escaped(FULLS[0]), *(log_of(FULLS[0], number) for number in range(1, count + 1))]


@pytest.mark.parametrize(
    "result",
    [
        {"id": FULLS[1], **FREED},
        {"id": full_id(AT, "87654321"), **FREED},
        {**FREED},
        [],
        None,
        [{"id": FULLS[0], **FREED}, {"id": BARES[0], **HELD}],
    ],
)
def test_an_answer_about_another_message_or_several_is_no_reading(result: Any) -> None:
    readings, _ = read([ok(result), logged()], FULLS[0])
    assert shown(readings).get(BARES[0], UNCLEAR) is UNCLEAR


@pytest.mark.parametrize("message_id", [full_id(AT), MessageId("an:odd.shape_1"), MessageId("..:_-._1")])
def test_ids_are_percent_encoded_into_the_path(message_id: MessageId) -> None:
    _, calls = read([ok({"id": message_id}), logged()], message_id)
    assert calls == [escaped(message_id), log_of(message_id)]
    assert ":" not in calls[0]


def test_a_full_id_that_is_not_there_is_absent_whatever_the_lists_were_like() -> None:
    for plays in ([refusal(404)], [refusal(500), refusal(404)]):
        readings, calls = read(plays, *FULLS[: len(plays) * 2 - 1])
        assert set(shown(readings).values()) == {ABSENT}
        assert [call[0] for call in calls] == ["/"] if len(plays) == 1 else ["?", "/", "/", "/"]
        assert {reading.evidence for reading in readings.values()} == {Evidence(404, (7003,), "ray-1")}


# --- Postfix ids and alert ids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "around"), [(BARES[0], AROUND_BARE), (FULLS[0][:-9], AROUND_THREE.replace("%3A02", "%3A00"))]
)
def test_a_partial_id_that_cannot_be_read_by_is_listed_and_learns_its_full_id(wanted: str, around: str) -> None:
    entry = {"id": FULLS[0], "postfix_id": BARES[0], **HELD}
    readings, calls = read([refusal(404), page(entry), logged()], wanted)
    assert readings == {BARES[0]: ReadBack(QUARANTINED, Evidence(200, (), "ray-1"), FULLS[0])}
    assert calls == [escaped(wanted), around, log_of(FULLS[0])]

    readings, calls = read([refusal(404), page({**entry, **FREED})], wanted)
    assert readings == {BARES[0]: ReadBack(RELEASED, Evidence(200, (), "ray-1"), FULLS[0])}
    assert calls == [escaped(wanted), around]


def test_a_partial_id_that_is_listed_but_cannot_be_read_even_by_its_full_id_is_unclear() -> None:
    readings, calls = read([refusal(404), page({"id": FULLS[0], **HELD}), refusal(404)], BARES[0])
    assert shown(readings) == {BARES[0]: UNCLEAR}
    assert calls == [escaped(BARES[0]), AROUND_BARE, log_of(FULLS[0]), escaped(FULLS[0])]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("wanted", [BARES, [each[:-9] for each in FULLS]], ids=["postfix", "alert"])
def test_a_partial_id_is_absent_if_the_list_was_complete(count: int, wanted: Sequence[str]) -> None:
    plays = [page(), refusal(404)] if count == 3 else [refusal(404), page()]
    readings, calls = read(plays, *wanted[:count])
    assert shown(readings) == dict.fromkeys(BARES[:count], ABSENT)
    assert len(calls) == count + 1


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    "listed",
    [
        refusal(500),
        answers(202, b'{"success":true,"errors":[],"messages":[],"result":[]}', "Location: /elsewhere"),
        ok([]),
        ok([], result_info=None),
        ok([], result_info=[]),
        ok(None, result_info={"next": None}),
        ok({}, result_info={"next": None}),
        ok("x", result_info={"next": "more"}),
        ok([], result_info={"next": "more"}),
        ok([{}], result_info={"next": 7}),
        resets_after_reading,
    ],
)
def test_a_partial_id_is_left_unread_if_the_list_was_not_complete(listed: Play, count: int) -> None:
    plays = [listed, refusal(404)] if count == 3 else [refusal(404), listed, refusal(404)]
    readings, calls = read(plays, *BARES[:count])
    assert readings == {}
    assert "/elsewhere" not in calls


def test_a_partial_id_is_left_unread_if_the_pages_were_used_up() -> None:
    readings, calls = read([*[page({}, following="more")] * 12, refusal(404)], *BARES[:3])
    assert readings == {}
    assert len(calls) == 15


def test_a_postfix_id_that_tells_no_time_is_absent_without_a_list() -> None:
    """There is nothing more that could be asked of Cloudflare."""
    readings, calls = read([refusal(404)], "4Njp3P0STMz2c02Q")
    assert shown(readings) == {"4Njp3P0STMz2c02Q": ABSENT}
    assert calls == ["/4Njp3P0STMz2c02Q"]


# --- Forced messages -------------------------------------------------------------------------------------------------


def test_forced_messages_are_judged_by_their_log_and_never_listed() -> None:
    before, after = action(started_at="2026-11-22T10:59:59Z"), action(started_at="2026-11-22T11:00:00Z")
    freed = [ok({"id": each, **FREED}) for each in FULLS[:4]]
    held = ok({"id": FULLS[4], **HELD})
    readings, calls = read(
        [
            *(freed[0], logged(before), freed[1], logged(before, after), freed[2], logged(), freed[3], refusal(500)),
            *(held, logged()),
        ],
        *(want(each, NOON - HOUR) for each in FULLS[:5]),
    )
    assert shown(readings) == dict(zip([*BARES[:3], BARES[4]], [UNCLEAR, RELEASED, UNCLEAR, QUARANTINED], strict=True))
    assert [call[0] for call in calls] == ["/"] * 10


def test_of_a_forced_postfix_id_the_list_tells_the_full_id_and_nothing_else() -> None:
    listed = page(*({"id": each, **FREED} for each in FULLS[:3]))
    log = logged(action(started_at="2026-11-22T09:00:00Z"))
    singles = [play for each in FULLS[:3] for play in (ok({"id": each, **FREED}), log)]
    readings, calls = read([listed, *singles], *(want(each, NOON - HOUR) for each in BARES[:3]))
    assert shown(readings) == dict.fromkeys(BARES[:3], UNCLEAR)
    assert calls[0] == AROUND_BARE.replace("11-15T00%3A00", "11-15T00%3A02")
    assert calls[1::2] == [escaped(each) for each in FULLS[:3]]

    readings, calls = read([refusal(404), listed, singles[0], log], want(BARES[0], NOON - 4 * HOUR))
    assert readings == {BARES[0]: ReadBack(RELEASED, Evidence(200, (), "ray-1"), FULLS[0])}
    assert calls[2:] == [escaped(FULLS[0]), log_of(FULLS[0])]


def test_a_forced_full_id_that_is_not_there_is_absent() -> None:
    readings, calls = read([refusal(404)], want(FULLS[0], NOON - HOUR))
    assert (shown(readings), len(calls)) == ({BARES[0]: ABSENT}, 1)


# --- What goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 429])
@pytest.mark.parametrize(
    ("before", "wanted", "expected"),
    [
        ([], FULLS[:3], {}),
        ([page({"id": FULLS[0], **FREED}, following="more")], FULLS[:3], {}),
        ([page({"id": FULLS[0], **FREED})], FULLS[:3], {BARES[0]: RELEASED}),
        ([page({"id": FULLS[0]})], FULLS[:3], {}),
        ([], FULLS[:2], {}),
        ([ok({"id": FULLS[0], **FREED})], FULLS[:2], {BARES[0]: RELEASED}),
        ([ok({"id": FULLS[0], **HELD})], FULLS[:2], {}),
        ([ok({"id": FULLS[0], "is_quarantined": False})], FULLS[:2], {}),
        ([refusal(404)], BARES[:2], {}),
        ([refusal(404), page({"id": FULLS[0], **HELD})], BARES[:2], {}),
        ([page()], BARES, {}),
    ],
)
def test_a_refusal_ends_all_calls_of_the_run_and_keeps_what_was_read(
    before: list[Play], wanted: list[str], expected: Mapping[str, Seen], status: int
) -> None:
    readings, calls = read([*before, refusal(status), page({"id": FULLS[1], **FREED})], *wanted)
    assert len(calls) == len(before) + 1
    assert shown(readings) == expected


@pytest.mark.parametrize(
    ("plays", "wanted", "expected"),
    [
        ([], FULLS[:3], {}),
        ([], FULLS[:1], {}),
        ([page({"id": FULLS[0], **FREED}, following="more")], FULLS[:3], {}),
        ([page({"id": FULLS[0], **FREED}), refusal(404)], FULLS[:3], {BARES[0]: RELEASED, BARES[1]: ABSENT}),
        ([ok({"id": FULLS[0], **FREED})], FULLS[:2], {BARES[0]: RELEASED}),
        ([ok({"id": FULLS[0], **HELD})], FULLS[:2], {}),  # without its log nothing is said
        ([refusal(404)], BARES[:1], {}),
        ([refusal(404), page({"id": FULLS[0], **HELD})], BARES[:1], {}),
    ],
)
def test_each_call_is_asked_for_before_and_without_leave_there_is_none(
    plays: list[Play], wanted: list[str], expected: Mapping[str, Seen]
) -> None:
    budget = RememberingBudget(waits=deque([0.0] * len(plays)), paused=1.0)
    readings, calls = read([*plays, ok([])], *wanted, budget=budget)
    assert len(calls) == len(plays)
    assert shown(readings) == expected


@pytest.mark.parametrize(
    ("plays", "seconds", "expected"),
    [
        ([page({"id": FULLS[0], **FREED}), ok([])], 10, 3),
        ([ok({}, result_info={"next": "more"})], 10, 4),
        ([refusal(429)], 10, 1),
        ([page(), refusal(403)], 10, 2),
        ([page()], -1, 0),
    ],
)
def test_leave_is_asked_for_once_for_each_call_and_for_no_other(
    plays: list[Play], seconds: float, expected: int
) -> None:
    budget = RememberingBudget()
    _, calls = read(plays, *FULLS[:3], seconds=seconds, budget=budget)
    assert len(budget.taken) == len(calls) == expected
    assert set(budget.taken) <= {Mark.ALL}


def test_a_reading_that_is_told_to_wait_has_all_calls_wait() -> None:
    budget = RememberingBudget()
    read([answers(429, b"", "Retry-After: 17")], FULLS[0], budget=budget)
    assert budget.heard_of == [NoEffect(RefusalReason.RATE_LIMITED, Evidence(429), 17)]
    budget.heard_of.clear()
    read([refusal(403)], FULLS[0], budget=budget)
    assert budget.heard_of == []


def test_a_budget_that_cannot_be_asked_ends_the_reading() -> None:
    with FaultServer([page()]) as server, reader_at(server.url) as reader:
        with pytest.raises(LedgerUnavailable):
            reader.read(ACCOUNT, [want(FULLS[0])], 5, UnreadableBudget())
        assert server.requests == []


FREED_ENTRY = {"id": FULLS[0], **FREED}


@pytest.mark.parametrize(
    "garbage",
    [
        answers(200),
        answers(200, b"<!DOCTYPE html><title>cloudflare</title>"),
        answers(200, b"null"),
        answers(200, b"[]"),
        answers(200, b'"success"'),
        answers(200, b"[" * 100_000),
        answers(200, b"\xff\xfe{}"),
        answers(200, b"1" * 5000),
        answers(200, json.dumps({"success": False, "result": [FREED_ENTRY]}).encode()),
        answers(200, json.dumps({"success": "true", "result": [FREED_ENTRY]}).encode()),
        answers(200, json.dumps({"result": [FREED_ENTRY]}).encode()),
        answers(202, json.dumps({"success": True, "result": [FREED_ENTRY]}).encode(), "Location: /client/v4/later"),
        answers(206, json.dumps({"success": True, "result": [FREED_ENTRY]}).encode()),
        answers(500, json.dumps({"success": True, "result": [FREED_ENTRY]}).encode()),
        answers(302, b"", "Location: /client/v4/elsewhere"),
        ok(None),
        ok(7),
        ok("QUARANTINE_RELEASE"),
        ok([None, 7, "x", [FREED_ENTRY]]),
        ok([{"id": FULLS[0] + "/", **FREED}]),
        says(http(200, json.dumps({"success": True, "result": [FREED_ENTRY]}).encode(), length=9999)),
        closes_after_reading,
        resets_after_reading,
        resets_before_reading,
    ],
)
def test_garbage_proves_nothing_and_raises_nothing(garbage: Play) -> None:
    for wanted in (FULLS[:3], FULLS[:1], BARES[:3], [want(FULLS[0], NOON)]):
        readings, calls = read([garbage], *wanted)
        assert readings == {}
        assert len(calls) <= 4


def test_a_page_without_a_result_info_is_not_taken_for_the_last() -> None:
    listed = ok([{"id": each, **FREED} for each in FULLS[:3]])
    readings, calls = read([listed, *(ok({"id": each, **FREED}) for each in FULLS[:3])], *FULLS[:3])
    assert shown(readings) == dict.fromkeys(BARES[:3], RELEASED)
    assert len(calls) == 4


@pytest.mark.parametrize(
    "play", [says_and_hangs(b""), trickles(http(200, b"x" * 200)), says_and_hangs(http(200, b"{", length=9))]
)
def test_all_calls_together_take_no_longer_than_told(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudflare_calls, "_LEAST_SECONDS", 0.1)
    monkeypatch.setattr(cloudflare_calls, "_LEAST_PAGE_SECONDS", 0.1)
    began = time.monotonic()
    readings, calls = read([page({"id": FULLS[0], **FREED}), play], *FULLS[:9], seconds=1)
    assert 0.9 < time.monotonic() - began < 6
    assert shown(readings) == {BARES[0]: RELEASED}
    assert len(calls) == 2


class Canned(DeadlineSession):
    """Answers every call from a list, over and over, and notes how long each might have taken."""

    def __init__(self, *replies: Reply | NoReply) -> None:
        self.replies = replies
        self.seconds: list[float] = []
        self.urls: list[str] = []

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, seconds: float
    ) -> Reply | NoReply:
        assert (method, body, bool(headers)) == ("GET", None, True)
        self.seconds.append(seconds)
        self.urls.append(url)
        return self.replies[(len(self.urls) - 1) % len(self.replies)]

    def read(self, *wanted: ReadBackTarget, seconds: float = 20.0, secret: Held | None = None) -> Readings:
        reader = CloudflareReader(SearchApi("https://api.example", secret or Held(), self, lambda: NOON))
        return reader.read(ACCOUNT, wanted, seconds, RememberingBudget())


def test_no_call_may_take_longer_than_5_seconds_or_than_is_left() -> None:
    session = Canned(Reply(500, {}, b""))
    session.read(*map(want, FULLS[:3]), seconds=20)
    session.read(want(FULLS[0]), seconds=3)
    assert session.seconds[:4] == [5.0] * 4
    assert 2.5 < session.seconds[4] <= 3


def test_the_time_that_the_secret_takes_counts() -> None:
    session = Canned(Reply(500, {}, b""))
    session.read(want(FULLS[0]), seconds=0.05, secret=Held(seconds=0.1))
    assert all(seconds <= 0 for seconds in session.seconds)


@pytest.mark.parametrize("content", [SecretUnavailable("ThrottlingException"), SecretMalformed("is not JSON")])
def test_without_a_credential_nothing_is_read_and_nothing_raised(content: Exception) -> None:
    assert read([page()], *FULLS[:3], secret=Held(content)) == ({}, [])


def test_an_account_that_has_left_the_secret_is_not_read() -> None:
    with FaultServer([page()]) as server, reader_at(server.url) as reader:
        assert reader.read(AccountId("b" * 32), [want(FULLS[0])], 5, RememberingBudget()) == {}
    assert server.requests == []


def test_nothing_wanted_is_nothing_asked() -> None:
    assert read([page()]) == ({}, [])


contents = st.fixed_dictionaries(
    {
        "success": st.just(True),
        "result": anything | st.lists(likely, max_size=3) | likely | st.just([action()]),
    },
    optional={"result_info": st.fixed_dictionaries({"next": anything}) | anything},
)
replies = st.builds(
    Reply, st.sampled_from([200, 200, 200, 404, 500]), st.just({}), contents.map(json.dumps).map(str.encode)
)
family_wanted = st.lists(
    st.builds(
        want,
        st.sampled_from([*FULLS[:3], *BARES[3:6], "4Njp3P0STMz2c02Q-2024-01-05T10:00:00-12345678", "4WtWkr6nlBz9sNH"]),
        st.none() | st.just(NOON),
    ),
    unique_by=lambda one: one.part,
    max_size=5,
)


@given(st.lists(replies | st.just(NoReply(True, "connection_lost")), min_size=1, max_size=4), family_wanted)
def test_whatever_comes_back_nothing_is_raised_and_nothing_said_without_ground(
    several: list[Reply | NoReply], wanted: list[ReadBackTarget]
) -> None:
    session = Canned(*several)
    readings = session.read(*wanted)
    texts = [reply.body.decode() for reply in several if isinstance(reply, Reply) and reply.status == 200]
    assert readings.keys() <= {one.part for one in wanted}
    assert sum("?" in url for url in session.urls) <= 12
    for reading in readings.values():
        if reading.seen is RELEASED:
            assert any(f'"{RELEASE}"' in text for text in texts)
        if reading.seen is QUARANTINED:
            assert any('"is_quarantined": true' in text for text in texts)
        if reading.seen is ABSENT:
            assert reading.evidence.status == 404
    for one in wanted:
        reading = readings.get(one.part, ReadBack(Seen.UNREAD, Evidence()))
        if one.since is not None and reading.seen is RELEASED:
            assert any('"success": true, "started_at": "2026-11-22T12:00:00Z"' in text for text in texts)


# --- Against the simulated Cloudflare --------------------------------------------------------------------------------


def some_time_of_the_month(name: str) -> int:
    """Return how many seconds ago; the same at every run."""
    return crc32(name.encode()) % (30 * 86400)


class Simulated:
    """The simulator, as a test and as the reader see it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.now = datetime.now(UTC).replace(microsecond=0)

    def control(self, path: str, document: Any = None) -> Any:
        method = "GET" if document is None else "POST"
        answer = requests.request(method, f"{self.url}/_simulator{path}", json=document, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def release(self, ids: Sequence[str], **behaviour: Any) -> None:
        """Call for the release of messages, which brings them up; by default the answer is lost after the effect."""
        self.control("/script", {"behaviour": "502", "effect": True, "times": 1, **behaviour})
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = requests.post(f"{self.url}{INVESTIGATE}/release", json=list(ids), headers=headers, timeout=30)
        assert answer.status_code == 502

    def hold(self, ids: Sequence[str]) -> None:
        """Let messages be in quarantine."""
        self.release(ids, effect=False)

    def hold_others(self, count: int) -> None:
        """Fill the quarantine with other messages of the last 30 days."""
        self.hold([self.full_id(some_time_of_the_month(f"x{each}"), f"x{each:07}") for each in range(count)])

    def full_id(self, seconds_ago: int, name: str = "z0000000") -> str:
        at = self.now - timedelta(seconds=seconds_ago)
        return f"{queue_id(at, name)}-{at:%Y-%m-%dT%H:%M:%S}-12345678"

    def read(self, *wanted: str | ReadBackTarget) -> tuple[Readings, list[str]]:
        """Read; return the readings and the endpoints of the calls made for them."""
        before = len(self.control("/calls"))
        with reader_at(self.url, clock=lambda: datetime.now(UTC)) as reader:
            some = [each if isinstance(each, ReadBackTarget) else want(each) for each in wanted]
            readings = reader.read(ACCOUNT, some, 25, RememberingBudget())
        return readings, [call["endpoint"] for call in self.control("/calls")[before:]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = {"account_id": ACCOUNT, "tokens": [TOKEN], "rate_limit": None}
    with start_simulated_cloudflare(settings, tmp_path_factory.mktemp("cloudflare") / "services.log") as service:
        yield service


@pytest.fixture
def simulated(service: Service) -> Simulated:
    simulated = Simulated(service.url)
    simulated.control("/reset", {})
    return simulated


@pytest.mark.parametrize("count", [1, 3, 1500])
def test_messages_are_quarantined_until_they_are_released(simulated: Simulated, count: int) -> None:
    ids = [simulated.full_id(7200 + number) for number in range(count)]
    simulated.hold(ids)
    before, calls_before = simulated.read(*ids)
    simulated.release(ids)
    after, calls_after = simulated.read(*ids)

    assert Counter(shown(before).values()) == {QUARANTINED: min(count, 100)}
    assert Counter(shown(after).values()) == {RELEASED: count}
    assert {reading.message_id for reading in after.values()} == set(ids)
    expected = {1: ["message", "action_log"], 3: ["list"], 1500: ["list"] * 2}
    assert calls_before == expected[count] + ["action_log"] * {1: 0, 3: 3, 1500: 100}[count]
    assert calls_after == expected[count][: 1 if count == 1 else None]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("reads_by_postfix_id", [False, True])
def test_a_postfix_id_learns_its_full_id(simulated: Simulated, count: int, reads_by_postfix_id: bool) -> None:
    simulated.control("/settings", {"reads_by_postfix_id": reads_by_postfix_id})
    ids = [simulated.full_id(7200 + number) for number in range(count)]
    simulated.hold_others(50)
    simulated.release(ids)
    readings, calls = simulated.read(*map(postfix_part, map(MessageId, ids)))

    assert {reading.message_id for reading in readings.values()} == set(ids)
    assert Counter(shown(readings).values()) == {RELEASED: count}
    by_path = ["message"] if reads_by_postfix_id else ["message", "list"]
    assert calls == (by_path if count == 1 else ["list"])


def test_a_postfix_id_that_is_a_day_apart_from_its_message_is_found(simulated: Simulated) -> None:
    """As in a published example."""
    at = simulated.now - 3 * DAY
    known = MessageId(f"{queue_id(at)}-{at + DAY:%Y-%m-%dT%H:%M:%S}-1")
    simulated.release([known])
    readings, _ = simulated.read(postfix_part(known))
    assert [(reading.seen, reading.message_id) for reading in readings.values()] == [(RELEASED, known)]


def test_a_message_that_was_never_quarantined_is_unclear(simulated: Simulated) -> None:
    ids = [simulated.full_id(7200 + number) for number in range(3)]
    for each in ids:
        simulated.control("/messages", {"id": each, "quarantined": False})
    readings, calls = simulated.read(*ids)
    assert Counter(shown(readings).values()) == {UNCLEAR: 3}
    assert calls == ["list", *["action_log"] * 3]


@pytest.mark.parametrize("make", [str, lambda each: postfix_part(MessageId(each))], ids=["full", "postfix"])
def test_a_forced_message_is_released_only_if_it_was_since(simulated: Simulated, make: Callable[[str], str]) -> None:
    ids = [make(simulated.full_id(7200 + number)) for number in range(3)]
    simulated.release(ids)
    earlier, _ = simulated.read(*(want(each, simulated.now - MINUTE) for each in ids))
    later, _ = simulated.read(*(want(each, simulated.now + MINUTE) for each in ids))
    assert Counter(shown(earlier).values()) == {RELEASED: 3}
    assert Counter(shown(later).values()) == {UNCLEAR: 3}


@pytest.mark.parametrize("make", [str, lambda each: postfix_part(MessageId(each))], ids=["full", "postfix"])
def test_1000_lost_answers_cost_at_most_30_reads(simulated: Simulated, make: Callable[[str], str]) -> None:
    """Beside 10,000 other messages of the month: three hours of it hold the 1,000, 20 days ago."""
    own = [make(simulated.full_id(20 * 86400 + number * 10, f"y{number:07}")) for number in range(1000)]
    simulated.hold_others(10_000)
    simulated.release(own)
    readings, calls = simulated.read(*own)
    assert Counter(shown(readings).values()) == {RELEASED: 1000}
    assert all("-" in str(reading.message_id) for reading in readings.values())
    assert calls == ["list"] * len(calls)
    assert len(calls) <= 4


def test_1000_lost_answers_all_over_the_month_cost_at_most_30_reads(simulated: Simulated) -> None:
    own = [simulated.full_id(some_time_of_the_month(f"y{each}"), f"y{each:07}") for each in range(1000)]
    simulated.hold_others(3000)
    simulated.release(own)
    readings, calls = simulated.read(*own)
    assert Counter(shown(readings).values()) == {RELEASED: 1000}
    assert calls == ["list"] * len(calls)
    assert len(calls) <= 5
