"""The system as deployed, in simulated time: the real use cases, ledger, budget, queue and lookup, as template.yaml
sets them up.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from benchmarks.limited_cloudflare import LimitedCloudflare
from benchmarks.simulated_aws import DynamoDB, Function, Sqs
from benchmarks.simulated_quarantine import Quarantine
from benchmarks.simulated_time import SimulatedTime
from local.template import Template
from quarantine_release.aws.hint_queue import ReleaseQueue, decode
from quarantine_release.cloudflare.before_release import CloudflareLookup
from quarantine_release.cloudflare.search import SearchApi
from quarantine_release.config.accounts import Accounts, Credential
from quarantine_release.config.settings import Settings
from quarantine_release.domain.ids import AccountId, AttemptId, MessageId, PostfixPart, RequestId
from quarantine_release.domain.rows import RequestRow, RequestState, WireForm
from quarantine_release.domain.states import State
from quarantine_release.domain.verdicts import (
    Answered,
    Evidence,
    NoEffect,
    ReadBack,
    ReadBackTarget,
    Recipients,
    RefusalReason,
    Verdict,
)
from quarantine_release.ledger.call_budget import AccountBudget
from quarantine_release.ledger.table import Table
from quarantine_release.ledger.transactions import DynamoLedger
from quarantine_release.releasing.ports import Budget, Ports
from quarantine_release.usecases.release_now import release
from quarantine_release.usecases.release_queued import LISTS_HOLD, release_hinted
from quarantine_release.usecases.settle import Summary, reconcile

TEMPLATE: Final = Path(__file__).parent.parent / "template.yaml"
ACCOUNT: Final = AccountId("a" * 32)
_RECONCILE_EVERY_SECONDS: Final = 60.0
_LOOK_AGAIN_SECONDS: Final = 0.05
_BASE_32: Final = "abcdefghijklmnopqrstuvwxyz234567"
_DELIVERED: Final = Verdict(State.RELEASED, None, Recipients.of(["a@example.com"]))


@dataclass(frozen=True, slots=True)
class Process:
    """What a process of Lambda keeps from one event to the next."""

    budget: AccountBudget
    lookup: CloudflareLookup


class Deployment:
    """One stack with its three functions. `parameters` are those of the template that are not at their default."""

    def __init__(
        self,
        time: SimulatedTime,
        random: Random,
        account: LimitedCloudflare,
        quarantine: Quarantine,
        parameters: Mapping[str, str],
    ) -> None:
        template = Template.read(TEMPLATE, parameters)
        functions = template.functions()
        self._time = time
        self._random = random
        self._settings = Settings.from_env(functions["WebhookFunction"].environment)
        self._events = template.queue_events()["WorkerFunction"]
        self._cloudflare = _Cloudflare(account)
        self._quarantine = quarantine
        self._dynamodb = DynamoDB(time, random)
        self._sqs = Sqs(time, random)
        self._table = Table(self._dynamodb, self._settings.table, self._pause)  # type: ignore[arg-type]
        self._queue = ReleaseQueue(self._sqs, self._settings.queue_url)  # type: ignore[arg-type]
        self._webhook, self._worker, self._reconciler = (
            Function(time, functions[name].timeout_seconds, partial(self._new_process, hold))
            for name, hold in (
                ("WebhookFunction", timedelta(0)),
                ("WorkerFunction", LISTS_HOLD),
                ("ReconcilerFunction", timedelta(0)),
            )
        )
        self._attempts = 0
        self._unanswered = 0

    def post(self, message_id: MessageId, at: float) -> None:
        """Have a plain request for one message arrive then."""
        self._unanswered += 1
        self._time.spawn(partial(self._answer, message_id), at)

    def start(self) -> None:
        """Have the worker fed and the schedule kept until every request is closed."""
        self._time.spawn(self._feed_worker)
        self._time.spawn(self._keep_schedule)

    # --- The three functions

    def _answer(self, message_id: MessageId) -> None:
        with self._ports(self._webhook) as ports:
            release(self._request(message_id), ports)
        self._unanswered -= 1

    def _work(self, bodies: Sequence[str]) -> None:
        hints = [hint for body in bodies if (hint := decode({"body": body}))]
        with self._ports(self._worker) as ports:
            if release_hinted(hints, ports).failed:
                raise RuntimeError("no call to the ledger fails here")

    def _reconcile(self) -> None:
        with self._ports(self._reconciler) as ports:
            reconcile(ports, Summary())

    # --- What invokes them

    def _feed_worker(self) -> None:
        """While a worker is free, give it what has come by the end of the window, or a full batch at once."""
        batch: list[str] = []
        ends_at = 0.0
        while True:
            if self._worker.running < self._events.maximum_concurrency:
                more = self._sqs.take(self._events.batch_size - len(batch))
                ends_at = ends_at if batch else self._time.now + self._events.window_seconds
                batch += more
                if len(batch) == self._events.batch_size or (batch and self._time.now >= ends_at):
                    self._time.spawn(partial(self._work, batch))
                    batch = []
            self._time.sleep(_LOOK_AGAIN_SECONDS)

    def _keep_schedule(self) -> None:
        while self._unanswered or any("open_kind" in item for item in self._dynamodb.model.items.values()):
            self._time.sleep(_RECONCILE_EVERY_SECONDS)
            self._time.spawn(self._reconcile)
        self._time.stop()

    # --- What they need

    @contextmanager
    def _ports(self, function: Function[Process]) -> Iterator[Ports]:
        with function.invocation() as (process, ends_at):
            yield Ports(
                ledger=DynamoLedger(self._table),
                cloudflare=self._cloudflare,
                reader=self._cloudflare,
                budget=process.budget,
                queue=self._queue,
                terms=self._settings.terms,
                clock=self._time.clock,
                time_left=lambda: ends_at - self._time.now,
                new_attempt_id=self._new_attempt_id,
                lookup=process.lookup,
                guard=self._settings.guard,
                pause=self._time.sleep,
                wire_form=self._settings.wire_form,
            )

    def _new_process(self, lists_hold: timedelta) -> Process:
        budget = AccountBudget(self._table, self._settings.marks, self._time.clock)
        base_url, session, clock = self._settings.cloudflare_api_base_url, self._quarantine, self._time.clock
        search = SearchApi(base_url, _Secret(), session, clock, lambda: self._time.now)  # type: ignore[arg-type]
        return Process(budget, CloudflareLookup(search, holds=lists_hold))

    def _new_attempt_id(self, _: object) -> AttemptId:
        self._attempts += 1
        return AttemptId(f"{self._attempts:026d}")

    def _pause(self, round_: int) -> None:
        self._time.sleep(self._random.uniform(0.005, 0.02 * 2 ** min(round_, 4)))

    def _request(self, message_id: MessageId) -> RequestRow:
        name = "".join(self._random.choices(_BASE_32, k=26))
        return RequestRow(
            request_id=RequestId(f"rq_{name}"),
            client="soar",
            account_id=ACCOUNT,
            fingerprint=name,
            nonce=name,
            ids=(message_id,),
            created_at=self._time.clock(),
            state=RequestState.OPEN,
        )


class _Secret:
    """The secret of the account."""

    def get(self) -> Accounts:
        """Return the one account."""
        return Accounts({ACCOUNT: Credential(ACCOUNT, {})})

    refetch = get


class _Cloudflare:
    """The account at Cloudflare as the use cases see it."""

    def __init__(self, account: LimitedCloudflare) -> None:
        self._account = account

    def release(self, _: AccountId, __: WireForm, ids: Sequence[MessageId], ___: float) -> Answered | NoEffect:
        """Make one call."""
        retry_after = self._account.release(ids)
        if retry_after is not None:
            return NoEffect(RefusalReason.RATE_LIMITED, Evidence(429), retry_after)
        return Answered(dict.fromkeys(ids, _DELIVERED), Evidence(200))

    def read(
        self, _: AccountId, __: Sequence[ReadBackTarget], ___: float, ____: Budget
    ) -> Mapping[PostfixPart, ReadBack]:
        """Raise RuntimeError: every call is answered here, so there is nothing to find out."""
        raise RuntimeError("a read of what no call left unknown")
