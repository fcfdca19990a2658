"""Lookup over real HTTP: the message that is meant or none, never more calls than agreed, and no lie believed."""

import json
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.cloudflare import search as cloudflare_calls
from quarantine_release.cloudflare.before_release import CloudflareLookup
from quarantine_release.cloudflare.connection import DeadlineSession, NoReply
from quarantine_release.cloudflare.entries import RELEASE
from quarantine_release.cloudflare.reply import Reply
from quarantine_release.cloudflare.search import SearchApi
from quarantine_release.config.accounts import parse_accounts
from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.details import Details, NotRead, NotYetRead, Several, Unclear, Unreadable
from quarantine_release.domain.guard import Ended, judge
from quarantine_release.domain.ids import AccountId, MessageId, is_bare, postfix_part
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.lookup import Question, choose
from quarantine_release.domain.policy import DEFAULT_POLICY
from quarantine_release.domain.request_options import Narrowing
from quarantine_release.domain.verdicts import Evidence, NoEffect, RefusalReason
from quarantine_release.usecases.release_queued import LISTS_HOLD
from tests.support.cloudflare_entries import DAY, HOUR, action, anything, full_id, likely, queue_id
from tests.support.cloudflare_reads import (
    AROUND_BARE,
    AROUND_THREE,
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
    refusing_port,
    repeats,
    resets_after_reading,
    says,
    says_and_hangs,
)
from tests.support.stand_ins import ACCOUNT, NOON, Clock, RememberingBudget, UnreadableBudget

pytestmark = pytest.mark.outside

ABSENT, NOT_OFFERED, NOT_LISTED, TOO_MANY, UNDATED, CONTRADICTED, UNCLEAR, FAILED = Unreadable
NOT_NOW, REFUSED = NotYetRead
HEADER = MessageId("<20261113.1200@news.example>")
BARES = [MessageId(postfix_part(each)) for each in FULLS]
ALERTS = [MessageId(each.rpartition("-")[0]) for each in FULLS]
TWIN = full_id(NOON - 9 * DAY, "87654321")  # another message by the same postfix id as the first
OTHER_ACCOUNT = AccountId("b" * 32)
DETECTED_AROUND_THREE, DETECTED_AROUND_BARE = (
    each.replace("&per_page=1000&detections_only=false", "&detections_only=true&per_page=1000")
    for each in (AROUND_THREE, AROUND_BARE)
)
HELD_AROUND_BARE = AROUND_BARE.replace("&per_page", "&delivery_status=quarantined&per_page")

Looked = Mapping[MessageId, Details | Several | NotRead]


def held(message_id: str, /, **members: Any) -> dict[str, Any]:
    """Make the entry of a message that may leave."""
    return {
        "id": message_id,
        "postfix_id": postfix_part(MessageId(message_id)),
        "message_id": HEADER,
        "is_quarantined": True,
        "final_disposition": "SPAM",
        "client_recipients": ["ann@example.com"],
        "from": "news@news.example",
    } | members


@contextmanager
def lookup_at(
    url: str,
    secret: Held | None = None,
    clock: Callable[[], datetime] = lambda: NOON,
    holds: timedelta = timedelta(0),
) -> Iterator[CloudflareLookup]:
    with closing(DeadlineSession(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))) as session:
        yield CloudflareLookup(SearchApi(f"{url}/client/v4/", secret or Held(), session, clock), holds=holds)


def look(
    plays: Sequence[Play],
    *ids: str,
    seconds: float = 10.0,
    secret: Held | None = None,
    budget: RememberingBudget | None = None,
) -> tuple[Looked, list[str]]:
    """Read from a server that plays these, one per call; return what was read and the calls, without their base."""
    with FaultServer(plays) as server, lookup_at(server.url, secret) as lookup:
        looked = lookup.look(ACCOUNT, [*map(MessageId, ids)], seconds, budget or RememberingBudget(), Mark.ALL)
    return looked, calls_of(server)


def find(
    plays: Sequence[Play], *questions: Question, seconds: float = 10.0, budget: RememberingBudget | None = None
) -> tuple[list[Sequence[Details] | NotRead | Unclear], list[str]]:
    with FaultServer(plays) as server, lookup_at(server.url) as lookup:
        found = lookup.find(ACCOUNT, questions, seconds, budget or RememberingBudget(), Mark.ALL)
    return [found.get(question, NOT_NOW) for question in questions], calls_of(server)


def calls_of(server: FaultServer) -> list[str]:
    assert all(request.method == "GET" and request.path.startswith(INVESTIGATE) for request in server.requests)
    return [request.path.removeprefix(INVESTIGATE) for request in server.requests]


def asking(header: str = HEADER, **narrowing: Any) -> Question:
    return Question(MessageId(header), Narrowing(**narrowing), NOON - 30 * DAY)


def names(looked: Looked) -> dict[str, str]:
    """Return under which id each message was read, or why it was not."""
    return {
        each: told.message_id
        if isinstance(told, Details)
        else told
        if isinstance(told, NotRead)
        else " or ".join(one.message_id for one in told.messages)
        for each, told in looked.items()
    }


# --- One by one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2])
def test_up_to_two_are_read_by_path(number: int) -> None:
    looked, calls = look([ok(held(each)) for each in FULLS[:2]], *FULLS[:number])
    assert names(looked) == {each: each for each in FULLS[:number]}
    assert calls == [escaped(each) for each in FULLS[:number]]


def test_what_is_read_is_what_the_guard_judges() -> None:
    members = {"post_delivery_operations": [RELEASE], "subject": "s", "is_quarantined": False}
    looked, _ = look([ok(held(FULLS[0], **members))], FULLS[0])
    assert looked[FULLS[0]] == Details(
        FULLS[0],
        is_quarantined=False,
        disposition="SPAM",
        at=NOON - 9 * DAY,
        recipients=("ann@example.com",),
        sender="news@news.example",
        subject="s",
        is_released=True,
        header=HEADER.strip("<>"),
    )


DOUBTFUL = {"post_delivery_operations": [RELEASE]}


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (logged(action()), (True, False)),
        (logged(action(success=False), action()), (True, False)),
        (logged(action(recipient="ann"), action(recipient="bob", success=False)), (True, False)),
        (logged(action(success=False)), (False, True)),
        (logged(), (False, True)),
        (refusal(404), (False, True)),
        (refusal(500), (False, True)),
        (refusal(429), NOT_NOW),
        (refusal(403), REFUSED),
    ],
)
def test_the_log_of_a_held_message_that_may_be_released_is_read(log: Play, expected: Any) -> None:
    looked, calls = look([ok(held(FULLS[0], **DOUBTFUL)), log], FULLS[0])
    told = looked[FULLS[0]]
    assert ((told.is_released, told.is_doubtful) if isinstance(told, Details) else told) == expected
    assert calls == [escaped(FULLS[0]), log_of(FULLS[0])]
    (found,), calls = find([page(held(FULLS[0], **DOUBTFUL)), log], asking())
    assert found == (told if isinstance(told, NotRead) else [told])
    assert calls[1:] == [log_of(FULLS[0])]


@pytest.mark.parametrize(
    ("play", "expected"),
    [
        (ok([held(FULLS[0]), held(FULLS[0], final_disposition="MALICIOUS")]), "MALICIOUS"),
        (refusal(404), Unclear((FULLS[0],), FAILED)),
        (refusal(429), NOT_NOW),
    ],
)
def test_what_a_narrowed_search_found_is_read_with_all_its_rows(play: Play, expected: Any) -> None:
    (found,), calls = find([page(held(FULLS[0])), play], asking(recipient="ann@example.com"))
    assert (found[0].disposition if isinstance(found, list) else found) == expected
    assert calls[1:] == [escaped(FULLS[0])]


def test_in_a_pack_at_most_100_logs_are_read_and_the_rest_later() -> None:
    many = [full_id(NOON - 9 * DAY + timedelta(seconds=30 * number)) for number in range(102)]
    entries = [held(each, **DOUBTFUL) for each in many]
    looked, calls = look([page(*entries), logged(action())], *many)
    assert [told for told in looked.values() if isinstance(told, NotRead)] == [NOT_NOW] * 2
    assert len(calls) == 101


