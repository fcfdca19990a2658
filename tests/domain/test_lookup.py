"""Which message an id means: how a question is kept, and which of the messages found counts."""

from dataclasses import replace
from datetime import timedelta

import pytest

from quarantine_release.domain.details import Details, Several
from quarantine_release.domain.guard import Candidate, Ended
from quarantine_release.domain.ids import MessageId
from quarantine_release.domain.lookup import CANDIDATES_SHOWN, choose, undecided
from quarantine_release.domain.states import Code, Outcome
from tests.support.cloudflare_entries import AT, asking, full_id, read
from tests.support.stand_ins import NOON

# --- The question ----------------------------------------------------------------------------------------------------


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


def test_no_personal_data_is_in_the_repr_of_a_question() -> None:
    assert "canary" not in repr(asking(recipient="ann.canary@example.com"))


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


def test_only_a_search_that_is_narrowed_by_what_rows_differ_in_may_leave_rows_out() -> None:
    assert not asking(expect_count=2).is_narrowed
    assert asking(recipient="example.com").is_narrowed
    assert asking(sender="news.example").is_narrowed
    assert asking(since=AT).is_narrowed
