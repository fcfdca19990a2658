"""What a cold start and a warm request cost, beside the peer and the floor, on servers of this machine.

`make bench` brings docs/performance.md and docs/cold-start.svg up to date.
"""

import argparse
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.bill import Bill, bill
from benchmarks.certificate import Certificate
from benchmarks.lambda_process import Cost, LambdaProcess, Services, release_event, services
from benchmarks.packages import FLOOR, GUARDED, OURS, PEER, Package, build, lambda_python
from benchmarks.stacked_bars import stacked_bars

# Lambda gives a whole CPU at 1,769 MB, and in the init phase whatever the memory (developer guide, "Memory").
_WHOLE_CPU_MB: Final = 1769
MEMORIES: Final = (1769, 512, 256)
_WARM_UP: Final = 20
# Longer than what is bought of the account's budget holds, as it is between the requests of a quiet day.
_QUIET_SECONDS: Final = 1.0
CASES: Final = {
    "one id": 200,
    "25 ids": 200,
    "replay": 200,
    "invalid body": 400,
}
LOST: Final = "one id, connections lost"
PARTS: Final = (
    "init: compiling sources",
    "init: loading modules",
    "init: CA bundles",
    "init: clients, secrets and the rest",
    "first request: compiling, loading, CA bundles",
    "first request: the rest",
)


def share(memory_mb: int) -> float:
    """Return the share of a CPU that a function of so much memory has."""
    return min(memory_mb / _WHOLE_CPU_MB, 1.0)


@dataclass(frozen=True, slots=True)
class Start:
    """One cold start: the init phase and the first request."""

    init: Cost
    first: Cost