def test_a_list_that_was_kept_does_not_keep_a_doubtful_message() -> None:
    entries = [held(FULLS[0], **DOUBTFUL), held(FULLS[1]), held(FULLS[2])]
    plays = [page(*entries), logged(), page(entries[0]), logged(action())]
    with FaultServer(plays) as server, lookup_at(server.url, holds=timedelta(minutes=1)) as lookup:
        for _ in range(2):
            looked = lookup.look(ACCOUNT, [*map(MessageId, FULLS[:3])], 10.0, RememberingBudget(), Mark.ALL)
    told = looked[FULLS[0]]
    assert isinstance(told, Details)
    assert told.is_released


@pytest.mark.parametrize("message_id", [FULLS[0], "an:odd.shape_1", "..:_-._1"])
def test_an_id_that_is_not_there_is_absent(message_id: str) -> None:
    assert look([refusal(404)], message_id) == ({message_id: ABSENT}, [escaped(message_id)])


TWIN_ALONE = ok(held(TWIN))
LIES = [
    ok({}),
    ok(None),
    ok([]),
    ok(7),
    ok("x"),
    ok([None, 7, "x", [held(FULLS[0])]]),
    ok(held(FULLS[1])),
    TWIN_ALONE,
    ok(held("", id=7)),
    ok(held(FULLS[0], id=FULLS[1], postfix_id=BARES[0])),
    ok(held(FULLS[0], id=None, postfix_id=BARES[1])),
    ok({"is_quarantined": True, "final_disposition": "SPAM"}),
    ok([held(FULLS[0]), held(BARES[0])]),
    ok([held(FULLS[0]), held("", id=7, postfix_id=None)]),
    ok([held(FULLS[0]), held(FULLS[0], is_quarantined=False)]),
]


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_about_another_message_or_several_or_none_tells_nothing(lie: Play) -> None:
    looked, calls = look([lie], FULLS[0])
    assert looked[FULLS[0]] in (FAILED, CONTRADICTED, UNCLEAR)
    assert calls == [escaped(FULLS[0])]


NOTHING = LIES[1:3]


@pytest.mark.parametrize("nothing", NOTHING)
def test_of_a_bare_id_an_empty_answer_is_looked_at_like_a_404(nothing: Play) -> None:
    looked, calls = look([nothing, page(), page()], BARES[0])
    assert (looked, len(calls)) == ({BARES[0]: ABSENT}, 3)
    assert look([nothing], BARES[0])[0] == {BARES[0]: FAILED}


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie not in (TWIN_ALONE, *NOTHING)])
def test_of_a_bare_id_such_an_answer_is_not_the_absence_that_lets_it_pass(lie: Play) -> None:
    looked, calls = look([lie], BARES[0])
    assert looked[MessageId(BARES[0])] in (FAILED, CONTRADICTED, UNCLEAR)
    assert calls == [escaped(BARES[0])]


BAD = [
    answers(200),
    answers(200, b"<!DOCTYPE html>"),
    answers(200, json.dumps({"success": False, "result": held(FULLS[0])}).encode()),
    answers(202, json.dumps({"success": True, "result": held(FULLS[0])}).encode()),
    answers(500, json.dumps({"success": True, "result": held(FULLS[0])}).encode()),
    refusal(503),
    refusal(400),
    says(http(200, b'{"success": true, "result": ', length=9999)),
    repeats(b"x" * (1 << 20), before=http(200, length=1 << 40)),
    closes_after_reading,
    resets_after_reading,
]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("wanted", [FULLS[:1], BARES[:1], ALERTS[:1], FULLS[:3], BARES[:3], ALERTS[:3]])
def test_a_read_that_fails_is_failed_and_never_absent(bad: Play, wanted: list[str]) -> None:
    looked, calls = look([bad], *wanted)
    assert looked == dict.fromkeys(wanted, FAILED)
    assert len(calls) <= 4


# --- Alert ids -------------------------------------------------------------------------------------------------------


def test_an_alert_id_is_searched_for_from_an_hour_before_its_time() -> None:
    looked, calls = look([page(held(FULLS[0]))], ALERTS[0])
    assert names(looked) == {ALERTS[0]: FULLS[0]}
    query = {"alert_id": ALERTS[0], "start": "2026-11-13T11:00:00Z", "per_page": 1000, "detections_only": "false"}
    assert calls == [f"?{urlencode(query)}"]


def test_an_alert_id_whose_time_no_search_could_reach_is_searched_for_without_a_start() -> None:
    _, calls = look([page()], "4Njp3P0STMz2c02Q-2024-01-05T10:00:00")
    assert parse_qs(calls[0][1:]).keys() == {"alert_id", "per_page", "detections_only"}


@pytest.mark.parametrize(
    ("play", "why"),
    [
        (page(), ABSENT),
        (page(held(FULLS[1])), FAILED),
        (page(held(full_id(NOON - 9 * DAY + HOUR))), FAILED),
        (page({"subject": "no id"}), FAILED),
        (page(held(FULLS[0]), held("", id=7, postfix_id=None)), FAILED),
        (page(held(FULLS[0]), held(ALERTS[0])), CONTRADICTED),
        (page(following="2"), FAILED),
        (ok([]), FAILED),
        (refusal(404), NOT_OFFERED),
        (refusal(429), NOT_NOW),
    ],
)
def test_an_alert_id_means_one_message_or_none(play: Play, why: NotRead) -> None:
    looked, calls = look([play], ALERTS[0])
    assert looked == {ALERTS[0]: why}
    assert len(calls) == 1


def test_a_search_for_an_alert_id_is_read_to_its_end_and_cut_after_three_pages() -> None:
    first = page(held(FULLS[0]), following="2")
    for last, told in ((page(), FULLS[0]), (page(held(FULLS[0], is_quarantined=False)), CONTRADICTED), (first, FAILED)):
        looked, calls = look([first, last], ALERTS[0])
        assert names(looked) == {ALERTS[0]: told}
        assert len(calls) == (3 if last is first else 2)


def test_an_alert_id_that_two_messages_go_by_shows_both() -> None:
    other = f"{ALERTS[0]}-99"
    for plays in ([page(held(FULLS[0]), held(other))], [page(held(FULLS[0]), following="2"), page(held(other))]):
        assert names(look(plays, ALERTS[0])[0]) == {ALERTS[0]: f"{FULLS[0]} or {other}"}


def test_of_loose_matches_the_one_that_agrees_with_the_alert_id_counts() -> None:
    looked, _ = look([page(held(FULLS[1]), held(FULLS[0]), held(FULLS[2]))], ALERTS[0])
    assert names(looked) == {ALERTS[0]: FULLS[0]}


# --- Bare ids --------------------------------------------------------------------------------------------------------


def test_a_bare_id_is_read_by_path_and_learns_its_full_id() -> None:
    looked, calls = look([ok(held(FULLS[0]))], BARES[0])
    assert names(looked) == {BARES[0]: FULLS[0]}
    assert calls == [escaped(BARES[0])]


def test_a_bare_id_that_cannot_be_read_by_path_is_looked_for_in_the_list_to_its_end() -> None:
    looked, calls = look([refusal(404), page(held(FULLS[0]), following="2"), page(held(FULLS[1]))], BARES[0])
    assert names(looked) == {BARES[0]: FULLS[0]}
    assert calls == [escaped(BARES[0]), DETECTED_AROUND_BARE, f"{DETECTED_AROUND_BARE}&cursor=2"]


def test_what_a_list_shows_beside_the_bare_id_it_was_read_for_needs_no_call() -> None:
    looked, calls = look([refusal(404), page(*map(held, FULLS[:2]))], *BARES[:2])
    assert names(looked) == dict(zip(BARES[:2], FULLS[:2], strict=True))
    assert len(calls) == 2


def test_where_one_bare_id_is_read_by_path_others_beyond_a_cut_list_are_too() -> None:
    crowd = [page(held(FULLS[9]), following=str(number)) for number in range(12)]
    looked, calls = look([ok(held(FULLS[0])), refusal(404), *crowd, *crowd], *BARES[:1], *BARES[1:2])
    assert names(looked) == {BARES[0]: FULLS[0], BARES[1]: TOO_MANY}
    assert len(calls) == 26


