"""Hints on SQS: both ends of their format, what is sent in how many calls, and what a queue that fails comes to."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from quarantine_release import telemetry
from quarantine_release.aws.hint_queue import ReleaseQueue, decode, encode
from quarantine_release.domain.ids import RequestId
from quarantine_release.releasing.ports import Hint

REQUEST_ID = RequestId("rq_" + "a" * 26)
request_ids = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=26, max_size=26).map(
    lambda name: RequestId(f"rq_{name}")
)
hints = st.builds(Hint, request_ids, st.none() | st.integers(0, 99))


def lost() -> list[float]:
    """Return how many hints were counted as lost, time by time."""
    found = telemetry.metrics.metric_set.get("HintsLost")
    return list(found["Value"]) if found else []


# --- The format ------------------------------------------------------------------------------------------------------


@given(hints)
def test_what_is_sent_is_understood(hint: Hint) -> None:
    assert decode({"messageId": "1", "body": encode(hint)}) == hint


def test_a_hint_names_a_request_and_a_chunk_and_nothing_else() -> None:
    assert json.loads(encode(Hint(REQUEST_ID, 3))) == {"v": 1, "request_id": REQUEST_ID, "chunk": 3}
    assert json.loads(encode(Hint(REQUEST_ID))) == {"v": 1, "request_id": REQUEST_ID, "chunk": None}


def test_members_that_are_not_known_do_no_harm() -> None:
    assert decode({"body": json.dumps({"v": 1, "request_id": REQUEST_ID, "sent_by": "later"})}) == Hint(REQUEST_ID)


NO_CHUNKS: list[Any] = [-1, 100, 10**30, 0.0, 1.5, True, "0", [], {}]


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"body": None},
        {"body": 5},
        {"body": ""},
        {"body": "hello"},
        {"body": "null"},
        {"body": "[]"},
        {"body": f'"{REQUEST_ID}"'},
        {"body": "{}"},
        {"body": "[" * 100_000},
        {"body": "9" * 5_000},
        {"body": json.dumps({"request_id": REQUEST_ID, "chunk": 0})},
        {"body": json.dumps({"v": 2, "request_id": REQUEST_ID, "chunk": 0})},
        {"body": json.dumps({"v": "1", "request_id": REQUEST_ID, "chunk": 0})},
        {"body": json.dumps({"v": None, "request_id": REQUEST_ID, "chunk": 0})},
        *(
            {"body": json.dumps({"v": 1, "request_id": name, "chunk": 0})}
            for name in (None, 7, "", "rq_", "R#" + REQUEST_ID, REQUEST_ID + "\n", REQUEST_ID.upper(), [REQUEST_ID])
        ),
        *({"body": json.dumps({"v": 1, "request_id": REQUEST_ID, "chunk": chunk})} for chunk in NO_CHUNKS),
        {"body": json.dumps({"v": 1, "chunk": 0})},
        {"body": json.dumps({"Records": [{"eventSource": "aws:s3"}]})},
    ],
)
def test_what_is_no_hint_is_none(record: dict[str, Any]) -> None:
    assert decode(record) is None


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(REQUEST_ID),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
likely = st.fixed_dictionaries(
    {}, optional={"v": st.just(1) | anything, "request_id": st.just(REQUEST_ID) | anything, "chunk": anything}
)


@given(st.text() | (anything | likely).map(json.dumps) | st.integers() | st.none())
def test_whatever_stands_in_the_queue_is_a_hint_or_none(body: Any) -> None:
    found = decode({"messageId": "1", "body": body})
    if found is not None:
        assert decode({"body": encode(found)}) == found


# --- Sending ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def sqs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield boto3.client("sqs", region_name="us-east-1")


def received(sqs: Any, url: str) -> list[Hint | None]:
    """Receive all that is there."""
    found: list[Hint | None] = []
    while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        found += [decode({"body": message["Body"]}) for message in messages]
    return found


def test_hints_of_any_number_arrive_once_each(sqs: Any) -> None:
    url = sqs.create_queue(QueueName="hints")["QueueUrl"]
    sent = [Hint(REQUEST_ID, chunk) for chunk in range(25)]
    ReleaseQueue(sqs, url).send(sent)
    arrived = received(sqs, url)
    assert len(arrived) == 25
    assert set(arrived) == set(sent)
    assert lost() == []


def test_a_queue_that_is_not_there_loses_hints_and_raises_nothing(sqs: Any) -> None:
    ReleaseQueue(sqs, "https://sqs.us-east-1.amazonaws.com/123456789012/gone").send([Hint(REQUEST_ID)])
    assert lost() == [1]


class Sqs:
    """Takes batches as it is told: refuses single entries, or fails as a whole."""

    def __init__(self, *answers: list[str] | Exception) -> None:
        self._answers = iter(answers)
        self.batches: list[list[dict[str, Any]]] = []

    def send_message_batch(self, **arguments: Any) -> dict[str, Any]:
        assert arguments.keys() == {"QueueUrl", "Entries"}
        assert arguments["QueueUrl"] == "the queue"
        self.batches.append(arguments["Entries"])
        answer = next(self._answers, [])
        if isinstance(answer, Exception):
            raise answer
        return {"Successful": []} | ({"Failed": [{"Id": name} for name in answer]} if answer else {})

    def send(self, number: int, delay: float = 0.0) -> None:
        ReleaseQueue(self, "the queue").send([Hint(REQUEST_ID, chunk) for chunk in range(number)], delay)  # type: ignore[arg-type]


@pytest.mark.parametrize(("number", "batches"), [(0, []), (1, [1]), (10, [10]), (11, [10, 1]), (25, [10, 10, 5])])
def test_ten_hints_are_one_call(number: int, batches: list[int]) -> None:
    sqs = Sqs()
    sqs.send(number)
    assert [len(entries) for entries in sqs.batches] == batches
    for entries in sqs.batches:
        assert len({entry["Id"] for entry in entries}) == len(entries)
        assert {entry["DelaySeconds"] for entry in entries} == {0}
        assert all(entry.keys() == {"Id", "MessageBody", "DelaySeconds"} for entry in entries)
    told = [json.loads(entry["MessageBody"])["chunk"] for entries in sqs.batches for entry in entries]
    assert told == list(range(number))


@pytest.mark.parametrize(("delay", "seconds"), [(0.0, 0), (0.1, 1), (1.0, 1), (76.2, 77), (900, 900), (3600.0, 900)])
def test_a_delay_is_in_whole_seconds_never_less_than_asked_for_and_never_more_than_sqs_takes(
    delay: float, seconds: int
) -> None:
    sqs = Sqs()
    sqs.send(2, delay)
    assert [[entry["DelaySeconds"] for entry in entries] for entries in sqs.batches] == [[seconds] * 2]


def test_what_is_refused_of_a_batch_is_lost_and_the_rest_is_sent() -> None:
    sqs = Sqs(["0", "7"], [], ["1"])
    sqs.send(25)
    assert len(sqs.batches) == 3
    assert lost() == [2, 1]


def test_a_whole_batch_that_is_refused_entry_by_entry_keeps_nothing_back() -> None:
    sqs = Sqs([str(number) for number in range(10)], [])
    sqs.send(15)
    assert len(sqs.batches) == 2
    assert lost() == [10]


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "AWS.SimpleQueueService.NonExistentQueue"}}, "SendMessageBatch"),
        ConnectTimeoutError(endpoint_url="sqs"),
    ],
)
def test_from_a_queue_that_does_not_answer_nothing_more_is_wanted(error: Exception) -> None:
    sqs = Sqs([], error)
    sqs.send(1000)
    assert len(sqs.batches) == 2
    assert lost() == [990]


def test_a_last_batch_that_fails_is_lost_as_well() -> None:
    sqs = Sqs([], ConnectTimeoutError(endpoint_url="sqs"))
    sqs.send(20)
    assert lost() == [10]


def test_an_error_of_ours_is_not_taken_for_a_failing_queue() -> None:
    with pytest.raises(KeyError):
        Sqs(KeyError("ours")).send(1)
