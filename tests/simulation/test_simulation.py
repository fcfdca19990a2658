"""The simulation in `make test`: schedules of one and two faults, 6,000 fixed seeds, 2,000 of this commit's own.

`make simulate` runs more.
"""

import gc
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from quarantine_release.domain.states import Outcome
from quarantine_release.domain.verdicts import RefusalReason
from quarantine_release.releasing.progress import Answer
from quarantine_release.usecases.admission import NotAccepted
from tests.simulation.simulated_invariants import check_end
from tests.simulation.simulated_runs import (
    GRACE_SECONDS,
    GUARDED,
    IDS,
    SCENARIOS,
    failing_seeds,
    main,
    schedules,
    seeded,
)
from tests.simulation.simulated_strikes import RELEASES, Strike
from tests.simulation.simulation import Job, Simulation

pytestmark = pytest.mark.simulation
FIXED, MOVING, BLOCK = 6_000, 2_000, 200
# Above the seeds of `make simulate`, so that each commit runs seeds that nothing has run before.
FIRST_MOVING, WINDOWS = 1_000_000, 1_000_000


@cache
def moving_window() -> int:
    """The first seed of this commit's window. Without git it is always the same one."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        head = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return FIRST_MOVING
    return FIRST_MOVING + MOVING * (int(head, 16) % WINDOWS)


def run_block(first: int) -> None:
    seeds = f"seeds {first} to {first + BLOCK - 1}; run one again with: make simulate SEED=n"
    assert failing_seeds(first, BLOCK) == [], seeds


@pytest.fixture(scope="module", autouse=True)
def _collect_only_what_comes_now() -> Iterator[None]:
    """Spare the collector what earlier tests left in this process: a third of the time otherwise."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_fault_at_any_boundary_violates_anything(scenario: str) -> None:
    assert [(schedule, found) for schedule, found in schedules(1, SCENARIOS[scenario]) if found] == []


@pytest.mark.parametrize("story", GUARDED)
def test_no_fault_lets_anything_past_the_guard(story: str) -> None:
    jobs, harmful_from = GUARDED[story]
    assert [(schedule, found) for schedule, found in schedules(1, jobs, harmful_from) if found] == []


def test_the_crowds_meet_the_guard() -> None:
    """It denies some, lets some pass, and finds what Message-IDs mean."""
    told = [told for seed in range(0, 90, 3) for told in seeded(seed).told if isinstance(told.answer, Answer)]
    results = [result for one in told if isinstance(one.answer, Answer) for result in one.answer.results]
    assert {Outcome.DENIED, Outcome.RELEASED} <= {result.outcome for result in results}
    assert any(result.resolved for result in results)


def test_no_two_faults_violate_anything() -> None:
    ran, failed = 0, []
    for schedule, found in schedules(2):
        ran += 1
        if found:
            failed.append((schedule, found))
    assert failed == []
    assert ran > 1000


@pytest.mark.parametrize("first", range(0, FIXED, BLOCK))
def test_no_crowd_of_actors_violates_anything(first: int) -> None:
    run_block(first)


# The offset names the test, not the seed: all processes of xdist must collect the same names.
@pytest.mark.parametrize("offset", range(0, MOVING, BLOCK))
def test_no_crowd_of_actors_violates_anything_at_this_commit(offset: int) -> None:
    run_block(moving_window() + offset)


@pytest.mark.parametrize("trouble", [Strike.RATE_LIMITED, Strike.UNREACHABLE, Strike.LOST, Strike.DENIED])
def test_an_outage_of_half_an_hour_delays_and_loses_nothing(trouble: Strike) -> None:
    """Cloudflare refuses everything, cannot be reached, or never answers: intake goes on, calls are few."""
    outage = 1800.0
    jobs = [
        Job(f"{minute}", IDS[minute % 6 : minute % 6 + 1], at=minute * 60.0, inline=minute % 2 == 0)
        for minute in range(30)
    ]

    def strike(boundary: str) -> Strike | None:
        return trouble if boundary in RELEASES and simulation.now < outage else None

    simulation = Simulation(jobs, strike, seed=1)
    simulation.run(until=outage + GRACE_SECONDS)
    assert check_end(simulation) == []
    assert simulation.dead_letters == []
    assert len([call for call in simulation.calls if call < outage]) < 4 * 30
    if trouble is not Strike.DENIED:  # who waits for an answer is told no at once
        assert all(isinstance(told.answer, Answer) for told in simulation.told)


def test_the_same_seed_is_the_same_history() -> None:
    one, other = seeded(7, keeps_history=True), seeded(7, keeps_history=True)
    assert one.history == other.history
    assert len(one.history) > 10


def test_seeds_bring_about_what_is_to_be_survived() -> None:
    runs = [seeded(seed) for seed in range(300)]
    assert sum(len(run.posts) for run in runs) > 300
    assert any(len({post.attempt for post in run.posts}) > len(run.jobs) for run in runs)
    strikes = {post.strike for run in runs for post in run.posts}
    assert {"the call never arrives, and nobody is told", "the answer is lost, the effect comes a minute later"} <= {
        str(strike) for strike in strikes
    }
    assert any(run.negative_reads for run in runs)
    assert any(run.pauses for run in runs)
    answers = [told.answer for run in runs for told in run.told]
    reasons = {answer.reason for answer in answers if isinstance(answer, NotAccepted)}
    assert RefusalReason.PAUSED in reasons
    assert all(run.is_settled for run in runs if run.damages is None)
    kinds = {one.key[:1] for run in runs if run.damages is not None for one in run.damages.planned}
    assert {"M", "R", "T", "A"} <= kinds


def test_a_seed_prints_its_history(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "7"]) == 0
    assert "nothing was violated" in capsys.readouterr().out
