"""Lambda, SQS and DynamoDB in simulated time, each as much of it as decides how long a burst takes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any, Final, Generic, TypeVar

from benchmarks.simulated_time import SimulatedTime
from tests.support.model_dynamodb import ModelDynamoDB

COLD_START_SECONDS: Final = 0.7
# A call to DynamoDB, and more for each item of a transaction or a batch; a call to SQS. Most of it is boto3's own work:
# 2 ms a call and 0.2 ms an item on a whole core, of which a function with 512 MB has 0.29.
DYNAMODB_SECONDS, ITEM_SECONDS, SQS_SECONDS = (0.010, 0.015), 0.001, (0.010, 0.020)

Process = TypeVar("Process")


class Function(Generic[Process]):
    """One Lambda function: a process for each event at hand. One that is free is used again, else one starts cold."""

    def __init__(self, time: SimulatedTime, timeout_seconds: float, start: Callable[[], Process]) -> None:
        self.running = 0
        self._time = time
        self._timeout_seconds = timeout_seconds
        self._start = start
        self._free: list[Process] = []

    @contextmanager
    def invocation(self) -> Iterator[tuple[Process, float]]:
        """Give a process and the time at which it is ended. Raises RuntimeError if what ran in it took longer."""
        self.running += 1
        if self._free:
            process = self._free.pop()
        else:
            self._time.sleep(COLD_START_SECONDS)
            process = self._start()
        ends_at = self._time.now + self._timeout_seconds
        yield process, ends_at
        if self._time.now > ends_at:
            raise RuntimeError("Lambda would have ended this process")
        self._free.append(process)
        self.running -= 1


class DynamoDB:
    """The model of DynamoDB, at a distance: half of the time passes before a call takes effect, half after it."""

    def __init__(self, time: SimulatedTime, random: Random) -> None:
        self.model = ModelDynamoDB(checks_sizes=False)
        self._time = time
        self._random = random

    def __getattr__(self, name: str) -> Callable[..., Any]:
        act = getattr(self.model, name)

        def call(**parameters: Any) -> Any:
            seconds = self._random.uniform(*DYNAMODB_SECONDS) + _items(parameters) * ITEM_SECONDS
            self._time.sleep(seconds / 2)
            try:
                return act(**parameters)
            finally:
                self._time.sleep(seconds / 2)

        return call


def _items(parameters: Mapping[str, Any]) -> int:
    """Return how many items a call is about beyond one."""
    keys = [key for wanted in parameters.get("RequestItems", {}).values() for key in wanted["Keys"]]
    return len(parameters.get("TransactItems", keys))


class Sqs:
    """One queue: the sending side as boto3 has it, and what its event source finds."""

    def __init__(self, time: SimulatedTime, random: Random) -> None:
        self._time = time
        self._random = random
        self._messages: list[tuple[float, str]] = []

    def send_message_batch(self, *, QueueUrl: str, Entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:  # noqa: ARG002
        """Take messages that are to be seen after so many seconds each."""
        self._time.sleep(self._random.uniform(*SQS_SECONDS))
        self._messages += [(self._time.now + entry["DelaySeconds"], entry["MessageBody"]) for entry in Entries]
        return {}

    def take(self, limit: int) -> list[str]:
        """Return the bodies of up to so many messages that can be seen, and forget these."""
        taken: list[str] = []
        left = []
        for seen_at, body in self._messages:
            if seen_at <= self._time.now and len(taken) < limit:
                taken.append(body)
            else:
                left.append((seen_at, body))
        self._messages = left
        return taken
