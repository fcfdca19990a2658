"""Made-up ids of a second client harm nobody else: simulated, with a fault at any boundary, and with mutants."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from quarantine_release.domain import results as results_module
from quarantine_release.domain import transitions as transitions_module
from quarantine_release.domain.ids import AccountId, MessageId
from quarantine_release.domain.rows import MessageRow, RequestRow, RequestState
from quarantine_release.domain.states import LETTERS
from quarantine_release.domain.verdicts import ReadBackTarget
from quarantine_release.ledger.items import request_row
from quarantine_release.releasing.ports import Ports
from quarantine_release.usecases import rehearse as rehearse_module
from quarantine_release.usecases import settle as settle_module
from quarantine_release.usecases import sweep as sweep_module
from tests.simulation import simulation as simulation_module
from tests.simulation.simulated_runs import scheduled, schedules
from tests.simulation.simulated_stories import Story
from tests.simulation.simulated_strangers import STORIES, TWO_ROWS

pytestmark = pytest.mark.simulation

Patch = pytest.MonkeyPatch
ALL = {**STORIES, "ids of two rows": TWO_ROWS}


@pytest.mark.parametrize("name", ALL)
def test_no_fault_has_a_made_up_id_harm_anybody_else(name: str) -> None:
    story = ALL[name]
    assert [(schedule, found) for schedule, found in schedules(1, story.jobs, prepare=story.prepare) if found] == []


@pytest.mark.parametrize("name", STORIES)
def test_without_a_fault_each_story_comes_to_what_it_should(name: str) -> None:
    story = STORIES[name]
    simulation, _ = scheduled((), story.jobs, prepare=story.prepare)
    rows = [request_row(item) for key, item in simulation.dynamodb.items.items() if key.startswith("R#")]
    outcomes = {row.fingerprint: tuple(LETTERS[letter][0] for letter in row.letters or "") for row in rows}
    assert outcomes == story.comes_to


def test_ids_of_two_rows_are_refused() -> None:
    simulation, _ = scheduled((), TWO_ROWS.jobs, prepare=TWO_ROWS.prepare)
    assert (simulation.told, simulation.posts) == ([], [])


def an_id_that_a_caller_gives_counts_as_confirmed(patch: Patch) -> None:
    def mutant(row: MessageRow, given: MessageId) -> MessageRow:
        return replace(row, confirmed_id=given, message_id=given)

    patch.setattr(transitions_module, "with_candidate", mutant)


def what_callers_call_a_message_is_not_read(patch: Patch) -> None:
    def mutant(ports: Ports, account_id: AccountId, wanted: Sequence[ReadBackTarget], seconds: float) -> Any:
        return ports.reader.read(account_id, wanted, seconds, ports.budget)

    patch.setattr(settle_module, "read_back", mutant)


def what_was_rejected_under_one_id_has_failed_under_every_id(patch: Patch) -> None:
    original = results_module._of_row

    def mutant(request: Any, _: MessageId, row: MessageRow | None, now: Any) -> Any:
        return original(request, row.message_id if row is not None else _, row, now)

    patch.setattr(results_module, "_of_row", mutant)


def a_queued_id_ends_before_it_was_read(patch: Patch) -> None:
    patch.setattr(results_module, "_is_yet_to_ask", lambda *_: False)


def a_dry_run_does_not_ask(patch: Patch) -> None:
    patch.setattr(rehearse_module, "ask_for", lambda *_: None)

    def mutant(request: RequestRow) -> bool:
        return request.state is RequestState.OPEN and request.cancelled_at is None and not request.dry_run

    patch.setattr(RequestRow, "may_ask", property(mutant))


def an_unread_id_in_a_closed_attempt_stays_unread(patch: Patch) -> None:
    patch.setattr(sweep_module, "_unread", lambda _: [])


def an_id_of_two_rows_is_accepted(patch: Patch) -> None:
    for module in (simulation_module, results_module):
        patch.setattr(module, "has_one_key", lambda _: True)


_REVIEWED = STORIES["a made-up id that has brought the message under review"]
MUTANTS: tuple[tuple[Callable[[Patch], None], Story], ...] = (
    (an_id_that_a_caller_gives_counts_as_confirmed, STORIES["a made-up id beside a release"]),
    (what_callers_call_a_message_is_not_read, STORIES["a made-up id first"]),
    (what_was_rejected_under_one_id_has_failed_under_every_id, STORIES["a made-up id first"]),
    (a_queued_id_ends_before_it_was_read, _REVIEWED),
    (a_dry_run_does_not_ask, _REVIEWED),
    (an_unread_id_in_a_closed_attempt_stays_unread, _REVIEWED),
    (an_id_of_two_rows_is_accepted, TWO_ROWS),
)


@pytest.mark.parametrize(("mutant", "story"), MUTANTS, ids=[mutant.__name__ for mutant, _ in MUTANTS])
def test_each_mutant_is_caught(mutant: Callable[[Patch], None], story: Story, monkeypatch: Patch) -> None:
    """What the same story finds of the code as it is, a test above asks: nothing."""
    mutant(monkeypatch)
    assert any(found for _, found in schedules(1, story.jobs, prepare=story.prepare))
