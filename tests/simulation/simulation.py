"""One thread, many lives: the real use cases and ledger code on a simulated clock, store and Cloudflare.

Every call outside is a boundary: there time passes, other actors run, and a fault may strike, the actor's death
included. Nothing here is random but what the seed says. `tests/simulation/simulated_invariants.py` says what must hold.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

from quarantine_release import telemetry
from quarantine_release.domain.call_limit import EVERYBODY, Mark
from quarantine_release.domain.details import Details, NotRead, NotYetRead, Unreadable
from quarantine_release.domain.guard import NO_GUARD, Guard, Mode
from quarantine_release.domain.ids import (
    AccountId,
    AttemptId,
    MessageId,
    OperationId,
    PostfixPart,
    RequestId,
    postfix_part,
)
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.lookup import Question
from quarantine_release.domain.permit import as_accepted
from quarantine_release.domain.policy import Policy
from quarantine_release.domain.rows import MessageRow, RequestRow, RequestState, WireForm
from quarantine_release.domain.states import Code, State, has_one_key
from quarantine_release.domain.transitions import Terms
from quarantine_release.domain.verdicts import (
    Answered,
    Evidence,
    NoEffect,
    ReadBack,
    ReadBackTarget,
    Recipients,
    Seen,
    Stop,
    Verdict,
)
from quarantine_release.ledger import keys as ledger_keys
from quarantine_release.ledger import table
from quarantine_release.ledger.account_row import account_row
from quarantine_release.ledger.call_budget import AccountBudget
from quarantine_release.ledger.items import message_row, request_row
from quarantine_release.ledger.keys import account_key, attempt_key
from quarantine_release.ledger.table import Table
from quarantine_release.ledger.transactions import DynamoLedger
from quarantine_release.releasing.ports import Budget, Hint, Ports
from quarantine_release.releasing.progress import Answer
from quarantine_release.usecases.accepted_request import KeyReused, cancel
from quarantine_release.usecases.admission import NotAccepted
from quarantine_release.usecases.release_now import release
from quarantine_release.usecases.release_queued import LISTS_HOLD, release_hinted
from quarantine_release.usecases.settle import Summary, reconcile
from tests.simulation.simulated_invariants import check_transition
from tests.simulation.simulated_strikes import LOGGED_STRIKES, REFUSALS, WITHOUT_ANSWER, Strike
from tests.support.model_dynamodb import Fault, ModelDynamoDB
from tools import operations

if TYPE_CHECKING:
    from quarantine_release.cloudflare.before_release import CloudflareLookup
    from tests.simulation.simulated_clients import SimulatedClients
    from tests.simulation.simulated_damage import Damages
    from tests.simulation.simulated_search import Search

ACCOUNT = AccountId("a" * 32)
EPOCH = datetime(2026, 11, 22, 12, tzinfo=UTC)
TERMS = Terms(lease=timedelta(seconds=90), settle=timedelta(seconds=120), retention=timedelta(days=400))
WEBHOOK_SECONDS, RECONCILER_SECONDS, EVERY_SECONDS = 20.0, 55.0, 60.0
WORKER_SECONDS, VISIBILITY_SECONDS, RECEIVES = 60.0, 361.0, 5
LONGEST_EFFECT_SECONDS = 60.0
# From what the guard sees to the call: a run of the worker at most.
SEEN_SECONDS = 60.0


class Crashed(BaseException):
    """The actor's process is gone."""


@dataclass
class Job:
    """One request as a playbook sends it, and sends it again when it got no answer."""

    name: str
    ids: tuple[MessageId, ...]
    at: float = 0.0
    has_key: bool = True
    force: bool = False
    tries: int = 2
    inline: bool = True
    cancel_after: float | None = None
    client: str = "soar"
    policy: Policy | None = None
    dry_run: bool = False


@dataclass
class Order:
    """That a person pauses releases, of all clients or of one, and lifts it so many seconds later."""

    at: float
    seconds: float
    client: str | None = None


