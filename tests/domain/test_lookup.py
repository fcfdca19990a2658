"""Which message an id means: what an entry of the search tells, which entries fit, and which of them counts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.cloudflare.entries import RELEASE, details_of
from quarantine_release.cloudflare.matching import matches, query_of
from quarantine_release.domain.details import Details, Several, Unclear, Unreadable
from quarantine_release.domain.guard import Candidate, Ended
from quarantine_release.domain.ids import MessageId
from quarantine_release.domain.lookup import CANDIDATES_SHOWN, Question, choose, undecided
from quarantine_release.domain.request_options import Narrowing
from quarantine_release.domain.states import Code, Outcome
from tests.cloudflare.test_entries import anything, full_id, queue_id
from tests.support.stand_ins import BARE, FULL, NOON

HEADER = MessageId("<20261122.1200@news.example>")
AT = NOON - timedelta(hours=3)
ENTRY: dict[str, Any] = {
    "id": full_id(AT),
    "postfix_id": queue_id(AT),
    "message_id": HEADER,
    "is_quarantined": True,
    "final_disposition": "SPAM",
    "delivery_mode": "DIRECT",
    "scanned_at": "2026-11-22T09:00:07Z",
    "ts": "2026-11-22T08:00:00Z",
    "client_recipients": ["ann@example.com"],
    "envelope_to": ["list@example.com"],
    "from": "News <news@news.example>",
    "envelope_from": "bounce-17@mailer.example",
    "subject": "Your order",
    "post_delivery_operations": [],
}


def read(**members: Any) -> Details:
    details = details_of(ENTRY | members, NOON)
    assert details is not None
    return details


def lacking(*names: str) -> Details:
    details = details_of({name: value for name, value in ENTRY.items() if name not in names}, NOON)
    assert details is not None
    return details


# --- What an entry tells ---------------------------------------------------------------------------------------------


def test_an_entry_tells_what_the_guard_wants_to_know() -> None:
    assert read() == Details(
        full_id(AT),
        is_quarantined=True,
        disposition="SPAM",
        delivery_mode="DIRECT",
        at=datetime(2026, 11, 22, 8, tzinfo=UTC),
        recipients=("ann@example.com", "list@example.com"),
        sender="News <news@news.example>",
        subject="Your order",
        is_released=False,
        header="20261122.1200@news.example",
    )


def test_an_entry_that_tells_only_an_id_and_where_it_is_tells_nothing_else_but_the_time_in_it() -> None:
    held = {"is_quarantined": True}
    assert details_of({"id": full_id(AT)} | held, NOON) == Details(full_id(AT), is_quarantined=True, at=AT)
    long_ago = datetime(2024, 1, 5, 10, tzinfo=UTC)
    assert details_of({"postfix_id": FULL} | held, NOON) == Details(FULL, is_quarantined=True, at=long_ago)
    nulls: dict[str, Any] = dict.fromkeys(ENTRY) | {"postfix_id": BARE, "is_quarantined": False}
    assert details_of(nulls, NOON) == Details(BARE, is_quarantined=False)


@pytest.mark.parametrize("entry", [{}, {"id": None}, {"id": 7, "postfix_id": "x"}, {"id": "a/../b", "subject": "s"}])
def test_an_entry_without_an_id_is_none(entry: dict[str, Any]) -> None:
    assert details_of(entry, NOON) is None


@pytest.mark.parametrize("value", ["true", 1, None, [True], {}])
def test_an_entry_that_does_not_tell_whether_it_is_held_is_none(value: Any) -> None:
    """Else an answer to something else would be taken for mail that was delivered."""
    assert details_of(ENTRY | {"is_quarantined": value}, NOON) is None
    assert not read(is_quarantined=False).is_quarantined


@pytest.mark.parametrize("value", [None, 7, True, "", [], ["SPAM"], {"SPAM": 1}])
def test_what_is_no_text_tells_nothing(value: Any) -> None:
    assert read(final_disposition=value).disposition is None
    assert read(delivery_mode=value).delivery_mode is None
    assert read(subject=value).subject is None
    assert read(**{"from": value}).sender == "bounce-17@mailer.example"
    assert read(**{"from": value, "envelope_from": value}).sender is None


@pytest.mark.parametrize("value", ["ann@example.com", {"ann@example.com": 1}, 7, [7], ["ann@example.com", None]])
def test_recipients_that_are_no_list_of_texts_are_unknown_and_none_of_them_is_left_out(value: Any) -> None:
    assert read(client_recipients=value).recipients == ()
    assert read(envelope_to=value).recipients == ()


@pytest.mark.parametrize("value", [None, []])
def test_recipients_of_header_and_envelope_are_all_whom_it_is_for(value: Any) -> None:
    assert read(client_recipients=value).recipients == ("list@example.com",)
    assert read(envelope_to=value).recipients == ("ann@example.com",)
    assert read(client_recipients=value, envelope_to=value).recipients == ()
    both = ["ann@example.com", "bob@example.com"]
    assert read(client_recipients=both, envelope_to=both[::-1]).recipients == tuple(both)


@pytest.mark.parametrize(
    ("value", "at"),
    [
        ("2026-11-22T07:00:07", datetime(2026, 11, 22, 7, 0, 7, tzinfo=UTC)),
        ("2026-11-22T08:00:07.5+01:00", datetime(2026, 11, 22, 7, 0, 7, 500_000, tzinfo=UTC)),
    ],
)
def test_a_time_without_an_offset_is_utc(value: str, at: datetime) -> None:
    assert read(scanned_at=value).at == at
    assert read(scanned_at=None, ts=value).at == at


def test_mail_that_was_scanned_again_is_as_old_as_its_oldest_time() -> None:
    again = {"scanned_at": "2026-11-22T11:00:00Z", "ts": None}
    assert read(**again).at == AT
    assert read(**again, id=FULL).at == datetime(2024, 1, 5, 10, tzinfo=UTC)


@pytest.mark.parametrize("value", [None, "", "yesterday", "2026-02-30T00:00:00Z", 20261122, 1795348807, True, [], {}])
def test_what_is_no_time_is_looked_for_elsewhere(value: Any) -> None:
    assert read(scanned_at=value).at == datetime(2026, 11, 22, 8, tzinfo=UTC)
    assert read(scanned_at=value, ts=value).at == AT
    assert read(scanned_at=value, ts=value, id="another.shape-1").at is None
    assert lacking("scanned_at", "ts").at == AT


@pytest.mark.parametrize(
    ("value", "is_released"),
    [
        ([RELEASE], True),
        (["MOVE", RELEASE], True),
        (["MOVE"], False),
        ([], False),
        (None, False),
        (RELEASE, False),
        ([[RELEASE]], False),
        ({RELEASE: True}, False),
    ],
)
def test_only_the_documented_operation_in_a_list_is_a_release(value: Any, is_released: bool) -> None:
    assert read(post_delivery_operations=value, is_quarantined=False).is_released is is_released


@pytest.mark.parametrize(
    ("members", "is_doubtful"),
    [
        ({}, False),
        ({"post_delivery_operations": ["MOVE"]}, False),
        ({"post_delivery_operations": [RELEASE]}, True),
        ({"post_delivery_operations": "quarantineRelease"}, True),
        ({"properties": {"whitelisted_pattern_type": "quarantine_release"}}, True),
        ({"delivery_status": ["delivered"]}, True),
    ],
)
def test_a_held_message_that_may_be_released_is_doubtful_and_not_released(
    members: dict[str, Any], is_doubtful: bool
) -> None:
    held, gone = read(**members), read(**members, is_quarantined=False)
    assert (held.is_quarantined, held.is_doubtful, held.is_released) == (True, is_doubtful, False)
    assert not gone.is_doubtful


def test_of_what_has_no_end_so_much_is_kept_that_it_can_be_written_and_told() -> None:
    long = read(subject="s" * 100_000, final_disposition="SPAM" * 100_000, **{"from": "f" * 100_000})
    assert [len(text or "") for text in (long.subject, long.sender, long.disposition)] == [998, 998, 40]


@given(st.dictionaries(st.sampled_from(sorted(ENTRY)), anything))
def test_whatever_an_entry_holds_nothing_is_raised(members: dict[str, Any]) -> None:
    entry = ENTRY | members
    details = details_of(entry, NOON)
    if details is not None:
        assert details.is_quarantined is (entry["is_quarantined"] is True)
        told = entry["final_disposition"]
        assert details.disposition in (told[:40] if isinstance(told, str) else None, None)
        assert matches([entry], asking(), NOON) == ([details] if entry["message_id"] == HEADER else [])
        matches([entry], asking(recipient="example.com", sender="news.example", since=AT), NOON)


# --- The question ----------------------------------------------------------------------------------------------------


def asking(header: MessageId = HEADER, start: datetime = NOON - timedelta(days=30), **narrowing: Any) -> Question:
    return Question(header, Narrowing(**narrowing), start)


def test_a_question_is_kept_by_everything_that_may_change_its_answer_but_window_and_count() -> None:
    known = {
        asking(),
        asking(MessageId("<another@news.example>")),
        asking(recipient="ann@example.com"),
        asking(sender="ann@example.com"),
        asking(since=AT),
        asking(since=NOON),
    }
    assert len({question.text for question in known}) == len(known)
    assert asking(start=NOON).text == asking(expect_count=2).text == asking().text


def test_two_narrowings_with_the_same_words_are_two_questions() -> None:
    assert asking(recipient='a", "b').text != asking(recipient="a", sender="b").text


def test_a_question_is_searched_for_from_its_window_on() -> None:
    assert query_of(asking()) == {"message_id": HEADER, "start": "2026-10-23T12:00:00Z"}
    assert query_of(asking(recipient="example.com", sender="a@news.example", expect_count=2)) == {
        "message_id": HEADER,
        "start": "2026-10-23T12:00:00Z",
        "recipient": "example.com",
        "sender": "a@news.example",
    }


@pytest.mark.parametrize(
    ("since", "start"),
    [
        (NOON - timedelta(days=40), "2026-10-13T12:00:00Z"),
        (NOON - timedelta(days=1), "2026-11-21T12:00:00Z"),
        (datetime(2026, 11, 21, 14, tzinfo=timezone(timedelta(hours=2))), "2026-11-21T12:00:00Z"),
    ],
)
def test_a_search_begins_when_it_is_asked_to(since: datetime, start: str) -> None:
    assert query_of(asking(since=since))["start"] == start


def test_no_personal_data_is_in_the_repr_of_a_question() -> None:
    assert "canary" not in repr(asking(recipient="ann.canary@example.com"))


# --- Which entries are the ones asked for ----------------------------------------------------------------------------


def is_fitting(question: Question, **members: Any) -> bool:
    return matches([ENTRY | members], question, NOON) == [read(**members)]


@pytest.mark.parametrize("told", [HEADER, HEADER.strip("<>"), f" {HEADER} "])
def test_an_entry_fits_with_and_without_brackets(told: str) -> None:
    assert is_fitting(asking(), message_id=told)


@pytest.mark.parametrize("told", ["<another@news.example>", HEADER.upper(), f"{HEADER}x", "", None, 7, [HEADER]])
def test_an_entry_that_tells_another_message_id_or_none_fits_nothing(told: Any) -> None:
    """A server that knows no such parameter lists everything, and much spam has no Message-ID."""
    assert not is_fitting(asking(), message_id=told)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("ann@example.com", True),
        ("ANN@Example.com", True),
        ("example.com", True),
        ("bob@example.com", True),
        ("sub.example.com", False),
        ("com", False),
        ("nn@example.com", False),
        ("xample.com", False),
        ("list@example.com", True),
        ("tom@example.com", False),
    ],
)
def test_an_entry_fits_whose_recipients_hold_the_one_wanted(wanted: str, expected: bool) -> None:
    question = asking(recipient=wanted)
    assert is_fitting(question, client_recipients=["Ann <ann@EXAMPLE.com>", "<bob@example.com>"]) is expected
    assert not is_fitting(question, client_recipients=[], envelope_to=None)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("news@news.example", True),
        ("NEWS.example", True),
        ("bounce-17@mailer.example", True),
        ("mailer.example", True),
        ("eve@news.example", False),
        ("example", False),
    ],
)
def test_an_entry_fits_whose_sender_by_header_or_envelope_is_the_one_wanted(wanted: str, expected: bool) -> None:
    assert is_fitting(asking(sender=wanted)) is expected
    assert not is_fitting(asking(sender=wanted), **{"from": None, "envelope_from": 7})


@pytest.mark.parametrize(
    ("seconds", "expected"), [(timedelta(seconds=-1), False), (timedelta(), True), (timedelta(seconds=1), True)]
)
def test_an_entry_fits_that_was_scanned_since(seconds: timedelta, expected: bool) -> None:
    since = datetime(2026, 11, 22, 9, 0, 7, tzinfo=UTC)
    assert is_fitting(asking(since=since), scanned_at=(since + seconds).isoformat()) is expected


def test_of_an_entry_that_tells_no_time_cloudflare_is_believed_that_it_is_recent() -> None:
    assert is_fitting(asking(since=NOON), id="another.shape-1", scanned_at=None, ts=None)


# --- Which of them counts --------------------------------------------------------------------------------------------


def found(number: int) -> list[Details]:
    some = [full_id(AT - timedelta(minutes=each)) for each in range(number)]
    return [replace(read(), message_id=each, is_quarantined=number > 5) for each in some]


@pytest.mark.parametrize("expected", [None, 1])
def test_the_one_message_found_is_the_one_meant(expected: int | None) -> None:
    (one,) = found(1)
    assert choose([one], expected) is one


def test_nothing_found_is_not_found() -> None:
    ended = choose([], None)
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.code, ended.candidates) == (Outcome.NOT_FOUND, None, ())


@pytest.mark.parametrize(("number", "expected"), [(0, 1), (1, 2), (2, 1), (3, 2), (11, 10)])
def test_another_number_than_expected_is_told_with_what_was_found(number: int, expected: int) -> None:
    ended = choose(found(number), expected)
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.code) == (Outcome.AMBIGUOUS, Code.COUNT_DIFFERS)
    were_found = "1 message was found" if number == 1 else f"{number} messages were found"
    assert ended.detail == f"expect_count is {expected}, but {were_found}."
    assert len(ended.candidates) == min(number, CANDIDATES_SHOWN)


@pytest.mark.parametrize("number", [2, 10, 11, 999])
@pytest.mark.parametrize("is_expected", [False, True])
def test_several_messages_are_never_guessed_at_though_as_many_were_expected(number: int, is_expected: bool) -> None:
    several = found(number)
    ended = choose(several, number if is_expected else None)
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.code) == (Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES)
    assert str(number) in ended.detail
    assert ended.candidates == tuple(
        Candidate(each.message_id, each.at, "SPAM", each.is_quarantined) for each in several[:10]
    )


def test_of_a_disposition_that_is_no_name_candidates_keep_nothing() -> None:
    ended = choose([replace(each, disposition="ann@example.com") for each in found(2)], None)
    assert isinstance(ended, Ended)
    assert {each.disposition for each in ended.candidates} == {None}


def test_several_messages_behind_an_id_end_like_several_with_a_message_id() -> None:
    ended = undecided(Several(tuple(found(11))))
    assert (ended.outcome, ended.code) == (Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES)
    assert ended.detail == "11 messages go by this id: send the id of the one that is meant."
    assert [each.message_id for each in ended.candidates] == [each.message_id for each in found(10)]


# --- Several rows about one message ----------------------------------------------------------------------------------

OTHER = {**ENTRY, "client_recipients": ["bob@other.example"], "envelope_to": []}


def found_in(*entries: dict[str, Any], **narrowing: Any) -> list[Details]:
    told = matches(entries, asking(**narrowing), NOON)
    assert isinstance(told, list)
    return told


def test_rows_about_one_message_are_one_match_with_all_recipients() -> None:
    (one,) = found_in(ENTRY, OTHER)
    assert one.recipients == ("ann@example.com", "list@example.com", "bob@other.example")
    assert isinstance(choose([one], 1), Details)


@pytest.mark.parametrize("wanted", ["example.com", "other.example"])
def test_a_row_for_another_recipient_than_the_one_asked_for_counts_too(wanted: str) -> None:
    (one,) = found_in(ENTRY, {**OTHER, "final_disposition": "MALICIOUS"}, recipient=wanted)
    assert (one.disposition, len(one.recipients)) == ("MALICIOUS", 3)


def test_a_row_without_a_message_id_counts_with_those_that_have_it() -> None:
    (one,) = found_in(ENTRY, OTHER | {"message_id": None, "final_disposition": "SPOOF"})
    assert one.disposition == "SPOOF"


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"is_quarantined": False}, Unreadable.CONTRADICTED),
        ({"message_id": "<another@news.example>"}, Unreadable.CONTRADICTED),
        ({"is_quarantined": None}, Unreadable.FAILED),
        ({"is_quarantined": None, "message_id": None}, Unreadable.FAILED),
    ],
)
@pytest.mark.parametrize("is_first", [False, True])
def test_a_match_whose_rows_contradict_each_other_makes_the_search_tell_nothing(
    members: dict[str, Any], why: Unreadable, is_first: bool
) -> None:
    rows = [ENTRY, OTHER | members]
    assert matches(rows[::-1] if is_first else rows, asking(), NOON) == Unclear((full_id(AT),), why)


@pytest.mark.parametrize(
    ("narrowing", "fit"), [({}, True), ({"recipient": "bob@other.example"}, True), ({"sender": "x@y"}, False)]
)
def test_an_unclear_match_is_what_was_asked_for_if_one_of_its_rows_fits(narrowing: dict[str, Any], fit: bool) -> None:
    told = matches([ENTRY, OTHER | {"is_quarantined": False}], asking(**narrowing), NOON)
    assert isinstance(told, Unclear)
    assert told.only == (full_id(AT) if fit else None)


def test_every_match_of_a_search_is_told_of_though_one_is_unclear() -> None:
    other, third = full_id(AT - timedelta(hours=1)), full_id(AT - timedelta(hours=2))
    rows = [ENTRY, OTHER | {"is_quarantined": None}, ENTRY | {"id": other}, ENTRY | {"id": third, "is_quarantined": 1}]
    told = matches(rows, asking(), NOON)
    assert isinstance(told, Unclear)
    assert (set(told.unread), [each.message_id for each in told.clear]) == ({full_id(AT), third}, [other])


def test_only_a_search_that_is_narrowed_by_what_rows_differ_in_may_leave_rows_out() -> None:
    assert not asking(expect_count=2).is_narrowed
    assert asking(recipient="example.com").is_narrowed
    assert asking(sender="news.example").is_narrowed
    assert asking(since=AT).is_narrowed
