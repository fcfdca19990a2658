"""Our queue delays, hides, counts and redrives as SQS does, and its API refuses what SQS refuses."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError

from local.services import Service, start_embedded_aws
from local.sqs_queue import RECORD_BYTES, Counts, Queue, ReceiptHandleIsInvalid, declared_queues, md5_of
from local.template import REGION, Template

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

NOW = 1_700_000_000.25
MIB = 1024 * 1024
DOCUMENT = {
    "Resources": {
        "ReleaseQueue": {
            "Type": "AWS::SQS::Queue",
            "Properties": {
                "VisibilityTimeout": 1,
                "RedrivePolicy": {
                    "deadLetterTargetArn": {"Fn::GetAtt": ["ReleaseDeadLetterQueue", "Arn"]},
                    "maxReceiveCount": 2,
                },
            },
        },
        "ReleaseDeadLetterQueue": {"Type": "AWS::SQS::Queue"},
    }
}


class TestQueue:
    """The queue alone, its clock in the test's hand."""

    def test_a_message_is_received_as_it_was_sent_and_hidden_from_then_on(self) -> None:
        queue = Queue("q", visibility_seconds=60)
        message_id = queue.send("héllo", NOW)

        (received,) = queue.receive(10, NOW + 1)

        assert (received.message_id, received.body) == (message_id, "héllo")
        assert received.attributes["SentTimestamp"] == "1700000000250"
        assert received.attributes["ApproximateFirstReceiveTimestamp"] == "1700000001250"
        assert received.attributes["ApproximateReceiveCount"] == "1"
        assert queue.receive(10, NOW + 60.9) == []
        assert queue.counts(NOW + 60.9) == Counts(visible=0, delayed=0, in_flight=1)

    def test_what_is_not_deleted_comes_back_after_the_visibility_timeout(self) -> None:
        queue = Queue("q", visibility_seconds=60)
        queue.send("a", NOW)
        (first,) = queue.receive(1, NOW)

        (second,) = queue.receive(1, NOW + 60)

        assert second.message_id == first.message_id
        assert second.receipt_handle != first.receipt_handle
        assert second.attributes["ApproximateReceiveCount"] == "2"
        assert second.attributes["ApproximateFirstReceiveTimestamp"] == "1700000000250"

    def test_a_receive_may_bring_its_own_visibility_timeout(self) -> None:
        queue = Queue("q", visibility_seconds=60)
        queue.send("a", NOW)

        queue.receive(1, NOW, visibility_seconds=5)

        assert not queue.receive(1, NOW + 4.9, visibility_seconds=0)
        assert queue.receive(1, NOW + 5, visibility_seconds=0)
        assert queue.receive(1, NOW + 5)

    def test_a_delayed_message_comes_when_its_time_has_come(self) -> None:
        queue = Queue("q", delay_seconds=20)
        queue.send("later", NOW)
        queue.send("at once", NOW, 0)
        queue.send("last", NOW, 900)

        assert queue.counts(NOW) == Counts(visible=1, delayed=2, in_flight=0)
        assert [each.body for each in queue.receive(10, NOW + 19.9)] == ["at once"]
        assert [each.body for each in queue.receive(10, NOW + 20)] == ["later"]
        assert [each.body for each in queue.receive(10, NOW + 900)] == ["at once", "later", "last"]

    def test_a_deleted_message_never_comes_back(self) -> None:
        queue = Queue("q", visibility_seconds=60)
        for body in "ab":
            queue.send(body, NOW)
        in_time, late = queue.receive(10, NOW)

        queue.delete(in_time.receipt_handle)
        queue.counts(NOW + 60)  # the other is visible again, but has not been received again
        queue.delete(late.receipt_handle)
        queue.delete(late.receipt_handle)

        assert queue.receive(10, NOW + 600) == []
        assert queue.counts(NOW + 600) == Counts(0, 0, 0)

    def test_the_receipt_handle_of_an_earlier_receive_deletes_nothing(self) -> None:
        queue = Queue("q", visibility_seconds=60)
        queue.send("a", NOW)
        (first,) = queue.receive(1, NOW)
        (second,) = queue.receive(1, NOW + 60)

        queue.delete(first.receipt_handle)

        assert queue.counts(NOW + 61).in_flight == 1
        queue.delete(second.receipt_handle)
        assert queue.counts(NOW + 61).in_flight == 0

    @pytest.mark.parametrize("handle", ["", "x", "00000000-0000-0000-0000-000000000000", "é" * 36 + ".1"])
    def test_what_is_no_receipt_handle_is_said_so(self, handle: str) -> None:
        with pytest.raises(ReceiptHandleIsInvalid):
            Queue("q").delete(handle)

    def test_after_so_many_receives_a_message_is_a_dead_letter(self) -> None:
        queue, dead_letters = Queue("q", visibility_seconds=10), Queue("dead")
        queue.redrive_to(dead_letters, 5)
        message_id = queue.send("a", NOW)
        counts = [queue.receive(1, NOW + 10 * turn)[0].attributes["ApproximateReceiveCount"] for turn in range(5)]

        assert counts == ["1", "2", "3", "4", "5"]
        assert dead_letters.counts(NOW + 50) == Counts(0, 0, 0)
        assert queue.receive(1, NOW + 50) == []
        assert queue.counts(NOW + 50) == Counts(0, 0, 0)
        (dead,) = dead_letters.receive(1, NOW + 50)
        assert (dead.message_id, dead.body) == (message_id, "a")
        assert dead.attributes["DeadLetterQueueSourceArn"] == queue.arn
        assert dead.attributes["SentTimestamp"] == "1700000000250"
        assert dead_letters.receive(1, NOW + 9999)
        dead_letters.delete(dead_letters.receive(1, NOW + 99999)[0].receipt_handle)
        assert dead_letters.counts(NOW + 999999) == Counts(0, 0, 0)

    def test_a_dead_letter_makes_room_for_the_next_message(self) -> None:
        queue = Queue("q", visibility_seconds=10)
        queue.redrive_to(Queue("dead"), 1)
        for body in "ab":
            queue.send(body, NOW)
        queue.receive(1, NOW)
        queue.send("c", NOW)
        queue.receive(1, NOW + 1)

        assert [each.body for each in queue.receive(2, NOW + 10)] == ["c"]

    def test_an_event_does_not_grow_beyond_its_limit(self) -> None:
        queue = Queue("q")
        for _ in range(3):
            queue.send("é" * 1000, NOW)

        assert len(queue.receive(10, NOW, max_bytes=2 * (2000 + RECORD_BYTES))) == 2
        assert len(queue.receive(10, NOW, max_bytes=2000 + RECORD_BYTES - 1)) == 0
        assert len(queue.receive(10, NOW)) == 1

    def test_a_purged_queue_is_empty(self) -> None:
        queue = Queue("q")
        for delay in (0, 0, 60):
            queue.send("a", NOW, delay)
        queue.receive(1, NOW)

        queue.purge()

        assert queue.counts(NOW + 999) == Counts(0, 0, 0)

    def test_every_message_goes_to_one_receiver_and_none_is_lost(self) -> None:
        queue = Queue("q")
        received: list[str] = []
        still_sending = [True]

        def send(_: int) -> list[str]:
            return [queue.send("a", NOW) for _ in range(500)]

        def receive(_: int) -> None:
            while (messages := queue.receive(7, NOW)) or still_sending[0]:
                received.extend(each.message_id for each in messages)
                for each in messages[::2]:
                    queue.delete(each.receipt_handle)

        with ThreadPoolExecutor(4) as receivers, ThreadPoolExecutor(4) as senders:
            ends = receivers.map(receive, range(4))
            sent = [each for some in senders.map(send, range(4)) for each in some]
            still_sending[0] = False
            assert list(ends) == [None] * 4

        assert sorted(received) == sorted(sent)

    def test_a_long_backlog_costs_no_more_than_a_short_one(self) -> None:
        queue = Queue("q")
        started = time.monotonic()
        for _ in range(10_000):
            queue.send("a", NOW)
        while messages := queue.receive(10, NOW):
            for each in messages:
                queue.delete(each.receipt_handle)

        assert time.monotonic() - started < 5  # takes 0.3 s, and minutes if a call's cost grew with the queue

    def test_the_template_says_how_a_queue_is(self) -> None:
        queues = declared_queues(Template(DOCUMENT).queues())

        queue = queues["ReleaseQueue"]
        assert (queue.visibility_seconds, queue.delay_seconds, queue.max_receives) == (1, 0, 2)
        assert queue.dead_letters is queues["ReleaseDeadLetterQueue"]
        assert queue.dead_letters.dead_letters is None


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with start_embedded_aws(Template(DOCUMENT), {}, tmp_path_factory.mktemp("aws") / "services.log") as service:
        yield service


