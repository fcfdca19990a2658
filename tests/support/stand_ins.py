"""What stands around the use case in tests: a clock that is set, a Cloudflare that remembers, rows to vary."""

import hmac
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from quarantine_release.api.event import HttpRequest
from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.details import Details, NotRead, Several, Unclear
from quarantine_release.domain.guard import NO_GUARD, Guard
from quarantine_release.domain.ids import AccountId, AttemptId, MessageId, PostfixPart, RequestId
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.lookup import Question
from quarantine_release.domain.rows import RequestRow, RequestState, WireForm
from quarantine_release.domain.states import State
from quarantine_release.domain.transitions import Terms
from quarantine_release.domain.verdicts import (
    Answered,
    Evidence,
    NoEffect,
    ReadBack,
    ReadBackTarget,
    Recipients,
    Stop,
    Verdict,
)
from quarantine_release.ledger.table import Table
from quarantine_release.ledger.transactions import DynamoLedger
from quarantine_release.releasing.call import make_call
from quarantine_release.releasing.claim import Claims
from quarantine_release.releasing.ports import Budget, Hint, Ports
from quarantine_release.releasing.progress import Progress
from quarantine_release.usecases.release_queued import Batch, release_hinted

ACCOUNT = AccountId("a" * 32)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
TERMS = Terms(lease=timedelta(seconds=90), settle=timedelta(seconds=120), retention=timedelta(days=400))
BARE = MessageId("4Njp3P0STMz2c02Q")
FULL = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00-12345678")
OTHER = MessageId("4WtWkr6nlBz9sNH")
DELIVERED = Verdict(State.RELEASED, None, Recipients.of(["a@example.com"]))
OK = Evidence(200, (), "ray-1")


def http_request(
    headers: Mapping[str, tuple[str, ...]], body: bytes | None, query: Mapping[str, tuple[str, ...]] | None = None
) -> HttpRequest:
    """Return a request for a release, as API Gateway hands it over."""
    return HttpRequest("POST", "/v1/releases", headers, query or {}, body, "https://localhost", "gateway-1")


def sign(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a request, as Standard Webhooks writes it."""
    content = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{b64encode(hmac.digest(key, content, 'sha256')).decode()}"


def ids(number: int, start: int = 0) -> list[MessageId]:
    """Return distinct ids of as many messages."""
    return [MessageId(f"4Njp3P0STMz2c{each:04d}") for each in range(start, start + number)]


def request_row(*ids: str, name: str = "one", **members: Any) -> RequestRow:
    """Make an open request for these ids."""
    known: dict[str, Any] = {
        "request_id": RequestId(f"rq_{name}"),
        "client": "soar",
        "account_id": ACCOUNT,
        "fingerprint": f"payload of {name}",
        "nonce": f"nonce of {name}",
        "ids": tuple(map(MessageId, ids or (BARE,))),
        "created_at": NOON,
        "state": RequestState.OPEN,
    }
    return RequestRow(**(known | members))


@dataclass
class Clock:
    """A clock that moves a millisecond whenever it is read, and as far as it is told."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now

    def move(self, **ahead: float) -> None:
        self.now += timedelta(**ahead)


@dataclass
class RememberingCloudflare:
    """A Cloudflare that delivers everything, but for what it is told to answer next."""

    calls: list[tuple[WireForm, list[MessageId]]] = field(default_factory=list)
    answers: deque[Answered | NoEffect | Callable[[Sequence[MessageId]], Answered]] = field(default_factory=deque)

    def release(
        self,
        account_id: AccountId,  # noqa: ARG002
        wire_form: WireForm,
        ids: Sequence[MessageId],
        seconds: float,  # noqa: ARG002
    ) -> Answered | NoEffect:
        self.calls.append((wire_form, list(ids)))
        answer = self.answers.popleft() if self.answers else None
        if answer is None:
            return Answered({each: replace(DELIVERED, message_id=each) for each in ids}, OK)
        return answer if isinstance(answer, Answered | NoEffect) else answer(ids)


@dataclass
class RememberingReader:
    """Reads what it was given to read."""

    readings: dict[PostfixPart, ReadBack] = field(default_factory=dict)
    wanted: list[ReadBackTarget] = field(default_factory=list)

    def read(
        self,
        account_id: AccountId,  # noqa: ARG002
        wanted: Sequence[ReadBackTarget],
        seconds: float,  # noqa: ARG002
        budget: Budget,  # noqa: ARG002
    ) -> Mapping[PostfixPart, ReadBack]:
        self.wanted += wanted
        return {one.part: self.readings[one.part] for one in wanted if one.part in self.readings}


@dataclass
class RememberingLookup:
    """Knows the messages that it was told of, by their ids and Message-IDs."""

    messages: dict[MessageId, Details | Several | NotRead] = field(default_factory=dict)
    answers: dict[MessageId, Sequence[Details] | NotRead | Unclear] = field(default_factory=dict)
    looked: list[MessageId] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)

    def find(
        self,
        account_id: AccountId,  # noqa: ARG002
        questions: Sequence[Question],
        seconds: float,  # noqa: ARG002
        budget: Budget,  # noqa: ARG002
        mark: Mark,  # noqa: ARG002
    ) -> Mapping[Question, Sequence[Details] | NotRead | Unclear]:
        self.questions += questions
        return {question: self.answers[question.header] for question in questions if question.header in self.answers}

    def look(
        self,
        account_id: AccountId,  # noqa: ARG002
        ids: Sequence[MessageId],
        seconds: float,  # noqa: ARG002
        budget: Budget,  # noqa: ARG002
        mark: Mark,  # noqa: ARG002
    ) -> Mapping[MessageId, Details | Several | NotRead]:
        self.looked += ids
        return {each: self.messages[each] for each in ids if each in self.messages}


