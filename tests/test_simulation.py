"""The simulation in `make test`: schedules of one and two faults, 20,000 seeds. `make simulate` runs more."""

from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulated_runs import SCENARIOS, failing_seeds, main, schedules, seeded

pytestmark = pytest.mark.simulation
SEEDS, BLOCK = 20_000, 500


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_fault_at_any_boundary_violates_anything(scenario: str) -> None:
    assert [(schedule, found) for schedule, found in schedules(1, SCENARIOS[scenario]) if found] == []


def test_no_two_faults_violate_anything() -> None:
    ran, failed = 0, []
    for schedule, found in schedules(2):
        ran += 1
        if found:
            failed.append((schedule, found))
    assert failed == []
    assert ran > 1000


def test_no_crowd_of_actors_violates_anything() -> None:
    starts = range(0, SEEDS, BLOCK)
    with ProcessPoolExecutor() as pool:
        failed = [failure for block in pool.map(failing_seeds, starts, [BLOCK] * len(starts)) for failure in block]
    assert failed == []


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
    assert all(run.is_settled for run in runs)


def test_a_seed_prints_its_history(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "7"]) == 0
    assert "nothing was violated" in capsys.readouterr().out
