"""Clients that are revoked and restored while what they asked for waits: simulated, with a fault at any boundary."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from quarantine_release.aws import current_clients
from quarantine_release.domain.ids import RequestId
from quarantine_release.domain.permit import as_accepted
from quarantine_release.domain.rows import RequestRow
from quarantine_release.releasing.hints import plan_hints
from quarantine_release.usecases import sweep
from tests.simulation.simulated_clients import Loss
from tests.simulation.simulated_runs import REVOKED, schedules, seeded

pytestmark = pytest.mark.simulation

Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("name", REVOKED)
def test_no_fault_lets_a_revoked_client_release_or_loses_its_work(name: str) -> None:
    story = REVOKED[name]
    assert [(schedule, found) for schedule, found in schedules(1, story.jobs, prepare=story.prepare) if found] == []


def test_the_crowds_meet_revoked_clients() -> None:
    """Work of some of them waits, and later goes on."""
    runs = [run for seed in range(100) if (run := seeded(seed)).clients is not None]
    assert {one.loss for run in runs if run.clients for one in run.clients.revocations} == set(Loss)
    late = [
        post
        for run in runs
        for post in run.posts
        if run.clients and any(one.at < post.at and one.until < post.at for one in run.clients.revocations)
    ]
    assert late


def revoked_stories() -> Iterator[list[str]]:
    return (found for story in REVOKED.values() for _, found in schedules(1, story.jobs, prepare=story.prepare))


def the_clients_secret_is_ignored(patch: Patch) -> None:
    patch.setattr(current_clients, "check_permit", lambda request, clients, now: as_accepted(request))  # noqa: ARG005


def work_of_a_revoked_client_is_forgotten(patch: Patch) -> None:
    """Nobody sends hints for it any more, also when the client is back."""
    forgotten: set[RequestId] = set()

    def mutant(request: RequestRow, parts: Any) -> Any:
        hints = plan_hints(request, parts)
        forgotten.update({request.request_id} if request.client == "lost" and hints else ())
        return [] if request.request_id in forgotten else hints

    patch.setattr(sweep, "plan_hints", mutant)


@pytest.mark.parametrize("mutant", [the_clients_secret_is_ignored, work_of_a_revoked_client_is_forgotten])
def test_each_mutant_is_caught(mutant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutant(monkeypatch)
    assert any(revoked_stories())