def test_a_bare_id_that_was_not_detected_is_looked_for_in_quarantine() -> None:
    looked, calls = look([refusal(404), page(), page(held(FULLS[0]))], BARES[0])
    assert names(looked) == {BARES[0]: FULLS[0]}
    assert calls == [escaped(BARES[0]), DETECTED_AROUND_BARE, HELD_AROUND_BARE]


@pytest.mark.parametrize("listed", [page(), page(held(FULLS[1]))])
def test_a_bare_id_is_absent_where_neither_path_nor_whole_lists_show_it(listed: Play) -> None:
    looked, calls = look([refusal(404), listed], BARES[0])
    assert looked == {BARES[0]: ABSENT}
    assert len(calls) == 3


@pytest.mark.parametrize("number", [1, 3])
def test_where_too_much_lies_around_a_bare_id_what_the_pages_show_is_read_and_the_rest_has_to_be_named_better(
    number: int,
) -> None:
    crowd = [page(held(FULLS[0]), following="2"), *[page(held(FULLS[9]), following="3")] * 11]
    crowd += [ok(held(FULLS[0]))]
    plays = [refusal(404), *crowd] if number == 1 else [*crowd, refusal(404)]
    looked, calls = look(plays, *BARES[:number])
    assert names(looked) == {BARES[0]: FULLS[0], **dict.fromkeys(BARES[1:number], TOO_MANY)}
    assert len(calls) == (14 if number == 1 else 16)
    assert calls[13 if number == 1 else 12] == escaped(FULLS[0])


@pytest.mark.parametrize(
    ("single", "told"),
    [
        (ok(held(FULLS[0], is_quarantined=False)), CONTRADICTED),
        (refusal(404), FAILED),
        (answers(404), FAILED),
        (refusal(429), NOT_NOW),
    ],
)
@pytest.mark.parametrize("wanted", [BARES[:3], FULLS[:3]], ids=["bare", "full"])
def test_what_a_cut_list_shows_proves_nothing_unless_the_message_itself_agrees(
    wanted: list[MessageId], single: Play, told: NotRead
) -> None:
    crowd = [page(held(FULLS[0]), following="2"), *[page(held(FULLS[9]), following="3")] * 11]
    assert look([*crowd, single], *wanted)[0][wanted[0]] is told


def test_rows_of_a_cut_list_count_beside_the_message_itself() -> None:
    cut = [page(held(FULLS[0], final_disposition="MALICIOUS"), following="2"), refusal(500)]
    looked, _ = look([*cut, ok(held(FULLS[0])), refusal(404)], *FULLS[:3])
    told = looked[FULLS[0]]
    assert isinstance(told, Details)
    assert (told.disposition, told.other_dispositions) == ("MALICIOUS", ("SPAM",))


def test_where_too_much_lies_around_a_bare_id_that_is_not_in_quarantine_it_has_to_be_named_better_too() -> None:
    looked, calls = look([refusal(404), page(), *[page(held(FULLS[1]), following="2")] * 12], BARES[0])
    assert looked == {BARES[0]: TOO_MANY}
    assert len(calls) == 14


def test_a_bare_id_of_a_time_that_no_search_reaches_is_absent_without_a_list() -> None:
    assert look([refusal(404)], "4Njp3P0STMz2c02Q") == ({"4Njp3P0STMz2c02Q": ABSENT}, ["/4Njp3P0STMz2c02Q"])


@pytest.mark.parametrize("undated", ["AEIOUAEIOU", "3F2B1D4C5D", "zzzzzzzzzz", queue_id(NOON + 2 * DAY)])
@pytest.mark.parametrize("play", [refusal(404), answers(404), answers(501, b"<html>")])
def test_a_bare_id_without_a_time_is_read_by_path_alone(undated: str, play: Play) -> None:
    assert look([play], undated) == ({undated: UNDATED}, [f"/{undated}"])
    full = f"{undated}-2026-11-13T12:00:00-1"
    assert names(look([ok(held(full))], undated)[0]) == {undated: full}
    assert look([page(), play], undated, *FULLS[:2])[0][MessageId(undated)] is UNDATED
    assert look([refusal(500)], undated)[0] == {undated: FAILED}


@pytest.mark.parametrize(
    ("listed", "why"),
    [
        ([refusal(500)], FAILED),
        ([ok([])], FAILED),
        ([page(held(FULLS[0]), following="2"), refusal(500)], FAILED),
        ([page(held(FULLS[0]), following="2"), page(following="3")], FAILED),
        ([page(held(FULLS[0]), following="2"), refusal(404)], FAILED),
        ([page(), refusal(404)], FAILED),
        ([page(), refusal(500)], FAILED),
        ([page(), refusal(429)], NOT_NOW),
        ([page(held(FULLS[1]), following="2"), refusal(429)], NOT_NOW),
        ([page(held(FULLS[0]), following="2"), page(held(FULLS[0], is_quarantined=False))], CONTRADICTED),
        ([page(held(FULLS[0]), held(FULLS[0], is_quarantined=False))], CONTRADICTED),
        ([page(held(FULLS[0]), held(BARES[0]))], CONTRADICTED),
        ([page(held(FULLS[1]), following="2")] * 12, TOO_MANY),
        ([answers(202, b"{}")], FAILED),
    ],
)
@pytest.mark.parametrize("number", [1, 3])
def test_a_bare_id_is_not_absent_where_a_list_was_not_read_to_its_end_or_shows_several(
    listed: list[Play], why: NotRead, number: int
) -> None:
    plays = [refusal(404), *listed] if number == 1 else [*listed, refusal(404)]
    looked, _ = look(plays, *BARES[:number])
    assert looked[MessageId(BARES[0])] is why


@pytest.mark.parametrize("number", [1, 3])
def test_a_bare_id_that_two_messages_go_by_shows_both(number: int) -> None:
    for listed in ([page(held(FULLS[0]), held(TWIN))], [page(held(FULLS[0]), following="2"), page(held(TWIN))]):
        plays = [refusal(404), *listed] if number == 1 else [*listed, refusal(404)]
        assert names(look(plays, *BARES[:number])[0])[BARES[0]] == f"{FULLS[0]} or {TWIN}"


OFFERED_NOWHERE = [answers(404), answers(501, b"<html>")]


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("play", OFFERED_NOWHERE)
def test_where_no_reading_is_offered_a_bare_id_is_told_so_and_any_other_too(play: Play, number: int) -> None:
    assert look([play], *BARES[:number])[0] == dict.fromkeys(BARES[:number], NOT_OFFERED)
    assert look([play], "4Njp3P0STMz2c02Q") == ({"4Njp3P0STMz2c02Q": NOT_OFFERED}, ["/4Njp3P0STMz2c02Q"])
    assert look([play], FULLS[0])[0] == {FULLS[0]: NOT_OFFERED}
    assert look([play], ALERTS[0])[0] == {ALERTS[0]: NOT_OFFERED}
    assert find([play], asking())[0] == [FAILED]


@pytest.mark.parametrize("play", OFFERED_NOWHERE)
def test_where_one_reading_is_offered_a_bare_id_that_is_not_read_by_the_other_is_not_absent(play: Play) -> None:
    assert look([play, page()], BARES[0])[0] == {BARES[0]: NOT_LISTED}
    assert look([play, page(held(FULLS[0]))], BARES[0])[0].keys() == {BARES[0]}
    assert look([page(held(FULLS[0])), play], *BARES[:3])[0][BARES[1]] is FAILED
    assert look([play, refusal(500)], BARES[0])[0] == {BARES[0]: FAILED}
    assert look([refusal(404), play], BARES[0])[0] == {BARES[0]: FAILED}
    assert look([play, refusal(404)], BARES[0])[0] == {BARES[0]: FAILED}


NOT_TELLING = [{"is_quarantined": None}, {"is_quarantined": "true"}, {"is_quarantined": 1}]