@dataclass
class Told:
    """What a caller was told of a request, and when."""

    at: float
    request_id: RequestId
    answer: Answer | NotAccepted | KeyReused | None


@dataclass
class Post:
    """One release call as Cloudflare saw it."""

    at: float
    claimed_at: float
    part: PostfixPart
    attempt: AttemptId
    owner: RequestId | None
    strike: Fault | Strike | None


@dataclass
class Silence:
    """A pause as it came to stand in the ledger: whoever saw the 429 may die before it can tell."""

    at: float
    until: float


@dataclass
class Pause:
    """A pause that a person has ordered, from when until when it stood in the ledger."""

    client: str
    at: float
    until: float = math.inf

    def holds_for(self, client: str) -> bool:
        return self.client in (EVERYBODY, client)


@dataclass(eq=False)
class _Actor:
    name: str
    life: greenlet
    wake_at: float
    dies_at: float
    order: float = 0.0
    waits_for: "_Actor | None" = None


@contextmanager
def _one_shard() -> Iterator[None]:
    """One is as many as four to what is simulated, and makes a look at the open index two calls instead of eight."""
    before = ledger_keys.OPEN_SHARDS
    for module in (ledger_keys, table):
        module.OPEN_SHARDS = 1  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in (ledger_keys, table):
            module.OPEN_SHARDS = before  # type: ignore[attr-defined]


@contextmanager
def _quiet() -> Iterator[None]:
    """Spare the log a line, and the metrics a number, for each of so many calls."""
    level, count = telemetry.logger.log_level, telemetry.count
    telemetry.logger.setLevel("CRITICAL")
    telemetry.count = lambda *_: None
    try:
        yield
    finally:
        telemetry.count = count
        telemetry.logger.setLevel(level)


