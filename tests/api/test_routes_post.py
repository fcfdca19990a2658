"""Releasing: what POST /v1/releases answers, replays and fails on, and what Cloudflare receives for it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from quarantine_release import wiring
from tests.support.deployment import (
    ACCOUNT,
    API_TOKEN,
    CLOUDFLARE_SECRET,
    INVESTIGATE_ID,
    MESSAGE,
    OTHER_ACCOUNT,
    Deployment,
    path_of,
    set_clock,
)
from tests.support.small_cloudflare import NO_REPLY, RECIPIENT, Reply, Sent, delivered

SECOND = "4WtWkr6nlBz9sNH"
KEY = [("Idempotency-Key", "key-1")]
BASE_URL = "https://abc123.execute-api.us-east-1.amazonaws.com"
FORCED = {"ids": MESSAGE, "force": True, "reason": "delivered to the wrong folder"}


def only(*recipients: str) -> Callable[[Sent], Reply]:
    """Let Cloudflare tell that these could not be delivered to."""
    return lambda sent: delivered(sent, delivered=[], undelivered=list(recipients), failed=[])


def partly(sent: Sent) -> Reply:
    return delivered(sent, delivered=[RECIPIENT], undelivered=["bob@example.com"], failed=["eve@example.com"])


def test_a_release_is_answered_with_the_recipients(deployment: Deployment) -> None:
    answer = deployment.post([MESSAGE])
    assert answer.status == 200
    assert "Location" not in answer.headers
    result = answer.result
    assert result.pop("updated_at").endswith("Z")
    assert result == {
        "id": MESSAGE,
        "outcome": "released",
        "delivered": [RECIPIENT],
        "undelivered": [],
        "failed": [],
        "code": None,
        "retryable": False,
        "released_by": None,
        "attempts": 1,
    }
    assert answer.body["request_id"].startswith("rq_")
    assert {name: answer.body[name] for name in ("status", "outcome", "ok", "released_ids", "not_released_ids")} == {
        "status": "completed",
        "outcome": "released",
        "ok": True,
        "released_ids": [MESSAGE],
        "not_released_ids": [],
    }
    assert (answer.body["replayed"], answer.body["warnings"]) == (False, [])


def test_cloudflare_receives_the_documented_request(deployment: Deployment) -> None:
    deployment.post([MESSAGE])
    deployment.post({"ids": [SECOND + "-2024-01-05T10:00:00-1"]})
    first, second = deployment.upstream.requests
    for sent in (first, second):
        assert sent.path == f"/client/v4/accounts/{ACCOUNT}/email-security/investigate/release"
        assert sent.headers["authorization"] == f"Bearer {API_TOKEN}"
        assert sent.headers["content-type"] == "application/json"
    assert json.loads(first.body) == [MESSAGE]
    assert json.loads(second.body) == {"ids": [f"{SECOND}-2024-01-05T10:00:00-1"]}


def test_a_message_is_released_once_whoever_asks_under_whatever_shape_of_its_id(deployment: Deployment) -> None:
    first = deployment.post([MESSAGE])
    again = deployment.post([INVESTIGATE_ID], client="other")
    assert (again.status, again.body["ok"], again.result["outcome"]) == (200, True, "already_released")
    assert again.result["released_by"] == {"request_id": None, "at": first.result["updated_at"]}
    assert len(deployment.upstream.requests) == 1


def test_both_shapes_in_one_request_are_two_calls_and_one_answer_in_the_order_given(deployment: Deployment) -> None:
    full = f"{SECOND}-2024-01-05T10:00:00-1"
    answer = deployment.post({"ids": f"{full},{MESSAGE},{SECOND}"})
    assert [result["id"] for result in answer.body["results"]] == [full, MESSAGE, SECOND]
    assert {result["outcome"] for result in answer.body["results"]} == {"released"}
    assert sorted(sent.ids for sent in deployment.upstream.requests) == [[MESSAGE], [full]]


def test_unknown_members_are_warned_of(deployment: Deployment) -> None:
    assert deployment.post({"ids": MESSAGE, "severity": "high"}).body["warnings"] == [
        "Unknown member ignored: severity"
    ]


def test_partial_delivery_is_told_per_recipient(deployment: Deployment) -> None:
    deployment.upstream.answers.append(partly)
    answer = deployment.post()
    assert (answer.status, answer.body["outcome"], answer.body["ok"]) == (200, "partial", False)
    assert answer.result["outcome"] == "partially_released"
    assert (answer.result["delivered"], answer.result["undelivered"], answer.result["failed"]) == (
        [RECIPIENT],
        ["bob@example.com"],
        ["eve@example.com"],
    )


def test_a_rejection_is_an_end_and_says_its_code(deployment: Deployment) -> None:
    deployment.upstream.answers.append(Reply(404, error_code=1002))
    answer = deployment.post()
    assert (answer.status, answer.body["outcome"], answer.body["ok"]) == (200, "none", False)
    assert (answer.result["outcome"], answer.result["code"]) == ("failed", "cloudflare_rejected")
    assert deployment.post().result["outcome"] == "released"


def test_an_id_that_contradicts_what_is_known_is_not_sent(deployment: Deployment) -> None:
    deployment.post([INVESTIGATE_ID])
    answer = deployment.post([INVESTIGATE_ID.replace("12345678", "87654321")])
    assert (answer.result["outcome"], answer.result["code"]) == ("needs_review", "id_conflict")
    assert len(deployment.upstream.requests) == 1


def test_what_is_not_known_is_202_with_the_place_where_it_will_be_told(deployment: Deployment) -> None:
    deployment.upstream.answers.append(NO_REPLY)
    answer = deployment.post()
    assert (answer.status, answer.body["status"], answer.body["outcome"]) == (202, "in_progress", "pending")
    assert answer.body["ok"] is None
    assert (answer.result["outcome"], answer.result["code"]) == ("unconfirmed", "no_answer")
    assert answer.headers["Location"] == BASE_URL + path_of(answer)
    assert answer.headers["Retry-After"] == "5"
    looked_up = deployment.get(path_of(answer))
    assert looked_up == answer
    again = deployment.post()
    assert (again.status, again.result["outcome"]) == (202, "unconfirmed")
    assert len(deployment.upstream.requests) == 1


def test_a_refused_credential_is_503_and_leaves_nothing_that_could_be_released_later(deployment: Deployment) -> None:
    deployment.upstream.answers.append(Reply(403))
    answer = deployment.post(headers=KEY)
    assert (answer.status, answer.code) == (503, "cloudflare_credentials_refused")
    assert (answer.body["retryable"], answer.headers["Retry-After"]) == (True, "60")
    assert [row["state"]["S"] for row in deployment.rows("R")] == ["REFUSED"]
    request_id = deployment.rows("R")[0]["pk"]["S"].removeprefix("R#")
    assert deployment.get(f"/v1/releases/{request_id}").status == 404
    again = deployment.post(headers=KEY)
    assert (again.status, again.body["request_id"], again.result["outcome"]) == (200, request_id, "released")


def test_a_new_credential_is_taken_up_when_cloudflare_refuses_the_old_one(deployment: Deployment) -> None:
    deployment.post([SECOND])
    deployment.put_secret("cloudflare", CLOUDFLARE_SECRET | {"api_token": "cloudflare-secret-canary-2"})
    deployment.upstream.answers.append(Reply(401))
    assert deployment.post([MESSAGE]).result["outcome"] == "released"
    tokens = [sent.headers["authorization"].split()[1] for sent in deployment.upstream.requests]
    assert tokens == [API_TOKEN, API_TOKEN, "cloudflare-secret-canary-2"]


def test_a_call_that_is_made_again_with_a_new_credential_counts_twice(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUDGET_CALLS", "2")
    wiring.accounts().get()
    deployment.put_secret("cloudflare", CLOUDFLARE_SECRET | {"api_token": "cloudflare-secret-canary-2"})
    deployment.upstream.answers.append(Reply(401))
    assert deployment.post([MESSAGE]).status == 200
    assert len(deployment.upstream.releases) == 2
    assert deployment.post([SECOND]).status == 202
    assert len(deployment.upstream.releases) == 2


def test_a_rate_limit_leaves_the_request_open(deployment: Deployment) -> None:
    deployment.upstream.answers.append(Reply(429, headers={"Retry-After": "77"}))
    answer = deployment.post()
    assert (answer.status, answer.result["outcome"]) == (202, "in_progress")


def test_a_rate_limit_is_told_to_who_forces_as_nobody_comes_back_for_it(deployment: Deployment) -> None:
    deployment.post()
    deployment.upstream.answers.append(Reply(429, headers={"Retry-After": "77"}))
    answer = deployment.post(FORCED, client="admin", headers=KEY)
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "cloudflare_rate_limited", "77")


def test_too_little_time_leaves_the_request_open_and_is_told_to_who_forces(deployment: Deployment) -> None:
    forced = deployment.post(FORCED, client="admin", headers=KEY, seconds_left=10)
    assert (forced.status, forced.code, forced.headers["Retry-After"]) == (503, "not_enough_time", "5")
    assert deployment.is_untouched
    answer = deployment.post(seconds_left=10)
    assert (answer.status, answer.result["outcome"]) == (202, "in_progress")
    assert not deployment.upstream.requests


def test_force_releases_again_what_had_been_released(deployment: Deployment) -> None:
    deployment.post()
    answer = deployment.post(FORCED, client="admin", headers=KEY)
    assert (answer.status, answer.result["outcome"], answer.result["attempts"]) == (200, "released", 2)
    assert len(deployment.upstream.requests) == 2
    assert deployment.post(FORCED, client="admin", headers=KEY).body["replayed"] is True
    assert len(deployment.upstream.requests) == 2


def test_a_release_takes_two_round_trips_to_the_ledger_and_a_replay_one(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one more where calls are bought of the account's budget, in blocks that hold for a second."""
    set_clock(monkeypatch)
    deployment.post([SECOND])  # the secrets are cached from here on
    for body, headers, calls in (
        ([MESSAGE], KEY, ["UpdateItem", *["TransactWriteItems"] * 2]),
        ([MESSAGE], KEY, ["TransactWriteItems"]),
        ([MESSAGE], [], ["TransactWriteItems"] * 2),
        ([INVESTIGATE_ID], [], ["TransactWriteItems"] * 2),
    ):
        deployment.aws_calls.clear()
        assert deployment.post(body, headers=headers).status == 200
        assert deployment.aws_calls == calls