@pytest.fixture(scope="module")
def sqs(aws: Service) -> Iterator["SQSClient"]:
    client = boto3.client(
        "sqs",
        endpoint_url=aws.url,
        region_name=REGION,
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"total_max_attempts": 1}),
    )
    yield client
    client.close()


@pytest.fixture
def url(sqs: "SQSClient") -> str:
    for url in sqs.list_queues()["QueueUrls"]:
        sqs.purge_queue(QueueUrl=url)
    return sqs.get_queue_url(QueueName="ReleaseQueue")["QueueUrl"]


class TestApi:
    """The API as boto3 sees it."""

    def test_the_address_is_what_ref_gives_the_functions(self, aws: Service, url: str) -> None:
        template = Template(DOCUMENT)

        assert template.with_queues_at(aws.url).resolve({"Ref": "ReleaseQueue"}) == url
        assert url.startswith(aws.url)
        aws_own = "https://sqs.us-east-1.amazonaws.com/123456789012/ReleaseQueue"
        assert template.resolve({"Fn::Sub": "${ReleaseQueue}"}) == aws_own

    def test_what_is_sent_is_received_and_deleted(self, sqs: "SQSClient", url: str) -> None:
        sent = sqs.send_message(QueueUrl=url, MessageBody="héllo\t\U0001f600")

        (received,) = sqs.receive_message(QueueUrl=url, MessageSystemAttributeNames=["All"])["Messages"]

        assert sent["MD5OfMessageBody"] == received["MD5OfBody"] == md5_of("héllo\t\U0001f600")
        assert (received["MessageId"], received["Body"]) == (sent["MessageId"], "héllo\t\U0001f600")
        assert received["Attributes"]["ApproximateReceiveCount"] == "1"
        assert abs(int(received["Attributes"]["SentTimestamp"]) / 1000 - time.time()) < 10
        sqs.delete_message(QueueUrl=url, ReceiptHandle=received["ReceiptHandle"])
        assert _counts(sqs, url) == (0, 0, 0)

    def test_attributes_are_shown_only_if_asked_for(self, sqs: "SQSClient", url: str) -> None:
        sqs.send_message(QueueUrl=url, MessageBody="a")
        (bare,) = sqs.receive_message(QueueUrl=url, VisibilityTimeout=0)["Messages"]
        (asked,) = sqs.receive_message(QueueUrl=url, AttributeNames=["SentTimestamp"])["Messages"]

        assert "Attributes" not in bare
        assert asked["Attributes"].keys() == {"SentTimestamp"}

    def test_a_batch_is_sent_received_and_deleted(self, sqs: "SQSClient", url: str) -> None:
        entries: list[Any] = [
            {"Id": f"id-{n}_", "MessageBody": str(n), "DelaySeconds": 60 * (n > 7)} for n in range(10)
        ]
        answer = sqs.send_message_batch(QueueUrl=url, Entries=entries)

        assert [each["Id"] for each in answer["Successful"]] == [entry["Id"] for entry in entries]
        assert answer["Successful"][3]["MD5OfMessageBody"] == md5_of("3")
        assert "Failed" not in answer  # as SQS leaves it out
        assert _counts(sqs, url) == (8, 2, 0)
        messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
        assert [each["Body"] for each in messages] == list("01234567")
        assert _counts(sqs, url) == (0, 2, 8)
        handles: list[Any] = [{"Id": str(n), "ReceiptHandle": each["ReceiptHandle"]} for n, each in enumerate(messages)]
        deleted = sqs.delete_message_batch(QueueUrl=url, Entries=[*handles, {"Id": "x", "ReceiptHandle": "nonsense"}])
        assert [each["Id"] for each in deleted["Successful"]] == list("01234567")
        assert [(each["Id"], each["Code"]) for each in deleted["Failed"]] == [("x", "ReceiptHandleIsInvalid")]
        assert _counts(sqs, url) == (0, 2, 0)

    def test_an_empty_queue_answers_without_messages_when_the_wait_is_over(self, sqs: "SQSClient", url: str) -> None:
        started = time.monotonic()
        assert "Messages" not in sqs.receive_message(QueueUrl=url)
        assert time.monotonic() - started < 5
        assert "Messages" not in sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1)
        assert time.monotonic() - started >= 1

    def test_a_long_poll_ends_with_the_first_message_and_holds_nobody_up(self, sqs: "SQSClient", url: str) -> None:
        sender = threading.Timer(0.2, lambda: sqs.send_message(QueueUrl=url, MessageBody="a"))
        sender.start()
        started = time.monotonic()

        assert sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20)["Messages"]
        assert 0.2 <= time.monotonic() - started < 5
        sender.join()

    def test_a_message_received_too_often_waits_among_the_dead_letters(self, sqs: "SQSClient", url: str) -> None:
        sqs.send_message(QueueUrl=url, MessageBody="a")
        for _ in range(2):
            assert sqs.receive_message(QueueUrl=url, VisibilityTimeout=0)["Messages"]

        assert "Messages" not in sqs.receive_message(QueueUrl=url)

        dead_url = sqs.get_queue_url(QueueName="ReleaseDeadLetterQueue")["QueueUrl"]
        assert _counts(sqs, dead_url) == (1, 0, 0)
        (dead,) = sqs.receive_message(QueueUrl=dead_url, MessageSystemAttributeNames=["All"])["Messages"]
        assert dead["Attributes"]["DeadLetterQueueSourceArn"].endswith(":ReleaseQueue")

    def test_a_queue_tells_its_settings(self, sqs: "SQSClient", url: str) -> None:
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]

        dead_letter_arn = f"arn:aws:sqs:{REGION}:123456789012:ReleaseDeadLetterQueue"
        assert attributes["VisibilityTimeout"] == "1"
        assert attributes["QueueArn"] == f"arn:aws:sqs:{REGION}:123456789012:ReleaseQueue"
        assert json.loads(attributes["RedrivePolicy"]) == {"deadLetterTargetArn": dead_letter_arn, "maxReceiveCount": 2}
        assert not sqs.get_queue_attributes(QueueUrl=url).get("Attributes")

    @pytest.mark.parametrize(
        ("entries", "error"),
        [
            ([], "EmptyBatchRequest"),
            ([{"Id": str(n), "MessageBody": "a"} for n in range(11)], "TooManyEntriesInBatchRequest"),
            ([{"Id": "a", "MessageBody": "a"}] * 2, "BatchEntryIdsNotDistinct"),
            ([{"Id": "", "MessageBody": "a"}], "InvalidBatchEntryId"),
            ([{"Id": "a.b", "MessageBody": "a"}], "InvalidBatchEntryId"),
            ([{"Id": "a\n", "MessageBody": "a"}], "InvalidBatchEntryId"),
            ([{"Id": "a" * 81, "MessageBody": "a"}], "InvalidBatchEntryId"),
            ([{"Id": str(n), "MessageBody": "é" * (MIB // 4)} for n in (1, 2)] + [{"Id": "3", "MessageBody": "a"}],
             "BatchRequestTooLong"),
        ],
    )  # fmt: skip
    def test_a_batch_that_breaks_a_rule_is_refused_whole(
        self, sqs: "SQSClient", url: str, entries: list[Any], error: str
    ) -> None:
        with pytest.raises(getattr(sqs.exceptions, error)) as refusal:
            sqs.send_message_batch(QueueUrl=url, Entries=entries)

        assert refusal.value.response["Error"]["Code"] == f"AWS.SimpleQueueService.{error}"
        assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
        assert _counts(sqs, url) == (0, 0, 0)

    def test_the_largest_batch_is_taken(self, sqs: "SQSClient", url: str) -> None:
        entries: list[Any] = [{"Id": "a" * 80, "MessageBody": "a" * (MIB - 2)}, {"Id": "b", "MessageBody": "é"}]

        assert len(sqs.send_message_batch(QueueUrl=url, Entries=entries)["Successful"]) == 2

    def test_an_entry_that_breaks_a_rule_is_refused_alone(self, sqs: "SQSClient", url: str) -> None:
        bad: dict[str, Any] = {
            "none": {"MessageBody": ""},
            "zero": {"MessageBody": "a\0b"},
            "ffff": {"MessageBody": "\uffff"},
            "long": {"MessageBody": "a", "DelaySeconds": 901},
            "past": {"MessageBody": "a", "DelaySeconds": -1},
        }
        entries: list[Any] = [{"Id": name, **entry} for name, entry in bad.items()]
        entries.insert(2, {"Id": "good", "MessageBody": "a", "DelaySeconds": 900})

        answer = sqs.send_message_batch(QueueUrl=url, Entries=entries)

        assert [each["Id"] for each in answer["Successful"]] == ["good"]
        assert {each["Id"]: (each["Code"], each["SenderFault"]) for each in answer["Failed"]} == {
            "none": ("MissingParameter", True),
            "zero": ("InvalidMessageContents", True),
            "ffff": ("InvalidMessageContents", True),
            "long": ("InvalidParameterValue", True),
            "past": ("InvalidParameterValue", True),
        }
        assert "Successful" not in sqs.send_message_batch(QueueUrl=url, Entries=entries[:1])
        assert _counts(sqs, url) == (0, 1, 0)

    @pytest.mark.parametrize(
        ("call", "code"),
        [
            (lambda sqs, url: sqs.send_message(QueueUrl=url + "x", MessageBody="a"), "NonExistentQueue"),
            (lambda sqs, _: sqs.get_queue_url(QueueName="None"), "NonExistentQueue"),
            (lambda sqs, url: sqs.receive_message(QueueUrl=url.replace("1234", "4321")), "NonExistentQueue"),
            (lambda sqs, _: sqs.create_queue(QueueName="Other"), "UnsupportedOperation"),
            (lambda sqs, url: sqs.send_message(QueueUrl=url, MessageBody="a" * (MIB + 1)), "InvalidParameterValue"),
            (lambda sqs, url: sqs.send_message(QueueUrl=url, MessageBody=""), "MissingParameter"),
            (lambda sqs, url: sqs.send_message(QueueUrl=url, MessageBody="\v"), "InvalidMessageContents"),
            (lambda sqs, url: sqs.send_message(QueueUrl=url, MessageBody="a", DelaySeconds=901), "InvalidParameterV"),
            (lambda sqs, url: sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=11), "InvalidParameterValue"),
            (lambda sqs, url: sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=0), "InvalidParameterValue"),
            (lambda sqs, url: sqs.receive_message(QueueUrl=url, WaitTimeSeconds=21), "InvalidParameterValue"),
            (lambda sqs, url: sqs.receive_message(QueueUrl=url, VisibilityTimeout=43201), "InvalidParameterValue"),
            (lambda sqs, url: sqs.delete_message(QueueUrl=url, ReceiptHandle="x"), "ReceiptHandleIsInvalid"),
        ],
    )
    def test_errors_are_named_as_sqs_names_them(
        self, sqs: "SQSClient", url: str, call: Callable[[Any, str], object], code: str
    ) -> None:
        with pytest.raises(ClientError, match=code):
            call(sqs, url)

        assert _counts(sqs, url) == (0, 0, 0)

    @pytest.mark.parametrize("body", [b"", b"[]", b"{", b"Action=SendMessage", b'{"QueueUrl": 5}', b"\xff"])
    def test_what_is_no_call_is_a_400(self, aws: Service, body: bytes) -> None:
        headers = {
            "Authorization": "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/sqs/aws4_request",
            "X-Amz-Target": "AmazonSQS.SendMessage",
        }

        answer = requests.post(aws.url, body, headers=headers, timeout=10)

        assert answer.status_code == 400
        assert answer.json()["__type"].startswith("com.amazonaws.sqs#")


def _counts(sqs: "SQSClient", url: str) -> tuple[int, int, int]:
    names: list[Any] = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "Delayed", "NotVisible")]
    attributes: Any = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    visible, delayed, in_flight = (int(attributes[name]) for name in names)
    return visible, delayed, in_flight