@pytest.mark.parametrize("members", NOT_TELLING)
@pytest.mark.parametrize("number", [1, 3])
def test_a_bare_id_whose_entry_does_not_tell_whether_it_is_held_is_not_one_that_cannot_be_read(
    members: dict[str, Any], number: int
) -> None:
    entry = held(FULLS[0], final_disposition="MALICIOUS") | members
    plays = [refusal(404), page(entry)] if number == 1 else [page(entry), refusal(404)]
    assert look(plays, *BARES[:number])[0][BARES[0]] is UNCLEAR
    also_clear = page(entry, held(FULLS[0]))
    plays = [refusal(404), also_clear] if number == 1 else [also_clear, refusal(404)]
    assert look(plays, *BARES[:number])[0][BARES[0]] is UNCLEAR


@pytest.mark.parametrize("members", NOT_TELLING)
def test_a_second_match_that_cannot_be_read_is_one_all_the_same(members: dict[str, Any]) -> None:
    (unclear,), _ = find([page(held(FULLS[0]), held(FULLS[1]) | members)], asking())
    assert isinstance(unclear, Unclear)
    assert (unclear.unread, unclear.why, unclear.only) == ((FULLS[1],), FAILED, None)
    assert [each.message_id for each in unclear.clear] == [FULLS[0]]
    assert look([page(held(FULLS[0]), held(f"{ALERTS[0]}-99") | members)], ALERTS[0])[0] == {ALERTS[0]: UNCLEAR}
    (found,), _ = find([page(held(FULLS[0]), held(FULLS[1], message_id="<another>") | members)], asking())
    assert isinstance(found, list)


def test_a_match_without_an_id_is_one_all_the_same() -> None:
    nameless = held("", id=7, postfix_id=None)
    assert find([page(nameless)], asking())[0] == [FAILED]
    assert find([page(held(FULLS[0]), nameless)], asking())[0] == [FAILED]


def test_an_entry_whose_two_ids_differ_is_of_neither_for_sure() -> None:
    evil = held("0190f5fb-aaaa-bbbb", postfix_id=BARES[0], final_disposition="MALICIOUS")
    assert look([refusal(404), page(evil), page()], BARES[0])[0] == {BARES[0]: UNCLEAR}


def test_a_full_id_whose_entry_is_unclear_is_not_one_that_is_not_there() -> None:
    unclear = held(FULLS[0]) | {"is_quarantined": None}
    assert look([page(unclear), refusal(404)], *FULLS[:3])[0] == {
        FULLS[0]: UNCLEAR,
        **dict.fromkeys(FULLS[1:3], ABSENT),
    }


def test_what_one_bare_id_comes_to_beside_a_cut_list_says_nothing_of_others() -> None:
    crowd = [page(held(FULLS[9]), following=str(number)) for number in range(12)]
    looked, _ = look([*crowd, refusal(404), *(ok(held(each)) for each in FULLS[1:3])], BARES[0], BARES[1], FULLS[2])
    assert names(looked) == {BARES[0]: TOO_MANY, BARES[1]: FULLS[1], FULLS[2]: FULLS[2]}


def test_a_window_that_was_begun_late_is_for_another_time() -> None:
    session = Timed(9, 2.1, 0.3)
    lookup = CloudflareLookup(SearchApi("https://api.example", Held(), session, lambda: NOON, lambda: session.now))
    near, far = queue_id(NOON - 9 * DAY), queue_id(NOON - 35 * DAY)
    looked = lookup.look(ACCOUNT, [near, MessageId(near[:-1] + "1"), far], 30, RememberingBudget(), Mark.ALL)
    assert looked.get(far, NOT_NOW) is NOT_NOW


def test_an_answer_that_was_lost_does_not_fail_what_there_is_no_time_for() -> None:
    session = Timed(1, 0.5, 0.5)
    send, lost = session.send, deque([NoReply(True, "deadline")])
    session.send = lambda *given: lost.popleft() if lost else send(*given)  # type: ignore[method-assign]
    lookup = CloudflareLookup(SearchApi("https://api.example", Held(), session, lambda: NOON, lambda: session.now))
    looked = lookup.look(ACCOUNT, FULLS[:80], 30, RememberingBudget(), Mark.ALL)
    assert set(looked.values()) == {ABSENT, NOT_NOW}


def test_an_alert_id_that_a_cut_list_shows_is_searched_for_too() -> None:
    cut = [page(held(FULLS[0]), following="1"), *[page(held(FULLS[9]), following="2")] * 11]
    both = page(held(FULLS[0]), held(f"{ALERTS[0]}-99", final_disposition="MALICIOUS"))
    looked, _ = look([*cut, both, *(ok(held(each)) for each in FULLS[1:3])], ALERTS[0], *FULLS[1:3])
    assert names(looked)[ALERTS[0]] == f"{FULLS[0]} or {ALERTS[0]}-99"


def test_what_other_windows_leave_no_pages_for_is_for_another_time() -> None:
    apart = [queue_id(NOON - days * DAY) for days in (5, 15, 25)]
    several = [page(held(FULLS[9]), following=str(number)) for number in range(4)]
    one_window = [*several, page()]
    looked, _ = look([*one_window * 2, *several[:2], refusal(404), page()], *apart)
    assert list(looked.values()) == [ABSENT, ABSENT, NOT_NOW]


def test_a_list_that_fails_for_one_bare_id_tells_nothing_against_another() -> None:
    far = queue_id(NOON - 20 * DAY)
    plays = [refusal(404), refusal(500), page(), page(), refusal(404)]
    assert look(plays, BARES[0], far)[0] == {BARES[0]: FAILED, far: ABSENT}
    plays = [refusal(404), page(), refusal(500), page(), refusal(404)]
    assert look(plays, BARES[0], far)[0] == {BARES[0]: ABSENT, far: FAILED}


# --- Packs -----------------------------------------------------------------------------------------------------------


def test_many_are_listed_page_by_page_with_exactly_the_documented_query_and_the_credential() -> None:
    plays = [page(held(FULLS[0]), held(FULLS[9]), following="a/b+c="), page(held(FULLS[1]), held(FULLS[2]))]
    with FaultServer(plays) as server, lookup_at(server.url) as lookup:
        looked = lookup.look(ACCOUNT, FULLS[:3], 10, RememberingBudget(), Mark.INLINE)
    assert names(looked) == {each: each for each in FULLS[:3]}
    assert calls_of(server) == [DETECTED_AROUND_THREE, f"{DETECTED_AROUND_THREE}&cursor=a%2Fb%2Bc%3D"]
    assert {request.headers["authorization"][0] for request in server.requests} == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("wanted", [FULLS, BARES, ALERTS], ids=["full", "bare", "alert"])
def test_a_list_is_read_to_its_end_though_all_were_shown_before(wanted: list[MessageId]) -> None:
    first = page(*map(held, FULLS[:3]), following="2")
    looked, calls = look([first, page(held(FULLS[9]))], *wanted[:3])
    assert names(looked) == dict(zip(wanted[:3], FULLS[:3], strict=True))
    assert len(calls) == 2

    looked, calls = look([first, page(held(TWIN))], *wanted[:3])
    assert names(looked) == {
        wanted[1]: FULLS[1],
        wanted[2]: FULLS[2],
        wanted[0]: FULLS[0] if wanted is FULLS else f"{FULLS[0]} or {TWIN}",
    }
    assert len(calls) == 2


@pytest.mark.parametrize("wanted", [FULLS, BARES, ALERTS], ids=["full", "bare", "alert"])
@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([held(FULLS[0]), held(FULLS[0], is_quarantined=False)], CONTRADICTED),
        ([held(FULLS[0]), held(FULLS[0], is_quarantined="true")], UNCLEAR),
        ([held(FULLS[0]), held(FULLS[0], message_id="<another@news.example>")], CONTRADICTED),
        ([held(FULLS[0]), held(BARES[0])], CONTRADICTED),
    ],
)
def test_rows_that_cannot_be_reconciled_make_the_message_unreadable(
    wanted: list[MessageId], rows: list[dict[str, Any]], why: NotRead
) -> None:
    first, second = rows
    fine = [held(each) for each in FULLS[1:3]]
    for listed in ([page(*rows, *fine)], [page(first, *fine, following="2"), page(second)]):
        looked, calls = look(listed, *wanted[:3])
        assert names(looked) == dict(zip(wanted[:3], [why, *FULLS[1:3]], strict=True))
        assert len(calls) == len(listed)