@pytest.mark.parametrize("second_key", ['"key-1"', "key-1"])
def test_the_same_key_again_is_the_same_answer(deployment: Deployment, second_key: str) -> None:
    first = deployment.post(headers=KEY)
    again = deployment.post({"postfix_id": MESSAGE}, headers=[("idempotency-key", second_key)])
    assert again.status == 200
    assert again.body == first.body | {"replayed": True}
    assert len(deployment.upstream.requests) == 1


def test_the_same_key_again_while_open_is_202_again(deployment: Deployment) -> None:
    deployment.upstream.answers.append(NO_REPLY)
    first = deployment.post(headers=KEY)
    again = deployment.post(headers=KEY)
    assert (again.status, again.headers["Location"]) == (202, first.headers["Location"])
    assert again.body["replayed"] is True


def test_the_same_key_of_another_client_is_another_request(deployment: Deployment) -> None:
    first = deployment.post(headers=KEY)
    other = deployment.post(headers=KEY, client="other")
    assert other.body["request_id"] != first.body["request_id"]
    assert (other.body["replayed"], other.result["outcome"]) == (False, "already_released")


def test_a_webhook_id_is_a_key_too(deployment: Deployment) -> None:
    first = deployment.post(headers=[("webhook-id", "msg-1")])
    assert deployment.post(headers=[("webhook-id", "msg-1")]).body == first.body | {"replayed": True}


