"""Looking up: requests alone and in lists, the trace of a message, and the test of the connection."""

from collections.abc import Callable
from typing import Any

import pytest

from quarantine_release.domain.ids import AccountId, OperationId
from quarantine_release.ledger.table import Table
from quarantine_release.ledger.transactions import DynamoLedger
from tests.support.deployment import (
    ACCOUNT,
    CLOUDFLARE_SECRET,
    GATEWAY_REQUEST_ID,
    INVESTIGATE_ID,
    MESSAGE,
    OTHER_ACCOUNT,
    Deployment,
    path_of,
    set_clock,
)
from tests.support.small_cloudflare import NO_REPLY, RECIPIENT, Reply, delivered
from tools.operations import Person, pause, resume

SECOND = "4WtWkr6nlBz9sNH"


def test_a_request_can_be_looked_up_at_once_and_says_the_same(deployment: Deployment) -> None:
    answer = deployment.post()
    assert deployment.get(path_of(answer)) == answer


def test_a_foreign_request_is_not_there_but_for_who_may_read_all(deployment: Deployment) -> None:
    answer = deployment.post()
    assert (deployment.get(path_of(answer), client="other").status) == 404
    assert deployment.get(path_of(answer), client="auditor").body == answer.body
    assert deployment.get(path_of(answer), client="writer").code == "scope_missing"


@pytest.mark.parametrize(
    "given_id", ["rq_aaaaaaaaaaaaaaaaaaaaaaaaaa", "rq_x", "R%23", "%FF", "%00", "..%2F..", "%2525"]
)
def test_a_request_that_there_is_not_is_not_found(deployment: Deployment, given_id: str) -> None:
    answer = deployment.get(f"/v1/releases/{given_id}")
    assert (answer.status, answer.code) == (404, "not_found")


def test_several_requests_can_be_looked_up_at_once_in_order(deployment: Deployment) -> None:
    first = deployment.post([MESSAGE]).body
    foreign = deployment.post([MESSAGE], client="other").body
    deployment.upstream.answers.append(NO_REPLY)
    opened = deployment.post([SECOND]).body
    ids = [opened["request_id"], first["request_id"], foreign["request_id"], "rq_x"]
    for query in ([("ids", " , ".join(ids))], [("ids", each) for each in ids]):
        answer = deployment.get("/v1/releases", query=query)
        assert answer.status == 200
        assert answer.body["releases"][:2] == [opened, first]
        assert [problem["code"] for problem in answer.body["releases"][2:]] == ["not_found"] * 2
        assert answer.body["open"] == 1


@pytest.mark.parametrize("query", [[], [("ids", "")], [("ids", " , ")], [("ids", ",".join(["rq_x"] * 51))]])
def test_a_list_names_1_to_50_requests(deployment: Deployment, query: list[tuple[str, str]]) -> None:
    answer = deployment.get("/v1/releases", query=query)
    assert (answer.status, answer.code, answer.body["field"]) == (400, "invalid_field", "ids")


def test_a_list_of_50_is_answered(deployment: Deployment) -> None:
    answer = deployment.get("/v1/releases", query=[("ids", ",".join(["rq_x"] * 50))])
    assert len(answer.body["releases"]) == 50


def test_listing_needs_the_scope_to_read(deployment: Deployment) -> None:
    assert deployment.get("/v1/releases", query=[("ids", "rq_x")], client="writer").status == 403