def test_rows_about_one_message_count_together() -> None:
    other = held(FULLS[0], final_disposition="MALICIOUS", client_recipients=["bob@other.example"])
    for listed in ([page(*map(held, FULLS[:3]), other)], [page(*map(held, FULLS[:3]), following="2"), page(other)]):
        told = look(listed, *FULLS[:3])[0][FULLS[0]]
        assert isinstance(told, Details)
        assert (told.disposition, told.other_dispositions) == ("MALICIOUS", ("SPAM",))
        assert told.recipients == ("ann@example.com", "bob@other.example")
    told = look([ok([held(FULLS[0]), other])], FULLS[0])[0][FULLS[0]]
    assert isinstance(told, Details)
    assert told.recipients == ("ann@example.com", "bob@other.example")


def test_an_alert_id_that_an_incomplete_list_shows_is_searched_for() -> None:
    plays = [page(*map(held, FULLS[:3]), following="2"), refusal(500), *(page(held(each)) for each in FULLS[:3])]
    looked, calls = look(plays, *ALERTS[:3])
    assert names(looked) == dict(zip(ALERTS[:3], FULLS[:3], strict=True))
    assert [call.startswith("?alert_id") for call in calls] == [False, False, True, True, True]


def test_what_the_list_of_the_quarantine_does_not_show_is_read_singly() -> None:
    gone = held(FULLS[2], is_quarantined=False)
    looked, calls = look([page(*map(held, FULLS[:2])), ok(gone), refusal(404)], *FULLS[:3], FULLS[5])
    assert names(looked) == {**{each: each for each in FULLS[:3]}, FULLS[5]: ABSENT}
    shown = looked[FULLS[2]]
    assert isinstance(shown, Details)
    assert not shown.is_quarantined
    assert calls[1:] == [escaped(FULLS[2]), escaped(FULLS[5])]


@pytest.mark.parametrize(
    "entries",
    [
        [held(TWIN)],
        [{**held(FULLS[0]), "id": 7, "postfix_id": None}],
        [{**held(FULLS[0]), "id": [FULLS[0]], "postfix_id": BARES[1]}],
    ],
)
def test_what_a_list_does_not_show_clearly_is_read_singly(entries: list[dict[str, Any]]) -> None:
    listed = page(*entries, *map(held, FULLS[1:3]))
    looked, calls = look([listed, ok(held(FULLS[0], final_disposition="MALICIOUS"))], *FULLS[:3])
    told = looked[FULLS[0]]
    assert isinstance(told, Details)
    assert told.disposition == "MALICIOUS"
    assert escaped(FULLS[0]) in calls


def test_an_entry_that_comes_twice_is_one() -> None:
    twice = [held(each) for each in FULLS[:3]] * 2
    looked, calls = look([page(*twice)], *FULLS[:3])
    assert (len(looked), len(calls)) == (3, 1)


def test_a_list_that_fails_leaves_all_to_single_reads() -> None:
    looked, calls = look([refusal(500), *(ok(held(each)) for each in FULLS[:3])], *FULLS[:3])
    assert names(looked) == {each: each for each in FULLS[:3]}
    assert calls == [DETECTED_AROUND_THREE, *map(escaped, FULLS[:3])]


def test_a_run_lists_at_most_12_pages_and_reads_100_messages_singly_and_leaves_the_rest_for_another_time() -> None:
    many = [full_id(NOON - 9 * DAY + number * timedelta(seconds=10)) for number in range(150)]
    nothing = page(held("4WtWkr6nlBz9sNH"), following="for ever")
    looked, calls = look([*[nothing] * 12, refusal(404)], *many)
    assert looked == dict.fromkeys(many[:100], ABSENT)
    assert [call[0] for call in calls] == ["?"] * 12 + ["/"] * 100


def test_the_12_pages_are_all_that_several_windows_have() -> None:
    apart = [full_id(NOON - days * DAY) for days in range(2, 42, 2)]
    looked, calls = look([*[page()] * 12, refusal(404)], *apart)
    assert looked == dict.fromkeys(apart, ABSENT)
    assert [call[0] for call in calls] == ["?"] * 12 + ["/"] * 20
    assert calls[0].startswith("?start=2026-11-20T11")
    assert calls[11].startswith("?start=2026-10-29T11")


def test_what_came_within_fourteen_hours_of_another_is_in_one_list_with_it() -> None:
    near, far = ([full_id(NOON - 9 * DAY + hours * HOUR) for hours in each] for each in ((0, 14, 28), (0, 15, 16)))
    _, calls = look([page(*map(held, near))], *near)
    assert len(calls) == 1
    assert calls[0].startswith("?start=2026-11-13T11%3A00%3A00Z&end=2026-11-14T17%3A00%3A00Z&")
    _, calls = look([page(*map(held, far))], *far)
    assert [call.partition("&")[0] for call in calls[:2]] == [
        "?start=2026-11-14T02%3A00%3A00Z",
        "?start=2026-11-13T11%3A00%3A00Z",
    ]


def test_bare_ids_whose_window_was_not_begun_for_want_of_pages_are_for_another_time() -> None:
    apart = [queue_id(NOON - days * DAY) for days in range(5, 80, 5)]
    looked, calls = look([*[page()] * 12, refusal(404), *[page()] * 12, refusal(404)], *apart)
    assert [looked[each] for each in apart] == [ABSENT] * 12 + [NOT_NOW] * 3
    assert [call[0] for call in calls] == ["?"] * 12 + ["/"] + ["?"] * 12 + ["/"] * 14


def test_nothing_to_read_is_nothing_asked() -> None:
    assert look([page()]) == ({}, [])
    assert find([page()]) == ([], [])


class Quarantine:
    """A server with a large quarantine: lists what is asked for, page by page, and nothing by path."""

    def __init__(self, entries: Sequence[Mapping[str, Any]]) -> None:
        self.entries = entries
        self.queries: list[dict[str, list[str]]] = []
        self.singles = 0

    def __call__(self, peer: Any) -> None:
        path = peer.read_request().path.removeprefix(INVESTIGATE)
        if not path.startswith("?"):
            self.singles += 1
            peer.send(http(404, b'{"success": false, "errors": [], "result": null}'))
            return
        query = parse_qs(path[1:])
        self.queries.append(query)
        start, end = (datetime.fromisoformat(query[name][0]) for name in ("start", "end"))
        within = [each for each in self.entries if start <= datetime.fromisoformat(each["scanned_at"]) <= end]
        first, size = int(query.get("cursor", ["0"])[0]), int(query["per_page"][0])
        following = str(first + size) if first + size < len(within) else None
        some = within[first : first + size]
        content = {"success": True, "result": some, "result_info": {"count": len(some), "next": following}}
        peer.send(http(200, json.dumps(content).encode()))


@pytest.mark.parametrize("make", [str, lambda each: each.rpartition("-")[0], lambda each: each.partition("-")[0]])
def test_1000_ids_in_a_quarantine_of_10000_in_their_window_cost_at_most_12_calls(make: Callable[[str], str]) -> None:
    """All of them within 10 hours."""
    times = [NOON - 9 * DAY + number * timedelta(seconds=3.6) for number in range(10_000)]
    entries = [
        held(f"{queue_id(at, f'y{number:07}')}-{at:%Y-%m-%dT%H:%M:%S}-{number}", scanned_at=at.isoformat())
        for number, at in enumerate(times)
    ]
    own = [MessageId(make(entry["id"])) for entry in entries[::10]]
    quarantine, budget = Quarantine(entries), RememberingBudget()
    with FaultServer([quarantine]) as server, lookup_at(server.url) as lookup:
        looked = lookup.look(ACCOUNT, own, 30, budget, Mark.ALL)
    assert names(looked) == dict(zip(own, (entry["id"] for entry in entries[::10]), strict=True))
    assert len(budget.taken) == len(quarantine.queries) <= 12
    assert quarantine.singles == 0
    for query in quarantine.queries:
        assert (query["per_page"], query["detections_only"]) == (["1000"], ["true"])
        assert "delivery_status" not in query


