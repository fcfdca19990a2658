"""Releases that a person has paused: nothing is called, callers are told why, what was accepted waits."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from quarantine_release.domain.call_limit import EVERYBODY, Mark
from quarantine_release.domain.ids import AccountId, MessageId, OperationId, postfix_part
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.rows import MessageRow, RequestState
from quarantine_release.domain.states import Outcome, State
from quarantine_release.domain.verdicts import Answered, RefusalReason, Stop
from quarantine_release.ledger.table import Table
from quarantine_release.ledger.transactions import DynamoLedger
from quarantine_release.releasing.ports import Hint
from quarantine_release.releasing.progress import Answer
from quarantine_release.usecases.accepted_request import KeyReused
from quarantine_release.usecases.admission import NotAccepted
from quarantine_release.usecases.release_now import release
from quarantine_release.usecases.sweep import QUIET, Swept, sweep
from tests.support.deployment import ACCOUNT as DEPLOYED_ACCOUNT
from tests.support.deployment import MESSAGE, Deployment, path_of
from tests.support.stand_ins import (
    ACCOUNT,
    BARE,
    DELIVERED,
    FULL,
    NOON,
    OK,
    OTHER,
    TERMS,
    RememberingBudget,
    World,
    request_row,
)
from tools.operations import Person, pause, resume

STOP = Stop("a wrong detection rule", "ann", NOON, OperationId("01OPERATION"))
FULL_OTHER = MessageId("4WtWkr6nlBz9sNH-2024-08-28T15:32:35-7")


def message(world: World, message_id: MessageId = BARE) -> MessageRow | None:
    return world.ledger.messages(ACCOUNT, [postfix_part(message_id)]).get(postfix_part(message_id))


def stop(world: World, client: str = EVERYBODY) -> None:
    world.budget.stops[client] = STOP


# --- While a caller waits


@pytest.mark.parametrize("client", [EVERYBODY, "soar"])
@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_a_request_is_refused_with_the_reason_and_nothing_is_written(
    world: World, client: str, inline: bool, force: bool
) -> None:
    stop(world, client)
    answer = release(request_row(BARE, force=force), world.ports(), inline=inline)
    assert isinstance(answer, NotAccepted)
    assert (answer.reason, answer.retry_after, answer.stop) == (RefusalReason.PAUSED, None, STOP)
    assert world.dynamodb.items == {}
    assert world.cloudflare.calls == []
    assert world.queue.sent == []
    assert len(world.budget.taken) == world.budget.put_back_calls == inline


def test_another_client_goes_on(world: World) -> None:
    stop(world, "another")
    assert isinstance(release(request_row(BARE), world.ports()), Answer)
    assert len(world.cloudflare.calls) == 1


def test_an_earlier_request_under_the_key_is_still_told(world: World) -> None:
    request = request_row(BARE)
    release(request, world.ports())
    stop(world)
    answer = release(request_row(BARE, nonce="again"), world.ports())
    assert isinstance(answer, Answer)
    assert answer.replayed
    assert answer.results[0].outcome is Outcome.RELEASED
    assert isinstance(release(request_row(BARE, fingerprint="another"), world.ports()), KeyReused)


def test_what_was_refused_starts_again_under_its_key(world: World) -> None:
    stop(world)
    release(request_row(BARE), world.ports())
    world.budget.stops.clear()
    answer = release(request_row(BARE, nonce="again"), world.ports())
    assert isinstance(answer, Answer)
    assert not answer.replayed


@dataclass
class Falling(RememberingBudget):
    """The switch falls after it was asked so many times."""

    asked: int = 1

    def active_pause(self, account_id: AccountId, client: str) -> Stop | None:
        self.asked -= 1
        return STOP if self.asked < 0 else super().active_pause(account_id, client)


@pytest.mark.parametrize("force", [False, True])
def test_a_call_that_is_claimed_when_the_switch_falls_is_given_back_and_the_request_refused(
    world: World, force: bool
) -> None:
    budget = Falling()
    answer = release(request_row(BARE, force=force), world.ports(budget=budget))
    assert isinstance(answer, NotAccepted)
    assert (answer.reason, answer.stop) == (RefusalReason.PAUSED, STOP)
    assert answer.request.state is RequestState.REFUSED
    assert world.cloudflare.calls == []
    assert budget.put_back_calls == 1
    row = message(world)
    assert row is not None
    assert (row.state, row.attempts, row.refusals) == (State.RETRYABLE, frozenset(), 1)


@pytest.mark.parametrize("asked", [2, 3])
@pytest.mark.parametrize("force", [False, True])
def test_a_request_called_in_part_when_the_switch_falls_is_told_so_and_the_rest_waits(
    world: World, asked: int, force: bool
) -> None:
    budget = Falling(asked=asked)
    answer = release(request_row(FULL_OTHER, BARE, force=force), world.ports(budget=budget))
    assert isinstance(answer, Answer)
    assert len(world.cloudflare.calls) == 1
    left = Outcome.FAILED if force else Outcome.IN_PROGRESS
    assert sorted(result.outcome for result in answer.results) == sorted([Outcome.RELEASED, left])
    assert bool(world.queue.sent) is not force


class Unknowable(RememberingBudget):
    """Whether releases are paused cannot be told."""

    def active_pause(self, account_id: AccountId, client: str) -> Stop | None:  # noqa: ARG002
        raise LedgerUnavailable("ThrottlingException")


@pytest.mark.parametrize("inline", [False, True])
def test_nothing_is_accepted_while_nobody_knows_whether_releases_are_paused(world: World, inline: bool) -> None:
    with pytest.raises(LedgerUnavailable):
        release(request_row(BARE), world.ports(budget=Unknowable()), inline=inline)
    assert world.dynamodb.items == {}


# --- In the worker


def accept(world: World, *given: MessageId, name: str = "one", client: str = "soar") -> None:
    release(request_row(*given, name=name, client=client, created_at=world.clock.now), world.ports(), inline=False)


def test_what_was_accepted_waits_without_a_claim_and_goes_on_when_the_pause_is_lifted(world: World) -> None:
    accept(world, BARE)
    stop(world)
    batch = world.work()
    assert (batch.calls, batch.failed) == (0, set())
    assert world.cloudflare.calls == []
    assert message(world) is None
    assert world.budget.put_back_calls == 1
    ((hint, delay),) = world.queue.sent
    assert hint == Hint(request_row().request_id, 0)
    assert 30 <= delay <= 90
    world.budget.stops.clear()
    assert len(world.work().settled) == 1


def test_only_the_messages_of_the_paused_client_wait(world: World) -> None:
    accept(world, BARE, OTHER, client="paused")
    accept(world, OTHER, name="two")
    stop(world, "paused")
    world.work()
    assert [called for _, called in world.cloudflare.calls] == [[OTHER]]
    row = message(world, OTHER)
    assert row is not None
    assert (row.owner, len(row.asks)) == (request_row(name="two").request_id, 2)
    ((hint, delay),) = world.queue.sent
    assert hint.request_id == request_row().request_id
    assert delay >= 30


def test_a_call_for_several_clients_is_given_back_when_the_switch_falls_for_one_and_the_others_come_back_at_once(
    world: World,
) -> None:
    accept(world, BARE, client="paused")
    accept(world, OTHER, name="two")

    @dataclass
    class FallingForOne(RememberingBudget):
        asked: list[str] = field(default_factory=list)

        def active_pause(self, account_id: AccountId, client: str) -> Stop | None:  # noqa: ARG002
            self.asked.append(client)
            return STOP if client == "paused" and len(self.asked) > 2 else None

    batch = world.work(budget=FallingForOne())
    assert world.cloudflare.calls == []
    assert batch.failed == set()
    delays = {hint.request_id: delay for hint, delay in world.queue.sent}
    assert delays[request_row(name="two").request_id] == 0
    assert delays[request_row().request_id] >= 30
    stop(world, "paused")
    world.work()
    assert [called for _, called in world.cloudflare.calls] == [[OTHER]]


def test_hints_of_a_pause_that_cannot_be_read_are_handed_back(world: World) -> None:
    accept(world, BARE)
    batch = world.work(budget=Unknowable())
    assert len(batch.failed) == 1
    assert world.cloudflare.calls == []


def test_the_sweep_sends_no_hint_for_what_is_paused_and_does_when_it_is_not(world: World) -> None:
    accept(world, BARE, client="paused")
    accept(world, OTHER, name="two")
    world.queue.taken()
    stop(world, "paused")
    world.clock.move(seconds=QUIET.total_seconds() + 1)
    sweep(world.ports(), Swept())
    assert [hint.request_id for hint in world.queue.taken()] == [request_row(name="two").request_id]
    world.budget.stops.clear()
    world.clock.move(seconds=QUIET.total_seconds() + 1)
    sweep(world.ports(), Swept())
    assert len(world.queue.taken()) == 2


def test_what_waits_longer_than_a_day_expires_as_usual(world: World) -> None:
    accept(world, BARE)
    stop(world)
    world.clock.move(seconds=(TERMS.request_lifetime + QUIET).total_seconds() + 1)
    sweep(world.ports(), Swept())
    row = world.ledger.requests([request_row().request_id])[request_row().request_id]
    assert (row.state, row.letters) == (RequestState.CLOSED, "E")
    assert world.work().settled == []


def test_what_a_call_left_unknown_is_still_found_out(world: World) -> None:
    """A pause keeps releases back, not reads: the budget that reads take from knows nothing of it."""
    stop(world)
    assert world.budget.take(ACCOUNT, Mark.ALL) == 0


# --- Through the front door


def person(reason: str = "a wrong detection rule") -> Person:
    return Person("ann", reason, NOON, OperationId(f"01{abs(hash(reason)) % 10**8:08d}"))


@pytest.fixture
def ledger(deployment: Deployment) -> DynamoLedger:
    return DynamoLedger(Table(deployment._dynamodb, deployment.environment["TABLE_NAME"], lambda _: None))


def test_callers_are_told_why_and_when_to_come_again(deployment: Deployment, ledger: DynamoLedger) -> None:
    pause(ledger, AccountId(DEPLOYED_ACCOUNT), None, person())
    for body in ([MESSAGE], [f"4Njp3P0STMz2c{number:04d}" for number in range(26)]):
        answer = deployment.post(body)
        assert (answer.status, answer.code, answer.body["retryable"]) == (503, "releases_paused", True)
        assert answer.body["pause_reason"] == "a wrong detection rule"
        assert answer.headers["Retry-After"] == "60"
    assert deployment.post(headers=[("Prefer", "respond-async")]).code == "releases_paused"
    assert not deployment.rows("R")
    assert not deployment.upstream.requests
    assert not deployment.hints
    resume(ledger, AccountId(DEPLOYED_ACCOUNT), None, person("it was put right"))
    deployment.start_afresh()
    assert deployment.post().result["outcome"] == "released"


def test_everything_else_works_while_releases_are_paused(deployment: Deployment, ledger: DynamoLedger) -> None:
    key = [("Idempotency-Key", "one")]
    released = deployment.post(headers=key)
    many = deployment.post([f"4Njp3P0STMz2c{number:04d}" for number in range(26)])
    pause(ledger, AccountId(DEPLOYED_ACCOUNT), "soar", person())
    deployment.start_afresh()
    assert deployment.post().code == "releases_paused"
    assert deployment.post(headers=key).body["replayed"] is True
    assert deployment.get(path_of(released)).status == 200
    assert deployment.get(f"/v1/messages/{MESSAGE}").body["state"] == "RELEASED"
    assert deployment.send("POST", f"{path_of(many)}/cancel").body["counts"]["cancelled"] == 26
    assert deployment.post(["4WtWkr6nlBz9sNH"], client="other").result["outcome"] == "released"
    health = deployment.get("/v1/health")
    assert (health.status, health.body["ok"]) == (200, True)
    assert (health.body["checks"]["releases"], health.body["pause_reason"]) == ("paused", "a wrong detection rule")
    assert "pause_reason" not in deployment.get("/v1/health", client="other").body


def test_the_switch_costs_no_round_trip_inline(deployment: Deployment, ledger: DynamoLedger) -> None:
    deployment.post()
    before = deployment.aws_calls.copy()
    assert before.count("BatchGetItem") == 0
    pause(ledger, AccountId(DEPLOYED_ACCOUNT), "another", person())
    deployment.start_afresh()
    deployment.aws_calls.clear()
    deployment.post(["4WtWkr6nlBz9sNH"])
    assert [name for name in deployment.aws_calls if name != "GetSecretValue"] == [
        name for name in before if name != "GetSecretValue"
    ]


def test_a_refused_request_leaves_no_row_that_could_be_swept(world: World) -> None:
    stop(world)
    release(request_row(BARE, FULL, OTHER), world.ports())
    world.clock.move(seconds=timedelta(days=2).total_seconds())
    swept = Swept()
    sweep(world.ports(), swept)
    assert swept.requests == 0


def test_a_paused_message_may_be_released_by_whoever_is_not(world: World) -> None:
    """A coalesced message is claimed for the first that may go on."""
    accept(world, BARE, client="paused")
    accept(world, BARE, name="two")
    stop(world, "paused")

    def delivered(ids: Any) -> Answered:
        return Answered(dict.fromkeys(ids, DELIVERED), OK)

    world.cloudflare.answers.append(delivered)
    world.work()
    row = message(world)
    assert row is not None
    assert (row.state, row.owner) == (State.RELEASED, request_row(name="two").request_id)
    assert row.asks == {request_row().request_id, request_row(name="two").request_id}