@dataclass
class RememberingBudget:
    """Lets every call pass, but for the waits it was given."""

    waits: deque[float] = field(default_factory=deque)
    taken: list[Mark] = field(default_factory=list)
    put_back_calls: int = 0
    heard_of: list[Answered | NoEffect] = field(default_factory=list)
    paused: float = 0.0
    renewal: float = 0.0
    used_up: float = 0.0
    stops: dict[str, Stop] = field(default_factory=dict)

    def take(self, account_id: AccountId, mark: Mark) -> float:  # noqa: ARG002
        wait = self.waits.popleft() if self.waits else self.paused
        if not wait:
            self.taken.append(mark)
        return wait

    def pause_left(self, account_id: AccountId) -> float:  # noqa: ARG002
        return self.paused

    def active_pause(self, account_id: AccountId, client: str) -> Stop | None:  # noqa: ARG002
        return self.stops.get("*") or self.stops.get(client)

    def reserve(self, account_id: AccountId, mark: Mark) -> "RememberingReservation":
        return RememberingReservation(self, account_id, mark)

    def wait_for(self, account_id: AccountId, calls: int) -> float:  # noqa: ARG002
        return max(self.paused, self.used_up)

    def heard(self, account_id: AccountId, called: Answered | NoEffect) -> None:  # noqa: ARG002
        self.heard_of.append(called)


@dataclass
class RememberingReservation:
    """Counts with its budget whether the call was put back."""

    budget: RememberingBudget
    account_id: AccountId = ACCOUNT
    mark: Mark = Mark.ALL
    is_taken: bool = False

    def take(self) -> float:
        wait = 0.0 if self.is_taken else self.budget.take(self.account_id, self.mark)
        self.is_taken = not wait
        return wait

    def use(self) -> float:
        wait = self.budget.renewal
        self.is_taken = self.is_taken and bool(wait)
        return wait

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.budget.put_back_calls += self.is_taken


class UnreadableBudget(RememberingBudget):
    """The ledger does not tell how many calls are left."""

    def take(self, account_id: AccountId, mark: Mark) -> float:  # noqa: ARG002
        raise LedgerUnavailable("ThrottlingException")


@dataclass
class RememberingQueue:
    """Keeps the hints until they are taken."""

    sent: list[tuple[Hint, float]] = field(default_factory=list)

    def send(self, hints: Sequence[Hint], delay: float = 0.0) -> None:
        self.sent += [(hint, delay) for hint in hints]

    def taken(self) -> list[Hint]:
        hints, self.sent = [hint for hint, _ in self.sent], []
        return hints


@dataclass
class World:
    """One table, one Cloudflare, one clock."""

    dynamodb: Any
    clock: Clock = field(default_factory=Clock)
    cloudflare: RememberingCloudflare = field(default_factory=RememberingCloudflare)
    reader: RememberingReader = field(default_factory=RememberingReader)
    budget: RememberingBudget = field(default_factory=RememberingBudget)
    queue: RememberingQueue = field(default_factory=RememberingQueue)
    lookup: RememberingLookup = field(default_factory=RememberingLookup)
    guard: Guard = NO_GUARD
    seconds_left: Iterable[float] = ()

    def __post_init__(self) -> None:
        self.table = Table(self.dynamodb, "ledger", lambda _: None)
        self.ledger = DynamoLedger(self.table)
        self._attempts = 0

    def ports(self, **members: Any) -> Ports:
        left = iter(self.seconds_left)
        known: dict[str, Any] = {
            "ledger": self.ledger,
            "cloudflare": self.cloudflare,
            "reader": self.reader,
            "budget": self.budget,
            "queue": self.queue,
            "terms": TERMS,
            "clock": self.clock,
            "time_left": lambda: next(left, 20.0),
            "new_attempt_id": self._new_attempt_id,
            "lookup": self.lookup,
            "guard": self.guard,
            "pause": lambda seconds: self.clock.move(seconds=seconds),
        }
        return Ports(**(known | members))

    def work(self, **ports: Any) -> Batch:
        """Be the worker for all hints that were sent."""
        return release_hinted(self.queue.taken(), self.ports(**ports))

    def call(self, run: Progress, claims: Claims) -> NoEffect | None:
        """Make a claimed call, for which one was taken from the budget."""
        with RememberingReservation(self.budget, is_taken=True) as reserved:
            return make_call(run, claims, reserved)

    def _new_attempt_id(self, _: datetime) -> AttemptId:
        self._attempts += 1
        return AttemptId(f"{self._attempts:026d}")
