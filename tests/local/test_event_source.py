"""The event source feeds a function from a queue as Lambda does, with real handler processes and a real client."""

import json
import os
import re
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import boto3
import pytest

from local.__main__ import greeting
from local.children import ChildDied
from local.event_source import MAX_EVENT_BYTES, EventSource, RemoteQueue, failed_ids
from local.handlers import HandlerPool
from local.sqs_queue import md5_of
from local.stack import Stack
from local.template import REGION, Function, QueueEvents, Template

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

PATIENCE = 15
VISIBILITY_SECONDS = 1.0
# What a message's body asks for is done when it is received for the first time, or as often as `times` says.
HANDLER = """
    import json, os, time

    def lambda_handler(event, context):
        wishes, size = [json.loads(record["body"]) for record in event["Records"]], len(json.dumps(event))
        for record in event["Records"]:
            record["body"] = record["body"][:200]
        seen = {"event": event, "size": size, "url": os.environ.get("QUEUE_URL")}
        _note({"started": time.time(), "pid": os.getpid(), **seen})
        failures = []
        for record, wish in zip(event["Records"], wishes):
            if int(record["attributes"]["ApproximateReceiveCount"]) > wish.get("times", 1):
                continue
            time.sleep(wish.get("sleep", 0))
            if "raise" in wish:
                raise ValueError("not today")
            if "answer" in wish:
                return wish["answer"]
            if "fail" in wish:
                failures.append({"itemIdentifier": record["messageId"]})
        _note({"ended": time.time(), "pid": os.getpid()})
        return {"batchItemFailures": failures}

    def _note(line):
        # In one piece, since others write here too.
        with open(os.environ["NOTES"], "ab", buffering=0) as notes:
            notes.write(json.dumps(line).encode() + b"\\n")
"""
TEMPLATE = f"""
    Globals:
      Function:
        Timeout: 9
        Environment: {{Variables: {{QUEUE_URL: !Ref ReleaseQueue, NOTES: NOTES_PATH}}}}
    Resources:
      WebhookFunction: {{Type: AWS::Serverless::Function, Properties: {{Handler: stub.lambda_handler}}}}
      ReconcilerFunction: {{Type: AWS::Serverless::Function, Properties: {{Handler: stub.lambda_handler}}}}
      WorkerFunction:
        Type: AWS::Serverless::Function
        Properties:
          Handler: stub.lambda_handler
          Events:
            Hints:
              Type: SQS
              Properties:
                Queue: !GetAtt ReleaseQueue.Arn
                BatchSize: 1000
                MaximumBatchingWindowInSeconds: 1
                FunctionResponseTypes: [ReportBatchItemFailures]
                ScalingConfig: {{MaximumConcurrency: 2}}
      ReleaseQueue: {{Type: AWS::SQS::Queue, Properties: {{VisibilityTimeout: 55}}}}
      OtherQueue: {{Type: AWS::SQS::Queue, Properties: {{VisibilityTimeout: {VISIBILITY_SECONDS}}}}}
      HastyQueue:
        Type: AWS::SQS::Queue
        Properties:
          VisibilityTimeout: 0.3  # AWS knows whole seconds only; here it saves four
          RedrivePolicy: {{deadLetterTargetArn: !GetAtt DeadLetterQueue.Arn, maxReceiveCount: 5}}
      DeadLetterQueue: {{Type: AWS::SQS::Queue}}
      CloudflareSecret: {{Type: AWS::SecretsManager::Secret}}
      ClientsSecret: {{Type: AWS::SecretsManager::Secret}}
"""


