"""What must hold for those who ask by right ids, whatever ids a second client makes up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quarantine_release.domain.ids import is_header, postfix_part
from quarantine_release.domain.states import LETTERS, Code
from quarantine_release.ledger.items import request_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quarantine_release.domain.ids import MessageId
    from quarantine_release.domain.rows import RequestRow
    from tests.simulation.simulated_mail import Mail
    from tests.simulation.simulated_search import Search
    from tests.simulation.simulation import Simulation

_CALLS_BEFORE_REVIEW = 5


def check_ids(simulation: Simulation) -> list[str]:
    """Return whom a made-up id of somebody else has harmed, and which message was released twice."""
    search, found = simulation.search, list[str]()
    if search is None:
        return found
    for key, item in simulation.dynamodb.items.items():
        if key.startswith("R#"):
            found += [f"{key}: {each}" for each in _harmed(simulation, search, request_row(item))]
    return found + [f"{one.message_id} was released twice" for one in search.mails if _is_out_twice(simulation, one)]


def _harmed(simulation: Simulation, search: Search, row: RequestRow) -> Iterator[str]:
    """Tell which ids that Cloudflare knows are said to be wrong ones, or were not what was rejected."""
    for given, letter in zip(row.message_ids, row.letters or "", strict=False):
        code = LETTERS[letter][1]
        if is_header(given) or not search.meant_by(given):
            continue
        if code is Code.ID_CONFLICT and not any(
            search.meant_by(other) != search.meant_by(given) for other in row.message_ids
        ):
            yield f"{given} is told as a wrong id, which it is not"
        part = postfix_part(given)
        # A cancelled request asks for nothing any more, so nobody reads its ids.
        is_asked = row.cancelled_at is None and part not in simulation.doubtful
        is_plain = is_asked and not any(job.force for job in simulation.jobs)
        calls = sum(post.part == part for post in simulation.posts)
        if code is Code.UNSETTLED and is_plain and calls < _CALLS_BEFORE_REVIEW:
            yield f"{given} needs a review after {calls} calls"
        if code is Code.CLOUDFLARE_REJECTED and not simulation.rejected_ids & set(row.message_ids):
            yield f"{given} is told as rejected, which was another id"


def is_made_up(simulation: Simulation, message_id: MessageId) -> bool:
    """Say whether Cloudflare knows no such message."""
    return simulation.search is not None and not simulation.search.meant_by(message_id)


def _is_out_twice(simulation: Simulation, one: Mail) -> bool:
    assert simulation.search is not None
    forced = sum(job.force for job in simulation.jobs)
    tries = simulation.search.tries.get(one.message_id, ())
    return sum(bool(each.delivered) for each in tries) > 1 + forced
