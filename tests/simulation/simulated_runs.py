"""The two ways through the state space: every schedule of up to three faults, and seeded crowds of actors.

`python -m tests.simulation.simulated_runs` runs the large programmes; with `--seed N` one seed again, with its history.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

from quarantine_release.domain.ids import MessageId, PostfixPart, postfix_part
from tests.simulation.simulated_clients import never_restored, restored, revoke, revoked_jobs, unreadable
from tests.simulation.simulated_damage import damage
from tests.simulation.simulated_invariants import check_end
from tests.simulation.simulated_stories import AWAITED, SEARCHED, STANDARD, Story, crowd
from tests.simulation.simulated_strangers import STORIES as MADE_UP_IDS
from tests.simulation.simulated_strikes import LEDGER_STRIKES, RELEASES, Strike, strikes_at
from tests.simulation.simulation import Job, Order, Simulation
from tests.support.model_dynamodb import Fault

# Both sides are well from the end of the trouble on: what was accepted must have ended by then.
GRACE_SECONDS = 15 * 60.0
IDS = tuple(MessageId(f"4Njp3P0STMz2c{number:03d}") for number in range(6))

# One request; one beside which others ask; a forced one; several wire calls are the unit tests' matter.
SCENARIOS: dict[str, tuple[Job, ...]] = {
    "one request": (Job("one", IDS[:2]),),
    "three at once": tuple(Job(name, IDS[:1], has_key=name != "two") for name in ("one", "two", "three")),
    "released, then forced, then asked for": (
        Job("first", IDS[:1]),
        Job("forced", IDS[:1], at=100.0, force=True),
        Job("later", IDS[:1], at=500.0),
    ),
    "one queued": (Job("queued", IDS[:2], inline=False),),
    "two queued beside one inline": (
        Job("queued", IDS[:2], inline=False),
        Job("inline", IDS[1:2]),
        Job("queued too", IDS[1:3], inline=False, has_key=False),
    ),
    "a dry run beside a release": (Job("one", IDS[:1], tries=1), Job("dry", IDS[:1], at=0.2, dry_run=True)),
    "queued, then cancelled": (Job("queued", IDS[:2], inline=False, cancel_after=0.99),),
}
# The same under the guard: by its id and by its Message-ID, and one that turns out to be harmful meanwhile.
HEADERS = tuple(MessageId(f"<{each}@example.net>") for each in IDS)
GUARDED: dict[str, tuple[tuple[Job, ...], Mapping[PostfixPart, float]]] = {
    "by its id and by its Message-ID": ((Job("one", IDS[:1]), Job("two", HEADERS[:1])), {}),
    "queued, and harmful from the third minute on": (
        (Job("queued", (HEADERS[0], IDS[1]), inline=False), Job("later", IDS[1:2], at=200.0)),
        {postfix_part(IDS[1]): 180.0},
    ),
}

# A client that is revoked while what it asked for waits.
REVOKED: dict[str, Story] = {
    "revoked, then restored": Story(revoked_jobs(IDS), restored),
    "revoked for ever": Story(revoked_jobs(IDS), never_restored),
    "clients that cannot be read for a while": Story(revoked_jobs(IDS), unreadable),
}

Schedule = tuple[tuple[int, Fault | Strike], ...]


def scheduled(
    schedule: Schedule,
    jobs: Sequence[Job] | None = None,
    *,
    harmful_from: Mapping[PostfixPart, float] | None = None,
    keeps_history: bool = False,
    prepare: Callable[[Simulation], None] | None = None,
) -> tuple[Simulation, list[str]]:
    """Run one client and the reconciler with faults at the given boundaries; return the names of all boundaries."""
    planned, names = dict(schedule), []

    def strike(boundary: str) -> Fault | Strike | None:
        names.append(boundary)
        return planned.get(len(names) - 1)

    simulation = Simulation(jobs or SCENARIOS["one request"], strike, keeps_history=keeps_history)
    if harmful_from is not None:
        _guard(harmful_from, simulation)
    if prepare is not None:
        prepare(simulation)
    simulation.run(until=GRACE_SECONDS + max(job.at for job in simulation.jobs))
    return simulation, names


def schedules(
    depth: int,
    jobs: Sequence[Job] | None = None,
    harmful_from: Mapping[PostfixPart, float] | None = None,
    *,
    prepare: Callable[[Simulation], None] | None = None,
    root: Schedule = (),
) -> Iterator[tuple[Schedule, list[str]]]:
    """Go through every schedule of at most `depth` faults, each at every boundary that the faults before it lead to.

    With `root` those alone that begin with it.
    """
    waiting: list[Schedule] = [root]
    while waiting:
        schedule = waiting.pop()
        simulation, names = scheduled(schedule, jobs, harmful_from=harmful_from, prepare=prepare)
        yield schedule, check_end(simulation)
        if len(schedule) < depth:
            waiting += _longer(schedule, names)


def _longer(schedule: Schedule, names: Sequence[str]) -> list[Schedule]:
    start = schedule[-1][0] + 1 if schedule else 0
    return [(*schedule, (at, strike)) for at in range(start, len(names)) for strike in strikes_at(names[at])]


def seeded(seed: int, *, keeps_history: bool = False) -> Simulation:
    """Run a crowd: several clients for a few messages, some forced, under trouble for up to eight minutes."""
    chance = random.Random(seed)  # noqa: S311  reproducible on purpose
    ids = IDS[: chance.choice((1, 1, 2, 3))]
    jobs = []
    for number in range(chance.randint(1, 6)):
        wanted = tuple(chance.sample(ids, chance.randint(1, len(ids))))
        at = chance.choice((0.0, chance.uniform(0, 5), chance.uniform(0, 400)))
        force = chance.random() < 0.04
        jobs.append(
            Job(
                f"{number}",
                wanted,
                at,
                has_key=force or chance.random() < 0.6,
                force=force,
                tries=chance.randint(1, 3),
                inline=force or chance.random() < 0.6,
                cancel_after=chance.choice((chance.uniform(0.9, 1.1), chance.uniform(0, 5)))
                if not force and chance.random() < 0.1
                else None,
            )
        )
    trouble_until = chance.choice((30.0, 200.0, 480.0))
    level = chance.choice((0.02, 0.1, 0.3))
    # A storm: Cloudflare refuses nearly everything for a while, as it does once the rate limit is passed.
    storm = (chance.uniform(0, 30), chance.uniform(300, 600)) if chance.random() < 0.2 else (0.0, 0.0)
    may_reject = chance.random() < 0.1
    is_short = chance.random() < 0.1

    def strike(boundary: str) -> Fault | Strike | None:
        if boundary in RELEASES and storm[0] < simulation.now < storm[1] and chance.random() < 0.9:
            return Strike.RATE_LIMITED
        if boundary in RELEASES and storm[1] < simulation.now < storm[1] + 90 and chance.random() < 0.5:
            return Strike.LOST
        if simulation.now > trouble_until or chance.random() > level * (3 if boundary in RELEASES else 1):
            return None
        if chance.random() < 0.1:
            return Strike.STALL
        if boundary in RELEASES:
            usual = strikes_at(boundary)
            return chance.choice((*usual, Strike.REJECTED) if may_reject else usual)
        if boundary in ("read", "look", "send", "done", "secret"):
            return chance.choice(strikes_at(boundary))
        return chance.choice([one for one in LEDGER_STRIKES if one in strikes_at(boundary)])

    simulation = Simulation(jobs, strike, seed=seed, keeps_history=keeps_history)
    if seed % 3 == 0:  # under the guard, some asking by Message-ID, and one mail turning out to be harmful
        simulation.guard = STANDARD
        simulation.jobs = [
            replace(job, ids=tuple(HEADERS[IDS.index(each)] for each in job.ids)) if number % 2 else job
            for number, job in enumerate(jobs)
        ]
        simulation.harmful_from = {postfix_part(IDS[seed // 3 % 3]): float(seed % 7) * 60}
    if seed % 3 == 1 and not AWAITED:
        crowd(seed, IDS, simulation)
    grace = GRACE_SECONDS
    if is_short:  # of calls: what is left over waits for the next window
        simulation.inline_mark, simulation.limit, grace = chance.choice((0, 1, 2)), chance.choice((4, 6)), 4 * grace
        if simulation.search is not None:  # whose lists and logs take several calls each
            simulation.limit *= 5
    rehearse(seed, simulation.jobs)
    simulation.orders = orders(seed, jobs)
    lifted = max((order.at + order.seconds for order in simulation.orders), default=0.0)
    if not is_short:  # then requests wait long, and would expire
        lifted = max(lifted, revoke(seed, simulation), damage(seed, simulation))
    simulation.run(until=max(trouble_until, storm[1] + 90, 420.0, lifted) + grace)
    return simulation


def rehearse(seed: int, jobs: Sequence[Job]) -> None:
    """Make one request a dry run in one run of five, by dice of its own, so that other runs stay alike."""
    chance = random.Random(f"dry runs of {seed}")  # noqa: S311  reproducible on purpose
    job = chance.choice(jobs)
    if chance.random() < 0.2 and not job.force:
        job.dry_run, job.inline, job.cancel_after = True, True, None


def orders(seed: int, jobs: Sequence[Job]) -> list[Order]:
    """Have a person pause an account or a client in one run of five; by dice of its own, so that others stay alike."""
    chance = random.Random(f"orders of {seed}")  # noqa: S311  reproducible on purpose
    if chance.random() > 0.2:
        return []
    for number, job in enumerate(jobs):
        job.client = f"client-{number % 2}"
    return [
        Order(
            at=max(0.0, chance.choice(jobs).at + chance.choice((-1.0, 0.0, 0.1, 1.0, 30.0)) + chance.uniform(0, 3)),
            seconds=chance.choice((chance.uniform(0, 5), chance.uniform(30, 400))),
            client=client,
        )
        for client in chance.choice(((None,), ("client-0",), (None, "client-0")))
    ]


def standing_still(seed: int) -> Simulation:
    """Run one request whose calls never arrive, and reconcilers that stand still: they write what they read before."""
    chance = random.Random(seed)  # noqa: S311  reproducible on purpose

    def strike(boundary: str) -> Fault | Strike | None:
        if boundary in RELEASES and simulation.now < 600:
            return Strike.LOST
        return Strike.STALL if 200 < simulation.now < 700 and chance.random() < 0.12 else None

    simulation = Simulation(SCENARIOS["one request"], strike, seed=seed + 1)
    simulation.run(until=700 + GRACE_SECONDS)
    return simulation


def failing_seeds(first: int, count: int) -> list[tuple[int, list[str]]]:
    """Run seeds; return those that violate something, with what."""
    return [(seed, found) for seed in range(first, first + count) if (found := _violations(seed))]


def _violations(seed: int) -> list[str]:
    try:
        return check_end(seeded(seed))
    except Exception as error:  # noqa: BLE001 - else nobody would know which seed it was
        return [f"crashed: {error!r}"]


def _stories() -> dict[str, Story]:
    """Return all stories; those under the guard differ in what they are prepared with."""
    plain = {name: Story(jobs) for name, jobs in SCENARIOS.items()}
    guarded = {name: Story(jobs, partial(_guard, harmful_from)) for name, (jobs, harmful_from) in GUARDED.items()}
    searched = {name: story for name, story in SEARCHED.items() if name not in AWAITED}
    return {**plain, **guarded, **searched, **REVOKED, **MADE_UP_IDS}


def _guard(harmful_from: Mapping[PostfixPart, float], simulation: Simulation) -> None:
    simulation.guard, simulation.harmful_from = STANDARD, harmful_from


def _run_schedules(block: tuple[str, int, Schedule]) -> tuple[int, list[tuple[Schedule, list[str]]]]:
    """Run what begins with one schedule; return how many that were, and those that violate something."""
    name, depth, root = block
    story = _stories()[name]
    ran = list(schedules(depth, story.jobs, prepare=story.prepare, root=root))
    return len(ran), [(schedule, violations) for schedule, violations in ran if violations]


def _blocks(name: str, story: Story, depth: int) -> list[tuple[str, int, Schedule]]:
    _, names = scheduled((), story.jobs, prepare=story.prepare)
    return [(name, 0, ()), *((name, depth, root) for root in _longer((), names) if depth)]


def _run_block(block: tuple[int, int]) -> list[tuple[int, list[str]]]:
    return failing_seeds(*block)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments say; print counts and times; return 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.simulated_runs", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone and print its history")
    parser.add_argument("--seeds", type=int, default=0, help="run so many seeds, from 0 on")
    parser.add_argument(
        "--faults",
        type=int,
        default=0,
        help="run every schedule of at most so many faults for one request, and of one less for each other story",
    )
    options = parser.parse_args(arguments)
    if options.seed is not None:
        simulation = seeded(options.seed, keeps_history=True)
        print("\n".join(simulation.history))
        violations = check_end(simulation)
        print("\n".join(violations) or "nothing was violated")
        return bool(violations)
    failed = False
    for name, story in _stories().items() if options.faults else ():
        began, number = time.monotonic(), 0
        depth = options.faults - (name != "one request")
        with ProcessPoolExecutor() as pool:
            for ran, violated in pool.map(_run_schedules, _blocks(name, story, depth)):
                number += ran
                for schedule, violations in violated:
                    failed = True
                    print(f"{name}, schedule {schedule}: {violations}")
        print(f"{name}: {number} schedules of at most {depth} faults in {time.monotonic() - began:.0f} s")
    if options.seeds:
        began = time.monotonic()
        size = 500
        blocks = [(first, min(size, options.seeds - first)) for first in range(0, options.seeds, size)]
        with ProcessPoolExecutor() as pool:
            for (first, count), failures in zip(blocks, pool.map(_run_block, blocks), strict=True):
                if (first + count) % 50_000 == 0:
                    print(f"{first + count} seeds in {time.monotonic() - began:.0f} s", file=sys.stderr)
                for seed, violations in failures:
                    failed = True
                    print(f"seed {seed}: {violations}; again with: make simulate SEED={seed}")
        print(f"seeds: {options.seeds} in {time.monotonic() - began:.0f} s")
    return failed


if __name__ == "__main__":
    sys.exit(main())