# --- Message-IDs -----------------------------------------------------------------------------------------------------


def test_a_message_id_is_searched_for_in_its_window() -> None:
    (found,), calls = find([page(held(FULLS[0]))], asking())
    assert isinstance(found, list)
    assert [each.message_id for each in found] == [FULLS[0]]
    query = {"message_id": HEADER, "start": "2026-10-23T12:00:00Z", "per_page": 1000, "detections_only": "false"}
    assert calls == [f"?{urlencode(query)}"]


def test_what_narrows_a_search_down_is_asked_for_too() -> None:
    _, calls = find([page()], asking(recipient="ann@example.com", sender="news.example", since=NOON - DAY))
    assert parse_qs(calls[0][1:]) == {
        "message_id": [HEADER],
        "start": ["2026-11-21T12:00:00Z"],
        "recipient": ["ann@example.com"],
        "sender": ["news.example"],
        "per_page": ["1000"],
        "detections_only": ["false"],
    }


def test_nothing_found_is_not_the_same_as_not_read() -> None:
    assert find([page()], asking())[0] == [[]]


def found_ids(plays: Sequence[Play], question: Question) -> list[str]:
    (found,), _ = find(plays, question)
    assert isinstance(found, list)
    return [each.message_id for each in found]


def test_all_matches_on_up_to_three_pages_are_found() -> None:
    several = [page(held(each), following="more") for each in FULLS[:2]]
    assert found_ids([*several, page(held(FULLS[2]), held(FULLS[0]))], asking()) == FULLS[:3]


@pytest.mark.parametrize(
    ("narrowing", "members"),
    [
        ({}, {"message_id": "<another@news.example>"}),
        ({}, {"message_id": None}),
        ({"recipient": "bob@example.com"}, {}),
        ({"recipient": "example.com"}, {"client_recipients": None}),
        ({"sender": "eve@news.example"}, {}),
        ({"sender": "news.example"}, {"from": ["news@news.example"]}),
        ({"since": NOON - 10 * DAY}, {"scanned_at": "2026-11-12T11:59:59Z"}),
    ],
)
def test_what_cloudflare_matches_more_loosely_is_not_taken_for_a_match(
    narrowing: dict[str, Any], members: dict[str, Any]
) -> None:
    other = held(FULLS[0], **members)
    assert found_ids([page(other)], asking(**narrowing)) == []
    if not narrowing:
        assert found_ids([page(other, held(FULLS[1]))], asking()) == [FULLS[1]]


@pytest.mark.parametrize(
    ("single", "why"),
    [
        (refusal(404), FAILED),
        (answers(404), FAILED),
        (refusal(500), FAILED),
        (refusal(429), NOT_NOW),
        (refusal(403), REFUSED),
        (ok(held(FULLS[0], is_quarantined=False)), CONTRADICTED),
        (ok(held(FULLS[1])), FAILED),
    ],
)
def test_the_one_match_of_a_narrowed_search_is_read_by_path_or_not_known(single: Play, why: NotRead) -> None:
    narrowed = asking(recipient="ann@example.com")
    other = held(FULLS[0], client_recipients=["bob@other.example"], final_disposition="MALICIOUS")
    (found,), calls = find([page(held(FULLS[0])), ok(other)], narrowed)
    assert isinstance(found, list)
    assert [(each.disposition, each.recipients) for each in found] == [
        ("MALICIOUS", ("ann@example.com", "bob@other.example"))
    ]
    assert calls[1] == escaped(FULLS[0])
    expected = why if isinstance(why, NotYetRead) else Unclear((FULLS[0],), why)
    assert find([page(held(FULLS[0])), single], narrowed)[0] == [expected]


def test_of_several_matches_none_is_guessed_at() -> None:
    (found,), _ = find([page(held(FULLS[0], final_disposition="MALICIOUS"), held(FULLS[1]))], asking())
    assert isinstance(found, list)
    assert isinstance(choose(found, None), Ended)


@pytest.mark.parametrize(
    "plays",
    [
        *([bad] for bad in BAD),
        [refusal(404)],
        [ok([held(FULLS[0])])],
        [ok(held(FULLS[0]), result_info={"next": None})],
        [page(held(FULLS[0]), following="2"), refusal(500)],
        [page(held(FULLS[0]), following="2"), refusal(404)],
        [page(held(FULLS[0]), following=7)],
        [page(following="2")],
        [page(held(FULLS[0]), following="for ever")] * 4,
    ],
)
def test_a_search_that_was_not_read_to_its_end_tells_nothing(plays: list[Play]) -> None:
    found, calls = find(plays, asking())
    assert found == [FAILED]
    assert len(calls) <= 3


def test_each_question_has_its_own_search_and_100_of_them_a_run() -> None:
    many = [asking(f"<{number}@news.example>") for number in range(105)]
    found, calls = find([page()], *many)
    assert found == [[]] * 100 + [NOT_NOW] * 5
    assert len(set(calls)) == len(calls) == 100


def test_a_search_that_takes_its_time_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudflare_calls, "_POLL_SECONDS", 0.01)
    pending = answers(202, b'{"success": true, "result": []}', "Location: ?poll=1")
    assert found_ids([pending, pending, page(held(FULLS[0]))], asking()) == [FULLS[0]]
    looked, calls = look([pending, page(held(FULLS[0]))], ALERTS[0])
    assert names(looked) == {ALERTS[0]: FULLS[0]}
    assert calls[1] == "?poll=1"


# --- What ends a run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "why"), [(401, REFUSED), (403, REFUSED), (429, NOT_NOW)])
@pytest.mark.parametrize(
    ("before", "wanted", "expected"),
    [
        ([], FULLS[:3], {}),
        ([], FULLS[:2], {}),
        ([], ALERTS[:2], {}),
        ([], BARES[:2], {}),
        ([refusal(404)], BARES[:2], {}),
        ([page(held(FULLS[0]), following="2")], FULLS[:3], {}),
        ([page(held(FULLS[0]), following="2")], BARES[:3], {}),
        ([page(held(FULLS[0]))], BARES[:3], {BARES[0]: FULLS[0]}),
        ([ok(held(FULLS[0]))], FULLS[:2], {FULLS[0]: FULLS[0]}),
    ],
)
def test_a_refusal_ends_all_calls_of_the_run_and_keeps_what_was_read(
    before: list[Play], wanted: list[str], expected: dict[str, str], status: int, why: NotRead
) -> None:
    looked, calls = look([*before, refusal(status), page(held(FULLS[1]))], *wanted)
    assert names(looked) == dict.fromkeys(wanted, why) | expected
    assert len(calls) == len(before) + 1


def test_a_refusal_ends_all_searches_of_the_run() -> None:
    questions = [asking(f"<{number}@news.example>") for number in range(3)]
    for status, why in ((429, NOT_NOW), (403, REFUSED)):
        found, calls = find([page(), refusal(status), page()], *questions)
        assert (found, len(calls)) == ([[], why, why], 2)


def test_a_429_is_told_to_all() -> None:
    budget = RememberingBudget()
    look([answers(429, b"", "Retry-After: 17")], FULLS[0], budget=budget)
    assert budget.heard_of == [NoEffect(RefusalReason.RATE_LIMITED, Evidence(429), 17)]


@pytest.mark.parametrize("wanted", [FULLS[:1], BARES[:1], ALERTS[:1], FULLS[:3], BARES[:3]])
def test_who_cannot_be_reached_is_for_another_time(wanted: list[MessageId]) -> None:
    budget = RememberingBudget()
    with refusing_port() as port, lookup_at(f"http://127.0.0.1:{port}") as lookup:
        looked = lookup.look(ACCOUNT, wanted, 5, budget, Mark.ALL)
        found = lookup.find(ACCOUNT, [asking()], 5, budget, Mark.ALL)
    assert looked == dict.fromkeys(wanted, NOT_NOW)
    assert list(found.values()) == [NOT_NOW]
    assert len(budget.taken) == 2