@pytest.mark.parametrize(
    ("fail_on", "reply", "status"),
    [
        ("never", only("bob@example.com"), 200),
        ("none", only("bob@example.com"), 400),
        ("none", partly, 200),
        ("partial", partly, 400),
        ("partial", delivered, 200),
        ("none", NO_REPLY, 202),
    ],
)
def test_fail_on_decides_the_status_also_when_looked_up_and_replayed(
    deployment: Deployment, fail_on: str, reply: Any, status: int
) -> None:
    deployment.upstream.answers.append(reply)
    body = {"ids": MESSAGE, "fail_on": fail_on}
    first = deployment.post(body, headers=KEY)
    looked_up = deployment.get(path_of(first))
    replayed = deployment.post(body, headers=KEY)
    listed = deployment.get("/v1/releases", query=[("ids", first.body["request_id"])]).body["releases"]
    assert [first.status, looked_up.status, replayed.status] == [status] * 3
    assert looked_up.body == first.body
    assert listed == [first.body]
    assert replayed.body == first.body | {"replayed": True}
    if status == 400:
        assert (first.code, first.body["ok"], first.body["retryable"]) == ("release_incomplete", False, False)
        assert first.body["detail"] == first.body["message"]
        assert first.result["id"] == MESSAGE


def test_a_named_account_is_the_one_that_is_called(deployment: Deployment) -> None:
    second = {"account_id": OTHER_ACCOUNT, "api_email": "ops@example.com", "api_key": "cloudflare-secret-canary-key"}
    deployment.put_secret("cloudflare", {"accounts": [CLOUDFLARE_SECRET, second]})
    assert deployment.post({"ids": MESSAGE, "account_id": OTHER_ACCOUNT}).status == 200
    assert deployment.post([MESSAGE], client="guest").status == 403
    assert deployment.post({"ids": [MESSAGE], "account_id": OTHER_ACCOUNT}, client="guest").status == 200
    (sent,) = deployment.upstream.requests
    assert f"/accounts/{OTHER_ACCOUNT}/" in sent.path
    assert (sent.headers["x-auth-email"], sent.headers["x-auth-key"]) == ("ops@example.com", second["api_key"])
    assert "authorization" not in sent.headers