def typical(costs: Sequence[Cost], share: float) -> float:
    """Return the seconds that it takes on a share of a CPU: the usual computing, and the least waiting that was seen.

    Whatever else this machine does makes every wait longer, and none shorter.
    """
    return median(cost.cpu for cost in costs) / share + min(max(cost.wall - cost.cpu, 0.0) for cost in costs)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one variant."""

    megabytes: float
    starts: Sequence[Start]
    cold_calls: Mapping[str, float]
    warm: Mapping[str, Sequence[Cost]]
    warm_calls: Mapping[str, float]

    def start(self, memory_mb: int) -> float:
        """Return the seconds from nothing to the first answer."""
        return self.init + self.first(memory_mb)

    @property
    def init(self) -> float:
        """Return the seconds that the init phase takes."""
        return typical([start.init for start in self.starts], 1)

    def first(self, memory_mb: int) -> float:
        """Return the seconds that the first request takes."""
        return typical([start.first for start in self.starts], share(memory_mb))

    def cpu(self, case: str) -> float:
        """Return the seconds of CPU that a warm request takes."""
        return median(cost.cpu for cost in self.warm[case])

    def latency(self, case: str, memory_mb: int) -> float:
        """Return the seconds that a warm request takes."""
        return typical(self.warm[case], share(memory_mb))

    @property
    def peak_mb(self) -> float:
        """Return the most memory used up to the end of the first request."""
        return median(start.first.peak_kb for start in self.starts) / 1024

    def bill(self, memory_mb: int, *, cold: bool) -> Bill:
        """Return what a million requests cost of which each meets a cold function, or none does."""
        if cold:
            log = median(start.init.log + start.first.log for start in self.starts)
            return bill(memory_mb, self.start(memory_mb), self.cold_calls, log)
        log = median(cost.log for cost in self.warm[LOST])
        return bill(memory_mb, self.latency(LOST, memory_mb), self.warm_calls, log)


# --- Measuring --------------------------------------------------------------------------------------------------------


def measure(packages: Sequence[Package], around: Services, starts: int, rounds: int) -> dict[str, Figures]:
    """Measure all in turns, so that whatever else this machine does meets all alike."""
    python = lambda_python()
    cold: dict[str, list[Start]] = {package.name: [] for package in packages}
    cold_calls: dict[str, Mapping[str, float]] = {}
    for _ in range(starts):
        for package in packages:
            around.calls()
            process = LambdaProcess(python, package, around.environment)
            cold[package.name].append(Start(process.init, _checked(process.handle(release_event()), 200)))
            cold_calls[package.name] = around.calls()
            process.end()
    processes = {package.name: LambdaProcess(python, package, around.environment) for package in packages}
    for process in processes.values():
        for _ in range(_WARM_UP):
            _checked(process.handle(release_event()), 200)
    warm = {name: _warm(process, around) for name, process in processes.items()}
    found: dict[str, dict[str, list[Cost]]] = {name: {case: [] for case in (*CASES, LOST)} for name in processes}
    for case, status in CASES.items():
        for _ in range(rounds):
            for name in processes:
                found[name][case].append(_checked(warm[name](case), status))
    warm_calls: dict[str, Mapping[str, float]] = {}
    for _ in range(max(rounds // 5, 3)):
        around.lose_connections()
        time.sleep(_QUIET_SECONDS)
        for name, process in processes.items():
            around.calls()
            found[name][LOST].append(_checked(process.handle(release_event()), 200))
            warm_calls[name] = around.calls()
    for process in processes.values():
        process.end()
    sizes = {package.name: package.megabytes for package in packages}
    return {name: Figures(sizes[name], cold[name], cold_calls[name], found[name], warm_calls[name]) for name in found}


def _warm(process: LambdaProcess, around: Services) -> Callable[[str], Cost]:
    """Return what sends a request of a case."""
    replayed = release_event(key=f"a-key-{id(process)}")
    _checked(process.handle(replayed), 200)
    makers: dict[str, Callable[[], Mapping[str, Any]]] = {
        "one id": lambda: release_event(),
        "25 ids": lambda: around.hold(release_event(25)),
        "replay": lambda: replayed,
        "invalid body": lambda: release_event(body="{"),
    }
    return lambda case: process.handle(makers[case]())


def _checked(cost: Cost, status: int) -> Cost:
    if cost.status != status:
        raise SystemExit(f"answered {cost.status} instead of {status}: {cost.body}")
    return cost


# --- What is told -----------------------------------------------------------------------------------------------------


def cold_table(figures: Mapping[str, Figures]) -> str:
    """Return the cold starts, in Markdown."""
    head = ["variant", "init ms", *(f"first request ms, {each:,} MB" for each in MEMORIES)]
    head += [*(f"both ms, {each:,} MB" for each in MEMORIES), "peak MB", "package MB", "modules"]
    rows = []
    for name, each in figures.items():
        firsts = [each.first(memory) for memory in MEMORIES]
        both = [each.start(memory) for memory in MEMORIES]
        modules = median(start.first.modules for start in each.starts)
        cells = [*(f"{seconds * 1000:,.0f}" for seconds in (each.init, *firsts, *both))]
        rows.append([name, *cells, f"{each.peak_mb:.0f}", f"{each.megabytes:.1f}", f"{modules:.0f}"])
    return _markdown(head, rows)


def warm_table(figures: Mapping[str, Figures]) -> str:
    """Return the warm requests, in Markdown: CPU, and time at 512 MB."""
    names = (OURS, GUARDED, PEER, FLOOR)
    head = ["request", *(f"CPU ms, {name}" for name in names), *(f"ms at 512 MB, {name}" for name in names)]
    rows = [
        [
            case,
            *(f"{figures[name].cpu(case) * 1000:.2f}" for name in names),
            *(f"{figures[name].latency(case, 512) * 1000:.1f}" for name in names),
        ]
        for case in (*CASES, LOST)
    ]
    return _markdown(head, rows)


def bill_table(figures: Mapping[str, Figures]) -> str:
    """Return what a million requests cost, in Markdown."""
    rows = []
    for name in (OURS, GUARDED, PEER, FLOOR):
        for memory in (512, 256):
            for cold in (True, False):
                bill = figures[name].bill(memory, cold=cold)
                cells = [f"{dollars:.2f}" for dollars in bill.items.values()]
                rows.append([name, f"{memory}", "cold" if cold else "warm", *cells, f"{bill.total:.2f}"])
    items = figures[OURS].bill(512, cold=True).items
    return _markdown(["variant", "MB", "each request", *(f"{item} $" for item in items), "sum $"], rows)


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio that is to be no more than it is."""

    name: str
    ratio: float
    most: float

    def __str__(self) -> str:
        verdict = "met" if self.is_met else "**missed**"
        return f"- {verdict}: {self.name}: {self.ratio:.2f}, at most {self.most:.2f}"

    @property
    def is_met(self) -> bool:
        """Say whether it was met."""
        return self.ratio <= self.most