@pytest.mark.parametrize("calls_left", [0, 1, 2])
def test_each_call_is_asked_for_before_and_what_there_is_no_call_for_is_for_another_time(calls_left: int) -> None:
    budget = RememberingBudget(waits=deque([0.0] * calls_left), paused=9.0)
    looked, calls = look([page(held(FULLS[0])), ok(held(FULLS[1]))], *FULLS[:3], budget=budget)
    expected = (
        [FULLS[0], FULLS[1], NOT_NOW]
        if calls_left == 2
        else [FULLS[0], *[NOT_NOW] * 2]
        if calls_left
        else [NOT_NOW] * 3
    )
    assert [names(looked)[each] for each in FULLS[:3]] == expected
    assert len(calls) == calls_left


def test_a_budget_that_cannot_be_asked_ends_the_run() -> None:
    with FaultServer([page()]) as server, lookup_at(server.url) as lookup:
        with pytest.raises(LedgerUnavailable):
            lookup.look(ACCOUNT, FULLS[:1], 5, UnreadableBudget(), Mark.ALL)
        with pytest.raises(LedgerUnavailable):
            lookup.find(ACCOUNT, [asking()], 5, UnreadableBudget(), Mark.ALL)
    assert server.requests == []


def test_what_no_time_is_left_for_is_for_another_time_but_not_if_cloudflare_took_it_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cloudflare_calls, "_LEAST_SECONDS", 0.1)
    monkeypatch.setattr(cloudflare_calls, "_LEAST_PAGE_SECONDS", 0.1)
    assert look([page()], *FULLS[:3], seconds=0) == (dict.fromkeys(FULLS[:3], NOT_NOW), [])
    assert find([page()], asking(), seconds=0) == ([NOT_NOW], [])
    looked, calls = look([page(held(FULLS[0])), says_and_hangs(b"")], *FULLS[:4], seconds=1)
    assert names(looked) == {FULLS[0]: FULLS[0], **dict.fromkeys(FULLS[1:4], FAILED)}
    assert len(calls) == 2


class Slow(DeadlineSession):
    """Takes a second and a half for each call of a quarantine without end; who has less time gets no answer."""

    def __init__(self) -> None:
        self.now = 0.0

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, seconds: float
    ) -> Reply | NoReply:
        assert (method, body, bool(headers)) == ("GET", None, True)
        self.now += min(seconds, 1.5)
        if seconds < 1.5:
            return NoReply(True, "deadline")
        if "?" not in url:
            return Reply(404, {}, b'{"success": false, "errors": [], "result": null}')
        content = {"success": True, "result": [held(FULLS[20])], "result_info": {"next": str(self.now)}}
        return Reply(200, {}, json.dumps(content).encode())


@pytest.mark.parametrize("seconds", [5.0, 5.9, 6.1, 7.4])
@pytest.mark.parametrize("wanted", [BARES[:1], BARES[:3], FULLS[:3]])
def test_what_the_end_of_the_time_cuts_off_is_no_failure(wanted: list[MessageId], seconds: float) -> None:
    """A single bare id among several thousand messages is one: its caller is told 202, and the worker has the time."""
    session, budget = Slow(), RememberingBudget()
    lookup = CloudflareLookup(SearchApi("https://api.example", Held(), session, lambda: NOON, lambda: session.now))
    looked = lookup.look(ACCOUNT, wanted, seconds, budget, Mark.ALL)
    may_be_read = {ABSENT} if wanted == FULLS[:3] else set()  # by path, in what time the lists leave
    assert looked.keys() == set(wanted)
    assert set(looked.values()) <= {NOT_NOW} | may_be_read
    assert session.now <= seconds


class Timed(DeadlineSession):
    """Takes so long for a page and a message; knows of pages full of others, and of nothing that is asked for."""

    def __init__(self, pages: int, page_seconds: float, message_seconds: float) -> None:
        self.now = 0.0
        self.paths = 0
        self._pages = pages
        self._seconds = page_seconds, message_seconds

    def send(self, _: str, url: str, __: Mapping[str, str], ___: bytes | None, seconds: float) -> Reply | NoReply:
        query = parse_qs(url.partition("?")[2])
        takes = self._seconds[0 if query else 1]
        self.now += min(takes, seconds)
        if takes > seconds:
            return NoReply(True, "deadline")
        if not query:
            self.paths += 1
            return Reply(404, {}, b'{"success": false, "errors": [], "result": null}')
        number = int(query.get("cursor", ["1"])[0])
        following = str(number + 1) if number < self._pages else None
        content = {"success": True, "result": [held(FULLS[20])], "result_info": {"next": following}}
        return Reply(200, {}, json.dumps(content).encode())


@pytest.mark.parametrize(
    ("pages", "page_seconds", "why"),
    [(1, 0.5, ABSENT), (10, 1.0, ABSENT), (10, 2.0, TOO_MANY), (20, 0.1, TOO_MANY)],
)
@pytest.mark.parametrize("number", [1, 2, 80])
def test_in_the_time_of_the_worker_every_bare_id_comes_to_something(
    pages: int, page_seconds: float, why: NotRead, number: int
) -> None:
    """However much is in quarantine: else it would be looked for again and again until it expires."""
    session = Timed(pages, page_seconds, 0.3)
    lookup = CloudflareLookup(SearchApi("https://api.example", Held(), session, lambda: NOON, lambda: session.now))
    left = [queue_id(NOON - 9 * DAY + HOUR * each / 80) for each in range(number)]
    for _ in range(5):
        looked = lookup.look(ACCOUNT, left, 30, RememberingBudget(), Mark.ALL)
        assert set(looked.values()) <= {why, NOT_NOW}
        left = [each for each in left if looked.get(each, NOT_NOW) is NOT_NOW]
    assert left == []


def test_full_ids_are_read_in_what_time_the_lists_leave() -> None:
    session = Timed(20, 2.0, 0.3)
    lookup = CloudflareLookup(SearchApi("https://api.example", Held(), session, lambda: NOON, lambda: session.now))
    looked = lookup.look(ACCOUNT, FULLS[:9], 30, RememberingBudget(), Mark.ALL)
    assert looked == dict.fromkeys(FULLS[:9], ABSENT)


def test_a_credential_that_was_changed_meanwhile_is_fetched_once() -> None:
    class Changed(Held):
        def refetch(self) -> Any:
            return parse_accounts(json.dumps({"account_id": ACCOUNT, "api_token": "new"}))

    plays = [refusal(403), page(held(FULLS[0])), ok(held(FULLS[1])), ok(held(FULLS[2]))]
    with FaultServer(plays) as server, lookup_at(server.url, Changed()) as lookup:
        looked = lookup.look(ACCOUNT, FULLS[:3], 5, RememberingBudget(), Mark.ALL)
    assert names(looked) == {each: each for each in FULLS[:3]}
    shown = [request.headers["authorization"] for request in server.requests]
    assert shown == [[f"Bearer {TOKEN}"], *[["Bearer new"]] * 3]


# --- What was listed serves the next packs for 25 s ------------------------------------------------------------------

BOTH = parse_accounts(
    json.dumps({"accounts": [{"account_id": each, "api_token": TOKEN} for each in (ACCOUNT, OTHER_ACCOUNT)]})
)


class Burst:
    """Several looks, one after the other, at a server that goes through these plays."""

    def __init__(self, lookup: CloudflareLookup, server: FaultServer, clock: Clock) -> None:
        self._lookup = lookup
        self._server = server
        self.clock = clock

    def look(self, *ids: str, account: AccountId = ACCOUNT) -> tuple[dict[str, str], int]:
        """Return what was read and for how many calls."""
        before = len(self._server.requests)
        looked = self._lookup.look(account, [*map(MessageId, ids)], 10, RememberingBudget(), Mark.ALL)
        return names(looked), len(self._server.requests) - before


@contextmanager
def burst(*plays: Play) -> Iterator[Burst]:
    clock = Clock()
    with FaultServer(plays) as server, lookup_at(server.url, Held(BOTH), clock, LISTS_HOLD) as lookup:
        yield Burst(lookup, server, clock)


ALL_HELD = page(*map(held, FULLS[:9]))


def test_a_pack_that_was_listed_with_another_costs_no_call() -> None:
    with burst(ALL_HELD, refusal(500)) as packs:
        assert packs.look(*FULLS[:3])[1] == 1
        packs.clock.move(seconds=LISTS_HOLD.total_seconds() - 0.1)
        assert packs.look(*FULLS[3:9]) == ({each: each for each in FULLS[3:9]}, 0)