def test_an_account_that_is_newer_than_the_copy_of_the_secret_is_known_at_once(deployment: Deployment) -> None:
    assert deployment.post().status == 200
    both = {"accounts": [CLOUDFLARE_SECRET, {"account_id": OTHER_ACCOUNT, "api_token": "another-cloudflare-token"}]}
    deployment.put_secret("cloudflare", both)
    answer = deployment.post({"ids": MESSAGE, "account_id": OTHER_ACCOUNT})
    assert (answer.status, answer.result["outcome"]) == (200, "released")
    assert OTHER_ACCOUNT in deployment.upstream.releases[1].path


# --- What is not released while the caller waits ---------------------------------------------------------------------

ASYNC = [("Prefer", "respond-async")]


def many(number: int) -> list[str]:
    return [f"4Njp3P0STMz{each:05}" for each in range(number)]


@pytest.mark.parametrize(("number", "chunks"), [(26, 1), (98, 1), (99, 2), (1000, 11)])
def test_more_than_25_ids_are_left_to_the_worker(deployment: Deployment, number: int, chunks: int) -> None:
    answer = deployment.post(many(number))
    assert (answer.status, answer.body["status"], answer.body["outcome"]) == (202, "in_progress", "pending")
    assert answer.headers["Location"] == BASE_URL + path_of(answer)
    assert answer.headers["Retry-After"] == "5"
    assert "Preference-Applied" not in answer.headers
    assert answer.body["counts"]["in_progress"] == number
    assert not deployment.upstream.requests
    request_id = answer.body["request_id"]
    assert deployment.hints == [{"v": 1, "request_id": request_id, "chunk": n, "delay": 0} for n in range(chunks)]
    assert {row["pk"]["S"] for row in deployment.rows()} == {f"R#{request_id}"}


