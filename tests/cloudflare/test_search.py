"""Reading calls over real HTTP: what each came to, when no other follows, and where the credential goes."""

import json
import ssl
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from quarantine_release import telemetry
from quarantine_release.cloudflare import search as cloudflare_calls
from quarantine_release.cloudflare.connection import ANSWER_LIMIT, DeadlineSession
from quarantine_release.cloudflare.search import Got, Page, SearchApi, SearchSession
from quarantine_release.config.accounts import Accounts, parse_accounts
from quarantine_release.config.secret import SecretMalformed, SecretUnavailable
from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.details import NotRead, NotYetRead, Unreadable
from quarantine_release.domain.ids import AccountId
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.verdicts import Evidence, NoEffect, RefusalReason
from tests.support.cloudflare_reads import INVESTIGATE, ok, page, refusal
from tests.support.fault_server import (
    FaultServer,
    Play,
    answers,
    black_hole,
    closes_after_reading,
    http,
    refusing_port,
    repeats,
    resets_after_reading,
    resets_before_reading,
    says,
    says_and_hangs,
    trickles,
)
from tests.support.stand_ins import ACCOUNT, NOON, RememberingBudget, UnreadableBudget

pytestmark = pytest.mark.outside

ABSENT, NOT_OFFERED, NOT_NOW = Unreadable.ABSENT, Unreadable.NOT_OFFERED, NotYetRead.NOT_NOW
REFUSED, FAILED = NotYetRead.REFUSED, Unreadable.FAILED
GOOD = ok({"id": "4Njp3P0STMz2c02Q"})
ENTRY = {"id": "4Njp3P0STMz2c02Q-2024-01-05T10:00:00-12345678"}


def accounts(token: str) -> Accounts:
    return parse_accounts(json.dumps({"account_id": ACCOUNT, "api_token": token}))


@dataclass
class Rotated:
    """A secret that is kept for a while and has been changed meanwhile, or not."""

    cached: Accounts | Exception = field(default_factory=lambda: accounts("old"))
    fresh: Accounts | Exception = field(default_factory=lambda: accounts("new"))
    asked: list[str] = field(default_factory=list)

    def get(self) -> Accounts:
        return self._give("get", self.cached)

    def refetch(self) -> Accounts:
        return self._give("refetch", self.fresh)

    def _give(self, how: str, what: Accounts | Exception) -> Accounts:
        self.asked.append(how)
        if isinstance(what, Exception):
            raise what
        return what


@contextmanager
def calls_to(
    url: str, seconds: float = 10.0, secret: Rotated | None = None, budget: RememberingBudget | None = None, **more: Any
) -> Iterator[SearchSession]:
    with closing(DeadlineSession(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))) as session:
        account_id, mark = more.pop("account_id", ACCOUNT), more.pop("mark", Mark.ALL)
        search = SearchApi(f"{url}/client/v4", secret or Rotated(), session, lambda: NOON, **more)
        yield search.begin(account_id, seconds, budget or RememberingBudget(), mark)


def paths(server: FaultServer) -> list[str]:
    return [request.path.removeprefix(INVESTIGATE) for request in server.requests]


def tokens(server: FaultServer) -> list[str]:
    return [request.headers["authorization"][0].removeprefix("Bearer ") for request in server.requests]


def get(plays: Sequence[Play], times: int = 1, **how: Any) -> tuple[list[Got], list[str]]:
    """Get one path so many times; return what came of it and the tokens that were shown for it."""
    with FaultServer(plays) as server, calls_to(server.url, **how) as calls:
        got = [calls.get("/x") for _ in range(times)]
    assert set(paths(server)) <= {"/x"}
    return got, tokens(server)


def pages(plays: Sequence[Play], query: Mapping[str, str] | None = None, **how: Any) -> tuple[list[Page], list[str]]:
    with FaultServer(plays) as server, calls_to(server.url, **how) as calls:
        return list(calls.pages(query or {})), paths(server)


@pytest.fixture
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudflare_calls, "_LEAST_SECONDS", 0.1)
    monkeypatch.setattr(cloudflare_calls, "_LEAST_PAGE_SECONDS", 0.1)


# --- One call --------------------------------------------------------------------------------------------------------


def test_a_good_answer_is_given_with_its_evidence() -> None:
    (got,), _ = get([GOOD])
    assert got.content["result"] == {"id": "4Njp3P0STMz2c02Q"}
    assert (got.evidence, got.why) == (Evidence(200, (), "ray-1"), None)


