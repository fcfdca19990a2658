"""How long a burst of requests takes to be released under Cloudflare's limit, here and the way others work.

Everything happens in simulated time and follows from the seed. `make bench-burst` brings docs/performance.md and
docs/burst.svg up to date.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from math import ceil, inf
from pathlib import Path
from random import Random
from typing import Final

from benchmarks.deployment import Deployment
from benchmarks.limited_cloudflare import Limit, LimitedCloudflare
from benchmarks.plot import Line, plot
from benchmarks.simulated_quarantine import Mail, Quarantine
from benchmarks.simulated_time import SimulatedTime
from quarantine_release import telemetry
from quarantine_release.domain.ids import MessageId
from quarantine_release.releasing.call import CALL_SECONDS

SIZES: Final = (1_000, 10_000)
ARRIVE_WITHIN_SECONDS: Final = 60.0
PACK: Final = 99
# The official Python SDK, cloudflare 4.3.1: tries after the first, waits that double, minus up to a quarter, and which
# Retry-After it keeps to (its _base_client.py and _constants.py).
SDK_RETRIES, SDK_FIRST_WAIT, SDK_LONGEST_WAIT, SDK_JITTER, SDK_LONGEST_RETRY_AFTER = 2, 0.5, 8.0, 0.25, 60
# Of so many messages that were quarantined with those of the burst one more is asked for by nobody.
OTHERS_EVERY: Final = 10


@dataclass(frozen=True, slots=True)
class Kind:
    """What is particular to a burst: in how long a time its messages were quarantined, and which ids are known."""

    quarantined_within: timedelta = timedelta(days=2)
    has_postfix_ids: bool = False


@dataclass(frozen=True, slots=True)
class Burst:
    """What arrives: each message once, and when. `parameters` are those of our template that are not at default."""

    arrivals: Mapping[MessageId, float]
    mails: Sequence[Mail]
    limit: Limit
    parameters: Mapping[str, str]

    @classmethod
    def of(
        cls,
        size: int,
        seed: int,
        limit: Limit | None = None,
        parameters: Mapping[str, str] | None = None,
        kind: Kind = Kind(),
    ) -> "Burst":
        """Make up so many messages, asked for evenly within a minute."""
        random, now = Random(seed), SimulatedTime().clock()  # noqa: S311  reproducible on purpose
        mails = [
            Mail.of(now - random.random() * kind.quarantined_within, random) for _ in range(size + size // OTHERS_EVERY)
        ]
        ids = [mail.postfix_id if kind.has_postfix_ids else mail.investigate_id for mail in mails[:size]]
        arrivals = {each: ARRIVE_WITHIN_SECONDS * number / size for number, each in enumerate(ids)}
        assert len(arrivals) == size  # noqa: S101
        return cls(arrivals, mails, limit or Limit(), parameters or {})


@dataclass(frozen=True, slots=True)
class Figures:
    """What one way of working came to. Times in seconds since the first request, `waits` since each one's own."""

    calls: int
    refused: int
    lock_outs: int
    lost: int
    twice: int
    released_at: Sequence[float]
    waits: Sequence[float]

    @property
    def drained_at(self) -> float:
        """Return when the last release was made; infinity if none was."""
        return self.released_at[-1] if self.released_at else inf

    def wait(self, share: float) -> float:
        """Return how long this share of what was released waited at most; infinity if nothing was."""
        if not self.waits:
            return inf
        return self.waits[ceil(share * len(self.waits)) - 1]


# --- Ways of working --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stage:
    """What a way of working has to do with."""

    burst: Burst
    time: SimulatedTime
    random: Random
    cloudflare: LimitedCloudflare


def quarantine_release(stage: Stage, guard: str = "standard") -> None:
    """Release as this system does."""
    quarantine = Quarantine(stage.time, stage.random, stage.cloudflare, stage.burst.mails)
    parameters = {"GuardMode": guard, **stage.burst.parameters}
    deployment = Deployment(stage.time, stage.random, stage.cloudflare, quarantine, parameters)
    for message_id, at in stage.burst.arrivals.items():
        deployment.post(message_id, at)
    deployment.start()


def one_call_each(stage: Stage, retry: Callable[[Random, int, int], float | None]) -> None:
    """Make a call for each request. `retry` says from tries made and Retry-After how long to wait; None: give up."""

    def release(message_id: MessageId) -> None:
        tries = 1
        while (retry_after := stage.cloudflare.release([message_id])) is not None:
            wait = retry(stage.random, tries, retry_after)
            if wait is None:
                return
            stage.time.sleep(wait)
            tries += 1

    for message_id, at in stage.burst.arrivals.items():
        stage.time.spawn(partial(release, message_id), at)


def never(_: Random, __: int, ___: int) -> float | None:
    """Take a refusal for the end."""
    return None


def as_the_sdk(random: Random, tries: int, retry_after: int) -> float | None:
    """Wait as the official Python SDK does."""
    if tries > SDK_RETRIES:
        return None
    if 0 < retry_after <= SDK_LONGEST_RETRY_AFTER:
        return float(retry_after)
    wait = min(SDK_FIRST_WAIT * 2.0 ** (tries - 1), SDK_LONGEST_WAIT)
    return wait * (1 - SDK_JITTER * random.random())


def until_it_passes(_: Random, __: int, retry_after: int) -> float | None:
    """Wait as long as Cloudflare says, as often as it says so."""
    return float(retry_after)


