"""What Cloudflare shows may contradict itself: what a caller is told then, over HTTP, with a scripted Cloudflare."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from tests.support.cloudflare_entries import queue_id
from tests.support.scripted_cloudflare import Deployed, Row, deployed, row

pytestmark = pytest.mark.slow

STARTED: Final = datetime.now(UTC).replace(microsecond=0)

# A client that may release to one domain alone.
BOUND_TOKEN: Final = "bound-token-of-forty-characters-00000000"
BOUND: Final = {
    "name": "bound",
    "token": BOUND_TOKEN,
    "scopes": ["release", "read"],
    "policy": {"recipient_domains": ["example.com"]},
}
# A client that may release mail of the last week.
YOUNG_TOKEN: Final = "young-token-of-forty-characters-00000000"
YOUNG: Final = {**BOUND, "name": "young", "token": YOUNG_TOKEN, "policy": {"max_age_days": 7}}
SPAM_TOKEN: Final = "spam-token-of-forty-characters-000000000"
SPAM_ONLY: Final = {**BOUND, "name": "spam", "token": SPAM_TOKEN, "policy": {"dispositions": ["SPAM"]}}


@pytest.fixture(scope="module")
def system() -> Iterator[Deployed]:
    with deployed({"SECRET_SECONDS": "1"}) as running:
        running.clients(BOUND, YOUNG, SPAM_ONLY)
        yield running


@pytest.fixture(autouse=True)
def _fresh(system: Deployed) -> None:
    system.cloudflare.reset()


def investigate_id(name: str, *, days: float = 2.0, digits: int = 10_000_000) -> str:
    """Return the id of a mail that arrived so many days ago; `name` completes its Postfix id, which tells the time."""
    at = STARTED - timedelta(days=days)
    return f"{queue_id(at, name)}-{at:%Y-%m-%dT%H:%M:%S}-{digits}"


def test_a_plain_message_is_released(system: Deployed) -> None:
    full = investigate_id("kP1ain1nlBz")
    system.cloudflare.rows = [row(full)]
    (result,) = system.results([full])
    assert (result["outcome"], result["guard"]) == ("released", "passed")
    assert system.cloudflare.releases == [[full]]


# --- One message in several rows --------------------------------------------------------------------------------------

Way = Callable[[str, Row], list[str]]


def by_itself(full: str, _: Row) -> list[str]:
    return [full]


def by_bare_id(full: str, _: Row) -> list[str]:
    return [full.partition("-")[0]]


def by_alert_id(full: str, _: Row) -> list[str]:
    return [full.rpartition("-")[0]]


def by_message_id(_: str, shown: Row) -> list[str]:
    return [str(shown["message_id"])]


def in_a_pack(full: str, _: Row) -> list[str]:
    return [full, *(investigate_id(f"kFill{number:03}x", digits=number) for number in range(29))]


WAYS = [by_itself, by_bare_id, by_alert_id, by_message_id, in_a_pack]


def outcome(
    system: Deployed,
    way: Way,
    rows: list[Row],
    *,
    page_size: int = 1000,
    dry_run: bool = False,
    token: str | None = None,
) -> tuple[str, str | None]:
    """Ask for the first message of these rows, in one of the ways, and return what came of it."""
    full = str(rows[0]["id"])
    ids = way(full, rows[0])
    system.cloudflare.rows = [*rows[:1], *map(row, ids[1:]), *rows[1:]]
    system.cloudflare.page_size = page_size
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    result = system.results({"ids": ids[:25] if dry_run else ids, "dry_run": dry_run}, **headers)[0]
    if result["outcome"] not in ("released", "would_release"):
        assert system.cloudflare.released(full.partition("-")[0]) == 0
    return result["outcome"], result["code"]


@pytest.mark.parametrize("page_size", [1000, 1])
@pytest.mark.parametrize("way", WAYS)
def test_a_second_row_for_another_recipient_is_held_to_the_policy_too(
    system: Deployed, way: Way, page_size: int
) -> None:
    full = investigate_id(f"kRcp{WAYS.index(way)}{page_size:04}z")
    rows = [row(full, client_recipients=["a@outside.example"]), row(full, client_recipients=["b@example.com"])]
    size = 12 if page_size == 1 and way is in_a_pack else page_size
    told = outcome(system, way, rows, page_size=size, token=BOUND_TOKEN)
    assert told == ("denied", "recipient_not_allowed")


@pytest.mark.parametrize("page_size", [1000, 1])
@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_worse_disposition_in_another_row_is_not_lost(
    system: Deployed, way: Way, dry_run: bool, page_size: int
) -> None:
    full = investigate_id(f"kDsp{WAYS.index(way)}{page_size:04}{int(dry_run)}z")
    rows = [row(full, final_disposition="MALICIOUS"), row(full)]
    size = 12 if page_size == 1 and way is in_a_pack else page_size
    for each in (rows, rows[::-1]):
        told = outcome(system, way, each, page_size=size, dry_run=dry_run)
        assert told == ("denied", "disposition_not_allowed")


@pytest.mark.parametrize("delivery_status", ["quarantined", "delivered"])
@pytest.mark.parametrize("way", WAYS)
def test_rows_that_differ_in_whether_a_message_is_held_prove_nothing(
    system: Deployed, way: Way, delivery_status: str
) -> None:
    full = investigate_id(f"kMix{WAYS.index(way)}{delivery_status[:5]}z")
    rows = [row(full, is_quarantined=False, delivery_status=[delivery_status]), row(full)]
    for each in (rows, rows[::-1]):
        assert outcome(system, way, each) == ("denied", "guard_unavailable")


@pytest.mark.parametrize("way", WAYS)
def test_rows_that_agree_are_released_once(system: Deployed, way: Way) -> None:
    full = investigate_id(f"kAgr{WAYS.index(way)}lBz")
    rows = [row(full), row(full, client_recipients=["b@example.com"])]
    assert outcome(system, way, rows, token=BOUND_TOKEN) == ("released", None)
    assert system.cloudflare.released(full.partition("-")[0]) == 1


@pytest.mark.parametrize(
    "recipient",
    ["a@outside.example, b@example.com", "a@outside.example b@example.com", "<a@outside.example>;b@example.com"],
)
def test_two_addresses_in_one_text_are_not_taken_for_the_last(system: Deployed, recipient: str) -> None:
    full = investigate_id(f"kTwoAddr{len(recipient)}z")
    system.cloudflare.rows = [row(full, client_recipients=[recipient])]
    (result,) = system.results([full], **{"Authorization": f"Bearer {BOUND_TOKEN}"})
    assert (result["outcome"], result["code"]) == ("denied", "recipient_not_allowed")
    assert system.cloudflare.releases == []


def test_old_mail_that_was_scanned_again_is_still_old(system: Deployed) -> None:
    full = investigate_id("kScannedAga1", days=60)
    system.cloudflare.rows = [row(full, scanned_at=f"{STARTED:%Y-%m-%dT%H:%M:%S}Z")]
    for dry_run in (True, False):
        body = {"ids": [full], "dry_run": dry_run}
        (result,) = system.results(body, **{"Authorization": f"Bearer {YOUNG_TOKEN}"})
        assert (result["outcome"], result["code"]) == ("denied", "message_too_old")
    assert system.cloudflare.releases == []


@pytest.mark.parametrize("lacking", [{"id": None, "postfix_id": None}, {"id": "x", "postfix_id": "y"}])
def test_a_row_that_names_its_message_by_alert_id_alone_leaves_it_unreadable(
    system: Deployed, lacking: dict[str, str | None]
) -> None:
    full = investigate_id(f"kNameless{len(lacking['id'] or '')}z")
    others = [row(investigate_id(f"kFi1{number:03}x{len(lacking['id'] or '')}")) for number in range(4)]
    system.cloudflare.rows = [row(full), row(full, final_disposition="MALICIOUS") | lacking, *others]
    result, *rest = system.results([full, *(each["id"] for each in others)])
    assert (result["outcome"], result["code"]) == ("denied", "guard_unavailable")
    assert {each["outcome"] for each in rest} == {"released"}
    assert system.cloudflare.released(full) == 0


def test_a_row_that_does_not_tell_whether_its_message_is_held_counts_against_its_bare_id(system: Deployed) -> None:
    full = investigate_id("kUnto1d1lBz")
    system.cloudflare.rows = [row(full, final_disposition="MALICIOUS", is_quarantined=None)]
    assert [system.results([full])[0][name] for name in ("outcome", "code")] == ["denied", "guard_unavailable"]
    system.cloudflare.rows = []
    (result,) = system.results([full.partition("-")[0]])
    assert (result["outcome"], result["code"]) == ("denied", "guard_cannot_read")
    assert system.cloudflare.releases == []


@pytest.mark.parametrize("queued", [{}, {"Prefer": "respond-async"}])
def test_a_client_limited_to_some_dispositions_gets_nothing_that_cannot_be_read(
    system: Deployed, queued: dict[str, str]
) -> None:
    bare = investigate_id(f"kUnrd{len(queued)}1lBz").partition("-")[0]
    (result,) = system.results([bare], Authorization=f"Bearer {SPAM_TOKEN}", **queued)
    assert (result["outcome"], result["code"]) == ("denied", "guard_cannot_read")
    assert system.cloudflare.releases == []
    (result,) = system.results([bare])
    assert (result["outcome"], result["guard"]) == ("released", "not_checked")


def test_a_short_postfix_id_that_looks_like_a_time_tells_none(system: Deployed) -> None:
    """It is hexadecimal, and one in twenty happens to encode a time between 2018 and now."""
    short = "4BCD123456"
    system.cloudflare.rows = [row(f"{short}-{STARTED - timedelta(days=1):%Y-%m-%dT%H:%M:%S}-7")]
    system.cloudflare.rows[0]["final_disposition"] = "MALICIOUS"
    (result,) = system.results([short])
    assert (result["outcome"], result["code"]) == ("denied", "guard_cannot_read")
    assert system.cloudflare.releases == []


def test_a_message_id_narrowed_to_one_recipient_still_counts_the_others(system: Deployed) -> None:
    full = investigate_id("kNarrow1lBz")
    rows = [row(full, client_recipients=["a@outside.example"]), row(full, client_recipients=["b@example.com"])]
    system.cloudflare.rows = rows
    body = {"message_ids": [rows[0]["message_id"]], "recipient": "b@example.com"}
    (result,) = system.results(body, **{"Authorization": f"Bearer {BOUND_TOKEN}"})
    assert (result["outcome"], result["code"]) == ("denied", "recipient_not_allowed")
    assert system.cloudflare.releases == []


def test_a_message_id_whose_rows_a_release_splits_is_left_to_the_ledger(system: Deployed) -> None:
    """One row of the search shows the release already, the other does not yet."""
    full = investigate_id("kSp1it11lBz")
    header = row(full)["message_id"]

    def while_it_is_released(target: str) -> None:
        if "message_id=" in target:
            system.cloudflare.on_read = None
            assert system.results([full])[0]["outcome"] == "released"
            released = {"is_quarantined": False, "post_delivery_operations": ["QUARANTINE_RELEASE"]}
            system.cloudflare.rows = [row(full, **released), row(full)]

    system.cloudflare.rows = [row(full)]
    system.cloudflare.on_read = while_it_is_released
    (result,) = system.results([header])
    assert result["outcome"] == "already_released"
    assert result["resolved_id"] == full
    assert system.cloudflare.released(full.partition("-")[0]) == 1


# --- Several messages behind one id -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [1000, 1])
@pytest.mark.parametrize("way", [by_bare_id, by_alert_id])
@pytest.mark.parametrize("many", [1, 30])
def test_two_messages_behind_one_id_are_ambiguous_and_both_are_shown(
    system: Deployed, way: Way, many: int, page_size: int
) -> None:
    one = investigate_id(f"kTwo{WAYS.index(way)}{many:02}{page_size:04}")
    two = one.rpartition("-")[0] + "-20000000"
    others = [investigate_id(f"kFell{number:03}x", digits=number) for number in range(many - 1)]
    system.cloudflare.rows = [row(one), *map(row, others), row(two, final_disposition="MALICIOUS")]
    system.cloudflare.page_size = page_size if many == 1 else 12
    result, *rest = system.results([*way(one, {}), *others])
    assert (result["outcome"], result["code"]) == ("ambiguous", "several_matches")
    assert [each["id"] for each in result["candidates"]] == [one, two]
    assert [each["disposition"] for each in result["candidates"]] == ["SPAM", "MALICIOUS"]
    assert {each["outcome"] for each in rest} <= {"released", "already_released"}
    assert system.cloudflare.released(one.partition("-")[0]) == 0


def test_an_expected_count_is_a_check_and_never_a_permission(system: Deployed) -> None:
    header = "<twice@example.net>"
    ids = [investigate_id(f"kCount{number}xlB", digits=number) for number in (1, 2)]
    system.cloudflare.rows = [row(each) | {"message_id": header} for each in ids]
    for count, code in ((1, "count_differs"), (2, "several_matches"), (3, "count_differs")):
        (result,) = system.results({"message_ids": [header], "expect_count": count})
        assert (result["outcome"], result["code"]) == ("ambiguous", code)
        assert [each["id"] for each in result["candidates"]] == ids
    assert system.cloudflare.releases == []
    system.cloudflare.rows = [row(ids[0]) | {"message_id": header}] * 2
    (result,) = system.results({"message_ids": [header], "expect_count": 1})
    assert result["outcome"] == "released"