def test_the_worker_then_releases_them_and_the_trace_tells_for_whom(deployment: Deployment) -> None:
    asked = deployment.post({"ids": many(30), "ticket": "INC-1"})
    assert deployment.get(path_of(asked)) == asked
    assert deployment.work() == {"batchItemFailures": []}
    told = deployment.get(path_of(asked))
    assert (told.status, told.body["status"], told.body["ok"]) == (200, "completed", True)
    assert told.body["released_ids"] == many(30)
    assert [sent.ids for sent in deployment.upstream.releases] == [many(30)]
    trace = deployment.get(f"/v1/messages/{many(30)[7]}").body
    assert [each["request_id"] for each in trace["requests"]] == [asked.body["request_id"]]
    assert trace["released_by"]["request_id"] == asked.body["request_id"]
    deployment.work()
    assert len(deployment.upstream.releases) == 1


def test_while_open_the_outcomes_so_far_are_told(deployment: Deployment) -> None:
    ids = many(26)
    deployment.post(ids[:2], client="other")
    asked = deployment.post(ids)
    told = deployment.get(path_of(asked))
    assert (told.status, told.body["ok"]) == (202, None)
    assert (told.body["counts"]["already_released"], told.body["counts"]["in_progress"]) == (2, 24)
    assert told.body["released_ids"] == ids[:2]
    deployment.work()
    assert deployment.get(path_of(asked)).body["counts"]["released"] == 24
    assert [len(sent.ids) for sent in deployment.upstream.releases] == [2, 24]


@pytest.mark.parametrize(
    "headers",
    [
        [("Prefer", "respond-async")],
        [("prefer", "Respond-Async")],
        [("PREFER", "respond-async, wait=10")],
        [("Prefer", "wait=10, respond-async")],
        [("Prefer", "return=minimal"), ("Prefer", "respond-async")],
        [("Prefer", "respond-async"), ("prefer", "handling=lenient")],
    ],
)
def test_who_prefers_not_to_wait_need_not(deployment: Deployment, headers: list[tuple[str, str]]) -> None:
    asked = deployment.post([MESSAGE], headers=headers)
    assert (asked.status, asked.result["outcome"]) == (202, "in_progress")
    assert asked.headers["Preference-Applied"] == "respond-async"
    assert asked.headers["Location"] == BASE_URL + path_of(asked)
    assert not deployment.upstream.requests
    deployment.work()
    told = deployment.get(path_of(asked))
    assert (told.status, told.result["outcome"]) == (200, "released")
    assert "Preference-Applied" not in told.headers


def test_another_preference_changes_nothing(deployment: Deployment) -> None:
    answer = deployment.post([MESSAGE], headers=[("Prefer", "wait=10, return=minimal")])
    assert answer.status == 200
    assert "Preference-Applied" not in answer.headers
    assert deployment.hints == []


def test_a_forced_release_is_done_at_once_whatever_the_caller_prefers(deployment: Deployment) -> None:
    deployment.post()
    answer = deployment.post(FORCED, client="admin", headers=[*KEY, *ASYNC])
    assert (answer.status, answer.result["outcome"]) == (200, "released")
    assert "Preference-Applied" not in answer.headers
    assert deployment.hints == []


def test_the_same_key_again_is_the_same_request_however_it_is_to_be_answered(deployment: Deployment) -> None:
    first = deployment.post(headers=[*KEY, *ASYNC])
    again = deployment.post(headers=KEY)
    assert (again.status, again.body["replayed"]) == (202, True)
    assert again.headers["Location"] == first.headers["Location"]
    assert not deployment.upstream.requests
    deployment.work()
    assert deployment.post(headers=KEY).result["outcome"] == "released"
    assert len(deployment.upstream.releases) == 1


