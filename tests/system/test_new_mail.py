"""Mail that Cloudflare's search does not show yet, or cannot be asked for, over HTTP, with a scripted Cloudflare.

The lag is set to 12 s, so mail that waits is looked for every two seconds.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from tests.support.cloudflare_entries import queue_id
from tests.support.scripted_cloudflare import Deployed, deployed, row

pytestmark = pytest.mark.slow

LAG_SECONDS: Final = 12
MALICIOUS: Final = ("MALICIOUS", ("denied", "disposition_not_allowed"))
SPAM: Final = ("SPAM", ("released", None))


@pytest.fixture(scope="module")
def system() -> Iterator[Deployed]:
    with deployed({"SEARCH_LAG_SECONDS": str(LAG_SECONDS)}) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(system: Deployed) -> None:
    system.cloudflare.reset()


def investigate_id(name: str, seconds: float = 0) -> str:
    """Return the id of a mail that arrived so many seconds ago; `name` completes its Postfix id."""
    at = datetime.now(UTC) - timedelta(seconds=seconds)
    return f"{queue_id(at, name)}-{at:%Y-%m-%dT%H:%M:%S}-10000000"


def shape_of(full: str, shape: str) -> str:
    return {"full": full, "alert": full.rpartition("-")[0], "bare": full.partition("-")[0]}[shape]


@pytest.mark.parametrize("path_status", [404, 405])
@pytest.mark.parametrize(("disposition", "expected"), [MALICIOUS, SPAM])
@pytest.mark.parametrize("shape", ["bare", "alert", "full"])
def test_new_mail_is_waited_for_until_the_search_shows_it(
    system: Deployed, shape: str, disposition: str, expected: tuple[str, str | None], path_status: int
) -> None:
    full = investigate_id(f"k{shape.title()}{disposition[:2]}{path_status}z")
    given = shape_of(full, shape)
    if shape == "bare":
        system.cloudflare.paths[given] = path_status
    answer = system.post([given])
    assert (answer.status_code, answer.json()["results"][0]["outcome"]) == (202, "in_progress")
    system.cloudflare.rows = [row(full, final_disposition=disposition)]
    (result,) = system.ended(answer)["results"]
    assert (result["outcome"], result["code"]) == expected
    assert system.cloudflare.released(full.partition("-")[0]) == (expected[0] == "released")


def test_mail_that_was_new_when_it_was_asked_for_is_still_waited_for_when_it_is_older(system: Deployed) -> None:
    full = investigate_id("kOlder1nlBz", LAG_SECONDS / 2)
    answer = system.post([shape_of(full, "bare")])
    assert answer.status_code == 202
    with pytest.raises(AssertionError, match="in_progress"):
        system.ended(answer, seconds=LAG_SECONDS)
    system.cloudflare.rows = [row(full, final_disposition="MALICIOUS")]
    (result,) = system.ended(answer)["results"]
    assert (result["outcome"], result["code"]) == MALICIOUS[1]
    assert system.cloudflare.releases == []


@pytest.mark.parametrize("how", [{"dry_run": True}, {"force": True, "reason": "a drill"}])
@pytest.mark.parametrize("shape", ["bare", "alert", "full"])
def test_force_and_dry_run_are_refused_for_new_mail(system: Deployed, shape: str, how: dict[str, Any]) -> None:
    full = investigate_id(f"kNow{shape.title()}{len(how)}z")
    headers = {"Idempotency_Key": f"{shape}-{len(how)}"} if "force" in how else {}
    answer = system.post({"ids": [shape_of(full, shape)], **how}, **headers)
    assert (answer.status_code, answer.json().get("code")) == (503, "message_not_searchable_yet")
    assert answer.json()["retryable"] is True
    assert 1 <= int(answer.headers["Retry-After"]) <= LAG_SECONDS
    assert system.cloudflare.releases == []


def test_older_mail_that_is_not_found_is_not_waited_for(system: Deployed) -> None:
    full = investigate_id("kGone01nlBz", LAG_SECONDS + 60)
    assert [each["outcome"] for each in system.results([full])] == ["not_found"]
    (result,) = system.results([shape_of(full, "bare")])
    assert (result["outcome"], result["guard"]) == ("released", "not_checked")


@pytest.mark.parametrize("bare", ["AEIOUAEIOU1", "3F2B1D4C5D2", "zzzzzzzzzz3"])
def test_a_bare_id_without_a_time_is_not_released_unread(system: Deployed, bare: str) -> None:
    full = f"{bare}-{datetime.now(UTC) - timedelta(days=2):%Y-%m-%dT%H:%M:%S}-1"
    system.cloudflare.rows = [row(full, final_disposition="MALICIOUS")]
    (result,) = system.results([bare])
    assert (result["outcome"], result["code"], result["retryable"]) == ("denied", "guard_cannot_read", False)
    assert "investigate id" in result["detail"]
    assert system.cloudflare.releases == []


@pytest.mark.parametrize(("disposition", "expected"), [MALICIOUS, SPAM])
def test_a_bare_id_without_a_time_that_its_path_shows_is_judged(
    system: Deployed, disposition: str, expected: tuple[str, str | None]
) -> None:
    bare = f"AEIOU{disposition[:3]}123"
    full = f"{bare}-{datetime.now(UTC) - timedelta(days=2):%Y-%m-%dT%H:%M:%S}-1"
    system.cloudflare.paths[bare] = [row(full, final_disposition=disposition)]
    (result,) = system.results([bare])
    assert (result["outcome"], result["code"]) == expected