def test_what_was_listed_serves_no_longer_than_25_s_from_when_the_list_was_begun() -> None:
    def slow(peer: Any) -> None:
        packs.clock.move(seconds=5)
        ALL_HELD(peer)

    with burst(slow, *[ok(held(each, final_disposition="MALICIOUS")) for each in FULLS[:3]]) as packs:
        packs.look(*FULLS[:3])
        packs.clock.move(seconds=LISTS_HOLD.total_seconds() - 5.1)
        assert packs.look(*FULLS[:3])[1] == 0
        packs.clock.move(seconds=0.2)
        assert packs.look(*FULLS[:3])[1] > 0


def test_what_was_listed_is_not_served_to_another_account() -> None:
    with burst(ALL_HELD, page(), refusal(404)) as packs:
        packs.look(*FULLS[:3])
        assert packs.look(*FULLS[:3], account=OTHER_ACCOUNT) == (dict.fromkeys(FULLS[:3], ABSENT), 4)
        assert packs.look(*FULLS[:3]) == ({each: each for each in FULLS[:3]}, 0)


def test_up_to_two_are_read_anew_though_they_were_listed() -> None:
    with burst(ALL_HELD, ok(held(FULLS[0]))) as packs:
        packs.look(*FULLS[:3])
        assert packs.look(FULLS[0]) == ({FULLS[0]: FULLS[0]}, 1)


def test_what_was_not_in_quarantine_is_read_anew() -> None:
    """It may be there any moment, or Cloudflare may have been behind."""
    listed = page(*(held(each, is_quarantined=False) for each in FULLS[:3]))
    with burst(listed, ALL_HELD) as packs:
        packs.look(*FULLS[:3])
        assert packs.look(*FULLS[:3])[1] == 1


def test_what_was_read_singly_is_read_anew() -> None:
    with burst(page(), *(ok(held(each)) for each in FULLS[:3]), page(), refusal(404)) as packs:
        assert packs.look(*FULLS[:3])[1] == 4
        assert packs.look(*FULLS[:3]) == (dict.fromkeys(FULLS[:3], ABSENT), 4)


def test_what_was_listed_serves_no_id_that_contradicts_it() -> None:
    with burst(ALL_HELD, page(), refusal(404)) as packs:
        packs.look(*FULLS[:3])
        assert packs.look(TWIN, *FULLS[1:3]) == ({TWIN: ABSENT, FULLS[1]: FULLS[1], FULLS[2]: FULLS[2]}, 2)


@pytest.mark.parametrize("wanted", [BARES, ALERTS], ids=["bare", "alert"])
def test_what_a_whole_list_showed_serves_ids_by_which_several_may_go_and_what_a_part_showed_does_not(
    wanted: list[MessageId],
) -> None:
    with burst(ALL_HELD, refusal(500)) as packs:
        packs.look(*FULLS[:3])
        assert packs.look(*wanted[:3]) == (dict(zip(wanted[:3], FULLS[:3], strict=True)), 0)
    with burst(page(*map(held, FULLS[:9]), following="2"), page(held(TWIN)), page(), refusal(404)) as packs:
        packs.look(*FULLS[:3])
        assert packs.look(*wanted[:3])[1] > 0


def test_of_a_list_that_was_cut_nothing_is_served() -> None:
    """The rest of it may hold a row that says the opposite."""
    cut = [page(*map(held, FULLS[:9]), following="2"), refusal(500)]
    with burst(*cut, *(ok(held(each)) for each in FULLS[:3]), page(*map(held, FULLS[:3]))) as packs:
        packs.look(*FULLS[:3])
        assert packs.look(*FULLS[:3]) == ({each: each for each in FULLS[:3]}, 1)


def test_two_entries_by_one_postfix_id_serve_nobody() -> None:
    with burst(page(*map(held, [*FULLS[:3], TWIN])), page(), *(ok(held(each)) for each in FULLS[:3])) as packs:
        packs.look(*FULLS[:3])
        assert packs.look(*FULLS[:3])[1] == 2  # FULLS[0] alone: a list and a read


def test_what_is_kept_is_forgotten_when_it_serves_nobody_any_more() -> None:
    with burst(ALL_HELD, page(*map(held, FULLS[20:23]))) as packs:
        packs.look(*FULLS[:3])
        packs.clock.move(seconds=LISTS_HOLD.total_seconds() + 1)
        packs.look(*FULLS[20:23])
        assert {part for _, part in packs._lookup._listed} == set(map(postfix_part, FULLS[20:23]))


def test_what_one_run_has_read_serves_no_other_where_nothing_is_held() -> None:
    evil = page(*(held(each, final_disposition="MALICIOUS") for each in FULLS[:3]))
    with FaultServer([page(*map(held, FULLS[:3])), evil]) as server, lookup_at(server.url) as lookup:
        runs = [lookup.look(ACCOUNT, FULLS[:3], 10, RememberingBudget(), Mark.ALL) for _ in range(2)]
    assert [{one.disposition for one in run.values() if isinstance(one, Details)} for run in runs] == [
        {"SPAM"},
        {"MALICIOUS"},
    ]


# --- Whatever comes back ---------------------------------------------------------------------------------------------


class Canned(DeadlineSession):
    """Answers every call from a list, over and over."""

    def __init__(self, *replies: Reply | NoReply) -> None:
        self.replies = replies
        self.urls: list[str] = []

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, seconds: float
    ) -> Reply | NoReply:
        assert (method, body, bool(headers), seconds <= 5) == ("GET", None, True, True)
        self.urls.append(url)
        return self.replies[(len(self.urls) - 1) % len(self.replies)]


entries = likely | st.builds(
    held,
    st.sampled_from([*FULLS[:3], *BARES[:3], TWIN]),
    is_quarantined=st.sampled_from([True, False, "true"]),
    final_disposition=st.sampled_from(["SPAM", "MALICIOUS", None]),
    message_id=st.sampled_from([HEADER, None, "<x@y>"]),
)
contents = st.fixed_dictionaries(
    {"success": st.just(True), "result": anything | st.lists(entries, max_size=3) | entries},
    optional={"result_info": st.fixed_dictionaries({"next": st.none() | anything}) | anything},
)
replies = st.builds(
    Reply, st.sampled_from([200, 200, 200, 404, 500, 202]), st.just({}), contents.map(json.dumps).map(str.encode)
)
ODD = [MessageId("4Njp3P0STMz2c02Q"), MessageId("an:odd.shape_1")]
several_ids = st.lists(st.sampled_from([*FULLS[:3], *BARES[1:4], *ALERTS[2:5], *ODD]), unique=True, max_size=5)


@given(st.lists(replies | st.just(NoReply(True, "connection_lost")), min_size=1, max_size=4), several_ids)
def test_whatever_comes_back_nothing_is_raised_and_nothing_passes_that_was_not_shown(
    several: list[Reply | NoReply], ids: list[MessageId]
) -> None:
    session = Canned(*several)
    lookup = CloudflareLookup(SearchApi("https://api.example", Held(), session, lambda: NOON))
    looked = lookup.look(ACCOUNT, ids, 20, RememberingBudget(), Mark.ALL)
    assert looked.keys() == set(ids)
    assert sum("delivery_status" in url for url in session.urls) <= 12
    texts = [reply.body.decode() for reply in several if isinstance(reply, Reply) and reply.status == 200]
    for each, told in looked.items():
        if isinstance(told, Several):
            assert len({one.message_id for one in told.messages}) > 1
            continue
        if isinstance(told, NotYetRead):
            continue
        verdict = judge(told, DEFAULT_POLICY, NOON, is_bare=is_bare(each))
        if isinstance(told, Details):
            assert postfix_part(told.message_id) == postfix_part(each)
            assert isinstance(verdict, Ended) or any('"SPAM"' in text for text in texts)
    question = asking()
    found = lookup.find(ACCOUNT, [question], 20, RememberingBudget(), Mark.ALL)[question]
    if not isinstance(found, NotRead):
        assert not found or any(f'"{HEADER}"' in text for text in texts)