def perfectly_packed(stage: Stage) -> None:
    """Call for as many as fit as soon as these are there, and never over the limit: nobody can be done sooner."""
    arrivals = list(stage.burst.arrivals.items())
    packs = [arrivals[start : start + PACK] for start in range(0, len(arrivals), PACK)]

    def release() -> None:
        for pack in packs:
            _, last_at = pack[-1]
            stage.time.sleep(max(last_at - stage.time.now, 0.0))
            stage.time.sleep(stage.cloudflare.free_in())
            stage.time.spawn(partial(stage.cloudflare.release, [message_id for message_id, _ in pack]))
            stage.time.sleep(0.0)  # the call is counted before the next one is thought of

    stage.time.spawn(release)


@dataclass(frozen=True, slots=True)
class Way:
    """A way of working, and the kind of burst that it is played with."""

    act: Callable[[Stage], None]
    kind: Kind = Kind()


OURS: Final = "Quarantine Release"
POSTFIX_IDS, GUARD_OFF = f"{OURS}, Postfix ids", f"{OURS}, guard off"
BOUND: Final = "perfectly packed calls of 99"
WAYS: Final[Mapping[str, Way]] = {
    OURS: Way(quarantine_release),
    POSTFIX_IDS: Way(quarantine_release, Kind(has_postfix_ids=True)),
    GUARD_OFF: Way(partial(quarantine_release, guard="off")),
    BOUND: Way(perfectly_packed),
    "one call each, waits out Retry-After": Way(partial(one_call_each, retry=until_it_passes)),
    "one call each, no retry": Way(partial(one_call_each, retry=never)),
    "one call each, retries as the SDK": Way(partial(one_call_each, retry=as_the_sdk)),
}
ALL_OURS: Final = (OURS, POSTFIX_IDS, GUARD_OFF)


def play(
    way: Way, size: int, seed: int, limit: Limit | None = None, parameters: Mapping[str, str] | None = None
) -> Figures:
    """Have a burst released in one way."""
    burst = Burst.of(size, seed, limit, parameters, way.kind)
    time, random = SimulatedTime(), Random(seed)  # noqa: S311  reproducible on purpose
    cloudflare = LimitedCloudflare(time, random, burst.limit)
    way.act(Stage(burst, time, random, cloudflare))
    time.run()
    released = cloudflare.released
    return Figures(
        calls=cloudflare.calls,
        refused=cloudflare.refused,
        lock_outs=cloudflare.lock_outs,
        lost=len(burst.arrivals.keys() - released.keys()),
        twice=sum(len(times) > 1 for times in released.values()),
        released_at=sorted(times[0] for times in released.values()),
        waits=sorted(times[0] - burst.arrivals[message_id] for message_id, times in released.items()),
    )


# --- What is told -----------------------------------------------------------------------------------------------------


def table(figures: Mapping[str, Figures]) -> str:
    """Return a row for each way of working, in Markdown."""
    rows = [
        f"| {name} | {each.drained_at:,.0f} | {each.calls:,} | {each.refused:,} | {each.lock_outs} | {each.lost:,} |"
        f" {each.wait(0.5):,.1f} | {each.wait(0.99):,.1f} |"
        for name, each in figures.items()
    ]
    head = [
        "| way of working | last release s | calls | 429s | lock-outs | lost | wait p50 s | wait p99 s |",
        "|---" * 8 + "|",
    ]
    return "\n".join([*head, *rows])


def targets(figures: Mapping[str, Figures]) -> dict[str, bool]:
    """Say of each target whether all of ours met it."""
    ours, bound = [figures[way] for way in ALL_OURS], figures[BOUND]
    refused, lost, twice = (sum(getattr(each, name) for each in ours) for name in ("refused", "lost", "twice"))
    ratio = max(each.drained_at for each in ours) / bound.drained_at
    return {
        f"no 429: {refused}": refused == 0,
        f"every id released once: {lost} not, {twice} twice": lost == twice == 0,
        f"drained within twice the time of perfectly packed calls: {ratio:.2f} times": ratio <= 2,
    }


def section(size: int, figures: Mapping[str, Figures]) -> str:
    """Return what docs/performance.md says of one size."""
    verdicts = [f"- {'met' if is_met else '**missed**'}: {target}" for target, is_met in targets(figures).items()]
    return "\n\n".join([f"### {size:,} requests", table(figures), "\n".join(verdicts)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Play every way of working at every size; return 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.burst", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--call-seconds", type=float, nargs=2, metavar=("LEAST", "MOST"), default=Limit().call_seconds)
    parser.add_argument(
        "--docs", type=Path, help="the folder whose performance.md and burst.svg are brought up to date"
    )
    given = parser.parse_args(arguments)
    if max(given.call_seconds) > CALL_SECONDS:
        parser.error(f"no call may take longer than {CALL_SECONDS:.0f} s: it would be given up")
    sections, is_met = [], True
    for size in given.sizes:
        limit = Limit(call_seconds=tuple(given.call_seconds))
        figures = {name: play(way, size, given.seed, limit) for name, way in WAYS.items()}
        sections.append(section(size, figures))
        print(sections[-1], end="\n\n", flush=True)
        is_met = is_met and all(targets(figures).values())
    if given.docs:
        drawn = {name: each for name, each in figures.items() if name == OURS or name not in ALL_OURS}
        lines = [Line(name, each.released_at, each.lost) for name, each in drawn.items()]
        (given.docs / "burst.svg").write_text(plot(lines, size), "utf-8")
        page = given.docs / "performance.md"
        page.write_text(replaced(page.read_text("utf-8"), "\n\n".join(sections)), "utf-8")
    return 0 if is_met else 1


def replaced(page: str, figures: str) -> str:
    """Return a page with these figures between its marks."""
    marks = re.compile(r"(?<=<!-- burst: begin -->\n).*?(?=<!-- burst: end -->)", re.DOTALL)
    return marks.sub(lambda _: f"\n{figures}\n\n", page)


if __name__ == "__main__":
    telemetry.logger.setLevel("WARNING")  # each call would be a line
    raise SystemExit(main())