def test_messages_that_many_want_are_released_in_one_call_for_who_asked_first(deployment: Deployment) -> None:
    asked = [
        deployment.post([*many(3), many(9)[number]], client=client, headers=ASYNC)
        for number, client in ((5, "soar"), (6, "other"), (7, "admin"))
    ]
    deployment.work()
    assert [sorted(sent.ids) for sent in deployment.upstream.releases] == [[*many(3), *many(9)[5:8]]]
    clients = ("soar", "other", "admin")
    told = [deployment.get(path_of(each), client=name) for each, name in zip(asked, clients, strict=True)]
    assert [each.body["counts"]["released"] for each in told] == [4, 1, 1]
    assert [each.body["counts"]["already_released"] for each in told] == [0, 3, 3]
    first = asked[0].body["request_id"]
    assert {each["released_by"]["request_id"] for each in told[2].body["results"][:3]} == {first}


def test_while_the_inline_calls_are_used_up_requests_are_left_to_the_worker(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUDGET_INLINE_CALLS", "1")
    assert deployment.post([MESSAGE]).status == 200
    asked = deployment.post([SECOND])
    assert (asked.status, asked.result["outcome"]) == (202, "in_progress")
    assert "Preference-Applied" not in asked.headers
    assert len(deployment.upstream.releases) == 1
    deployment.work()
    assert deployment.get(path_of(asked)).result["outcome"] == "released"


def test_what_was_released_already_is_found_by_who_looks_it_up_though_no_call_is_left(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUDGET_INLINE_CALLS", "1")
    deployment.post([MESSAGE])
    answer = deployment.post([MESSAGE])
    assert (answer.status, answer.body["counts"]["in_progress"]) == (202, 1)
    assert deployment.get(path_of(answer)).result["outcome"] == "already_released"


def test_while_all_calls_are_used_up_the_worker_waits_and_who_forces_is_told(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = set_clock(monkeypatch)
    monkeypatch.setenv("BUDGET_CALLS", "1")
    deployment.post([MESSAGE])
    asked = deployment.post([SECOND])
    assert asked.status == 202
    forced = deployment.post(FORCED, client="admin", headers=KEY)
    assert (forced.status, forced.code) == (503, "cloudflare_rate_limited")
    assert 300 <= int(forced.headers["Retry-After"]) <= 360
    assert deployment.work() == {"batchItemFailures": []}
    assert 300 <= deployment.hints[-1]["delay"] <= 360
    assert len(deployment.upstream.releases) == 1
    clock.move(seconds=deployment.hints[-1]["delay"])
    deployment.work()
    assert deployment.get(path_of(asked)).result["outcome"] == "released"


def test_after_a_429_nothing_is_called_until_the_time_is_over(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = set_clock(monkeypatch)
    deployment.upstream.answers.append(Reply(429, headers={"Retry-After": "77"}))
    asked = [deployment.post([MESSAGE]), deployment.post([SECOND]), deployment.post(many(30))]
    assert [answer.status for answer in asked] == [202, 202, 202]
    deployment.start_afresh()
    assert deployment.post(FORCED, client="admin", headers=KEY).headers["Retry-After"] == "77"
    assert deployment.work() == {"batchItemFailures": []}
    assert len(deployment.upstream.releases) == 1
    assert [hint["delay"] for hint in deployment.hints] == [0, 0, 0, 77, 77, 77]
    clock.move(seconds=78)
    deployment.work()
    told = [deployment.get(path_of(answer)) for answer in asked]
    assert [answer.status for answer in told] == [200, 200, 200]
    assert sorted(each for sent in deployment.upstream.releases[1:] for each in sent.ids) == sorted(
        [MESSAGE, SECOND, *many(30)]
    )


def test_calls_that_are_told_to_be_few_are_spared(deployment: Deployment) -> None:
    headers = {"Ratelimit": '"default";r=3;t=60', "Ratelimit-Policy": '"default";q=1200;w=300'}
    deployment.upstream.answers.append(lambda sent: Reply(result=delivered(sent).result, headers=headers))
    assert deployment.post([MESSAGE]).status == 200
    assert deployment.post([SECOND]).status == 202
    assert len(deployment.upstream.releases) == 1


def test_a_queue_that_fails_is_no_reason_to_say_no_and_the_sweep_finds_what_was_taken_on(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = set_clock(monkeypatch)
    deployment.delete_queue()
    asked = deployment.post(many(99))
    assert (asked.status, asked.headers["Location"]) == (202, BASE_URL + path_of(asked))
    assert [event["hints"] for event in deployment.events("hints_lost")] == [2]
    deployment.create_queue()
    deployment.hints.clear()
    clock.move(seconds=60)
    assert deployment.reconcile()["hints"] == 0
    clock.move(seconds=61)
    assert deployment.reconcile()["hints"] == 2
    assert [hint["chunk"] for hint in deployment.hints] == [0, 1]


def test_a_rejected_call_for_several_ids_proves_nothing_of_each(deployment: Deployment) -> None:
    deployment.upstream.answers.append(Reply(400, error_code=7003))
    answer = deployment.post([MESSAGE, SECOND])
    assert (answer.status, answer.body["counts"]["unconfirmed"]) == (202, 2)
    assert {result["code"] for result in answer.body["results"]} == {"call_rejected"}
    deployment.work()
    assert len(deployment.upstream.releases) == 1


def test_a_rejected_call_is_made_again_in_smaller_ones_where_it_is_known_to_have_had_no_effect(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BULK_4XX_IS_ATOMIC", "true")
    deployment.upstream.answers += [Reply(400, error_code=7003), Reply(404, error_code=7003)]
    answer = deployment.post([MESSAGE, SECOND])
    assert (answer.status, answer.body["counts"]["in_progress"]) == (202, 2)
    deployment.work()
    assert [sent.ids for sent in deployment.upstream.releases] == [[MESSAGE, SECOND], [MESSAGE], [SECOND]]
    told = deployment.get(path_of(answer))
    assert [(each["outcome"], each["code"]) for each in told.body["results"]] == [
        ("failed", "cloudflare_rejected"),
        ("released", None),
    ]


def test_recipients_are_counted_and_named_nowhere_where_they_are_not_wanted(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEP_RECIPIENTS", "false")
    deployment.upstream.answers.append(lambda sent: delivered(sent, delivered=[RECIPIENT], failed=["b@example.com"]))
    answers = [deployment.post(), deployment.get(f"/v1/messages/{MESSAGE}")]
    result = answers[0].result
    assert (result["outcome"], result["code"]) == ("partially_released", "partly_delivered")
    assert [result[name] for name in ("delivered", "undelivered", "failed")] == [[], [], []]
    assert result["recipient_counts"] == {"delivered": 1, "undelivered": 0, "failed": 1}
    assert RECIPIENT not in str([answers, deployment.rows()])
    deployment.upstream.answers.append(Reply(429))
    assert deployment.post([SECOND]).result["outcome"] == "in_progress"


def test_who_forces_is_told_that_his_call_was_rejected(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULK_4XX_IS_ATOMIC", "true")
    deployment.post([MESSAGE, SECOND])
    deployment.upstream.answers.append(Reply(400, error_code=7003))
    answer = deployment.post({**FORCED, "ids": [MESSAGE, SECOND]}, client="admin", headers=KEY)
    assert (answer.status, answer.code, answer.body["retryable"]) == (400, "cloudflare_call_rejected", False)
    assert deployment.hints == []
    assert deployment.post([MESSAGE]).result["outcome"] == "already_released"