@pytest.mark.parametrize(
    ("play", "why"),
    [
        (refusal(404), ABSENT),
        (answers(404), NOT_OFFERED),
        (answers(404, b"<html>not here</html>"), NOT_OFFERED),
        (answers(404, b'{"detail": "Not Found"}'), NOT_OFFERED),
        (answers(404, b'{"success": true}'), NOT_OFFERED),
        (refusal(405), NOT_OFFERED),
        (answers(501, b"<html>Unsupported method ('GET')</html>"), NOT_OFFERED),
        (refusal(400), FAILED),
        (refusal(410), FAILED),
        (refusal(500), FAILED),
        (answers(502, b"<html>"), FAILED),
        (refusal(503), FAILED),
        (answers(500, b'{"success": true, "result": {}}'), FAILED),
        (answers(200), FAILED),
        (answers(200, b"<!DOCTYPE html>"), FAILED),
        (answers(200, b"[" * 100_000), FAILED),
        (answers(200, b"\xff\xfe"), FAILED),
        (answers(200, b"1" * 5000), FAILED),
        (answers(200, b"null"), FAILED),
        (answers(200, b'[{"success": true}]'), FAILED),
        (answers(200, b'{"success": false, "result": {}}'), FAILED),
        (answers(200, b'{"success": "true", "result": {}}'), FAILED),
        (answers(200, b'{"result": {}}'), FAILED),
        (answers(204), FAILED),
        (answers(206, b'{"success": true, "result": {}}'), FAILED),
        (answers(302, b"", "Location: /client/v4/elsewhere"), FAILED),
        (answers(202, b'{"success": true, "result": {}}'), FAILED),
        (answers(202, b'{"success": true, "result": {}}', f"Location: {INVESTIGATE}/x"), FAILED),
        (says(http(200, b'{"success": true}', length=9999)), FAILED),
        (closes_after_reading, FAILED),
        (resets_after_reading, FAILED),
    ],
)
def test_nothing_but_a_good_answer_tells_anything_and_only_a_404_of_cloudflare_is_absent(
    play: Play, why: NotRead
) -> None:
    got, shown = get([play, GOOD], times=2)
    assert (got[0].content, got[0].why) == ({}, why)
    assert got[1].why is None  # who answers badly once is asked again
    assert len(shown) == 2


def test_an_answer_without_end_fails() -> None:
    (got,), _ = get([repeats(b"x" * (1 << 20), before=http(200, length=ANSWER_LIMIT * 9))])
    assert (got.content, got.why) == ({}, FAILED)


def test_a_break_before_the_request_was_taken_is_never_absent() -> None:
    (got,), _ = get([resets_before_reading])
    assert (got.content, got.why) == ({}, FAILED)


# --- When no call is made any more -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("_short_runs")
@pytest.mark.parametrize("reached", [refusing_port, black_hole])
def test_who_cannot_be_reached_is_not_called_again_and_waited_for(reached: Any) -> None:
    budget = RememberingBudget()
    with reached() as port, calls_to(f"http://127.0.0.1:{port}", 0.3, budget=budget) as calls:
        assert [calls.get("/x").why for _ in range(3)] == [NOT_NOW] * 3
    assert len(budget.taken) == 1


def test_where_the_budget_is_used_up_no_call_is_made() -> None:
    budget = RememberingBudget(waits=deque([0.0, 7.0]))
    got, shown = get([GOOD], times=4, budget=budget)
    assert [one.why for one in got] == [None, NOT_NOW, NOT_NOW, NOT_NOW]
    assert got[1].evidence == Evidence(failure="not_called")
    assert len(shown) == len(budget.taken) == 1


@pytest.mark.parametrize("mark", Mark)
def test_calls_are_taken_up_to_the_mark_of_the_run(mark: Mark) -> None:
    budget = RememberingBudget()
    get([GOOD], budget=budget, mark=mark)
    assert budget.taken == [mark]


def test_a_budget_that_cannot_be_asked_ends_the_run() -> None:
    with FaultServer([GOOD]) as server, calls_to(server.url, budget=UnreadableBudget()) as calls:
        with pytest.raises(LedgerUnavailable):
            calls.get("/x")
        assert server.requests == []


