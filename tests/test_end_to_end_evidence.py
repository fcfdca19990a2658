"""What Cloudflare shows may contradict itself: what a caller is told then, over HTTP, with a scripted Cloudflare."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.scripted_cloudflare import Deployed, deployed, row

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def system() -> Iterator[Deployed]:
    with deployed() as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(system: Deployed) -> None:
    system.cloudflare.reset()


def investigate_id(name: str, *, days: float = 2.0, digits: int = 10_000_000) -> str:
    """Return the id of a mail that arrived so many days ago; `name` completes its Postfix id."""
    at = datetime.now(UTC) - timedelta(days=days)
    return f"4Wt{name}-{at:%Y-%m-%dT%H:%M:%S}-{digits}"


def test_a_plain_message_is_released(system: Deployed) -> None:
    full = investigate_id("kP1ain1nlBz")
    system.cloudflare.rows = [row(full)]
    (result,) = system.results([full])
    assert (result["outcome"], result["guard"]) == ("released", "passed")
    assert system.cloudflare.releases == [[full]]
