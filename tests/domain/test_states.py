"""The vocabulary: which ids name one message, which states follow which, and that every end has its letter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.domain.ids import (
    ALERT_ID,
    ANY_ID,
    MessageId,
    contradict,
    fullest,
    is_bare,
    is_header,
    postfix_part,
)
from quarantine_release.domain.states import (
    EXPIRING,
    FINAL,
    LETTERS,
    TRANSITIONS,
    Code,
    Outcome,
    State,
    has_one_key,
    may_claim,
)
from quarantine_release.domain.verdicts import RECIPIENTS_KEPT, Recipients
from tests.support.shapes import (
    ALPHANUMERIC,
    digits,
    ids_of_one_message,
    message_ids,
    names,
    postfix_ids,
    timestamps,
)
from tests.support.stand_ins import BARE, FULL, OTHER

ALERT = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00")


@pytest.mark.parametrize(
    ("given_id", "part", "is_a_bare_one", "is_an_alert"),
    [
        (BARE, BARE, True, False),
        (ALERT, BARE, False, True),
        (FULL, BARE, False, False),
        ("4Njp3P0STMz2c02Q.other", BARE, False, False),
        ("a" * 10, "a" * 10, True, False),
        ("a" * 24, "a" * 24, True, False),
        ("a" * 25 + "-1", "a" * 25 + "-1", False, False),
        ("a" * 9 + ".2024-01-05T10:00:00", "a" * 9 + ".2024-01-05T10:00:00", False, False),
        ("550e8400-e29b-41d4-a716-446655440000", "550e8400-e29b-41d4-a716-446655440000", False, False),
        ("12345678-1234-1234-1234-123456789012", "12345678-1234-1234-1234-123456789012", False, False),
    ],
)
def test_an_id_is_of_the_shape_that_cloudflare_publishes(
    given_id: str, part: str, is_a_bare_one: bool, is_an_alert: bool
) -> None:
    message_id = MessageId(given_id)
    assert postfix_part(message_id) == part
    assert is_bare(message_id) is is_a_bare_one
    assert bool(ALERT_ID.match(message_id)) is is_an_alert
    assert ANY_ID.match(message_id)


@pytest.mark.parametrize(
    "not_an_id",
    [
        "",
        "a" * 7,
        "a" * 129,
        "with space 1",
        "line-end-1\n",
        "ÄÖÜäöüß-1",
        "\uff14Njp3P0STMz2c02Q",  # a full-width 4, which NFKC would make a plain one
        "4Njp3P0STMz2c02\u00b2",
        "a/../b/..",
        "percent%2F1",
        "\ud800aaaaaaaaaa",
        "nul\0-bytes-1",
    ],
)
def test_what_is_not_plain_ascii_of_the_right_length_is_no_id(not_an_id: str) -> None:
    assert not ANY_ID.match(not_an_id)


def test_digits_of_other_scripts_make_no_alert_id() -> None:
    assert not ALERT_ID.match("4Njp3P0STMz2c02Q-\u0662\u0660\u0662\u0664-01-05T10:00:00")


@pytest.mark.parametrize("header", ["<4Njp3P0STMz2c02Q>", "<a@mail.example.com>", "4Njp3P0STMz2c02Q@mail.example.com"])
def test_a_message_id_names_no_message_by_itself(header: str) -> None:
    message_id = MessageId(header)
    assert is_header(message_id)
    assert not is_bare(message_id)
    assert postfix_part(message_id) == header
    assert not any(is_header(each) for each in (BARE, ALERT, FULL))


@pytest.mark.parametrize("length", [0, 8, 9, 25, 26, 128])
@pytest.mark.parametrize(
    "rest", ["", "-2024-01-05T10:00:00", "-2024-01-05T10:00:00-1", "-2024-01-05T10:00:00Z", "-2024-01-05T"]
)
def test_an_id_whose_message_could_have_two_keys_is_no_id(length: int, rest: str) -> None:
    message_id = MessageId("a" * length + rest)
    assert not ANY_ID.match(message_id)
    assert not has_one_key(message_id)


leading_parts = st.text(ALPHANUMERIC, max_size=40)
endings = st.text(ALPHANUMERIC + "._:-", max_size=12)


@given(leading_parts, timestamps, digits, endings)
def test_all_accepted_shapes_of_one_message_have_one_key(lead: str, at: str, number: str, ending: str) -> None:
    """Also shapes that Cloudflare does not document, such as a timestamp with an offset."""
    shapes = [lead, f"{lead}-{at}", f"{lead}-{at}-{number}", f"{lead}-{at}{ending}"]
    keys = [str(postfix_part(MessageId(each))) for each in shapes if ANY_ID.match(each)]
    assert keys == ([lead] * len(shapes) if 10 <= len(lead) <= 24 else [])


@given(postfix_ids, st.sampled_from("._:-"), endings)
def test_an_id_that_continues_a_postfix_id_with_any_sign_has_its_key(lead: MessageId, sign: str, ending: str) -> None:
    longer = MessageId(f"{lead}{sign}{ending}")
    assert ANY_ID.match(longer)
    assert str(postfix_part(longer)) == lead


@given(postfix_ids)
def test_upper_and_lower_case_are_different_messages(postfix_id: MessageId) -> None:
    other = MessageId(postfix_id.swapcase())
    assert (postfix_part(postfix_id) == postfix_part(other)) == (postfix_id == other)


@given(ids_of_one_message())
def test_all_shapes_of_one_message_share_its_postfix_part_and_agree(
    ids: tuple[MessageId, MessageId, MessageId],
) -> None:
    assert {str(postfix_part(each)) for each in ids} == {str(ids[0])}
    assert not any(contradict(one, other) for one in ids for other in ids)
    assert fullest(ids) == ids[2]
    assert all(ANY_ID.match(each) for each in ids)


@given(ids_of_one_message(), ids_of_one_message())
def test_full_ids_with_one_postfix_part_contradict_each_other_unless_they_are_the_same(
    ids: tuple[MessageId, MessageId, MessageId], others: tuple[MessageId, MessageId, MessageId]
) -> None:
    same_part = MessageId(others[2].replace(others[0], ids[0], 1))
    assert contradict(ids[2], same_part) == (ids[2] != same_part)
    assert contradict(ids[1], same_part) == (not same_part.startswith(f"{ids[1]}-"))
    assert not contradict(ids[0], same_part)


@pytest.mark.parametrize("other", [FULL, ALERT, f"{BARE}.other", f"{BARE}:1"])
def test_a_bare_id_contradicts_nothing_that_begins_with_it(other: str) -> None:
    assert not contradict(BARE, MessageId(other))
    assert not contradict(MessageId(other), BARE)


@given(message_ids, message_ids)
def test_contradiction_is_mutual_and_nobody_contradicts_himself(one: MessageId, other: MessageId) -> None:
    assert contradict(one, other) == contradict(other, one)
    assert not contradict(one, one)


@given(message_ids, st.lists(st.text("0123456789-:T.", max_size=30), min_size=1))
def test_ids_that_agree_with_the_fullest_of_them_agree_with_each_other(start: MessageId, ends: list[str]) -> None:
    ids = [MessageId(f"{start}-{end}") for end in ends]
    agreeing = [each for each in ids if not contradict(fullest(ids), each)]
    assert not any(contradict(one, other) for one in agreeing for other in agreeing)


@given(message_ids)
def test_the_postfix_part_of_a_postfix_part_is_itself(message_id: MessageId) -> None:
    part = postfix_part(message_id)
    assert message_id.startswith(part)
    assert postfix_part(MessageId(part)) == part


def test_every_state_has_its_transitions_and_none_leads_to_itself() -> None:
    assert TRANSITIONS.keys() == {None, *State}
    assert not [state for state, next_states in TRANSITIONS.items() if state in next_states]


def test_a_final_state_is_left_only_for_a_new_release_or_by_settling_a_review() -> None:
    for state in FINAL - {State.NEEDS_REVIEW}:
        assert TRANSITIONS[state] == {State.RELEASING}
    assert State.UNKNOWN not in TRANSITIONS[State.NEEDS_REVIEW]


def test_nothing_that_may_still_be_wanted_is_ever_forgotten() -> None:
    assert EXPIRING <= FINAL
    assert State.NEEDS_REVIEW not in EXPIRING


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("code", [None, *Code])
@pytest.mark.parametrize("state", [None, *State])
def test_a_message_may_be_claimed_only_where_no_call_can_be_under_way(
    state: State | None, code: Code | None, force: bool
) -> None:
    is_free = state in (None, State.RETRYABLE)
    is_rejected = state is State.FAILED and code is Code.CLOUDFLARE_REJECTED
    is_forced = force and state in (State.RELEASED, State.PARTIAL, State.FAILED, State.NEEDS_REVIEW)
    assert may_claim(state, code, force=force) == (is_free or is_rejected or is_forced)
    if may_claim(state, code, force=force):
        assert State.RELEASING in TRANSITIONS[state]


def test_every_end_has_a_letter_and_no_letter_stands_for_anything_else() -> None:
    assert {outcome for outcome, _ in LETTERS.values()} == {outcome for outcome in Outcome if outcome.is_end}
    assert len(set(LETTERS.values())) == len(LETTERS)
    assert all(len(letter) == 1 and letter.isascii() for letter in LETTERS)


def test_only_in_progress_and_unconfirmed_are_not_an_end() -> None:
    assert {outcome for outcome in Outcome if not outcome.is_end} == {Outcome.IN_PROGRESS, Outcome.UNCONFIRMED}


@given(names, names, names)
def test_at_most_20_recipients_a_list_are_kept_and_all_are_counted(
    delivered: list[str], undelivered: list[str], failed: list[str]
) -> None:
    lists = (delivered, undelivered, failed)
    kept = Recipients.of(*lists)
    assert kept.counts == tuple(len(set(each)) for each in lists)
    for all_names, kept_names in zip(lists, (kept.delivered, kept.undelivered, kept.failed), strict=True):
        distinct = list(dict.fromkeys(all_names))
        assert kept_names == tuple(name[:320] for name in distinct[:RECIPIENTS_KEPT])
    assert kept.truncated == any(count > RECIPIENTS_KEPT for count in kept.counts)


def test_the_fullest_id_is_the_longest() -> None:
    assert fullest([BARE, FULL, ALERT]) == FULL
    assert fullest([MessageId("z" * 10), FULL]) == FULL
    assert fullest([OTHER]) == OTHER
