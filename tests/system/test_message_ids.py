"""Ids that callers make up, and ids of one message in other shapes, over HTTP: whom they harm, and whom not."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final

import pytest
import requests

from tests.support.scripted_cloudflare import Deployed, Row, deployed, row

pytestmark = pytest.mark.slow

OTHER_CLIENT: Final = {"Authorization": "Bearer token-of-the-second-client"}
NUMBERS: Final = count(1)
AT: Final = datetime.now(UTC) - timedelta(days=2)
DIGITS, MADE_UP, MADE_UP_TOO = "10000001", "99999999", "99999998"


@pytest.fixture(scope="module", params=["standard", "off"])
def stack(request: pytest.FixtureRequest) -> Iterator[Deployed]:
    """Run with this guard; its two runs come one after the other."""
    with deployed({"LEASE_SECONDS": "2", "SETTLE_SECONDS": "1", "GUARD_MODE": request.param}) as running:
        running.clients({"name": "second", "token": "token-of-the-second-client", "scopes": ["release", "read"]})
        yield running


@pytest.fixture
def system(stack: Deployed) -> Deployed:
    """Begin with a call that works: three that do not, in a row, would pause all calls."""
    stack.cloudflare.reset()
    good = full_id(postfix_id())
    stack.cloudflare.rows = [row(good)]
    assert outcomes(stack.results([good])) == [("released", None)]
    stack.cloudflare.reset()
    return stack


UNGUARDED = pytest.mark.parametrize("stack", ["off"], indirect=True)
GUARDED = pytest.mark.parametrize("stack", ["standard"], indirect=True)


def postfix_id() -> str:
    return f"4WtkMbn{next(NUMBERS):04}zB"


def full_id(part: str, digits: str = DIGITS) -> str:
    return f"{part}-{AT:%Y-%m-%dT%H:%M:%S}-{digits}"


def outcomes(results: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    return [(each["outcome"], each["code"]) for each in results]


def delivered(ids: list[str]) -> list[Row]:
    """Answer as Cloudflare does, with the full id."""
    return [{"id": each if "-" in each else full_id(each), "delivered": ["ann@example.com"]} for each in ids]


def holds(system: Deployed, part: str, *, is_readable: bool = True) -> str:
    """Have Cloudflare hold a message, to be read by its full id, and by its Postfix id if so; return its full id."""
    full = full_id(part)
    system.cloudflare.rows = [row(full)]
    if is_readable:
        system.cloudflare.paths[part] = [row(full)]
    return full


def loses_the_first_answer(system: Deployed) -> None:
    """Have the first release call fail without an effect."""

    def release(ids: list[str]) -> list[Row] | int:
        return 500 if len(system.cloudflare.releases) == 1 else delivered(ids)

    system.cloudflare.on_release = release


def rejects(system: Deployed, *ids: str) -> None:
    """Have Cloudflare reject calls with these ids, as for messages that it does not know."""
    system.cloudflare.on_release = lambda given: 404 if set(given) & set(ids) else delivered(given)


def asks(system: Deployed, message_id: str, **headers: str) -> requests.Response:
    return system.post([message_id], **headers)


def result(system: Deployed, answer: requests.Response) -> tuple[str, str | None]:
    (only,) = outcomes(system.ended(answer)["results"])
    return only


# --- Made-up ids -----------------------------------------------------------------------------------------------------


def test_a_made_up_id_spoils_nobodys_message_whose_call_was_lost(system: Deployed) -> None:
    part = postfix_id()
    holds(system, part)
    loses_the_first_answer(system)
    first = asks(system, part)
    assert first.status_code == 202
    second = asks(system, full_id(part, MADE_UP), **OTHER_CLIENT)
    assert result(system, first) == ("released", None)
    assert result(system, second) == ("needs_review", "id_conflict")
    assert system.cloudflare.released(part) == 2


def test_a_made_up_id_keeps_no_right_one_from_settling_a_message(system: Deployed) -> None:
    """Cloudflare does not let the Postfix id be read; of the ids that callers give only one is known to it."""
    part = postfix_id()
    system.cloudflare.paths[part] = [row(holds(system, part))]
    loses_the_first_answer(system)
    first = asks(system, part)
    assert first.status_code == 202
    system.cloudflare.paths[part] = 404
    system.cloudflare.on_list = lambda query: 404  # noqa: ARG005
    made_up = [asks(system, full_id(part, digits), **OTHER_CLIENT) for digits in (MADE_UP, MADE_UP_TOO)]
    right = asks(system, full_id(part))
    assert {result(system, first)[0], result(system, right)[0]} <= {"released", "already_released"}
    assert [result(system, each) for each in made_up] == [("needs_review", "id_conflict")] * 2
    assert result(system, asks(system, full_id(part), **OTHER_CLIENT)) == ("already_released", None)


@UNGUARDED
def test_a_released_message_known_by_its_postfix_id_keeps_its_right_id(system: Deployed) -> None:
    part = postfix_id()
    system.cloudflare.on_release = lambda _: [{"postfix_id": part, "delivered": ["ann@example.com"]}]
    assert result(system, asks(system, part)) == ("released", None)
    for message_id in (full_id(part, MADE_UP), full_id(part)):
        assert result(system, asks(system, message_id, **OTHER_CLIENT)) == ("already_released", None)
    assert result(system, asks(system, full_id(part))) == ("already_released", None)


@UNGUARDED
def test_an_id_that_cloudflare_rejected_does_not_stop_the_right_one(system: Deployed) -> None:
    part = postfix_id()
    full, made_up = holds(system, part), full_id(part, MADE_UP)
    rejects(system, made_up)
    wrong = result(system, asks(system, made_up, **OTHER_CLIENT))
    assert wrong in (("failed", "cloudflare_rejected"), ("not_found", None))
    assert result(system, asks(system, full)) == ("released", None)
    assert result(system, asks(system, made_up, **OTHER_CLIENT)) == ("needs_review", "id_conflict")


@UNGUARDED
def test_a_made_up_id_in_the_same_batch_spoils_no_other_request(system: Deployed) -> None:
    part = postfix_id()
    full, made_up = holds(system, part), [full_id(part, digits) for digits in (MADE_UP, MADE_UP_TOO)]
    rejects(system, *made_up)
    queued = {"Prefer": "respond-async"}
    wrong = [asks(system, each, **OTHER_CLIENT, **queued) for each in made_up]
    right = [asks(system, each, **queued) for each in (part, full)]
    assert sorted(result(system, each)[0] for each in right) == ["already_released", "released"]
    assert {result(system, each)[0] for each in wrong} <= {"failed", "not_found", "needs_review"}


@GUARDED
def test_another_id_in_an_answer_proves_nothing_and_displaces_no_id_that_was_read(system: Deployed) -> None:
    part = postfix_id()
    full = holds(system, part)

    def release(_: list[str]) -> list[Row]:
        gone = {"is_quarantined": False, "post_delivery_operations": ["QUARANTINE_RELEASE"]}
        system.cloudflare.rows = [row(full, **gone)]
        system.cloudflare.paths.clear()
        return delivered([full_id(part, MADE_UP)])

    system.cloudflare.on_release = release
    answer = asks(system, part)
    assert answer.status_code == 202
    assert result(system, answer) == ("released", None)
    assert result(system, asks(system, full)) == ("already_released", None)
    made_up = asks(system, full_id(part, MADE_UP), **OTHER_CLIENT)
    assert result(system, made_up) == ("needs_review", "id_conflict")


# --- One message, one key --------------------------------------------------------------------------------------------


@UNGUARDED
@pytest.mark.parametrize("length", [9, 26])
def test_an_id_whose_message_could_have_two_rows_is_refused(system: Deployed, length: int) -> None:
    part = f"4WtkMbn{next(NUMBERS):019}"[:length] if length > 9 else f"4Wtk{next(NUMBERS):05}"
    good = full_id(postfix_id())
    for each in (part, full_id(part)[:-9], full_id(part)):
        answer = system.post([good, each])
        assert answer.status_code == 400, answer.text
        assert (answer.json()["code"], answer.json()["field"]) == ("invalid_id", "ids")
        assert answer.json()["detail"].startswith("Id 2 must have 10 to 24 letters and digits")
        assert system.get(f"/v1/messages/{each}").status_code == 400
    assert system.cloudflare.releases == []


@GUARDED
@pytest.mark.parametrize("queued", [{}, {"Prefer": "respond-async"}])
@pytest.mark.parametrize("shape", ["bare", "alert"])
@pytest.mark.parametrize(
    ("disposition", "expected"), [("SPAM", ("released", None)), ("MALICIOUS", ("denied", "disposition_not_allowed"))]
)
def test_a_made_up_id_spoils_no_shorter_id_in_the_same_request(
    system: Deployed, queued: dict[str, str], shape: str, disposition: str, expected: tuple[str, str | None]
) -> None:
    part = postfix_id()
    full = full_id(part)
    system.cloudflare.rows = system.cloudflare.paths[part] = [row(full, final_disposition=disposition)]
    right = part if shape == "bare" else full.rpartition("-")[0]
    found = system.results([right, full_id(part, MADE_UP)], **queued)
    assert outcomes(found) == [expected, ("needs_review", "id_conflict")]
    assert system.cloudflare.released(part) == (disposition == "SPAM")


@GUARDED
def test_an_answer_that_names_two_messages_in_one_entry_proves_no_release(system: Deployed) -> None:
    part, other = postfix_id(), postfix_id()
    full = holds(system, part)

    def release(_: list[str]) -> list[Row]:
        return [{"id": full, "postfix_id": other, "delivered": ["ann@example.com"]}]

    system.cloudflare.on_release = release
    answer = asks(system, full)
    (found,) = answer.json()["results"]
    assert (answer.status_code, found["outcome"], found["code"]) == (202, "unconfirmed", "unclear_answer")
    gone = {"is_quarantined": False, "post_delivery_operations": ["QUARANTINE_RELEASE"]}
    system.cloudflare.rows = [row(full, **gone)]
    assert result(system, answer) == ("released", None)