def test_a_429_has_all_calls_wait_and_is_not_answered_by_another() -> None:
    budget = RememberingBudget()
    got, shown = get([answers(429, b"", "Retry-After: 17"), GOOD], times=3, budget=budget)
    assert [one.why for one in got] == [NOT_NOW] * 3
    assert budget.heard_of == [NoEffect(RefusalReason.RATE_LIMITED, Evidence(429), 17)]
    assert len(shown) == 1


@pytest.mark.parametrize("seconds", [0.9, 0, -1])
def test_a_run_that_has_less_time_than_a_call_may_need_makes_no_call_and_is_for_another_time(seconds: float) -> None:
    """A call that we cut off would look as if Cloudflare had failed."""
    budget = RememberingBudget()
    got, shown = get([GOOD], times=2, seconds=seconds, budget=budget)
    assert [one.why for one in got] == [NOT_NOW] * 2
    assert (shown, budget.taken) == ([], [])


def test_a_page_needs_more_time_than_a_message() -> None:
    with FaultServer([GOOD]) as server, calls_to(server.url) as calls:
        calls.ends_at = time.monotonic() + 1.9
        assert [each.why for each in calls.pages({})] == [NOT_NOW]
        assert calls.get("/x").why is None
    assert len(server.requests) == 1


def test_a_run_whose_time_is_over_leaves_the_rest_for_another_time() -> None:
    with FaultServer([GOOD]) as server, calls_to(server.url) as calls:
        assert calls.get("/x").why is None
        calls.ends_at = time.monotonic() + 0.9
        assert [calls.get("/x").why for _ in range(2)] == [NOT_NOW] * 2
    assert len(server.requests) == 1


@pytest.mark.usefixtures("_short_runs")
@pytest.mark.parametrize(
    "play", [says_and_hangs(b""), trickles(http(200, b"x" * 200)), says_and_hangs(http(200, b"{", length=9))]
)
def test_who_takes_all_the_time_and_does_not_answer_has_failed_for_the_rest_too(play: Play) -> None:
    began = time.monotonic()
    got, shown = get([GOOD, play], times=4, seconds=1)
    assert [one.why for one in got] == [None, FAILED, FAILED, FAILED]
    assert 0.9 < time.monotonic() - began < 6
    assert len(shown) == 2


@pytest.mark.usefixtures("_short_runs")
@pytest.mark.usefixtures("_short_runs")
def test_no_call_takes_all_the_time_of_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudflare_calls, "_CALL_SECONDS", 1.0)
    got, _ = get([says_and_hangs(b""), GOOD], times=2)
    assert [one.why for one in got] == [FAILED, None]


# --- Credentials -----------------------------------------------------------------------------------------------------

REFUSALS = [refusal(401), refusal(403), answers(403, b"<html>"), refusal(400, 6003)]


@pytest.mark.parametrize("refused", REFUSALS)
def test_a_credential_that_was_changed_meanwhile_is_fetched_once_and_used_from_then_on(refused: Play) -> None:
    secret, budget = Rotated(), RememberingBudget()
    got, shown = get([refused, GOOD], times=3, secret=secret, budget=budget)
    assert [one.why for one in got] == [None] * 3
    assert shown == ["old", "new", "new", "new"]
    assert secret.asked == ["get", "refetch"]
    assert len(budget.taken) == 4


@pytest.mark.parametrize("refused", REFUSALS)
def test_who_refuses_the_new_credential_too_is_not_called_again(
    refused: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = Rotated()
    got, shown = get([refused], times=3, secret=secret)
    assert [one.why for one in got] == [REFUSED] * 3
    assert shown == ["old", "new"]
    assert secret.asked == ["get", "refetch"]
    assert "old" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "fresh",
    [
        accounts("old"),
        parse_accounts(json.dumps({"account_id": "b" * 32, "api_token": "new"})),
        SecretUnavailable("x"),
        SecretMalformed("x"),
    ],
    ids=["the same", "without the account", "unavailable", "malformed"],
)
def test_a_credential_that_was_not_changed_is_refused_once(fresh: Accounts | Exception) -> None:
    secret = Rotated(fresh=fresh)
    got, shown = get([refusal(403)], times=3, secret=secret)
    assert [one.why for one in got] == [REFUSED] * 3
    assert (shown, secret.asked) == (["old"], ["get", "refetch"])


def test_a_refusal_after_the_secret_was_fetched_anew_ends_the_run() -> None:
    got, shown = get([refusal(403), GOOD, refusal(401), GOOD], times=4)
    assert [one.why for one in got] == [None, REFUSED, REFUSED, REFUSED]
    assert shown == ["old", "new", "new"]