def test_the_trace_shows_every_request_attempt_and_verdict(deployment: Deployment) -> None:
    deployment.upstream.answers.append(lambda sent: Reply(result=delivered(sent).result, headers={"CF-RAY": "ray-1"}))
    trace_header = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
    first = deployment.post({"ids": MESSAGE, "reason": "false positive", "ticket": "INC-1"}, headers=trace_header)
    again = deployment.post({"ids": INVESTIGATE_ID, "requested_by": "Ann"})
    answer = deployment.get(f"/v1/messages/{MESSAGE}")
    assert answer.status == 200
    body = answer.body
    assert (body["id"], body["postfix_id"], body["account_id"]) == (MESSAGE, MESSAGE, ACCOUNT)  # nobody confirmed more
    assert (body["state"], body["delivered"]) == ("RELEASED", [RECIPIENT])
    assert (body["evidence"]["status"], body["evidence"]["cf_ray"]) == (200, "ray-1")
    assert body["released_by"]["request_id"] == first.body["request_id"]
    assert [(each["request_id"], each["outcome"]) for each in body["requests"]] == [
        (first.body["request_id"], "released"),
        (again.body["request_id"], "already_released"),
    ]
    assert (body["requests"][0]["reason"], body["requests"][0]["ticket"]) == ("false positive", "INC-1")
    assert body["requests"][0]["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert body["requests"][1]["requested_by"] == "Ann"
    (attempt,) = body["attempts"]
    assert (attempt["request_id"], attempt["wire_form"]) == (first.body["request_id"], "array")
    assert attempt["verdict"] == {"state": "RELEASED", "code": None}


def test_of_foreign_requests_the_trace_shows_time_and_outcome_unless_all_may_be_read(deployment: Deployment) -> None:
    deployment.post({"ids": MESSAGE, "reason": "only ours"})
    foreign = deployment.get(f"/v1/messages/{MESSAGE}", client="other").body
    assert [request.keys() for request in foreign["requests"]] == [{"at", "outcome"}]
    assert foreign["released_by"]["request_id"] is None
    assert "only ours" not in str(foreign)
    audited = deployment.get(f"/v1/messages/{MESSAGE}", client="auditor").body
    assert (audited["requests"][0]["client"], audited["requests"][0]["reason"]) == ("soar", "only ours")


def test_the_trace_shows_a_call_that_was_refused(deployment: Deployment) -> None:
    deployment.upstream.answers.append(Reply(403))
    deployment.post()
    body = deployment.get(f"/v1/messages/{MESSAGE}").body
    assert (body["state"], body["refusals"], body["released_by"]) == ("RETRYABLE", 1, None)
    assert [(attempt["state"], attempt["evidence"]["status"]) for attempt in body["attempts"]] == [("refused", 403)]
    assert [(request["state"], request["outcome"]) for request in body["requests"]] == [("refused", None)]


def test_the_trace_shows_the_pauses_that_its_requests_may_have_met(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = set_clock(monkeypatch)
    ledger = DynamoLedger(Table(deployment._dynamodb, deployment.environment["TABLE_NAME"], lambda _: None))

    def change(what: Callable[..., object], client: str | None) -> None:
        clock.move(seconds=1)
        at = clock.now
        what(ledger, AccountId(ACCOUNT), client, Person("ann", "a wrong rule", at, OperationId(at.isoformat())))

    change(pause, "soar")
    change(resume, "soar")
    deployment.start_afresh()
    assert deployment.post().status == 200
    for client in ("soar", "nobody", None):
        change(pause, client)
    change(resume, None)
    deployment.aws_calls.clear()
    operations = deployment.get(f"/v1/messages/{MESSAGE}", client="auditor").body["operations"]
    assert [(each["kind"], each["client"]) for each in operations] == [
        ("pause", "soar"),
        ("pause", None),
        ("resume", None),
    ]
    assert {(each["by"], each["reason"]) for each in operations} == {("ann", "a wrong rule")}
    # Message, requests without a claim, requests, attempts, account, operations.
    assert deployment.aws_calls == ["BatchGetItem"] * 6
    shown = deployment.get(f"/v1/messages/{MESSAGE}").body["operations"]
    assert shown == [{"at": each["at"], "kind": each["kind"]} for each in operations]


def test_an_id_may_come_percent_encoded_once(deployment: Deployment) -> None:
    deployment.post([INVESTIGATE_ID])
    encoded = INVESTIGATE_ID.replace(":", "%3A")
    assert deployment.get(f"/v1/messages/{encoded}").body["id"] == INVESTIGATE_ID
    twice = deployment.get(f"/v1/messages/{encoded.replace('%', '%25')}")
    assert (twice.status, twice.code) == (400, "invalid_id")


@pytest.mark.parametrize(
    "given_id",
    [
        "short",
        "%FF%FF%FF%FF%FF%FF%FF%FF",
        f"{MESSAGE}%0A",
        f"M%23{ACCOUNT}",
        "..%2F..%2Fabcd",
        "%3C20261125.1532%40example.net%3E",
        "20261125.1532@example.net",
    ],
)
def test_what_is_no_id_is_told_so(deployment: Deployment, given_id: str) -> None:
    answer = deployment.get(f"/v1/messages/{given_id}")
    assert (answer.status, answer.code, answer.body["field"]) == (400, "invalid_id", "id")


def test_a_message_that_nobody_asked_for_is_not_found(deployment: Deployment) -> None:
    assert deployment.get(f"/v1/messages/{MESSAGE}").code == "not_found"


@pytest.mark.parametrize("given", ["<1.2@example.net>", "1.2@example.net"])
def test_a_message_id_has_no_trace_and_the_answer_says_what_to_send(deployment: Deployment, given: str) -> None:
    told = deployment.get(f"/v1/messages/{given}")
    assert (told.status, told.code, "resolved_id" in told.body["detail"]) == (400, "invalid_id", True)


def test_a_message_is_looked_up_in_the_account_that_is_named(deployment: Deployment) -> None:
    deployment.post()
    path = f"/v1/messages/{MESSAGE}"
    assert deployment.get(path, query=[("account_id", ACCOUNT)]).status == 200
    assert deployment.get(path, query=[("account_id", OTHER_ACCOUNT)]).code == "account_not_allowed"
    assert deployment.get(path, query=[("account_id", "canary")]).code == "invalid_field"
    by_default = deployment.get(path, client="guest")
    assert (by_default.code, "default account" in by_default.body["detail"]) == ("account_not_allowed", True)
    assert deployment.get(path, client="writer").code == "scope_missing"


def test_health_names_the_client_and_what_works(deployment: Deployment) -> None:
    answer = deployment.get("/v1/health", client="admin")
    assert answer.status == 200
    assert answer.body["ok"] is True
    assert (answer.body["client"], answer.body["account_id"]) == ("admin", ACCOUNT)
    assert answer.body["scopes"] == ["force", "read", "read:all", "release"]
    assert answer.body["checks"] == {
        "clients_secret": "ok",
        "cloudflare_secret": "ok",
        "ledger": "ok",
        "releases": "ok",
        "credential": "accepted",
    }
    assert "no permission" in answer.body["note"]
    assert {row["pk"]["S"] for row in deployment.rows()} == {f"A#{ACCOUNT}"}, "its call is counted and nothing else"


def test_health_asks_cloudflare_at_most_once_in_60_seconds(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = set_clock(monkeypatch)
    for _ in range(5):
        assert deployment.get("/v1/health").status == 200
    assert len(deployment.upstream.requests) == 1
    clock.move(seconds=61)
    deployment.get("/v1/health")
    assert len(deployment.upstream.requests) == 2


@pytest.mark.parametrize(
    ("replies", "credential"),
    [([Reply(401), Reply(401)], "refused"), ([Reply(500)], "not_checked"), ([NO_REPLY], "not_checked")],
)
def test_health_says_what_does_not_work(deployment: Deployment, replies: list[Any], credential: str) -> None:
    deployment.upstream.answers.extend(replies)
    answer = deployment.get("/v1/health")
    assert (answer.status, answer.code, answer.body["retryable"]) == (503, "unhealthy", True)
    assert answer.body["checks"]["credential"] == credential
    assert answer.body["client"] == "soar"


def test_health_says_that_the_ledger_does_not_work(deployment: Deployment) -> None:
    deployment.delete_table()
    answer = deployment.get("/v1/health")
    assert (answer.status, answer.body["checks"]["ledger"]) == (503, "failed")


def test_health_makes_no_call_while_none_is_left_and_says_so(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUDGET_CALLS", "1")
    deployment.post()
    answer = deployment.get("/v1/health")
    assert (answer.status, answer.body["checks"]["credential"]) == (503, "not_checked")
    assert answer.body["checks"]["ledger"] == "ok"
    assert answer.body["evidence"]["failure"] == "no_calls_left"
    assert len(deployment.upstream.requests) == 1


def test_health_asks_for_a_call_though_no_inline_one_is_left(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUDGET_INLINE_CALLS", "0")
    assert deployment.get("/v1/health").status == 200


def test_each_of_its_calls_is_counted(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGET_CALLS", "2")
    deployment.upstream.answers.append(Reply(401))
    assert deployment.get("/v1/health").status == 200
    assert len(deployment.upstream.requests) == 2
    assert deployment.post().status == 202
    assert len(deployment.upstream.requests) == 2


def test_a_client_of_one_account_can_check_that_account(deployment: Deployment) -> None:
    second = {"account_id": OTHER_ACCOUNT, "api_token": "cloudflare-secret-canary-2"}
    deployment.put_secret("cloudflare", {"accounts": [CLOUDFLARE_SECRET, second]})
    answer = deployment.get("/v1/health", query=[("account_id", OTHER_ACCOUNT)], client="guest")
    assert (answer.status, answer.body["account_id"]) == (200, OTHER_ACCOUNT)
    assert deployment.get("/v1/health", client="guest").code == "account_not_allowed"


def test_an_error_names_the_gateways_request_so_that_support_can_find_it(deployment: Deployment) -> None:
    assert deployment.get("/v1/releases/rq_x").body["request_id"] == GATEWAY_REQUEST_ID


def make_unreadable(deployment: Deployment, key: str, *, without: tuple[str, ...] = ()) -> None:
    (item,) = deployment.rows(key)
    kept = {name: value for name, value in item.items() if name not in without}
    deployment.put_row({**kept, "v": {"N": "99"}})


@pytest.mark.parametrize(
    ("lost", "client", "status"),
    [
        ((), "soar", 503),
        ((), "auditor", 503),
        ((), "other", 404),
        (("client",), "other", 503),
        (("client", "account_id"), "soar", 503),
    ],
)
def test_a_request_that_cannot_be_read_is_503_for_whoever_may_see_it(
    deployment: Deployment, lost: tuple[str, ...], client: str, status: int
) -> None:
    answer = deployment.post()
    make_unreadable(deployment, f"R#{answer.body['request_id']}", without=lost)
    told = deployment.get(path_of(answer), client=client)
    assert (told.status, told.code) == (status, {503: "ledger_row_unreadable", 404: "not_found"}[status])
    assert "ids" not in told.body
    if status == 503:
        assert (told.body["retryable"], told.headers["Retry-After"]) == (True, "60")


def test_a_message_that_cannot_be_read_is_503_in_every_view_of_it(deployment: Deployment) -> None:
    answer = deployment.post([MESSAGE, SECOND])
    make_unreadable(deployment, f"M#{ACCOUNT}#{MESSAGE}")
    alone = deployment.get(path_of(answer))
    assert (alone.status, alone.code, alone.body["ids"]) == (503, "ledger_row_unreadable", [MESSAGE])
    assert alone.body["request_id"] == answer.body["request_id"]
    nobodys = f"rq_{'a' * 26}"
    listed = deployment.get("/v1/releases", query=[("ids", f"{answer.body['request_id']},{nobodys}")])
    assert (listed.status, listed.body["releases"][0]) == (200, alone.body)
    assert [each["code"] for each in listed.body["releases"]] == ["ledger_row_unreadable", "not_found"]
    assert listed.body["open"] == 1
    trace = deployment.get(f"/v1/messages/{INVESTIGATE_ID}")
    assert (trace.status, trace.code, trace.body["ids"]) == (503, "ledger_row_unreadable", [INVESTIGATE_ID])
    again = deployment.post([MESSAGE])
    assert (again.status, again.code, again.body["ids"]) == (503, "ledger_row_unreadable", [MESSAGE])
    assert {event["key"] for event in deployment.events("row_unreadable")} == {f"M#{ACCOUNT}#{MESSAGE}"}
