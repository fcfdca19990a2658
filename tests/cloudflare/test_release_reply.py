"""What each answer of Cloudflare proves, as truth tables; no bytes lead to an exception or to a false RELEASED."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quarantine_release.cloudflare.release_reply import classify
from quarantine_release.cloudflare.reply import LOCKOUT_SECONDS, Reply, gather_evidence, is_verified
from quarantine_release.domain.ids import MessageId, contradict, postfix_part
from quarantine_release.domain.states import Code, State
from quarantine_release.domain.verdicts import (
    RECIPIENTS_KEPT,
    Answered,
    Evidence,
    NoEffect,
    Recipients,
    RefusalReason,
    Verdict,
)
from tests.support.shapes import family
from tests.support.stand_ins import BARE, FULL, NOON, OTHER

ALERT = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00")
SIBLING = "4Njp3P0STMz2c02Q-2024-01-05T10:00:00-87654321"
A, B, C = "a@example.com", "b@example.com", "c@example.com"
RELEASED, UNKNOWN, FAILED = State.RELEASED, State.UNKNOWN, State.FAILED
MISSING = Verdict(UNKNOWN, Code.MISSING_IN_ANSWER)
UNCLEAR = Verdict(UNKNOWN, Code.UNCLEAR_ANSWER)


def envelope(result: Any, **members: Any) -> bytes:
    return json.dumps({"success": True, "errors": [], "messages": [], "result": result} | members).encode()


def refusal(*codes: Any, **members: Any) -> bytes:
    errors = [{"code": code, "message": "whatever"} for code in codes]
    return json.dumps({"success": False, "errors": errors, "messages": [], "result": None} | members).encode()


def answer(
    status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, *ids: str, atomic: bool = False
) -> Answered | NoEffect:
    wanted = [MessageId(each) for each in ids or (FULL,)]
    return classify(Reply(status, headers or {}, body), wanted, NOON, bulk_4xx_is_atomic=atomic)


def verdict(*entries: Any, asked: MessageId = FULL) -> Verdict:
    answered = answer(200, envelope(list(entries)), None, asked)
    assert isinstance(answered, Answered)
    assert list(answered.verdicts) == [asked]
    return answered.verdicts[asked]


# --- A 200 that says what became of each message -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lists", "state", "code"),
    [
        ({"delivered": [A]}, RELEASED, None),
        ({"delivered": [A], "undelivered": None, "failed": None}, RELEASED, None),
        ({"delivered": [A, B], "undelivered": [], "failed": []}, RELEASED, None),
        ({"delivered": [A], "failed": [B]}, State.PARTIAL, Code.PARTLY_DELIVERED),
        ({"delivered": [A], "undelivered": [B]}, State.PARTIAL, Code.PARTLY_DELIVERED),
        ({"delivered": [A], "undelivered": [B], "failed": [C]}, State.PARTIAL, Code.PARTLY_DELIVERED),
        ({"delivered": [A], "failed": [A]}, State.PARTIAL, Code.PARTLY_DELIVERED),
        ({"delivered": [], "failed": [B]}, FAILED, Code.NOT_DELIVERED),
        ({"undelivered": [B]}, FAILED, Code.NOT_DELIVERED),
        ({"delivered": None, "undelivered": [B], "failed": [C]}, FAILED, Code.NOT_DELIVERED),
        ({}, UNKNOWN, Code.NO_RECIPIENTS),
        ({"delivered": [], "undelivered": [], "failed": []}, UNKNOWN, Code.NO_RECIPIENTS),
        ({"delivered": None, "undelivered": None, "failed": None}, UNKNOWN, Code.NO_RECIPIENTS),
        ({"delivered": A}, UNKNOWN, Code.UNCLEAR_ANSWER),
        ({"delivered": True}, UNKNOWN, Code.UNCLEAR_ANSWER),
        ({"delivered": {A: True}}, UNKNOWN, Code.UNCLEAR_ANSWER),
        ({"delivered": [{"recipient": A}]}, UNKNOWN, Code.UNCLEAR_ANSWER),
        ({"delivered": [A, None]}, UNKNOWN, Code.UNCLEAR_ANSWER),
        ({"delivered": [A], "failed": B}, UNKNOWN, Code.UNCLEAR_ANSWER),
        ({"delivered": [A], "undelivered": 0}, UNKNOWN, Code.UNCLEAR_ANSWER),
        ({"delivered": [A], "failed": [1]}, UNKNOWN, Code.UNCLEAR_ANSWER),
        ({"delivered": [A], "failed": ""}, UNKNOWN, Code.UNCLEAR_ANSWER),
        ({"delivered": [A], "success": False}, UNKNOWN, Code.UNCLEAR_ANSWER),
    ],
)
def test_the_three_lists_decide(lists: dict[str, Any], state: State, code: Code | None) -> None:
    found = verdict({"id": FULL, **lists})
    assert (found.state, found.code) == (state, code)
    assert (found.message_id is None) == (code is Code.UNCLEAR_ANSWER)


def test_an_entry_by_an_id_whose_message_could_have_two_keys_answers_for_nothing() -> None:
    found = verdict({"id": f"{BARE}{BARE}", "postfix_id": BARE, "delivered": [A]})
    assert (found.state, found.code) == (UNKNOWN, Code.MISSING_IN_ANSWER)


def test_each_recipient_is_named_under_what_became_of_him() -> None:
    found = verdict({"id": FULL, "delivered": [A], "undelivered": [B], "failed": [C]})
    assert found.recipients == Recipients((A,), (B,), (C,), (1, 1, 1))


@pytest.mark.parametrize(
    ("asked", "names", "known"),
    [
        (FULL, {"id": FULL}, FULL),
        (FULL, {"id": FULL, "postfix_id": BARE}, FULL),
        (FULL, {"id": BARE}, BARE),
        (FULL, {"id": ALERT}, ALERT),
        (FULL, {"postfix_id": BARE}, BARE),
        (FULL, {"postfix_id": FULL}, FULL),
        (FULL, {"id": None, "postfix_id": BARE}, BARE),
        (FULL, {"id": 12345678, "postfix_id": BARE}, BARE),
        (FULL, {"id": "", "postfix_id": BARE}, BARE),
        (ALERT, {"id": FULL}, FULL),
        (BARE, {"id": FULL}, FULL),
        (BARE, {"id": FULL, "postfix_id": BARE}, FULL),
        (BARE, {"id": BARE}, BARE),
        (BARE, {"postfix_id": BARE}, BARE),
        (MessageId("another.shape-1"), {"id": "another.shape-1"}, "another.shape-1"),
    ],
)
def test_a_verdict_has_the_id_that_the_entry_tells_and_not_the_one_that_was_asked(
    asked: MessageId, names: dict[str, Any], known: str
) -> None:
    assert verdict({**names, "delivered": [A]}, asked=asked) == Verdict(RELEASED, None, Recipients.of([A]), known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"id": OTHER},
        {"id": SIBLING},
        {"id": SIBLING, "postfix_id": BARE},
        {"postfix_id": SIBLING},
        {"postfix_id": OTHER},
        {"id": FULL[:-1]},
        {"id": f"{FULL}0"},
        {"id": FULL.lower()},
        {"id": f" {FULL}"},
        {"id": f"{FULL}\n"},
        {"id": [FULL]},
        {"ID": FULL},
    ],
)
def test_an_entry_that_tells_of_another_message_or_of_none_proves_nothing(names: dict[str, Any]) -> None:
    assert verdict({**names, "delivered": [A]}) == MISSING


@pytest.mark.parametrize(
    "names",
    [
        {"id": FULL, "postfix_id": OTHER},
        {"id": OTHER, "postfix_id": BARE},
        {"id": FULL, "postfix_id": SIBLING},
        {"id": SIBLING, "postfix_id": FULL},
    ],
)
@pytest.mark.parametrize("lists", [{"delivered": [A]}, {"delivered": [A], "failed": [B]}, {"failed": [B]}, {}])
def test_an_entry_whose_ids_contradict_each_other_proves_nothing_of_either(
    names: dict[str, Any], lists: dict[str, Any]
) -> None:
    """Nobody knows which of the two was delivered. The first id used to count, so that a guess was told as a fact."""
    assert verdict({**names, **lists}) == UNCLEAR
    good = {"id": FULL, "delivered": [A]}
    assert verdict(good, {**names, **lists}) == verdict({**names, **lists}, good) == UNCLEAR
    answered = answer(200, envelope([{**names, **lists}]), None, FULL, OTHER)
    assert isinstance(answered, Answered)
    assert answered.verdicts[OTHER] == (UNCLEAR if OTHER in names.values() else MISSING)
    assert answered.unasked == 0


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([{"delivered": [A]}, {"delivered": [B]}], Verdict(RELEASED, None, Recipients.of([A, B]), FULL)),
        ([{"delivered": [A]}, {"delivered": [A]}], Verdict(RELEASED, None, Recipients.of([A]), FULL)),
        (
            [{"delivered": [A]}, {"failed": [B]}],
            Verdict(State.PARTIAL, Code.PARTLY_DELIVERED, Recipients.of([A], [], [B]), FULL),
        ),
        (
            [{"failed": [A]}, {"undelivered": [B]}],
            Verdict(FAILED, Code.NOT_DELIVERED, Recipients.of([], [B], [A]), FULL),
        ),
        ([{}, {"delivered": [B]}], Verdict(RELEASED, None, Recipients.of([B]), FULL)),
        ([{"delivered": [A]}, {"delivered": "?"}], UNCLEAR),
    ],
)
def test_entries_of_one_message_are_merged_however_they_name_it(
    entries: list[dict[str, Any]], expected: Verdict
) -> None:
    for names in ({"id": FULL}, {"postfix_id": BARE}, {"id": ALERT}):
        assert verdict({"id": FULL} | entries[0], names | entries[1]) == expected
        assert verdict(names | entries[1], {"id": FULL} | entries[0]).state is expected.state


def test_a_bare_id_that_turns_out_to_name_two_messages_proves_nothing_of_either() -> None:
    entries = [{"id": FULL, "delivered": [A]}, {"id": SIBLING, "delivered": [B]}]
    assert verdict(*entries, asked=BARE) == UNCLEAR
    assert verdict(*entries, asked=ALERT) == UNCLEAR
    assert verdict(*entries, asked=FULL) == Verdict(RELEASED, None, Recipients.of([A]), FULL)


def test_every_id_asked_for_has_its_own_verdict_and_others_are_counted() -> None:
    body = envelope(
        [
            {"id": OTHER, "failed": [B]},
            None,
            {"id": "another.message-1", "delivered": [A]},
            {"id": FULL, "delivered": [A]},
            {"delivered": [A]},
            "nonsense",
        ]
    )
    answered = answer(200, body, None, FULL, OTHER, "third.message-1")
    assert isinstance(answered, Answered)
    assert {asked: found.state for asked, found in answered.verdicts.items()} == {
        FULL: RELEASED,
        OTHER: FAILED,
        "third.message-1": UNKNOWN,
    }
    assert answered.verdicts[MessageId("third.message-1")] == MISSING
    assert answered.unasked == 2


def test_a_single_object_is_taken_for_a_list_of_one() -> None:
    body = envelope({"id": FULL, "delivered": [A]})
    assert answer(200, body) == Answered(
        {FULL: Verdict(RELEASED, None, Recipients.of([A]), FULL)}, Evidence(status=200)
    )


@pytest.mark.parametrize("result", [None, [], {}, "x", 7, True, [[]], [[{"id": FULL, "delivered": [A]}]]])
def test_a_result_that_names_no_message_proves_nothing(result: Any) -> None:
    answered = answer(200, envelope(result), None, FULL, OTHER)
    assert isinstance(answered, Answered)
    assert answered.verdicts == {FULL: MISSING, OTHER: MISSING}


def test_members_that_cloudflare_leaves_out_or_adds_do_no_harm() -> None:
    entry = {"id": FULL, "delivered": [A]}
    for body in ({"success": True, "result": [entry]}, {"success": True, "result": [entry | {"new": 1}], "more": {}}):
        assert answer(200, json.dumps(body).encode()) == Answered(
            {FULL: Verdict(RELEASED, None, Recipients.of([A]), FULL)}, Evidence(status=200)
        )


def test_five_hundred_recipients_of_each_of_twenty_five_messages_are_counted_and_some_named() -> None:
    ids = [MessageId(f"4Njp3P0STMz2c{n:03d}-2024-01-05T10:00:00-{n}") for n in range(25)]
    lists = {"delivered": [f"{n}@example.com" for n in range(500)], "failed": [f"x{n}@example.com" for n in range(500)]}
    answered = answer(200, envelope([{"id": each, **lists} for each in ids]), None, *ids)
    assert isinstance(answered, Answered)
    for found in answered.verdicts.values():
        assert found.state is State.PARTIAL
        assert found.recipients.counts == (500, 0, 500)
        assert len(found.recipients.delivered) == RECIPIENTS_KEPT
        assert found.recipients.truncated


@pytest.mark.parametrize("entry", [b"{}", b'{"id":"abcdefgh12"}', b'{"id":"%s"}' % SIBLING.encode()])
def test_the_time_to_judge_grows_with_the_entries_alone_not_with_the_ids_asked_for(entry: bytes) -> None:
    body = b'{"success":true,"result":[' + b",".join([entry] * (400_000 // len(entry))) + b"]}"
    began = time.process_time()
    answered = answer(200, body, None, FULL, *(f"4WtWkr6nlBz{n:04d}" for n in range(98)))
    assert time.process_time() - began < 3
    assert isinstance(answered, Answered)
    assert set(answered.verdicts.values()) == {MISSING}
    assert answered.unasked == 400_000 // len(entry)


# --- Every other answer --------------------------------------------------------------------------------------------

GOOD = envelope([{"id": FULL, "delivered": [A]}])
HTML = b"<!DOCTYPE html><title>Attention Required! | Cloudflare</title>"


@pytest.mark.parametrize(
    ("status", "body", "one", "several"),
    [
        (200, b"", "unclear", "unclear"),
        (200, HTML, "unclear", "unclear"),
        (200, b"null", "unclear", "unclear"),
        (200, b"[]", "unclear", "unclear"),
        (200, GOOD[:-1], "unclear", "unclear"),
        (200, b"\xef\xbb\xbf" + GOOD, "unclear", "unclear"),
        (200, GOOD.decode().encode("utf-16"), "unclear", "unclear"),
        (200, b"\xff" + GOOD, "unclear", "unclear"),
        (200, b"[" * 100_000, "unclear", "unclear"),
        (200, b'{"success": true, "result": ' + b"9" * 5000 + b"}", "unclear", "unclear"),
        (200, refusal(7003), "unclear", "unclear"),
        (200, envelope([{"id": FULL, "delivered": [A]}], success=False), "unclear", "unclear"),
        (200, envelope([{"id": FULL, "delivered": [A]}], success="true"), "unclear", "unclear"),
        (200, envelope([{"id": FULL, "delivered": [A]}], success=1), "unclear", "unclear"),
        (200, b'{"result": [{"id": "%s", "delivered": ["a"]}]}' % FULL.encode(), "unclear", "unclear"),
        *[(status, GOOD, "unclear", "unclear") for status in (201, 202, 204, 206, 299)],
        *[(status, GOOD, "unclear", "unclear") for status in (301, 302, 303, 304, 307, 308)],
        *[
            (status, body, "credentials", "credentials")
            for status in (401, 403)
            for body in (refusal(10000), HTML, b"")
        ],
        *[(401, GOOD, "credentials", "credentials")],
        (400, refusal(6003), "credentials", "credentials"),
        (400, refusal(1234, 6003), "credentials", "credentials"),
        (400, refusal(7003), "rejected", "call rejected"),
        (404, refusal(7003), "rejected", "call rejected"),
        (409, refusal(7003), "rejected", "call rejected"),
        (422, refusal(1001, 1002), "rejected", "call rejected"),
        (422, json.dumps({"success": False, "errors": [{"code": 1001}]}).encode(), "rejected", "call rejected"),
        (400, refusal(), "unclear", "unclear"),
        (400, refusal("6003"), "unclear", "unclear"),
        (400, refusal(True), "unclear", "unclear"),
        (400, refusal(10**40), "unclear", "unclear"),
        (400, refusal(-1), "unclear", "unclear"),
        (400, refusal(6003.0), "unclear", "unclear"),
        (400, refusal(7003, success=True), "unclear", "unclear"),
        (400, refusal(errors={"code": 7003}), "unclear", "unclear"),
        (400, refusal(errors=["no object"]), "unclear", "unclear"),
        *[(status, body, "unclear", "unclear") for status in (400, 402, 404, 409, 418, 451) for body in (HTML, b"")],
        *[(status, refusal(7003), "unclear", "unclear") for status in (408, 425, 499)],
        *[(429, body, "limited", "limited") for body in (refusal(10429), HTML, b"", GOOD)],
        *[(status, refusal(7003), "unclear", "unclear") for status in (500, 502, 503, 504, 520, 522, 524, 530, 599)],
        (502, GOOD, "unclear", "unclear"),
        (999, GOOD, "unclear", "unclear"),
        (0, b"", "unclear", "unclear"),
    ],
)
def test_whatever_is_no_good_answer_proves_a_refusal_or_nothing(
    status: int, body: bytes, one: str, several: str
) -> None:
    meaning: dict[str, RefusalReason | tuple[State, Code]] = {
        "unclear": (UNKNOWN, Code.UNCLEAR_ANSWER),
        "rejected": (FAILED, Code.CLOUDFLARE_REJECTED),
        "call rejected": (UNKNOWN, Code.CALL_REJECTED),
        "credentials": RefusalReason.CREDENTIALS,
        "limited": RefusalReason.RATE_LIMITED,
    }
    for ids, expected in (((FULL,), one), ((FULL, OTHER), several)):
        came = answer(status, body, None, *ids)
        assert came.evidence.status == status
        if isinstance(came, NoEffect):
            assert came.reason == meaning[expected]
        else:
            assert came.verdicts == {asked: Verdict(*meaning[expected]) for asked in ids}
        if expected != "call rejected":
            assert answer(status, body, None, *ids, atomic=True) == came


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422])
def test_a_rejected_call_with_several_ids_had_no_effect_only_if_the_setting_says_so(status: int) -> None:
    evidence = Evidence(status, (7003,))
    assert answer(status, refusal(7003), None, FULL, OTHER, atomic=True) == NoEffect(
        RefusalReason.CALL_REJECTED, evidence
    )
    alone = Answered({FULL: Verdict(FAILED, Code.CLOUDFLARE_REJECTED)}, evidence)
    assert answer(status, refusal(7003), atomic=True) == answer(status, refusal(7003)) == alone


# --- How much is left ------------------------------------------------------------------------------------------------

POLICY = {"ratelimit-policy": '"default";q=1200;w=300'}


@pytest.mark.parametrize(
    ("value", "policy", "rest"),
    [
        (None, POLICY, None),
        ('"default";r=1200;t=300', POLICY, None),
        ('"default";r=300;t=120', POLICY, None),  # a quarter
        ('"default";r=299;t=120', POLICY, 120),
        ('"default";r=0;t=120', POLICY, 120),
        ('"default"; r=0; t=120', POLICY, 120),
        ('"default"; r=0;t=120;pk=:c29hcg==:', POLICY, 120),
        ("default;r=0;t=7", POLICY, 7),
        ('"burst";r=0;t=7, "daily";r=9999;t=86400', POLICY, 7),
        ('"daily";r=9999;t=99, "burst";r=0;t=7, "other";r=0;t=9', POLICY, 9),
        ('"a";r=30;t=7, "b";r=30;t=9', {"ratelimit-policy": '"a";q=121;w=60, "b";q=120;w=60'}, 7),
        ('"default";r=10;t=60', {"ratelimit-policy": '"burst";q=100;w=60'}, 60),
        ('"default";r=25;t=60', {"ratelimit-policy": '"burst";q=100;w=60, "other";q=9;w=1'}, None),
        ('"default";r=10;t=60', {"ratelimit-policy": '"burst"; q=100'}, 60),
        ('"default";r=1;t=60', {}, None),  # of how much is not known
        ('"default";r=0;t=60', {}, 60),
        ('"default";r=1;t=60', {"ratelimit-policy": "nonsense"}, None),
        ('"default";r=0;t=0', POLICY, 1),
        ('"default";r=0;t=301', POLICY, 300),
        ('"default";r=0;t=9999', POLICY, 300),
        ('"default";r=0;t=99999', POLICY, None),
        ('"default";r=9999999;t=60', POLICY, None),
        ('"default";r=-1;t=60', POLICY, None),
        ('"default";r=0;t=-60', POLICY, None),
        ('"default";r=0.5;t=60', POLICY, None),
        ('"default";r=0;t=60.5', POLICY, None),
        ('"default";r=0', POLICY, None),
        ('"default";t=60', POLICY, None),
        ('"default";t=60;r=0', POLICY, None),
        ("0", POLICY, None),
        ("", POLICY, None),
        ("limit=1200, remaining=0, reset=60", POLICY, None),
        ('"default";r=\u0660;t=60', POLICY, None),
        ("x" * 65 + ";r=0;t=60", POLICY, None),
        ('"default";r=0;t=60', {"ratelimit-policy": '"default";q=0;w=300'}, None),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 404, 500])
def test_how_little_is_left_is_a_rest_until_there_is_more(
    status: int, value: str | None, policy: dict[str, str], rest: int | None
) -> None:
    headers = policy | ({} if value is None else {"ratelimit": value})
    came = answer(status, GOOD if status == 200 else refusal(7003), headers)
    assert isinstance(came, Answered)
    assert came.rest == rest
    assert came.calls == 1


@given(st.text('"default;rt=0123456789, -.') | st.text(), st.text('"default;qw=0123456789, ') | st.text())
def test_whatever_stands_in_these_headers_the_rest_is_within_reason(value: str, policy: str) -> None:
    came = answer(200, GOOD, {"ratelimit": value, "ratelimit-policy": policy})
    assert isinstance(came, Answered)
    assert came.rest is None or 1 <= came.rest <= LOCKOUT_SECONDS


def test_a_quota_that_reads_on_and_on_is_judged_in_no_time() -> None:
    began = time.process_time()
    answer(200, GOOD, {"ratelimit": ";" * 60_000 + " " * 60_000, "ratelimit-policy": ";" + " " * 60_000})
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, LOCKOUT_SECONDS),
        ("", LOCKOUT_SECONDS),
        ("30", 30),
        (" 30 ", 30),
        ("0", 1),
        ("3601", 3600),
        ("9" * 5000, 3600),
        ("0000000000000030", 30),
        ("Sun, 22 Nov 2026 12:00:45 GMT", 45),
        ("Sun, 22 Nov 2026 13:00:45 +0100", 45),
        ("Sun, 22 Nov 2026 12:00:45", 45),
        ("Sun, 22 Nov 2026 12:00:45 -0000", 45),
        ("Sun, 22 Nov 2026 11:59:00 GMT", 1),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        ("Sat, 01 Jan 0001 00:00:00 +2359", 1),
        ("soon", LOCKOUT_SECONDS),
        ("-5", LOCKOUT_SECONDS),
        ("1.5", LOCKOUT_SECONDS),
        ("1e3", LOCKOUT_SECONDS),
        ("²", LOCKOUT_SECONDS),
        ("Sun, 99 Nov 2026 12:00:45 GMT", LOCKOUT_SECONDS),
        ("Mon, 01 Jan 224 2222222222200:00:00 GMT", LOCKOUT_SECONDS),
        ("Mon, 01 Jan 2024 00:00:00 +" + "9" * 30, LOCKOUT_SECONDS),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_otherwise_the_lock_out(value: str | None, seconds: int) -> None:
    came = answer(429, refusal(10429), None if value is None else {"retry-after": value})
    assert came == NoEffect(RefusalReason.RATE_LIMITED, Evidence(status=429, error_codes=(10429,)), seconds)


@given(st.one_of(st.text(), st.text("MonSuJan0123456789 :,+-GT", max_size=60)))
def test_no_retry_after_is_beyond_reason(value: str) -> None:
    came = answer(429, b"", {"retry-after": value})
    assert isinstance(came, NoEffect)
    assert came.retry_after is not None
    assert 1 <= came.retry_after <= 3600


@pytest.mark.parametrize(
    ("headers", "cf_ray"),
    [
        ({}, None),
        ({"cf-ray": ""}, None),
        ({"cf-ray": "8d1b2c3d4e5f6a7b-FRA"}, "8d1b2c3d4e5f6a7b-FRA"),
        ({"cf-ray": "x" * 100}, "x" * 64),
        ({"cf-ray": "a\tb"}, None),
        ({"cf-ray": "ä"}, None),
        ({"server": "cloudflare", "set-cookie": "canary"}, None),
    ],
)
def test_of_the_headers_only_a_printable_ray_is_kept(headers: dict[str, str], cf_ray: str | None) -> None:
    assert answer(500, b"canary", headers).evidence == Evidence(500, (), cf_ray)


def test_of_the_errors_eight_codes_are_kept_and_no_text() -> None:
    body = refusal(*range(1000, 1020))
    assert gather_evidence(Reply(500, {}, body)) == Evidence(500, tuple(range(1000, 1008)))
    assert answer(500, body).evidence == gather_evidence(Reply(500, {}, body))


def test_a_code_has_at_most_nine_digits() -> None:
    body = refusal(-1, 0, 999_999_999, 1_000_000_000, True, 7.0, "8", None)
    assert gather_evidence(Reply(400, {}, body)).error_codes == (0, 999_999_999)


# --- What a verify call tells --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "is_accepted"),
    [
        (200, envelope({"id": "1", "status": "active"}, messages=[{"code": 10000, "message": "valid"}]), True),
        (200, envelope({"id": "1", "email": "a@example.com"}), True),
        (200, envelope(None), True),
        (200, envelope({"status": "disabled"}), False),
        (200, envelope({"status": "expired"}), False),
        (200, envelope({"status": None}), False),
        (200, refusal(1000), None),
        (200, HTML, None),
        (200, b"", None),
        (204, envelope({}), None),
        (302, b"", None),
        (400, refusal(6003), False),
        (401, refusal(1000), False),
        (403, refusal(9109), False),
        (404, refusal(7003), None),
        (429, refusal(10429), None),
        (500, envelope({"status": "active"}), None),
    ],
)
def test_a_credential_is_accepted_refused_or_not_checked(status: int, body: bytes, is_accepted: bool | None) -> None:
    assert is_verified(Reply(status, {}, body)) is is_accepted


# --- Whatever may come ---------------------------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | family,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
lists = st.none() | st.lists(st.sampled_from([A, B, "", "\ud800"]), max_size=3) | anything
entries = st.fixed_dictionaries(
    {},
    optional={
        "id": family | anything,
        "postfix_id": family | anything,
        "delivered": lists,
        "undelivered": lists,
        "failed": lists,
    },
)
errors = st.lists(st.fixed_dictionaries({}, optional={"code": st.sampled_from([6003, 7003]) | anything}) | anything)
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "success": st.just(True) | st.booleans() | anything,
        "errors": errors | anything,
        "messages": anything,
        "result": st.lists(entries | anything, max_size=5) | entries | anything,
    },
)
bodies = st.binary() | (envelopes | anything).map(lambda content: json.dumps(content).encode())
statuses = st.just(200) | st.sampled_from([400, 401, 403, 404, 408, 429, 500]) | st.integers(0, 999)
headers = st.dictionaries(
    st.sampled_from(["retry-after", "cf-ray", "content-type", "ratelimit", "ratelimit-policy"]), st.text()
)
asked = st.lists(family, min_size=1, max_size=4, unique_by=postfix_part)


def was_delivered(content: Any, asked: MessageId) -> bool:
    """Say in other words than the code's whether an answer tells of delivery and of nothing else."""
    if not isinstance(content, dict) or content.get("success") is not True:
        return False
    result = content.get("result")
    own: list[dict[str, Any]] = []
    for entry in result if isinstance(result, list) else [result]:
        if not isinstance(entry, dict):
            continue
        named = [entry.get(member) for member in ("id", "postfix_id")]
        first = next((name for name in named if isinstance(name, str) and len(name) >= 8), "")
        is_same = first.split("-")[0] == asked.split("-")[0]
        second = named[1] if isinstance(named[1], str) and len(named[1]) >= 8 else first
        if is_same and second.split("-")[0] != first.split("-")[0]:
            return False
        if is_same and (first == asked or first.startswith(f"{asked}-") or asked.startswith(f"{first}-")):
            own.append(entry)
    return any(entry.get("delivered") for entry in own) and not any(
        entry.get(member) for entry in own for member in ("undelivered", "failed")
    )


