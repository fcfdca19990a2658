"""The example events, each fed to its handler. Their token is a placeholder, whose hash only these tests know."""

import json
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from quarantine_release import reconciler, worker
from tests.support.deployment import INVESTIGATE_ID, MESSAGE, Context, Deployment, client_entry, sqs_record
from tests.support.small_cloudflare import NO_REPLY

EVENTS = {path.stem: path for path in (Path(__file__).parent.parent.parent / "events").glob("*.json")}
OF_WORKER, OF_RECONCILER = {"hints"}, {"schedule"}
TOKEN = "example-token-that-opens-nothing"


def event(name: str) -> dict[str, Any]:
    return dict(json.loads(EVENTS[name].read_text()))


@pytest.fixture
def webhook(deployment: Deployment) -> Deployment:
    """Return the deployment, knowing the placeholder."""
    deployment.put_secret("clients", {"clients": [client_entry("soar", TOKEN)]})
    return deployment


def test_one_message_is_released(webhook: Deployment) -> None:
    answer = webhook.handle(event("one_message"))
    assert (answer.status, answer.body["released_ids"]) == (200, [MESSAGE])
    assert json.loads(webhook.upstream.requests[0].body) == [MESSAGE]


def test_several_messages_are_released_in_two_calls_and_once(webhook: Deployment) -> None:
    answer = webhook.handle(event("several_messages"))
    assert (answer.status, answer.body["counts"]["released"], answer.body["ok"]) == (200, 3, True)
    assert len(webhook.upstream.requests) == 2
    assert webhook.handle(event("several_messages")).body == answer.body | {"replayed": True}
    assert len(webhook.upstream.requests) == 2


def test_the_invalid_one_is_told_what_is_wrong(webhook: Deployment) -> None:
    answer = webhook.handle(event("invalid"))
    assert (answer.status, answer.code, answer.body["field"]) == (400, "invalid_field", "force")
    assert answer.body["detail"] == "force must be true or false."
    assert webhook.is_untouched


def test_the_unauthenticated_one_is_nobodys(webhook: Deployment) -> None:
    answer = webhook.handle(event("unauthenticated"))
    assert (answer.status, answer.code) == (401, "unauthenticated")
    assert webhook.is_untouched


@pytest.mark.parametrize(
    ("name", "base_url"),
    [
        ("with_stage", "https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com/live"),
        ("with_base_path", "https://security.example.com/mail"),
    ],
)
def test_what_stands_before_the_path_stands_before_the_location_too(
    webhook: Deployment, name: str, base_url: str
) -> None:
    webhook.upstream.answers.append(NO_REPLY)
    answer = webhook.handle(event(name))
    assert answer.status == 202
    assert answer.headers["Location"] == f"{base_url}/v1/releases/{answer.body['request_id']}"


def test_a_percent_encoded_id_is_found(webhook: Deployment) -> None:
    assert webhook.handle(event("percent_encoded_id")).status == 404
    webhook.handle(event("one_message"))
    answer = webhook.handle(event("percent_encoded_id"))
    assert (answer.status, answer.body["postfix_id"]) == (200, MESSAGE)
    assert INVESTIGATE_ID.replace(":", "%3A") in event("percent_encoded_id")["path"]


def test_hints_good_twice_foreign_and_malformed_are_all_acknowledged(webhook: Deployment) -> None:
    asked = webhook.handle(event("respond_async"))
    assert (asked.status, asked.headers["Preference-Applied"]) == (202, "respond-async")
    good, again, foreign, malformed = event("hints")["Records"]
    (sent,) = webhook.hints
    assert (
        json.loads(good["body"]) == json.loads(again["body"]) == {name: sent[name] for name in sent.keys() - {"delay"}}
    )
    assert json.loads(foreign["body"])["request_id"] != asked.body["request_id"]
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(malformed["body"])
    for _ in range(2):
        assert worker.lambda_handler(event("hints"), Context(60)) == {"batchItemFailures": []}
    assert [sent.ids for sent in webhook.upstream.releases] == [["4Njp3P0STMz2c02Q", "4WtWkr6nlBz9sNH"]]
    assert webhook.handle(event("respond_async")).body["counts"]["released"] == 2


def test_without_the_ledger_all_but_the_malformed_one_are_delivered_again(webhook: Deployment) -> None:
    webhook.delete_table()
    *good, _ = event("hints")["Records"]
    assert worker.lambda_handler(event("hints"), Context(60)) == {
        "batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in good]
    }


def test_what_was_taken_on_can_be_cancelled(webhook: Deployment) -> None:
    assert webhook.handle(event("cancel")).status == 404
    asked = webhook.handle(event("respond_async"))
    answer = webhook.handle(event("cancel"))
    assert (answer.status, answer.body["counts"]["cancelled"]) == (200, 2)
    assert answer.body["request_id"] == asked.body["request_id"]
    worker.lambda_handler(event("hints"), Context(60))
    assert not webhook.upstream.requests


def test_the_schedule_runs_the_reconciler(webhook: Deployment) -> None:
    summary: dict[str, int] = reconciler.lambda_handler(event("schedule"), Context(55))
    assert summary == {"attempts": 0, "settled": 0, "requests": 0, "hints": 0}
    assert webhook.is_untouched


def test_every_event_is_fed_to_the_handler_here() -> None:
    source = Path(__file__).read_text()
    assert EVENTS
    assert [name for name in EVENTS if f'"{name}"' not in source] == []


def test_a_record_of_the_queue_is_as_whole_as_a_real_one() -> None:
    """The members: Lambda developer guide, "Example Amazon SQS message event"."""
    made = sqs_record("{}", "message-1")
    for record in (*event("hints")["Records"], made):
        assert record.keys() == made.keys()
        assert record["attributes"].keys() == made["attributes"].keys()
        assert record["md5OfBody"] == md5(record["body"].encode(), usedforsecurity=False).hexdigest()
    assert len({record["messageId"] for record in event("hints")["Records"]}) == 4


def test_the_schedule_is_as_whole_as_a_real_one() -> None:
    """The members: EventBridge user guide, "Structure of events"."""
    content = event("schedule")
    assert content.keys() == {
        "version",
        "id",
        "detail-type",
        "source",
        "account",
        "time",
        "region",
        "resources",
        "detail",
    }
    assert (content["source"], content["detail-type"], content["detail"]) == ("aws.events", "Scheduled Event", {})


@pytest.mark.parametrize("name", sorted(EVENTS.keys() - OF_WORKER - OF_RECONCILER))
def test_an_event_is_as_whole_as_a_real_one(name: str) -> None:
    """The members: API Gateway developer guide, "Input format of a Lambda function for proxy integration"."""
    content = event(name)
    assert content.keys() == {
        "resource",
        "path",
        "httpMethod",
        "headers",
        "multiValueHeaders",
        "queryStringParameters",
        "multiValueQueryStringParameters",
        "pathParameters",
        "stageVariables",
        "requestContext",
        "body",
        "isBase64Encoded",
    }
    assert content["requestContext"].keys() >= {
        "accountId",
        "apiId",
        "domainName",
        "identity",
        "path",
        "requestId",
        "stage",
    }
    assert content["requestContext"]["httpMethod"] == content["httpMethod"]
    assert content["headers"] == {header: values[-1] for header, values in content["multiValueHeaders"].items()}
    assert content["headers"].get("Authorization") == (None if name == "unauthenticated" else f"Bearer {TOKEN}")