@pytest.mark.parametrize("cached", [SecretUnavailable("ThrottlingException"), SecretMalformed("is not JSON")])
def test_without_a_secret_nothing_is_called(cached: Exception) -> None:
    budget = RememberingBudget()
    got, shown = get([GOOD], times=2, secret=Rotated(cached=cached), budget=budget)
    assert [one.why for one in got] == [REFUSED] * 2
    assert (shown, budget.taken) == ([], [])


def test_that_there_is_no_credential_is_counted_for_the_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    monkeypatch.setattr(telemetry, "count", counted.append)
    get([GOOD], times=2, secret=Rotated(cached=SecretUnavailable("ThrottlingException")))
    assert counted == ["CredentialsRefused"]


def test_an_account_that_has_left_the_secret_is_not_called() -> None:
    got, shown = get([GOOD], account_id=AccountId("b" * 32))
    assert (got[0].why, shown) == (REFUSED, [])


def test_no_credential_is_in_a_repr() -> None:
    with FaultServer([GOOD]) as server, calls_to(server.url, secret=Rotated(cached=accounts("canary"))) as calls:
        calls.get("/x")
        assert "canary" not in repr(calls._credential)
        assert "_credential" not in repr(calls)


# --- Lists -----------------------------------------------------------------------------------------------------------


def test_a_list_is_read_page_by_page_to_its_end() -> None:
    several, asked = pages([page(ENTRY, following="a/b+c="), page({}, 7, None), page()], {"alert_id": "x:y"})
    assert [(each.entries, each.is_last, each.why) for each in several] == [([ENTRY], False, None), ([{}], True, None)]
    first = "?alert_id=x%3Ay&per_page=1000&detections_only=false"
    assert asked == [first, f"{first}&cursor=a%2Fb%2Bc%3D"]


def test_pages_that_nobody_asks_for_are_not_fetched() -> None:
    with FaultServer([page(ENTRY, following="2")]) as server, calls_to(server.url) as calls:
        assert not next(calls.pages({})).is_last
    assert len(server.requests) == 1


def test_a_page_may_be_as_small_as_is_asked_for() -> None:
    with FaultServer([page()]) as server, calls_to(server.url) as calls:
        assert [each.is_last for each in calls.pages({}, per_page=20)] == [True]
    assert paths(server) == ["?per_page=20&detections_only=false"]


@pytest.mark.parametrize(
    ("play", "why"),
    [
        (ok([]), FAILED),
        (ok([ENTRY], result_info=None), FAILED),
        (ok([ENTRY], result_info=[]), FAILED),
        (ok(None, result_info={"next": None}), FAILED),
        (ok(ENTRY, result_info={"next": None}), FAILED),
        (ok("x", result_info={"next": "2"}), FAILED),
        (ok([ENTRY], result_info={"next": 7}), None),
        (ok([], result_info={"next": "2"}), None),
        (refusal(404), ABSENT),
        (refusal(500), FAILED),
        (refusal(429), NOT_NOW),
        (resets_after_reading, FAILED),
    ],
)
def test_a_list_is_at_its_end_only_if_it_says_so(play: Play, why: NotRead | None) -> None:
    several, asked = pages([play])
    assert [(each.is_last, each.why) for each in several] == [(False, why)]
    assert len(asked) == 1


# --- Searches that are still under way -------------------------------------------------------------------------------


@pytest.fixture
def _in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudflare_calls, "_POLL_SECONDS", 0.01)


def pending(location: str | None) -> Play:
    body = b'{"success":true,"errors":[],"messages":[],"result":[],"result_info":{"next":null}}'
    return answers(202, body, *([] if location is None else [f"Location: {location}"]))


@pytest.mark.usefixtures("_in_haste")
@pytest.mark.parametrize(
    ("location", "path"),
    [
        (f"{INVESTIGATE}?poll=1&cursor=../x", "?poll=1&cursor=../x"),
        ("?poll=1", "?poll=1"),
        ("investigate?poll=1", "?poll=1"),
        ("./investigate/searches/7", "/searches/7"),
        ("../email-security/investigate/a.b..c", "/a.b..c"),
    ],
)
def test_a_search_is_asked_for_where_it_says_until_it_is_done(location: str, path: str) -> None:
    budget = RememberingBudget()
    plays = [pending(location), pending(location), page(ENTRY, following="2"), page()]
    several, asked = pages(plays, {"a": "b"}, budget=budget)
    assert [(each.entries, each.is_last, each.why) for each in several] == [([ENTRY], False, None), ([], True, None)]
    query = "?a=b&per_page=1000&detections_only=false"
    assert asked == [query, path, path, f"{query}&cursor=2"]
    assert len(budget.taken) == 4