@given(statuses, headers, bodies, asked, st.booleans())
@example(200, {}, envelope([{"id": FULL, "delivered": [A]}, {"postfix_id": BARE, "failed": [B]}]), [FULL], True)
def test_no_answer_leads_to_an_exception_or_to_released_without_proof(
    status: int, headers: dict[str, str], body: bytes, asked: Sequence[MessageId], atomic: bool
) -> None:
    came = classify(Reply(status, headers, body), asked, NOON, bulk_4xx_is_atomic=atomic)
    assert came.evidence == gather_evidence(Reply(status, headers, body))
    assert came.calls == 1
    if isinstance(came, NoEffect):
        is_rejection = came.reason is RefusalReason.CALL_REJECTED
        assert is_rejection or status in (400, 401, 403, 429)
        assert not is_rejection or (atomic and len(asked) > 1 and 400 <= status < 500 and came.evidence.error_codes)
        assert (came.retry_after is not None) == (status == 429)
        return
    assert list(came.verdicts) == list(asked)
    assert came.unasked >= 0
    for each, found in came.verdicts.items():
        assert found.code is None or found.state is not RELEASED
        assert found.message_id is None or not contradict(found.message_id, each)
        if found.state in (RELEASED, State.PARTIAL):
            assert status == 200
            assert found.recipients.counts[0] > 0
        if found.state is RELEASED:
            assert was_delivered(json.loads(body), each)
            assert found.recipients.counts[1:] == (0, 0)
        if found.state is FAILED and found.code is Code.CLOUDFLARE_REJECTED:
            assert 400 <= status < 500
            assert len(asked) == 1


@given(st.lists(family, min_size=1, max_size=3, unique_by=postfix_part), st.data())
def test_what_is_said_of_one_message_says_nothing_of_another(asked: list[MessageId], data: st.DataObject) -> None:
    entries_each = st.lists(entries, max_size=2)  # but an entry that names two messages says something of both
    own = [
        entry | {"id": each, "postfix_id": postfix_part(each)} for each in asked for entry in data.draw(entries_each)
    ]
    mixed = data.draw(st.permutations(own))
    together = answer(200, envelope(mixed), None, *asked)
    assert isinstance(together, Answered)
    for each in asked:
        alone = answer(200, envelope([entry for entry in mixed if entry["id"] == each]), None, each)
        assert isinstance(alone, Answered)
        assert alone.verdicts[each] == together.verdicts[each]


def test_the_time_given_is_the_only_clock() -> None:
    reply = Reply(429, {"retry-after": "Sun, 22 Nov 2026 12:01:00 GMT"}, b"")
    came = classify(reply, [FULL], NOON + timedelta(seconds=50), bulk_4xx_is_atomic=False)
    assert isinstance(came, NoEffect)
    assert came == replace(came, retry_after=10)