class Notes:
    """What the handlers have written down since the test began."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin = path.stat().st_size if path.exists() else 0

    def lines(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open() as notes:
            if self._begin:  # an earlier test's line may have been half written just then
                notes.seek(self._begin - 1)
                notes.readline()
            return [json.loads(line) for line in notes if line.endswith("\n")]

    def batches(self, at_least: int = 0) -> list[dict[str, Any]]:
        """The invocations, once there were so many."""
        _until(lambda: len(self._begun()) >= at_least)
        return self._begun()

    def _begun(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if "event" in line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stack")
    (folder / "stub.py").write_text(textwrap.dedent(HANDLER))
    (folder / "template.yaml").write_text(textwrap.dedent(TEMPLATE).replace("NOTES_PATH", str(folder / "notes")))
    return folder


@pytest.fixture(scope="module")
def stack(folder: Path) -> Iterator[Stack]:
    with Stack({"PORT": "0"}, folder=folder, template=folder / "template.yaml", code=folder, processes=1) as stack:
        yield stack


@pytest.fixture(scope="module")
def pool(folder: Path) -> Iterator[HandlerPool]:
    """Return processes that no event source feeds yet."""
    function = Function("Other", "stub.lambda_handler", 9, 128, {"NOTES": str(folder / "notes")})
    pool = HandlerPool("other", function, environment={}, code=folder, log=folder / "other.log", size=3)
    pool.wait_until_ready()
    yield pool
    pool.stop()


@pytest.fixture(scope="module")
def sqs(stack: Stack) -> Iterator["SQSClient"]:
    client = boto3.client(
        "sqs",
        endpoint_url=stack.aws_url,
        region_name=REGION,
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
    yield client
    client.close()


@pytest.fixture
def url(sqs: "SQSClient") -> str:
    """Return the other queue, empty."""
    for url in sqs.list_queues()["QueueUrls"]:
        sqs.purge_queue(QueueUrl=url)
    return sqs.get_queue_url(QueueName="OtherQueue")["QueueUrl"]


@pytest.fixture
def notes(folder: Path) -> Notes:
    return Notes(folder / "notes")


class TestBatches:
    def test_what_comes_within_the_window_comes_as_one_batch(
        self, stack: Stack, pool: HandlerPool, sqs: "SQSClient", url: str, notes: Notes
    ) -> None:
        with _feeding(stack, pool, window_seconds=0.8):
            sent = [_send(sqs, url, {})]
            first_sent_at = time.time()
            for _ in range(3):
                time.sleep(0.05)
                sent += [_send(sqs, url, {})]
            (batch,) = notes.batches(1)

        assert _ids(batch) == sent
        assert 0.7 < batch["started"] - first_sent_at < 10

    def test_a_full_batch_does_not_wait_for_the_window(
        self, stack: Stack, pool: HandlerPool, sqs: "SQSClient", url: str, notes: Notes
    ) -> None:
        with _feeding(stack, pool, batch_size=5, window_seconds=60):
            sent = {_send(sqs, url, {}) for _ in range(10)}
            batches = notes.batches(2)

        assert [len(_ids(batch)) for batch in batches] == [5, 5]
        assert {each for batch in batches for each in _ids(batch)} == sent

    def test_without_a_window_nothing_waits(
        self, stack: Stack, pool: HandlerPool, sqs: "SQSClient", url: str, notes: Notes
    ) -> None:
        with _feeding(stack, pool, window_seconds=0):
            sent = _send(sqs, url, {})
            sent_at = time.time()
            (batch,) = notes.batches(1)

        assert _ids(batch) == [sent]
        assert batch["started"] - sent_at < 5

    def test_an_event_holds_at_most_six_megabytes(
        self, stack: Stack, pool: HandlerPool, sqs: "SQSClient", url: str, notes: Notes
    ) -> None:
        for _ in range(7):
            _send(sqs, url, {"padding": "x" * (1024 * 1024 - 20)})

        with _feeding(stack, pool, window_seconds=0.2):
            batches = notes.batches(2)

        assert sorted(len(_ids(batch)) for batch in batches) == [2, 5]
        assert all(batch["size"] <= MAX_EVENT_BYTES for batch in batches)

    def test_a_delayed_message_comes_late(
        self, stack: Stack, pool: HandlerPool, sqs: "SQSClient", url: str, notes: Notes
    ) -> None:
        with _feeding(stack, pool):
            sent_at = time.time()
            late = _send(sqs, url, {}, delay_seconds=1)
            soon = _send(sqs, url, {})
            first, second = notes.batches(2)

        assert (_ids(first), _ids(second)) == ([soon], [late])
        assert second["started"] - sent_at >= 1

    def test_no_more_batches_are_at_work_than_the_maximum_concurrency(
        self, stack: Stack, pool: HandlerPool, sqs: "SQSClient", url: str, notes: Notes
    ) -> None:
        for _ in range(6):
            _send(sqs, url, {"sleep": 0.2})
        with _feeding(stack, pool, batch_size=1, maximum_concurrency=2):
            _until(lambda: len(notes.lines()) == 12)

        changes = sorted((line.get("started") or line["ended"], "started" in line) for line in notes.lines())
        at_work = [sum(1 if started else -1 for _, started in changes[: n + 1]) for n in range(12)]
        assert max(at_work) == 2
        assert len({line["pid"] for line in notes.lines()}) > 1

    def test_while_no_process_is_free_nothing_is_taken_from_the_queue(
        self, stack: Stack, pool: HandlerPool, sqs: "SQSClient", url: str, notes: Notes
    ) -> None:
        """Else it would lose its visibility timeout, and in the end land among the dead letters."""
        with _feeding(stack, pool, batch_size=1, maximum_concurrency=1):
            _send(sqs, url, {"sleep": 0.8})
            notes.batches(1)
            waiting = _send(sqs, url, {})
            time.sleep(0.3)
            assert _counts(sqs, url) == (1, 0, 1)
            _, second = notes.batches(2)

        assert _ids(second) == [waiting]
        assert _receive_counts(second) == [1]


class TestOutcomes:
    def test_only_what_is_reported_as_failed_comes_back(
        self, stack: Stack, pool: HandlerPool, sqs: "SQSClient", url: str, notes: Notes
    ) -> None:
        _, failing, _ = (_send(sqs, url, wish) for wish in ({}, {"fail": True}, {}))
        with _feeding(stack, pool):
            first, second = notes.batches(2)
            _until(lambda: _counts(sqs, url) == (0, 0, 0))

        assert (len(_ids(first)), _ids(second), _receive_counts(second)) == (3, [failing], [2])
        assert second["started"] - first["started"] > VISIBILITY_SECONDS / 2
        assert len(notes.batches()) == 2

    @pytest.mark.parametrize(
        "wish",
        [{"raise": True}, {"answer": {"batchItemFailures": [{"itemIdentifier": "of-nobody"}]}}],
        ids=str,
    )
    def test_the_whole_batch_comes_back(
        self, stack: Stack, pool: HandlerPool, sqs: "SQSClient", url: str, notes: Notes, wish: dict[str, Any]
    ) -> None:
        sent = [_send(sqs, url, each) for each in ({}, wish, {})]
        with _feeding(stack, pool):
            first, second = notes.batches(2)
            _until(lambda: _counts(sqs, url) == (0, 0, 0))

        assert sorted(_ids(first)) == sorted(_ids(second)) == sorted(sent)
        assert _receive_counts(second) == [2, 2, 2]

    @pytest.mark.parametrize("answer", [None, {}, {"batchItemFailures": None}, {"batchItemFailures": []}], ids=str)
    def test_the_whole_batch_is_deleted(
        self, stack: Stack, pool: HandlerPool, sqs: "SQSClient", url: str, notes: Notes, answer: object
    ) -> None:
        with _feeding(stack, pool):
            _send(sqs, url, {"answer": answer})
            _until(lambda: _counts(sqs, url) == (0, 0, 0))

        assert len(notes.batches()) == 1

    def test_without_reporting_the_answer_does_not_matter(
        self, stack: Stack, pool: HandlerPool, sqs: "SQSClient", url: str, notes: Notes
    ) -> None:
        with _feeding(stack, pool, reports_failures=False):
            _send(sqs, url, {"fail": True})
            _until(lambda: _counts(sqs, url) == (0, 0, 0))

        assert len(notes.batches()) == 1

    def test_when_a_process_is_killed_at_work_all_its_messages_come_back(
        self, stack: Stack, pool: HandlerPool, sqs: "SQSClient", url: str, notes: Notes
    ) -> None:
        entries: list[Any] = [{"Id": str(n), "MessageBody": json.dumps({"sleep": 2 * (n == 5)})} for n in range(10)]
        answer = sqs.send_message_batch(QueueUrl=url, Entries=entries)
        with _feeding(stack, pool):
            (first,) = notes.batches(1)
            os.kill(first["pid"], signal.SIGKILL)
            _, second = notes.batches(2)
            _until(lambda: _counts(sqs, url) == (0, 0, 0))

        sent = {each["MessageId"] for each in answer["Successful"]}
        assert set(_ids(first)) == set(_ids(second)) == sent
        assert _receive_counts(second) == [2] * 10
        assert second["pid"] != first["pid"]

    def test_after_five_receives_a_message_is_a_dead_letter(
        self, stack: Stack, pool: HandlerPool, sqs: "SQSClient", url: str, notes: Notes
    ) -> None:
        url, dead_url = (url.replace("Other", name) for name in ("Hasty", "DeadLetter"))
        with _feeding(stack, pool, queue="HastyQueue", maximum_concurrency=1):
            sent = _send(sqs, url, {"raise": True, "times": 99})
            _until(lambda: _counts(sqs, dead_url) == (1, 0, 0))

        assert [_receive_counts(batch) for batch in notes.batches()] == [[1], [2], [3], [4], [5]]
        assert _counts(sqs, url) == (0, 0, 0)
        assert sqs.receive_message(QueueUrl=dead_url)["Messages"][0]["MessageId"] == sent

    @pytest.mark.parametrize(
        ("answer", "failed"),
        [
            (None, ""),
            ({}, ""),
            ({"batchItemFailures": None}, ""),
            ({"batchItemFailures": []}, ""),
            ({"batchItemFailures": [{"itemIdentifier": "b"}]}, "b"),
            ({"batchItemFailures": [{"itemIdentifier": "b"}, {"itemIdentifier": "b"}]}, "b"),
            ({"batchItemFailures": [{"itemIdentifier": "c"}, {"itemIdentifier": "a"}]}, "ac"),
            ({"batchItemFailures": [{"itemIdentifier": "b"}, {"itemIdentifier": "x"}]}, "abc"),
            ({"batchItemFailures": [{"itemIdentifier": ""}]}, "abc"),
            ({"batchItemFailures": [{"itemIdentifier": None}]}, "abc"),
            ({"batchItemFailures": [{"itemIdentifier": ["b"]}]}, "abc"),
            ({"batchItemFailures": [{"messageId": "b"}]}, "abc"),
            ({"batchItemFailures": ["b"]}, "abc"),
            ({"batchItemFailures": "b"}, "abc"),
            ({"batchItemFailures": ""}, "abc"),
            ({"batchItemFailures": {}}, "abc"),
            ([], "abc"),
            ("", "abc"),
            (False, "abc"),
        ],
        ids=str,
    )
    def test_an_answer_names_what_has_failed(self, answer: object, failed: str) -> None:
        assert failed_ids(answer, set("abc")) == set(failed)


class TestStop:
    def test_it_stops_at_once_while_it_waits_or_collects(
        self, stack: Stack, pool: HandlerPool, sqs: "SQSClient", url: str, notes: Notes
    ) -> None:
        for count in (0, 1):
            source = EventSource(RemoteQueue(stack.aws, "OtherQueue"), _events(window_seconds=60), pool.submit)
            for _ in range(count):
                _send(sqs, url, {})
            time.sleep(0.2)
            began = time.monotonic()
            source.stop()
            assert time.monotonic() - began < 5

        assert notes.batches() == []

    def test_a_batch_under_way_is_still_settled(
        self, stack: Stack, pool: HandlerPool, sqs: "SQSClient", url: str, notes: Notes
    ) -> None:
        with _feeding(stack, pool, maximum_concurrency=1):
            _send(sqs, url, {"sleep": 4})
            notes.batches(1)
            began = time.monotonic()

        assert time.monotonic() - began < 3
        assert sum(_counts(sqs, url)) == 1
        _until(lambda: _counts(sqs, url) == (0, 0, 0))

    def test_it_ends_quietly_with_the_queue(self) -> None:
        class DeadQueue:
            def receive(self, *_: int) -> list[Any]:
                raise ChildDied

        source = EventSource(cast("RemoteQueue", DeadQueue()), _events(), lambda _: Future())

        source.stop()


class TestStack:
    def test_the_worker_gets_the_event_of_an_sqs_queue(
        self, stack: Stack, sqs: "SQSClient", url: str, notes: Notes
    ) -> None:
        assert stack.queue_url == url.replace("Other", "Release")
        sent_at = time.time()
        sent = sqs.send_message(QueueUrl=stack.queue_url, MessageBody='{"é": 1}')

        (batch,) = notes.batches(1)

        assert batch["event"].keys() == {"Records"}
        (record,) = batch["event"]["Records"]
        attributes = record.pop("attributes")
        assert re.fullmatch(r"\S+", record.pop("receiptHandle"))
        assert record == {
            "messageId": sent["MessageId"],
            "body": '{"é": 1}',
            "messageAttributes": {},
            "md5OfBody": md5_of('{"é": 1}'),
            "eventSource": "aws:sqs",
            "eventSourceARN": f"arn:aws:sqs:{REGION}:123456789012:ReleaseQueue",
            "awsRegion": REGION,
        }
        assert attributes.keys() == {
            "ApproximateReceiveCount", "SentTimestamp", "SenderId", "ApproximateFirstReceiveTimestamp",
        }  # fmt: skip
        assert attributes["ApproximateReceiveCount"] == "1"
        assert int(sent_at * 1000) <= int(attributes["SentTimestamp"])
        assert int(attributes["SentTimestamp"]) <= int(attributes["ApproximateFirstReceiveTimestamp"])
        assert batch["url"] == stack.queue_url

    def test_the_worker_has_as_many_processes_as_its_event_source_may_use(self, stack: Stack) -> None:
        assert len(stack.pids("worker")) == 2
        assert not set(stack.pids("worker")) & {*stack.pids("webhook"), *stack.pids("reconciler")}

    def test_the_greeting_names_the_queue(self, stack: Stack) -> None:
        assert f"  Queue          {stack.queue_url}\n" in greeting(stack)

    def test_a_template_without_a_worker_needs_no_queue(self, folder: Path) -> None:
        template = folder / "without.yaml"
        template.write_text("Resources: {}")

        assert Stack({"PORT": "0"}, template=template).queue_url is None

    def test_a_backlog_of_two_thousand_is_drained(
        self, stack: Stack, pool: HandlerPool, sqs: "SQSClient", url: str, notes: Notes
    ) -> None:
        entries: list[Any] = [
            {"Id": str(n), "MessageBody": json.dumps({"request_id": "rq_" + "x" * 32})} for n in range(10)
        ]
        began = time.monotonic()
        for _ in range(200):
            sqs.send_message_batch(QueueUrl=url, Entries=entries)
        sent = time.monotonic()
        with _feeding(stack, pool, batch_size=1000, window_seconds=1, maximum_concurrency=2):
            _until(lambda: _counts(sqs, url) == (0, 0, 0))
        drained = time.monotonic()

        print(f"2,000 messages: sent through boto3 in {sent - began:.2f} s, drained in {drained - sent:.2f} s")
        sizes = [len(_ids(batch)) for batch in notes.batches()]
        assert sizes == [1000, 1000]
        assert len({each for batch in notes.batches() for each in _ids(batch)}) == 2000


def test_what_the_mapping_does_not_say_is_as_lambda_has_it() -> None:
    document: dict[str, Any] = {
        "Resources": {
            "Q": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "queue"}},
            "Fed": {
                "Type": "AWS::Serverless::Function",
                "Properties": {
                    "Events": {
                        "Often": {"Type": "Schedule", "Properties": {"Schedule": "rate(1 minute)"}},
                        "Hints": {"Type": "SQS", "Properties": {"Queue": {"Fn::GetAtt": ["Q", "Arn"]}}},
                    }
                },
            },
            "NotFed": {"Type": "AWS::Serverless::Function", "Properties": {}},
        }
    }

    assert Template(document).queue_events() == {
        "Fed": QueueEvents("queue", batch_size=10, window_seconds=0, maximum_concurrency=5, reports_failures=False)
    }


def _events(
    *, batch_size: int = 1000, window_seconds: float = 0, maximum_concurrency: int = 3, reports_failures: bool = True
) -> QueueEvents:
    return QueueEvents("OtherQueue", batch_size, window_seconds, maximum_concurrency, reports_failures)


@contextmanager
def _feeding(stack: Stack, pool: HandlerPool, queue: str = "OtherQueue", **settings: Any) -> Iterator[None]:
    """Feed the pool from a queue that the stack leaves alone."""
    source = EventSource(RemoteQueue(stack.aws, queue), _events(**settings), pool.submit)
    try:
        yield
    finally:
        source.stop()


def _send(sqs: "SQSClient", url: str, wish: dict[str, Any], delay_seconds: int = 0) -> str:
    return sqs.send_message(QueueUrl=url, MessageBody=json.dumps(wish), DelaySeconds=delay_seconds)["MessageId"]


def _ids(batch: dict[str, Any]) -> list[str]:
    return [record["messageId"] for record in batch["event"]["Records"]]


def _receive_counts(batch: dict[str, Any]) -> list[int]:
    return [int(record["attributes"]["ApproximateReceiveCount"]) for record in batch["event"]["Records"]]


def _counts(sqs: "SQSClient", url: str) -> tuple[int, int, int]:
    """How many messages are visible, delayed and in flight."""
    names: list[Any] = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "Delayed", "NotVisible")]
    attributes: Any = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    visible, delayed, in_flight = (int(attributes[name]) for name in names)
    return visible, delayed, in_flight


def _until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < deadline, "it has not become true"
        time.sleep(0.02)