def targets(figures: Mapping[str, Figures]) -> list[Target]:
    """Return all targets."""
    ours, peer, floor = figures[OURS], figures[PEER], figures[FLOOR]
    lost = ours.latency(LOST, 512) / peer.latency(LOST, 512)
    return [
        Target("init and first request at 512 MB, of the peer's", ours.start(512) / peer.start(512), 1 / 6),
        Target("init and first request at 512 MB, of the floor's", ours.start(512) / floor.start(512), 1.4),
        Target("warm request after lost connections at 512 MB, of the peer's", lost, 1 / 3),
        Target("warm CPU of a request with one id, of the peer's", ours.cpu("one id") / peer.cpu("one id"), 0.85),
        Target("peak memory, of the peer's", ours.peak_mb / peer.peak_mb, 2 / 3),
        Target("unpacked package, of the peer's", ours.megabytes / peer.megabytes, 1 / 3),
    ]


def parts(figures: Figures, memory_mb: int) -> dict[str, float]:
    """Return the milliseconds of a cold start by part: CPU as if nothing else waited, and the first request's waits."""

    def of(costs: Iterable[Cost], *names: str) -> float:
        return median(sum(cost.parts.get(name, 0.0) for name in names) for cost in costs) * 1000

    inits, firsts = [start.init for start in figures.starts], [start.first for start in figures.starts]
    first = figures.first(memory_mb) * 1000
    late = of(firsts, "compilation", "modules", "CA bundles") / share(memory_mb)
    whole = figures.init * 1000
    known = [of(inits, name) for name in ("compilation", "modules", "CA bundles")]
    return dict(zip(PARTS, (*known, whole - sum(known), late, first - late), strict=True))


def section(figures: Mapping[str, Figures]) -> str:
    """Return what docs/performance.md says of a run."""
    verdicts = "\n".join(str(target) for target in targets(figures))
    tables = (cold_table(figures), warm_table(figures), bill_table(figures))
    titles = ("Cold start", "Warm request", "A million requests")
    return "\n\n".join([verdicts, *(f"### {title}\n\n{table}" for title, table in zip(titles, tables, strict=True))])


def replaced(page: str, figures: str) -> str:
    """Return a page with these figures between its marks."""
    marks = re.compile(r"(?<=<!-- cold and warm: begin -->\n).*?(?=<!-- cold and warm: end -->)", re.DOTALL)
    return marks.sub(lambda _: f"\n{figures}\n\n", page)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything and tell it; return 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.cold_and_warm", description=__doc__)
    parser.add_argument("--starts", type=int, default=12, help="cold starts of each variant")
    parser.add_argument("--rounds", type=int, default=60, help="warm requests of each case")
    parser.add_argument("--docs", type=Path, help="the folder whose performance.md and plot are brought up to date")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        packages = build(Path(folder))
        certificate = Certificate.make(Path(folder))
        for package in packages:
            package.trust(certificate.authority)
        ours = packages[0]
        packages.insert(1, replace(ours, name=GUARDED, environment={"GUARD_MODE": "standard"}))
        with services(certificate) as around:
            figures = measure(packages, around, given.starts, given.rounds)
    told = section(figures)
    print(f"{told}\n\nload of this machine over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    if given.docs:
        bars = {name: parts(each, 512) for name, each in figures.items()}
        title = "Cold start at 512 MB by part: init phase and first request"
        (given.docs / "cold-start.svg").write_text(stacked_bars(title, bars, PARTS), "utf-8")
        page = given.docs / "performance.md"
        page.write_text(replaced(page.read_text("utf-8"), told), "utf-8")
    return 0 if all(target.is_met for target in targets(figures)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
