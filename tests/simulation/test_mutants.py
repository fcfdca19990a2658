"""The simulation finds what it is there to find: each mutant of the code under simulation is caught."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from quarantine_release.domain import results as results_module
from quarantine_release.domain.call_limit import AccountRow
from quarantine_release.domain.details import NotRead
from quarantine_release.domain.guard import Guarded, judge
from quarantine_release.domain.packing import WantedRelease
from quarantine_release.domain.results import claimable
from quarantine_release.domain.rows import AttemptRow, MessageRow, RequestRow, RequestState, Target, parse_targets
from quarantine_release.domain.settlement import settled
from quarantine_release.domain.states import State, may_claim
from quarantine_release.domain.transitions import Terms, given_back, recorded
from quarantine_release.domain.verdicts import Answered, NoEffect, ReadBack, Seen, Verdict
from quarantine_release.ledger import transactions as ledger_module
from quarantine_release.ledger.account_view import AccountView
from quarantine_release.ledger.call_budget import AccountBudget
from quarantine_release.ledger.transactions import DynamoLedger
from quarantine_release.ledger.update_expression import UpdateExpression, Write
from quarantine_release.ledger.writes import check_open, move_message
from quarantine_release.releasing import call as attempt_module
from quarantine_release.releasing import claim as claim_module
from quarantine_release.releasing import gate as gate_module
from quarantine_release.releasing.claim import Claims
from quarantine_release.releasing.findings import Findings
from quarantine_release.releasing.ports import Conflict, Move
from quarantine_release.releasing.progress import Progress
from quarantine_release.releasing.vet import Vetting
from quarantine_release.usecases import settle as settle_module
from quarantine_release.usecases import sweep as sweep_module
from tests.simulation import simulation as simulation_module
from tests.simulation.simulated_invariants import check_end
from tests.simulation.simulated_runs import GUARDED, SCENARIOS, schedules, seeded, standing_still
from tests.simulation.simulated_strikes import Strike
from tests.simulation.simulation import Order, Simulation

pytestmark = pytest.mark.simulation
TRIES = 4000

Patch = pytest.MonkeyPatch


def freed(row: MessageRow, now: datetime) -> MessageRow:
    return replace(row, state=State.RETRYABLE, owner=None, deadline=None, updated_at=now)


def ambiguous_means_retry(patch: Patch) -> None:
    def mutant(
        row: MessageRow, verdict: Verdict, evidence: Any, now: datetime, terms: Terms, *, ids_in_call: int
    ) -> MessageRow:
        if verdict.state is State.UNKNOWN:
            return freed(row, now)
        return recorded(row, verdict, evidence, now, terms, ids_in_call=ids_in_call)

    patch.setattr(attempt_module, "recorded", mutant)


def retry_on_lease_expiry(patch: Patch) -> None:
    def mutant(
        row: MessageRow, _: AttemptRow, __: ReadBack, ___: datetime, now: datetime, ____: Terms
    ) -> MessageRow | None:
        return freed(row, now) if row.deadline is not None and now >= row.deadline else None

    patch.setattr(settle_module, "settled", mutant)


def no_fencing(patch: Patch) -> None:
    original = UpdateExpression.require

    def mutant(self: UpdateExpression, name: str, value: Any) -> None:
        if name != "attempt":
            original(self, name, value)

    patch.setattr(UpdateExpression, "require", mutant)


def no_settle_time(patch: Patch) -> None:
    patch.setattr(simulation_module, "TERMS", replace(simulation_module.TERMS, settle=timedelta(0)))


def outcome_projected_onto_all_requested_ids(patch: Patch) -> None:
    original = attempt_module._record

    def mutant(run: Progress, claims: Claims, answer: Answered, *, is_last: bool) -> None:
        called = {move.after.part for move in claims.moves}
        others = [Move(row, row) for part, row in run.rows.items() if part not in called]
        every = [target for request in run.requests.values() for target in parse_targets(request.ids)]
        verdict = next(iter(answer.verdicts.values()))
        original(
            run,
            Claims(replace(claims.attempt, targets=tuple(every)), (*claims.moves, *others)),
            replace(answer, verdicts=dict.fromkeys((target.message_id for target in every), verdict)),
            is_last=is_last,
        )

    patch.setattr(attempt_module, "_record", mutant)


def outcome_projected_onto_ids_that_were_not_in_the_call(patch: Patch) -> None:
    original = attempt_module._record

    def mutant(run: Progress, claims: Claims, answer: Answered, *, is_last: bool) -> None:
        """Take what was wanted for what was called: of the ids at hand some were not claimed."""
        called = {target.part for target in claims.attempt.targets}
        absent = [row for part, row in run.rows.items() if part not in called and row.state is State.RETRYABLE]
        verdict = next(iter(answer.verdicts.values()))
        original(run, claims, answer, is_last=is_last)
        for row in absent:
            after = recorded(row, verdict, answer.evidence, run.ports.clock(), run.ports.terms)
            run.ports.ledger.project([Move(row, after)])

    patch.setattr(attempt_module, "_record", mutant)


def condition_dropped_from_the_outcome_write(patch: Patch) -> None:
    def mutant(move: Move) -> Write:
        action = move_message(move)
        if move.before is not None and move.before.state is State.RELEASING:
            update = action["Update"]
            update["ConditionExpression"] = "attribute_exists(pk)"
            used = update["UpdateExpression"]
            for members in ("ExpressionAttributeNames", "ExpressionAttributeValues"):
                words = set(used.replace(",", " ").split())
                update[members] = {name: value for name, value in update.get(members, {}).items() if name in words}
        return action

    patch.setattr(ledger_module, "move_message", mutant)


def a_row_whose_lease_ran_out_is_claimed_by_a_request(patch: Patch) -> None:
    def mutant(row: MessageRow | None, target: Target, *, force: bool, now: datetime) -> bool:
        if row is not None and row.state is State.RELEASING and row.deadline is not None and row.deadline <= now:
            return True
        return claimable(row, target, force=force, now=now)

    patch.setattr(claim_module, "claimable", mutant)


def needs_review_is_retried(patch: Patch) -> None:
    patch.setattr(
        results_module,
        "may_claim",
        lambda state, code, *, force: state is State.NEEDS_REVIEW or may_claim(state, code, force=force),
    )


def claim_is_read_then_written(patch: Patch) -> None:
    original = DynamoLedger.claim

    def unconditional(one: Move) -> Write:
        action = move_message(one)
        if "Put" in action:
            del action["Put"]["ConditionExpression"]
        elif one.after.state is State.RELEASING:
            update = action["Update"]
            words = set(update["UpdateExpression"].replace(",", " ").split())
            del update["ConditionExpression"]
            for members in ("ExpressionAttributeNames", "ExpressionAttributeValues"):
                update[members] = {name: value for name, value in update.get(members, {}).items() if name in words}
        return action

    def mutant(self: DynamoLedger, attempt: Any, moves: Any, asks: Any, **members: Any) -> Conflict | None:
        parts = [one.after.part for one in moves]
        found = self.messages(moves[0].after.account_id, parts) if parts else {}
        changed = {
            one.after.part: found.get(one.after.part)
            for one in moves
            if (found.get(one.after.part) is None) != (one.before is None)
        }
        return Conflict({}, changed) if changed else original(self, attempt, moves, asks, **members)

    patch.setattr(DynamoLedger, "claim", mutant)
    patch.setattr(ledger_module, "move_message", unconditional)


def giving_back_keeps_the_request_open(patch: Patch) -> None:
    original = DynamoLedger.record

    def mutant(self: DynamoLedger, attempt: Any, was: Any, moves: Any, request: RequestRow | None) -> Any:
        is_refusal = request is not None and request.state is RequestState.REFUSED
        return original(self, attempt, was, moves, None if is_refusal else request)

    patch.setattr(DynamoLedger, "record", mutant)


def refusals_count_as_attempts(patch: Patch) -> None:
    def mutant(before: MessageRow | None, row: MessageRow, now: datetime, *, rejected_with: int | None) -> MessageRow:
        return replace(given_back(before, row, now, rejected_with=rejected_with), attempts=row.attempts)

    patch.setattr(attempt_module, "given_back", mutant)


def what_cannot_be_read_is_taken_for_released(patch: Patch) -> None:
    def mutant(row: MessageRow, attempt: AttemptRow, reading: ReadBack, *others: Any) -> MessageRow | None:
        seen = Seen.RELEASED if reading.seen is Seen.UNREAD else reading.seen
        return settled(row, attempt, replace(reading, seen=seen), *others)

    patch.setattr(settle_module, "settled", mutant)


def budget_counted_per_process(patch: Patch) -> None:
    def alone(original: Callable[..., Any]) -> Callable[..., Any]:
        def mutant(self: AccountBudget, account_id: str, *others: Any) -> Any:
            own = f" in {id(self)}"
            return original(self, f"{account_id.removesuffix(own)}{own}", *others)

        return mutant

    for name in ("take", "reserve", "wait_for", "pause_left", "heard"):
        patch.setattr(AccountBudget, name, alone(getattr(AccountBudget, name)))


def a_pause_stays_with_the_process_that_saw_the_429(patch: Patch) -> None:
    original = AccountView.see

    def mutant(self: AccountView, row: AccountRow, now: datetime) -> None:
        original(self, replace(row, paused_until=self.row.paused_until), now)

    patch.setattr(AccountView, "see", mutant)


def a_lost_hint_is_a_lost_request(patch: Patch) -> None:
    patch.setattr(sweep_module, "plan_hints", lambda request, parts: [])  # noqa: ARG005


def a_cancelled_request_is_claimed_for(patch: Patch) -> None:
    def mutant(request_id: Any, notes: int) -> Write:
        check = check_open(request_id, notes)
        expression = check["ConditionCheck"]["ConditionExpression"]
        check["ConditionCheck"]["ConditionExpression"] = expression.replace(
            " AND attribute_not_exists(cancelled_at)", ""
        )
        return check

    patch.setattr(ledger_module, "check_open", mutant)


def a_read_that_failed_lets_pass(patch: Patch) -> None:
    def mutant(told: Any, *arguments: Any, **members: Any) -> Any:
        return Guarded.PASSED if isinstance(told, NotRead) else judge(told, *arguments, **members)

    patch.setattr(gate_module, "judge", mutant)


def what_nobody_looked_at_is_claimed(patch: Patch) -> None:
    def mutant(_: Vetting, wants: Any, ended: Any = ()) -> list[WantedRelease]:  # noqa: ARG001
        return [replace(want, guards=dict.fromkeys(want.requests)) for want in wants]

    patch.setattr(Vetting, "vet", mutant)


def an_end_before_a_claim_is_not_written(patch: Patch) -> None:
    patch.setattr(DynamoLedger, "note", lambda *_: None)


def guarded_stories() -> Iterator[list[str]]:
    runs = GUARDED.values()
    return (found for jobs, harmful_from in runs for _, found in schedules(1, jobs, harmful_from))


def the_switch_is_ignored(patch: Patch) -> None:
    patch.setattr(AccountBudget, "active_pause", lambda self, account_id, client: None)  # noqa: ARG005


def the_switch_is_not_looked_at_again_after_the_claim(patch: Patch) -> None:
    original = attempt_module._too_late

    def mutant(run: Progress, attempt: AttemptRow, *others: Any) -> NoEffect | None:
        return original(run, replace(attempt, owners={}), *others)

    patch.setattr(attempt_module, "_too_late", mutant)


def an_end_stands_though_the_row_moved(patch: Patch) -> None:
    patch.setattr(Findings, "_moved", lambda self, parts: set())  # noqa: ARG005


def dry_runs_stay_open(patch: Patch) -> None:
    patch.setattr(results_module, "_is_over", lambda *_, is_claimed: False)  # noqa: ARG005


def a_message_that_cannot_be_read_is_taken_for_absent(patch: Patch) -> None:
    read = DynamoLedger.messages

    def some(self: DynamoLedger, *arguments: Any) -> dict[Any, MessageRow]:
        return {part: row for part, row in read(self, *arguments).items() if row.is_readable}

    def without_unreadable(write: Callable[..., Conflict | None]) -> Callable[..., Conflict | None]:
        def mutant(*arguments: Any, **members: Any) -> Conflict | None:
            conflict = write(*arguments, **members)
            if conflict is None:
                return None
            rows = conflict.messages.items()
            return replace(conflict, messages={part: row if row and row.is_readable else None for part, row in rows})

        return mutant

    patch.setattr(DynamoLedger, "messages", some)
    for name in ("claim", "accept", "add_requesters"):
        patch.setattr(DynamoLedger, name, without_unreadable(getattr(DynamoLedger, name)))


def a_row_of_a_newer_version_is_written_over(patch: Patch) -> None:
    original = UpdateExpression.require_absent_or_below

    def mutant(self: UpdateExpression, name: str, value: Any) -> None:
        original(self, name, {"N": "99"} if name == "v" else value)

    patch.setattr(UpdateExpression, "require_absent_or_below", mutant)


def stories() -> Iterator[list[str]]:
    return (found for jobs in SCENARIOS.values() for _, found in schedules(1, jobs))


def seeds(first: int, naming: str = "") -> Callable[[], Iterator[list[str]]]:
    """Begin where the mutant is known to be caught; go on in case that the code runs otherwise by now."""
    return lambda: (
        [each for each in check_end(seeded(seed)) if naming in each] for seed in range(first, first + TRIES)
    )


def standstills(first: int) -> Callable[[], Iterator[list[str]]]:
    return lambda: (check_end(standing_still(seed)) for seed in range(first, first + TRIES))


def stalled_claims() -> Iterator[list[str]]:
    """Have the process stand still within its claim, while a person pauses the account."""
    for seed in range(1, 20):
        stalls = iter((Strike.STALL,))
        simulation = Simulation(
            SCENARIOS["one request"],
            lambda boundary, stalls=stalls: next(stalls, None) if boundary == "TransactWriteItems" else None,  # type: ignore[misc]
            seed=seed,
        )
        simulation.orders = [Order(at=0.3, seconds=100.0)]
        simulation.run(until=1000.0)
        yield check_end(simulation)


MUTANTS: tuple[tuple[Callable[[Patch], None], Callable[[], Iterator[list[str]]]], ...] = (
    (ambiguous_means_retry, stories),
    (retry_on_lease_expiry, stories),
    (no_fencing, standstills(83)),
    (no_settle_time, stories),
    (outcome_projected_onto_all_requested_ids, stories),
    (condition_dropped_from_the_outcome_write, standstills(502)),
    (a_row_whose_lease_ran_out_is_claimed_by_a_request, stories),
    (needs_review_is_retried, stories),
    (claim_is_read_then_written, stories),
    (giving_back_keeps_the_request_open, seeds(306)),
    (refusals_count_as_attempts, seeds(398)),
    (what_cannot_be_read_is_taken_for_released, seeds(1)),
    (outcome_projected_onto_ids_that_were_not_in_the_call, seeds(618)),
    (budget_counted_per_process, seeds(0, "calls within five minutes")),
    (a_pause_stays_with_the_process_that_saw_the_429, seeds(10)),
    (a_lost_hint_is_a_lost_request, stories),
    (a_cancelled_request_is_claimed_for, stories),
    (a_read_that_failed_lets_pass, guarded_stories),
    (what_nobody_looked_at_is_claimed, guarded_stories),
    (an_end_before_a_claim_is_not_written, guarded_stories),
    (an_end_stands_though_the_row_moved, seeds(102)),
    (dry_runs_stay_open, stories),
    (a_message_that_cannot_be_read_is_taken_for_absent, seeds(28)),
    (a_row_of_a_newer_version_is_written_over, seeds(15)),
    (the_switch_is_ignored, seeds(0)),
    (the_switch_is_not_looked_at_again_after_the_claim, stalled_claims),
)


@pytest.mark.parametrize(("mutant", "runs"), MUTANTS, ids=[mutant.__name__ for mutant, _ in MUTANTS])
def test_each_mutant_is_caught(
    mutant: Callable[[Patch], None], runs: Callable[[], Iterator[list[str]]], monkeypatch: Patch
) -> None:
    """What the same runs find of the code as it is, `test_simulation.py` asks: nothing."""
    mutant(monkeypatch)
    assert any(runs())


def test_a_pause_during_a_claim_violates_nothing() -> None:
    assert [found for found in stalled_claims() if found] == []


@pytest.mark.parametrize("first", [0, 83, 502])
def test_reconcilers_that_stand_still_violate_nothing(first: int) -> None:
    assert [seed for seed in range(first, first + 50) if check_end(standing_still(seed))] == []