@dataclass
class Simulation:
    """One run. `strike` decides at every boundary; `latency` says how long a call takes."""

    jobs: Sequence[Job]
    strike: Callable[[str], Fault | Strike | None]
    seed: int = 0
    trouble_until: float = 0.0
    history: list[str] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)
    effects: dict[PostfixPart, list[float]] = field(default_factory=dict)
    negative_reads: dict[PostfixPart, list[float]] = field(default_factory=dict)
    in_flight: dict[PostfixPart, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    keeps_history: bool = False
    inline_mark: int = 300
    limit: int = 900
    guard: Guard = NO_GUARD
    harmful_from: Mapping[PostfixPart, float] = field(default_factory=dict)
    orders: Sequence[Order] = ()
    # With it the real lookup and reader get its replies; else the simulation itself stands in for both.
    search: "Search | None" = None
    # With them worker and reconciler ask what a client may still do, and clients are let in only while they may.
    clients: "SimulatedClients | None" = None
    # With them some rows cannot be read for a while.
    damages: "Damages | None" = None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # noqa: S311  reproducible on purpose
        self.now = 0.0
        self.rejected: set[PostfixPart] = set()
        self.rejected_ids: set[MessageId] = set()
        self.dynamodb = ModelDynamoDB(self._before_dynamodb, checks_sizes=False)
        self.calls: list[float] = []
        self.silences: list[Silence] = []
        self.late_calls: list[str] = []
        self.cancelled: list[Told] = []
        self.hints: list[_Message] = []
        self.dead_letters: list[Hint] = []
        self._budgets: list[AccountBudget] = []
        self._paused: Any = None
        self.pauses: list[Pause] = []
        self._switch: Any = None
        self._workers = 0
        self._actors: list[_Actor] = []
        self._current: _Actor
        self._hub = getcurrent()
        self._attempts = 0
        self._after_call: Strike | None = None
        self._seen: dict[str, MessageRow] = {}
        # Messages of which no reading need ever be clear.
        self.doubtful: set[PostfixPart] = set()
        self._lookups: list[CloudflareLookup] = []
        # What each actor saw last of a message before it called for it.
        self.looks: dict[tuple[_Actor, PostfixPart], tuple[float, Details]] = {}

    # --- time and actors

    def run(self, until: float) -> None:
        """Let everybody live until then, or until nothing is left to do."""
        with _one_shard(), _quiet():
            self._run(until)

    def _run(self, until: float) -> None:
        for job in self.jobs:
            self._spawn(f"client {job.name}", partial(self._client, job), job.at)
        for number, order in enumerate(self.orders):
            self._spawn(f"operator {number}", partial(self._operator, number, order), order.at)
        for name, act, at in self.damages.actors() if self.damages else ():
            self._spawn(name, act, at)
        ticks = 0
        while self.now < until:
            actor = min(self._actors, key=lambda one: (one.wake_at, one.order), default=None)
            tick_at = ticks * EVERY_SECONDS + 30.0
            poll_at = self._poll_at()
            if actor is None and self.is_settled and poll_at == math.inf:
                return
            if poll_at <= min(tick_at, actor.wake_at if actor else math.inf):
                self.now = max(self.now, poll_at)
                self._deliver()
                continue
            if actor is None or tick_at <= actor.wake_at:
                ticks += 1
                self.now = max(self.now, tick_at)
                if not self._is_anything_due:  # then a run reads nothing and writes nothing
                    continue
                copies = 1 if self.seed == 0 else self.random.choice((1, 1, 1, 2))
                for copy in range(copies):
                    at = self.now + copy * self.random.uniform(0, 20)
                    self._spawn(f"reconciler {ticks}", self._reconciler, at, RECONCILER_SECONDS)
                continue
            self.now, self._current = max(self.now, actor.wake_at), actor
            if self.now >= actor.dies_at:
                self._kill(actor)
            else:
                actor.life.switch()
            if actor.life.dead:
                self._actors.remove(actor)
                for other in self._actors:
                    if other.waits_for is actor:
                        other.waits_for, other.wake_at = None, self.now

    @property
    def is_settled(self) -> bool:
        """Say whether nothing is open any more; what needs review has ended, until a person looks."""
        return not any("open_kind" in item for item in self._rows("R#", "T#"))

    @property
    def _is_anything_due(self) -> bool:
        until = int(self.clock().timestamp() * 1000)
        return any(int(item["open_at"]["N"]) <= until for item in self._rows("R#", "T#") if "open_at" in item)

    def _rows(self, *kinds: str) -> Iterator[Any]:
        return (item for key, item in self.dynamodb.items.items() if key.startswith(kinds))

    def clock(self) -> datetime:
        return EPOCH + timedelta(milliseconds=round(self.now * 1000))

    @staticmethod
    def seconds(at: datetime) -> float:
        """Return a time as `now` tells it."""
        return (at - EPOCH).total_seconds()

    def _spawn(self, name: str, act: Callable[[], None], at: float, seconds: float = 10_000.0) -> None:
        def live() -> None:
            try:
                act()
            except Crashed:
                self.note("dies")

        self._actors.append(_Actor(name, greenlet(live, self._hub), at, at + seconds, self.random.random()))

    def _kill(self, actor: _Actor) -> None:
        actor.life.throw(Crashed)

    def sleep(self, seconds: float) -> None:
        """Let time pass for the actor that is running."""
        me = self._current
        me.wake_at = min(self.now + seconds, me.dies_at)
        me.order = self.random.random()
        self._hub.switch()

    def note(self, text: str) -> None:
        if self.keeps_history:
            self.history.append(f"{self.now:9.3f}  {self._current.name:<14} {text}")

    def _wait_for(self, other: _Actor) -> None:
        self._current.waits_for, self._current.wake_at = other, math.inf
        self._hub.switch()

    def note_states(self) -> None:
        """Compare every message with what it was before the last call of anybody to the store; note new pauses."""
        account = self.dynamodb.items.get(account_key(ACCOUNT), {})
        if "paused_until" in account and account["paused_until"] != self._paused:
            self._paused = account["paused_until"]
            until = (account_row(account).paused_until or EPOCH) - EPOCH
            self.silences.append(Silence(self.now, until.total_seconds()))
        if account.get("switch") != self._switch:
            self._switch = account.get("switch")
            self._note_pauses(account_row(account).stops)
        for key in self.dynamodb.written:
            if self.damages is not None and self.damages.check_write(key):
                continue
            if key.startswith("M#"):
                now = message_row(self.dynamodb.items[key])
                check_transition(self, self._seen.get(key), now)
                self._seen[key] = now
        self.dynamodb.written.clear()

    def _note_pauses(self, stops: Mapping[str, Stop]) -> None:
        standing = {pause.client: pause for pause in self.pauses if pause.until == math.inf}
        for client, pause in standing.items():
            if client not in stops:
                pause.until = self.now
        self.pauses += [Pause(client, self.now) for client in stops if client not in standing]

    # --- boundaries

    def _boundary(self, name: str) -> Fault | Strike | None:
        # What befalls a person's own call that person sees and makes up for.
        strike = None if self._current.name.startswith("operator") else self.strike(name)
        self.sleep(self.random.uniform(0.001, 0.03))
        if strike is not None:
            self.note(f"{name}: {strike}")
        if strike is Strike.CRASH_BEFORE:
            raise Crashed
        if strike is Strike.STALL:
            self.sleep(self.random.uniform(1.0, 50.0))
            return None
        return strike

    def _before_dynamodb(self, operation: str) -> Fault | None:
        strike = self._boundary(operation)
        self.note(operation)
        if isinstance(strike, Fault) or strike is None:
            return strike
        self._after_call = strike
        return None

    # --- the collaborators

    def ports(self, seconds: float) -> Ports:
        born = self.now
        table = Table(_Client(self), "ledger", lambda _: self.sleep(0.05))  # type: ignore[arg-type]
        # A process is used again for a later event, and knows what it knew; one that has died comes back as a new one.
        budget = self._budgets.pop() if self._budgets else AccountBudget(table, self._marks, self.clock)
        ports = Ports(
            ledger=DynamoLedger(table),
            cloudflare=self,
            reader=self,
            budget=budget,
            queue=self,
            terms=TERMS,
            clock=self.clock,
            time_left=lambda: seconds - (self.now - born),
            new_attempt_id=self._new_attempt_id,
            lookup=self,
            guard=self.guard,
            pause=self.sleep,
            wire_form=WireForm.ARRAY,
        )
        if self.clients is not None:
            permit = as_accepted if seconds == WEBHOOK_SECONDS else self.clients.permits()
            ports = replace(ports, terms=replace(TERMS, request_lifetime=self.clients.lifetime), permit=permit)
        if self.search is None:
            return ports
        return replace(
            ports, reader=self.search.reader(ACCOUNT), lookup=self._lookup(seconds == WORKER_SECONDS), wire_form=None
        )

    def _lookup(self, is_worker: bool) -> "CloudflareLookup":
        """Return what a process looks messages up with: a worker's knows for a while what it was shown."""
        assert self.search is not None
        if is_worker and self._lookups:
            return self._lookups.pop()
        return self.search.lookup(ACCOUNT, LISTS_HOLD if is_worker else timedelta(0))

    def _new_attempt_id(self, _: datetime) -> AttemptId:
        self._attempts += 1
        return AttemptId(f"{self._attempts:026d}")

    def release(self, _: AccountId, __: WireForm, ids: Sequence[MessageId], seconds: float) -> Answered | NoEffect:
        """Play Cloudflare's release call."""
        self._call()
        self._check_pauses([postfix_part(given) for given in ids])
        strike = self._boundary("release" if self.search is None else "logged release")
        if self.search is not None and not all(map(self.search.meant_by, ids)):
            strike = Strike.REJECTED
        took = self.random.uniform(0.2, 2.0)
        if strike in REFUSALS:
            self.sleep(took)
            if strike is Strike.RATE_LIMITED:
                silence = self.random.choice((5, 30, 300)) if self.seed else 42
                return NoEffect(REFUSALS[strike], Evidence(429), silence)
            return NoEffect(REFUSALS[strike], Evidence(failure=strike))
        self._see(ids, strike)
        names: dict[MessageId, Sequence[str]] = {}
        try:
            self.sleep(took / 2)
            if strike not in (Strike.LOST, Strike.REJECTED):
                delay = self.random.uniform(0, LONGEST_EFFECT_SECONDS) if strike is Strike.LATE else 0.0
                names = {each: self._take_effect(each, strike, delay) for each in ids}
            if strike is Strike.CRASH_AFTER:
                raise Crashed
            self.sleep(seconds - took / 2 if strike in WITHOUT_ANSWER else took / 2)
        finally:
            for given in ids:
                self.in_flight[postfix_part(given)] -= 1
        if strike is Strike.REJECTED and len(ids) == 1:
            self.rejected.add(postfix_part(ids[0]))
            self.rejected_ids.add(ids[0])
            return Answered({ids[0]: Verdict(State.FAILED, Code.CLOUDFLARE_REJECTED)}, Evidence(404))
        if strike is Strike.REJECTED:
            return Answered(dict.fromkeys(ids, Verdict(State.UNKNOWN, Code.CALL_REJECTED)), Evidence(404))
        if strike is not None:
            return Answered(dict.fromkeys(ids, Verdict(State.UNKNOWN, Code.NO_ANSWER)), Evidence(failure=strike))
        verdicts = {each: Verdict(State.RELEASED, None, Recipients.of(names[each]), self._own_id(each)) for each in ids}
        return Answered(verdicts, Evidence(200))

    def _own_id(self, given: MessageId) -> MessageId:
        """Return the id that Cloudflare's answer has of a message."""
        return given if self.search is None else self.search.meant_by(given)[0].message_id

    def begin_secret(self) -> Fault | Strike | None:
        """Let time pass while a secret is fetched, and say what befalls that."""
        return self._boundary("secret")

    def begin_call(self, boundary: str) -> Fault | Strike | None:
        """Have a reading call made: count it, let time pass, and say what befalls it."""
        self._call()
        return self._boundary(boundary)

    def _call(self) -> None:
        """Count a call, and see that it is not made in a silence."""
        self.calls.append(self.now)
        self.late_calls += [
            f"{self.now:.3f}: a call though from {silence.at:.3f} to {silence.until:.3f} none was to be made"
            for silence in self.silences
            if silence.at + 1.0 < self.now < silence.until
        ]
        if self.damages is not None and self.damages.is_silent():
            self.late_calls.append(f"{self.now:.3f}: a call though the account's row cannot be read")

    def _check_pauses(self, parts: Sequence[PostfixPart]) -> None:
        """See that no call begins that a person has forbidden a second ago, or the clients secret for long enough."""
        for part in parts:
            owner = self.dynamodb.items.get(f"M#{ACCOUNT}#{part}", {}).get("owner", {"S": ""})["S"]
            client = self.dynamodb.items.get(f"R#{owner}", {}).get("client", {"S": ""})["S"]
            self.late_calls += [
                f"{self.now:.3f}: {part} is sent for {client}, paused from {pause.at:.3f} to {pause.until:.3f}"
                for pause in self.pauses
                if pause.holds_for(client) and pause.at + 1.0 < self.now < pause.until
            ]
            lost = self.clients.objections(client) if self.clients is not None else []
            self.late_calls += [f"{self.now:.3f}: {part} is sent though {objection}" for objection in lost]

    def read(
        self, account_id: AccountId, wanted: Sequence[ReadBackTarget], _: float, budget: Budget
    ) -> Mapping[PostfixPart, ReadBack]:
        """Play Cloudflare's search: what is true at the moment of the read, or nothing."""
        if budget.take(account_id, Mark.ALL):
            return {}
        self._call()
        strike = self._boundary("read")
        readings = {}
        for one in wanted:
            effects = [at for at in self.effects.get(one.part, ()) if at <= self.now]
            since = (one.since - EPOCH).total_seconds() if one.since else -1.0
            if any(at >= since for at in effects):
                readings[one.part] = ReadBack(Seen.RELEASED, Evidence(200))
            elif effects:
                readings[one.part] = ReadBack(Seen.UNCLEAR, Evidence(200))
            else:
                readings[one.part] = ReadBack(Seen.QUARANTINED, Evidence(200))
                self.negative_reads.setdefault(one.part, []).append(self.now)
        self.sleep(self.random.uniform(0.1, 3.0))
        if strike is Strike.CRASH_AFTER:
            raise Crashed
        return {} if strike is Strike.UNREAD else readings

    def look(
        self, account_id: AccountId, ids: Sequence[MessageId], _: float, budget: Budget, mark: Mark
    ) -> Mapping[MessageId, Details | NotRead]:
        """Play what the guard sees: what is true at the moment of the read, or nothing."""
        if budget.take(account_id, mark):
            return {}
        self._call()
        strike = self._boundary("look")
        took = self.random.uniform(0.1, 2.0)
        self.sleep(took / 2)
        seen = {each: self._details(each) for each in ids}
        self.sleep(took / 2)
        if strike is Strike.CRASH_AFTER:
            raise Crashed
        if strike in (Strike.UNREAD, Strike.DENIED):
            return dict.fromkeys(ids, Unreadable.FAILED if strike is Strike.UNREAD else NotYetRead.REFUSED)
        me = self._current
        self.looks |= {(me, postfix_part(each)): (self.now, told) for each, told in seen.items()}
        return dict(seen)

    def find(
        self, account_id: AccountId, questions: Sequence[Question], _: float, budget: Budget, mark: Mark
    ) -> Mapping[Question, Sequence[Details] | NotRead]:
        """Play the search for Message-IDs: each is `<part@x>`."""
        ids = {question: MessageId(question.header.strip("<>").partition("@")[0]) for question in questions}
        shown = self.look(account_id, list(ids.values()), 0.0, budget, mark)
        found = {}
        for question, each in ids.items():
            told = shown.get(each)
            if told is not None:
                found[question] = told if isinstance(told, NotRead) else [told]
        return found

    def _details(self, message_id: MessageId) -> Details:
        part = postfix_part(message_id)
        is_released = any(at <= self.now for at in self.effects.get(part, ()))
        is_harmful = self.now >= self.harmful_from.get(part, math.inf)
        disposition = "MALICIOUS" if is_harmful else "SPAM"
        return Details(MessageId(part), not is_released, disposition, is_released=is_released)

    def send(self, hints: Sequence[Hint], delay: float = 0.0) -> None:
        """Play the queue's sending side."""
        strike = self._boundary("send")
        self.note(f"sends {len(hints)} hints to arrive in {delay:.0f} s")
        copies = 0 if strike is Strike.LOST else 2 if strike is Strike.TWICE else 1
        self.hints += [_Message(hint, self.now + min(delay, 900)) for hint in hints for _ in range(copies)]
        if strike is Strike.CRASH_AFTER:
            raise Crashed

    def _poll_at(self) -> float:
        """Return when the event source has a batch for one of three workers: a second after a hint arrived."""
        if self._workers >= 3:
            return math.inf
        return min((message.visible_at + 1.0 for message in self.hints), default=math.inf)

    def _deliver(self) -> None:
        """Hand what is visible to a worker; what it does not acknowledge comes again, and in the end goes aside."""
        ready = [message for message in self.hints if message.visible_at <= self.now]
        if self.seed and len(ready) > 1 and self.random.random() < 0.3:
            ready = ready[: self.random.randint(1, len(ready))]
        for message in ready:
            message.visible_at, message.received = self.now + VISIBILITY_SECONDS, message.received + 1
            if message.received > RECEIVES:
                self.hints.remove(message)
                self.dead_letters.append(message.hint)
        self._spawn("worker", partial(self._worker, ready), self.now, WORKER_SECONDS)
        self._workers += 1

    def _worker(self, messages: Sequence["_Message"]) -> None:
        try:
            ports = self.ports(WORKER_SECONDS)
            batch = release_hinted([message.hint for message in messages], ports)
            self._boundary("done")
            for message in messages:
                if message.hint not in batch.failed and message in self.hints:
                    self.hints.remove(message)
            self._keep(ports)
            if self.search is not None:
                self._lookups.append(ports.lookup)  # type: ignore[arg-type]
        finally:
            self._workers -= 1

    def _keep(self, ports: Ports) -> None:
        """Let the process that ran with these be used again."""
        assert isinstance(ports.budget, AccountBudget)
        self._budgets.append(ports.budget)
        if self.clients is not None and ports.permit is not as_accepted:
            self.clients.keep(ports.permit)

    @property
    def _marks(self) -> dict[Mark, int]:
        return {Mark.INLINE: self.inline_mark, Mark.ALL: self.limit}

    def _see(self, ids: Sequence[MessageId], strike: Fault | Strike | None) -> None:
        for given in ids:
            part = postfix_part(given)
            item = self.dynamodb.items.get(f"M#{ACCOUNT}#{part}", {})
            attempt = AttemptId(item.get("attempt", {"S": ""})["S"])
            owner = RequestId(item["owner"]["S"]) if "owner" in item else None
            self.note(f"POST {given} for {owner}")
            if self.damages is not None:
                self.damages.check_call(part)
            if self.guard.mode is not Mode.OFF:
                self._check_guard(given, owner)
            self.in_flight[part] = self.in_flight.get(part, 0) + 1
            if self.in_flight[part] > 1:
                self.violations.append(f"{self.now:.3f}: two calls in flight for {part}")
            claim = self.dynamodb.items.get(attempt_key(ACCOUNT, attempt), {})
            claimed_at = int(claim["sent_at"]["N"]) / 1000 - EPOCH.timestamp() if claim else self.now
            self.posts.append(Post(self.now, claimed_at, part, attempt, owner, strike))

    def _check_guard(self, given: MessageId, owner: RequestId | None) -> None:
        """See that whoever calls has looked, and seen that it may."""
        if self.search is not None:
            damage = self.damages.now.get(f"R#{owner}") if self.damages else None
            item = damage.sound if damage is not None else self.dynamodb.items.get(f"R#{owner}")
            request = request_row(item) if item is not None else None
            policy = self.guard.policy.with_stricter(request.policy if request is not None else None)
            force = request is not None and request.force
            found = self.search.objections(given, policy, self.now - SEEN_SECONDS - LISTS_HOLD.seconds, force=force)
            self.violations += [f"{self.now:.3f}: a call for {given} though {objection}" for objection in found]
            return
        at, told = self.looks.get((self._current, postfix_part(given)), (-math.inf, None))
        if told is None or told.disposition == "MALICIOUS" or self.now - at > SEEN_SECONDS:
            self.violations.append(f"{self.now:.3f}: a call for {given} that the guard did not let pass")

    def _take_effect(self, given: MessageId, strike: Fault | Strike | None, delay: float) -> Sequence[str]:
        """Release a message in so many seconds; return to whom."""
        part = postfix_part(given)
        if strike in LOGGED_STRIKES:
            self.doubtful.add(part)
        if strike is not Strike.FAILS:
            self.note(f"{part} is released" + (f" in {delay:.1f} s" if delay else ""))
            self.effects.setdefault(part, []).append(self.now + delay)
        return ["a@example.com"] if self.search is None else self.search.release(given, self.now + delay, strike)

    # --- the actors

    def _client(self, job: Job) -> None:
        """Post, and post again while there was no answer, as a SOAR does; each post is a process of its own."""
        for number in range(job.tries):
            if self.clients is not None and self.clients.is_lost(job.client):
                self.note("answers 401 or 503")
                self.sleep(self.random.uniform(0.5, 30.0))
                continue
            if not all(map(has_one_key, job.ids)):
                self.note("answers 400")
                return
            request = self._request(job, number)
            outcome: list[Answer | NotAccepted | KeyReused] = []
            webhook = partial(self._webhook, request, job.inline, outcome)
            self._spawn(f"webhook {job.name}", webhook, self.now, WEBHOOK_SECONDS)
            self._wait_for(self._actors[-1])
            answer = outcome[0] if outcome else None
            self.told.append(Told(self.now, request.request_id, answer))
            if answer is not None and not (isinstance(answer, NotAccepted) and number + 1 < job.tries):
                if job.cancel_after is not None:
                    self.sleep(job.cancel_after)
                    canceller = partial(self._canceller, request.request_id)
                    self._spawn(f"cancel {job.name}", canceller, self.now, WEBHOOK_SECONDS)
                return
            self.sleep(self.random.uniform(0.5, 30.0))

    def _webhook(self, request: RequestRow, inline: bool, outcome: list[Answer | NotAccepted | KeyReused]) -> None:
        ports = self.ports(WEBHOOK_SECONDS)
        try:
            outcome.append(release(request, ports, inline=inline))
            self.note(f"answers {type(outcome[0]).__name__}")
        except LedgerUnavailable:
            self.note("answers 503")
        self._keep(ports)

    def _canceller(self, request_id: RequestId) -> None:
        ports = self.ports(WEBHOOK_SECONDS)
        try:
            row = ports.ledger.requests([request_id]).get(request_id)
            if row is None or row.state is RequestState.REFUSED:
                return
            self.cancelled.append(Told(self.now, request_id, cancel(row, ports)))
            self.note(f"has cancelled {request_id}")
        except LedgerUnavailable:
            self.note("answers 503")
        self._keep(ports)

    def _operator(self, number: int, order: Order) -> None:
        ledger = DynamoLedger(Table(_Client(self), "ledger", lambda _: self.sleep(0.05)))  # type: ignore[arg-type]

        def person(what: str) -> operations.Person:
            return operations.Person("ann", "a wrong rule", self.clock(), OperationId(f"{number}-{what}"))

        operations.pause(ledger, ACCOUNT, order.client, person("pause"))
        self.note(f"pauses {order.client or 'everybody'}")
        self.sleep(order.seconds)
        operations.resume(ledger, ACCOUNT, order.client, person("resume"))
        self.note(f"lets {order.client or 'everybody'} go on")

    def _reconciler(self) -> None:
        ports = self.ports(RECONCILER_SECONDS)
        try:
            reconcile(ports, Summary())
        except LedgerUnavailable:
            self.note("gives up")
        self._keep(ports)

    def _request(self, job: Job, number: int) -> RequestRow:
        name = job.name if job.has_key else f"{job.name}.{number}"
        return RequestRow(
            request_id=RequestId(f"rq_{name}"),
            client=job.client,
            account_id=ACCOUNT,
            fingerprint=job.name,
            nonce=f"{job.name}.{number}",
            ids=job.ids,
            created_at=self.clock(),
            state=RequestState.OPEN,
            force=job.force,
            policy=job.policy,
            dry_run=job.dry_run,
        )


@dataclass(eq=False)
class _Message:
    """One hint on the queue."""

    hint: Hint
    visible_at: float
    received: int = 0


class _Client:
    """The model's calls, each followed by the death that was meant to follow it."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def __getattr__(self, name: str) -> Callable[..., Any]:
        simulation = self._simulation
        act = getattr(simulation.dynamodb, name)

        def call(**parameters: Any) -> Any:
            simulation._after_call = None
            try:
                return act(**parameters)
            finally:
                if simulation._after_call is Strike.CRASH_AFTER:
                    simulation._after_call = None
                    raise Crashed
                simulation.note_states()

        return call
