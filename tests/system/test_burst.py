"""The benchmark of bursts, at three twentieths of the real limit: what it finds out, and that it would notice."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import burst
from benchmarks.burst import (
    ALL_OURS,
    BOUND,
    GUARD_OFF,
    OURS,
    POSTFIX_IDS,
    WAYS,
    Figures,
    Kind,
    Stage,
    Way,
    play,
    targets,
)
from benchmarks.limited_cloudflare import Limit, LimitedCloudflare
from benchmarks.simulated_aws import COLD_START_SECONDS, Function, Sqs
from benchmarks.simulated_quarantine import Mail, Quarantine
from benchmarks.simulated_time import SimulatedTime
from quarantine_release.cloudflare.connection import NoReply
from quarantine_release.cloudflare.reply import Reply
from quarantine_release.domain.ids import MessageId, decode_time

LIMIT = Limit(calls=180)
MARKS = {"InlineCalls": "45", "CallsPerWindow": "135"}
WAITS, GIVES_UP, SDK = list(WAYS)[-3:]
SIZE = 200
CHECKOUT = Path(__file__).parent.parent.parent


@cache
def played() -> Mapping[str, Figures]:
    return {name: play(way, SIZE, 1, LIMIT, MARKS) for name, way in WAYS.items()}


def ours(marks: Mapping[str, str], limit: Limit = LIMIT) -> Figures:
    return play(WAYS[OURS], SIZE, 1, limit, marks)


# --- What it finds out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ALL_OURS)
def test_a_burst_is_released_once_and_without_a_429(way: str) -> None:
    figures = played()[way]
    assert (figures.refused, figures.lock_outs, figures.lost, figures.twice) == (0, 0, 0, 0)
    assert len(figures.released_at) == len(figures.waits) == SIZE
    assert 0.3 < figures.waits[0] < figures.wait(0.5) < figures.wait(0.99) <= figures.waits[-1]
    assert int(MARKS["InlineCalls"]) < figures.calls <= int(MARKS["CallsPerWindow"])


@pytest.mark.parametrize("way", [OURS, POSTFIX_IDS])
def test_the_guard_reads_in_packs(way: str) -> None:
    without = played()[GUARD_OFF].calls
    assert without < played()[way].calls < without + SIZE / 4


def test_what_was_quarantined_within_an_hour_costs_no_more() -> None:
    figures = play(Way(WAYS[OURS].act, Kind(quarantined_within=timedelta(hours=1))), SIZE, 1, LIMIT, MARKS)
    assert (figures.refused, figures.lost, figures.twice) == (0, 0, 0)
    assert figures.calls <= played()[OURS].calls


def test_every_target_is_met() -> None:
    found = targets(played())
    assert all(found.values()), found
    assert len(found) == 3


def test_a_budget_that_is_used_up_is_waited_for() -> None:
    figures = ours({"InlineCalls": "30", "CallsPerWindow": "45"}, replace(LIMIT, calls=50))
    assert (figures.refused, figures.lost, figures.twice) == (0, 0, 0)
    assert figures.drained_at > LIMIT.window_seconds


def test_the_others_lose_or_wait() -> None:
    figures = played()
    assert figures[GIVES_UP].lost == SIZE - LIMIT.calls
    assert figures[GIVES_UP].calls == SIZE
    assert figures[SDK].lost == SIZE - LIMIT.calls
    assert figures[SDK].calls == SIZE + 2 * figures[SDK].lost
    assert figures[WAITS].lost == 0
    assert figures[WAITS].drained_at > LIMIT.block_seconds
    assert all(figures[name].lock_outs == 1 for name in (GIVES_UP, SDK, WAITS))


def test_the_bound_is_one() -> None:
    bound = played()[BOUND]
    assert (bound.calls, bound.refused, bound.lost, bound.twice) == (3, 0, 0, 0)
    assert bound.calls == min(figures.calls for figures in played().values())
    few = play(WAYS[BOUND], SIZE, 1, Limit(calls=2, window_seconds=100))
    assert (few.calls, few.refused, few.lost) == (3, 0, 0)
    assert few.drained_at > few.released_at[0] + 99


def test_the_seed_decides_and_nothing_else() -> None:
    assert ours(MARKS) == played()[OURS]
    other = play(WAYS[OURS], SIZE, 2, LIMIT, MARKS)
    assert other != played()[OURS]


# --- That it would notice ---------------------------------------------------------------------------------------------


def test_a_budget_above_the_limit_is_noticed() -> None:
    figures = ours({"InlineCalls": "1000", "CallsPerWindow": "1150"})
    assert figures.refused > 0
    assert (figures.lost, figures.twice) == (0, 0)
    assert figures.drained_at > LIMIT.block_seconds
    found = targets({**played(), OURS: figures})
    assert [is_met for is_met in found.values()] == [False, True, False]


def test_what_is_lost_or_released_twice_is_noticed() -> None:
    for way in ALL_OURS:
        good = played()[way]
        for bad in (replace(good, lost=1), replace(good, twice=1)):
            found = targets({**played(), way: bad})
            assert [is_met for is_met in found.values()] == [True, False, True]


def test_what_drains_late_or_not_at_all_is_noticed() -> None:
    for released_at in ([500.0], []):
        late = replace(played()[POSTFIX_IDS], released_at=released_at, waits=released_at)
        found = targets({**played(), POSTFIX_IDS: late})
        assert [is_met for is_met in found.values()] == [True, True, False]
        assert late.wait(0.5) == late.drained_at


def test_beyond_the_limit_every_call_is_refused_for_a_while() -> None:
    time = SimulatedTime()
    cloudflare = LimitedCloudflare(time, Random(1), Limit(calls=3, window_seconds=100, block_seconds=50))  # noqa: S311
    answers: list[tuple[float, int | None]] = []

    def call_at(*moments: float) -> None:
        for at in moments:
            time.sleep(at - time.now)
            answers.append((at, cloudflare.release([MessageId(f"message{at}")])))

    # The window begins with the first call; the next one with the first call after its end, or after the block.
    time.spawn(lambda: call_at(10, 20, 30, 111, 112, 113, 114, 140, 163, 164.5))
    time.run()
    refused = {at: retry_after for at, retry_after in answers if retry_after is not None}
    assert refused == {114: 50, 140: 24, 163: 1}
    assert (cloudflare.calls, cloudflare.refused, cloudflare.lock_outs) == (10, 3, 1)
    assert len(cloudflare.released) == 7


def test_the_quarantine_is_listed_as_documented_and_shrinks() -> None:
    time = SimulatedTime()
    cloudflare = LimitedCloudflare(time, Random(1), Limit(calls=9))  # noqa: S311
    now = time.clock()
    mails = [Mail.of(now - timedelta(hours=hours), Random(hours)) for hours in range(5)]  # noqa: S311
    quarantine = Quarantine(time, Random(1), cloudflare, mails)  # noqa: S311
    replies: list[Reply | NoReply] = []

    def ask(path: str, seconds: float = 5.0) -> Any:
        replies.append(reply := quarantine.send("GET", f"https://api.example/investigate{path}", {}, None, seconds))
        return json.loads(reply.body) if isinstance(reply, Reply) and reply.status == 200 else reply

    def live() -> None:
        query = f"?start={now - timedelta(hours=3):%Y-%m-%dT%H:%M:%SZ}&end={now:%Y-%m-%dT%H:%M:%SZ}&per_page=2"
        everything = ask(f"{query}&detections_only=true".replace("per_page=2", "per_page=9"))["result"]
        assert [entry["id"] for entry in everything] == ids_of_mails(mails[:4])
        query += "&delivery_status=quarantined&detections_only=false"
        first = ask(query)
        cloudflare.release([mails[0].investigate_id])
        cloudflare.release([mails[2].postfix_id])
        rest = ask(f"{query}&cursor={first['result_info']['next']}")
        assert [ids_of(page) for page in (first, rest)] == [ids_of_mails(mails[:2]), ids_of_mails(mails[3:4])]
        assert (first["result"][0]["is_quarantined"], rest["result_info"]["next"]) == (True, None)
        (held, released) = (ask(f"/{mails[number].investigate_id}")["result"] for number in (1, 2))
        assert (held["is_quarantined"], released["is_quarantined"]) == (True, False)
        assert ask(f"/{mails[1].postfix_id}").status == 404
        assert ask(f"/{mails[1].investigate_id}", 0.1) == NoReply(True, "deadline")
        assert ask(query).headers == {"retry-after": "300"}

    time.spawn(live)
    time.run()
    assert (cloudflare.calls, cloudflare.refused) == (10, 1)
    assert len(replies) == 8


def ids_of(page: Any) -> list[str]:
    return [entry["id"] for entry in page["result"]]


def ids_of_mails(mails: Sequence[Mail]) -> list[str]:
    assert all(
        decode_time(each, mail.at) == mail.at for mail in mails for each in (mail.postfix_id, mail.investigate_id)
    )
    return [mail.investigate_id for mail in mails]


def test_a_message_is_seen_after_its_delay_and_once() -> None:
    time = SimulatedTime()
    sqs = Sqs(time, Random(1))  # noqa: S311
    seen: list[tuple[int, list[str]]] = []

    def send_and_look() -> None:
        delays = {"at once": 0, "late": 30, "too": 0}
        sqs.send_message_batch(
            QueueUrl="", Entries=[{"MessageBody": body, "DelaySeconds": delay} for body, delay in delays.items()]
        )
        for limit, seconds in ((1, 0), (9, 29), (9, 1), (9, 9)):
            time.sleep(seconds)
            seen.append((limit, sqs.take(limit)))

    time.spawn(send_and_look)
    time.run()
    assert seen == [(1, ["at once"]), (9, ["too"]), (9, ["late"]), (9, [])]


def test_a_process_starts_cold_once_and_has_its_time() -> None:
    time = SimulatedTime()
    function = Function(time, 20, lambda: object())
    used: list[tuple[object, float]] = []

    def invoke(seconds: float) -> None:
        with function.invocation() as (process, _):
            used.append((process, time.now))
            time.sleep(seconds)

    for moment in (0, 1, 50):
        time.spawn(lambda: invoke(20), moment)
    time.run()
    (one, at), (other, later), (again, last) = used
    assert (at, later, last) == pytest.approx((COLD_START_SECONDS, 1 + COLD_START_SECONDS, 50))
    assert again is other is not one
    assert function.running == 0
    time.spawn(lambda: invoke(20.1))
    with pytest.raises(RuntimeError):
        time.run()


@pytest.mark.parametrize(
    ("tries", "retry_after", "least", "most"),
    [
        (1, 300, 0.375, 0.5),
        (2, 300, 0.75, 1.0),
        (1, 61, 0.375, 0.5),
        (1, 60, 60, 60),
        (2, 1, 1, 1),
        (3, 1, None, None),
        (3, 300, None, None),
    ],
)
def test_the_sdk_waits_as_it_does(tries: int, retry_after: int, least: float | None, most: float | None) -> None:
    waits = [burst.as_the_sdk(Random(seed), tries, retry_after) for seed in range(50)]  # noqa: S311
    if least is None or most is None:
        assert set(waits) == {None}
    else:
        assert all(wait is not None and least <= wait <= most for wait in waits)
        assert (len(set(waits)) > 1) is (least < most)


# --- What it tells ----------------------------------------------------------------------------------------------------


def test_the_page_and_the_plot_are_brought_up_to_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "performance.md"
    page.write_text("before\n<!-- burst: begin -->\nold\n<!-- burst: end -->\nafter\n")
    assert burst.main(["--sizes", "40", "60", "--docs", str(tmp_path)]) == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- burst: begin -->\n\n### 40 requests\n")
    assert text.endswith("times\n\n<!-- burst: end -->\nafter\n")
    assert "old" not in text
    assert capsys.readouterr().out.strip() in text
    assert text.count(f"\n| {OURS} | ") == 2
    svg = ElementTree.parse(tmp_path / "burst.svg").getroot()  # noqa: S314  our own
    told = {element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {*WAYS.keys() - {POSTFIX_IDS, GUARD_OFF}, "0", "60", "1 min", "messages released"} <= told
    assert not {POSTFIX_IDS, GUARD_OFF} & told


def test_a_missed_target_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def all_but_one(stage: Stage) -> None:
        stage.time.spawn(lambda: stage.cloudflare.release(list(stage.burst.arrivals)[1:]))

    monkeypatch.setattr(burst, "WAYS", {**WAYS, OURS: Way(all_but_one)})
    assert burst.main(["--sizes", "40"]) == 1
    assert "- **missed**: every id released once: 1 not, 0 twice" in capsys.readouterr().out


def test_calls_that_would_be_given_up_are_not_played(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        burst.main(["--call-seconds", "1", "11"])
    assert "longer than 10 s" in capsys.readouterr().err


def test_the_page_holds_what_the_benchmark_writes() -> None:
    text = (CHECKOUT / "docs" / "performance.md").read_text("utf-8")
    for size in burst.SIZES:
        _, _, part = text.partition(f"\n### {size:,} requests\n")
        rows = [line for line in part.partition("\n### ")[0].splitlines() if line.startswith("| ")]
        assert [row.split(" | ")[0].removeprefix("| ") for row in rows[1:]] == list(WAYS)
    assert "](burst.svg)" in text
    svg = ElementTree.parse(CHECKOUT / "docs" / "burst.svg").getroot()  # noqa: S314  our own
    assert (
        svg.findtext("{http://www.w3.org/2000/svg}title") == "Messages released over time, 10,000 requests in a minute"
    )
