"""The stories told by a simulated search: what each comes to without a fault, and the mutants that they catch."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from quarantine_release.cloudflare import action_log as action_log_module
from quarantine_release.cloudflare import after_release as cloudflare_reading_module
from quarantine_release.cloudflare import details_walk as details_walk_module
from quarantine_release.cloudflare import entries as reading_module
from quarantine_release.cloudflare import log_pages as cloudflare_log_module
from quarantine_release.cloudflare import matching as matching_module
from quarantine_release.cloudflare.entries import RELEASE
from quarantine_release.cloudflare.search import Page, SearchSession
from quarantine_release.domain import search_rows as search_rows_module
from quarantine_release.domain.details import Details, NotRead, Several
from quarantine_release.domain.guard import Guarded
from quarantine_release.domain.lookup import Kept
from quarantine_release.domain.states import LETTERS, Outcome
from quarantine_release.domain.verdicts import Seen
from quarantine_release.ledger.items import request_row
from quarantine_release.releasing import gate as gate_module
from quarantine_release.releasing import vet as vetting_module
from quarantine_release.releasing.own_ids import OwnIds
from tests.simulation.simulated_runs import scheduled, schedules
from tests.simulation.simulated_stories import AWAITED, SEARCHED

pytestmark = pytest.mark.simulation

Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("name", sorted(SEARCHED.keys() - AWAITED))
def test_no_fault_has_what_a_search_shows_overlooked(name: str) -> None:
    story = SEARCHED[name]
    assert [(schedule, found) for schedule, found in schedules(1, story.jobs, prepare=story.prepare) if found] == []


@pytest.mark.parametrize("name", sorted(SEARCHED.keys() - AWAITED))
def test_without_a_fault_each_story_comes_to_what_it_should(name: str) -> None:
    assert outcomes_of(name) == SEARCHED[name].comes_to


def outcomes_of(name: str) -> dict[str, tuple[Outcome, ...]]:
    """Return what each job of a story comes to without a fault."""
    story = SEARCHED[name]
    simulation, _ = scheduled((), story.jobs, prepare=story.prepare)
    rows = [request_row(item) for key, item in simulation.dynamodb.items.items() if key.startswith("R#")]
    return {row.fingerprint: tuple(LETTERS[letter][0] for letter in row.letters or "") for row in rows}


def the_last_row_wins(patch: Patch) -> None:
    for module in (search_rows_module, matching_module):
        patch.setattr(module, "merged", lambda rows: rows[-1])


def only_one_page_is_read(patch: Patch) -> None:
    original = SearchSession.pages

    def mutant(self: SearchSession, query: Mapping[str, str], **members: Any) -> Iterator[Page]:
        return (replace(page, is_last=True) for page in islice(original(self, query, **members), 1))

    patch.setattr(SearchSession, "pages", mutant)


def the_first_of_several_is_meant(patch: Patch) -> None:
    original = search_rows_module.meant_by

    def mutant(*arguments: Any) -> Details | Several | NotRead | None:
        told = original(*arguments)
        return told.messages[0] if isinstance(told, Several) else told

    patch.setattr(details_walk_module, "meant_by", mutant)


def a_full_id_tells_what_a_shorter_one_means(patch: Patch) -> None:
    patch.setattr(OwnIds, "shorter", lambda *_: [])


def what_is_too_new_to_be_shown_cannot_be_read(patch: Patch) -> None:
    patch.setattr(gate_module, "searchable_at", lambda *_: None)


def a_listed_operation_is_proof(patch: Patch) -> None:
    original = reading_module.shown_state

    def mutant(entry: Mapping[str, Any]) -> Seen:
        return Seen.RELEASED if RELEASE in entry["post_delivery_operations"] else original(entry)

    patch.setattr(reading_module, "shown_state", mutant)


def only_one_page_of_an_action_log_is_read(patch: Patch) -> None:
    original = cloudflare_log_module.read_log

    def mutant(*arguments: Any) -> Any:
        patch.setattr(cloudflare_log_module, "PAGES", 1)
        return replace(original(*arguments), why=None)

    patch.setattr(cloudflare_reading_module, "read_log", mutant)


def a_list_frees_a_message_whose_log_nobody_read(patch: Patch) -> None:
    patch.setattr(cloudflare_reading_module, "clarify", lambda reading, *_: reading)


def a_logged_failure_is_a_release(patch: Patch) -> None:
    original = action_log_module._success
    patch.setattr(action_log_module, "_success", lambda action: original(action) is not None or None)


def what_was_read_is_not_kept(patch: Patch) -> None:
    patch.setattr(vetting_module, "facts_of", lambda *_, **__: None)


def nobody_is_judged_by_what_was_read(patch: Patch) -> None:
    patch.setattr(gate_module, "judge_by", lambda *_, **__: Guarded.NOT_CHECKED)


def a_kept_answer_holds_for_ever(patch: Patch) -> None:
    patch.setattr(Kept, "is_fresh", lambda *_: True)


def a_bare_id_means_what_it_meant(patch: Patch) -> None:
    patch.setattr(vetting_module, "used_again", lambda *_: None)


MUTANTS: tuple[tuple[Callable[[Patch], None], str], ...] = (
    (the_last_row_wins, "rows of one message that contradict one another"),
    (only_one_page_is_read, "the same on two pages"),
    (the_first_of_several_is_meant, "two messages behind one alert id"),
    (a_full_id_tells_what_a_shorter_one_means, "two messages behind one alert id"),
    (what_is_too_new_to_be_shown_cannot_be_read, "fresh and harmful, and shown half a minute late"),
    (a_listed_operation_is_proof, "a release that goes on being shown as held"),
    (only_one_page_of_an_action_log_is_read, "a release of which only the log tells, on its second page"),
    (a_list_frees_a_message_whose_log_nobody_read, "the same in a pack"),
    (a_logged_failure_is_a_release, "a release that goes on being shown as held"),
    (what_was_read_is_not_kept, "denied by its full id, then asked for by its bare one, which nobody can read"),
    (nobody_is_judged_by_what_was_read, "the same, and by now its full id cannot be read either"),
)
# What these change violates nothing that holds of every run: what is told is true of one of two messages.
TOLD_OTHERWISE: tuple[tuple[Callable[[Patch], None], str], ...] = (
    (a_kept_answer_holds_for_ever, "a second message under a kept Message-ID"),
    (a_bare_id_means_what_it_meant, "a bare id that was used again"),
)


@pytest.mark.parametrize(("mutant", "name"), MUTANTS, ids=[mutant.__name__ for mutant, _ in MUTANTS])
def test_each_mutant_is_caught(mutant: Callable[[Patch], None], name: str, monkeypatch: Patch) -> None:
    """What the same story finds of the code as it is, a test above asks: nothing."""
    mutant(monkeypatch)
    story = SEARCHED[name]
    assert any(found for _, found in schedules(1, story.jobs, prepare=story.prepare))


@pytest.mark.parametrize(("mutant", "name"), TOLD_OTHERWISE, ids=[mutant.__name__ for mutant, _ in TOLD_OTHERWISE])
def test_each_mutant_tells_somebody_something_else(
    mutant: Callable[[Patch], None], name: str, monkeypatch: Patch
) -> None:
    mutant(monkeypatch)
    assert outcomes_of(name) != SEARCHED[name].comes_to