@pytest.mark.usefixtures("_in_haste")
def test_an_absolute_location_on_the_same_host_is_followed() -> None:
    plays: list[Play] = []
    with FaultServer(plays) as server, calls_to(server.url) as calls:
        plays += [pending(f"{server.url}{INVESTIGATE}?poll=1"), page(ENTRY)]
        assert [each.entries for each in calls.pages({})] == [[ENTRY]]
    assert paths(server)[1:] == ["?poll=1"]


@pytest.mark.usefixtures("_in_haste")
@pytest.mark.parametrize(
    "location",
    [
        None,
        "/elsewhere",
        "elsewhere",
        "..",
        "/client/v4/user/tokens",
        f"{INVESTIGATE}X",
        f"{INVESTIGATE}/../../../../user/tokens",
        f"{INVESTIGATE}/%2e%2e/%2E%2e/settings",
        f"{INVESTIGATE}/..%2f..%2fsettings",
        "{url}" + INVESTIGATE + "/./x",
        INVESTIGATE,
        "{url}" + INVESTIGATE,
        f"{INVESTIGATE}//x",
        INVESTIGATE.replace(ACCOUNT, "b" * 32),
        "{url}" + INVESTIGATE + "/../../../../user/tokens",
        "{url}" + INVESTIGATE + "-evil",
        "{other}" + INVESTIGATE,
        "//{other_host}" + INVESTIGATE,
        "{url}@{other_host}" + INVESTIGATE,
        "https://{host}" + INVESTIGATE,
        "http://[",
        "http://[::1",
        "file:///etc/passwd",
        "",
    ],
)
def test_a_location_that_leads_elsewhere_is_not_followed_and_gets_no_credential(location: str | None) -> None:
    plays: list[Play] = []
    with FaultServer([page(ENTRY)]) as other, FaultServer(plays) as server, calls_to(server.url) as calls:
        names = {"url": server.url, "other": other.url, "host": server.url[7:], "other_host": other.url[7:]}
        for name, value in names.items():
            location = location.replace(f"{{{name}}}", value) if location is not None else None
        plays += [pending(location), page(ENTRY)]
        several = list(calls.pages({"a": "b"}))
        # The answer to another search would be taken for this one's.
        assert [(each.entries, each.is_last, each.why) for each in several] == [([], False, FAILED)]
        assert other.connections == 0
    assert paths(server) == ["?a=b&per_page=1000&detections_only=false"]


@pytest.mark.usefixtures("_in_haste")
def test_a_search_that_is_never_done_fails_after_eight_times() -> None:
    several, asked = pages([pending("?poll=1")])
    assert [(each.entries, each.is_last, each.why) for each in several] == [([], False, FAILED)]
    assert len(asked) == 9


def test_a_search_is_waited_for_half_a_second_each_time_and_within_the_time_of_the_run() -> None:
    began = time.monotonic()
    several, asked = pages([pending("?poll=1")], seconds=3)
    assert [each.why for each in several] == [NOT_NOW]
    assert 2 <= len(asked) <= 6
    assert 0.5 <= time.monotonic() - began < 6


@pytest.mark.usefixtures("_in_haste")
@pytest.mark.parametrize(
    ("play", "why"),
    [(refusal(404), ABSENT), (refusal(500), FAILED), (refusal(429), NOT_NOW), (resets_after_reading, FAILED)],
)
def test_what_goes_wrong_while_a_search_is_waited_for_is_told(play: Play, why: NotRead) -> None:
    several, asked = pages([pending("?poll=1"), play, page(ENTRY)])
    assert [(each.entries, each.is_last, each.why) for each in several] == [([], False, why)]
    assert len(asked) == 2


@pytest.mark.usefixtures("_in_haste")
def test_a_search_that_is_waited_for_costs_calls_of_the_budget() -> None:
    budget = RememberingBudget(waits=deque([0.0, 0.0, 5.0]))
    several, asked = pages([pending("?poll=1"), pending("?poll=2"), page(ENTRY)], budget=budget)
    assert [each.why for each in several] == [NOT_NOW]
    assert len(asked) == 2
