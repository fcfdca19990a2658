"""The sweep: what was accepted and does not move gets new hints, so that losing every hint loses nothing.

It also ends what nothing will be sent for any more, and closes what has ended while nobody looked. It calls nobody.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from quarantine_release.domain.ids import AccountId
from quarantine_release.domain.ledger_errors import LedgerUnavailable, RowUnreadable
from quarantine_release.domain.permit import Withheld
from quarantine_release.domain.rows import MessageRow, RequestRow, RequestState, Target, parse_targets
from quarantine_release.domain.states import State, has_one_key
from quarantine_release.domain.transitions import Terms, is_expired
from quarantine_release.releasing.asking import ask_each
from quarantine_release.releasing.call import RECORD_SECONDS
from quarantine_release.releasing.hints import claimable_parts, plan_hints
from quarantine_release.releasing.ports import Hint, Ports
from quarantine_release.releasing.progress import Acceptance, Answer, Progress

# Of each shard of the open index, so that one run stays within its time; what is left is next in a minute.
REQUESTS_AT_ONCE: Final = 1000
# So many messages are read at once, or those of one request.
_GROUP: Final = 1000
# By then whoever took the request in has done with it, and a hint that was not lost has arrived.
QUIET: Final = timedelta(seconds=120)


@dataclass(slots=True)
class Swept:
    """What one sweep came to. `failures` is what the ledger did not take; `withheld` counts requests, by client."""

    oldest: datetime | None = None
    requests: int = 0
    hints: int = 0
    failures: int = 0
    withheld: Counter[tuple[str, Withheld]] = field(default_factory=Counter)


def sweep(ports: Ports, swept: Swept) -> None:
    """Look at open requests that were quiet for two minutes (less with a short lease), while time remains.

    Raises LedgerUnavailable if the ledger does not tell which these are.
    """
    due = ports.ledger.open_requests(ports.clock() - _quiet(ports.terms), REQUESTS_AT_ONCE)
    swept.oldest = min((request.created_at for request in due), default=None)
    by_account: dict[AccountId, list[RequestRow]] = defaultdict(list)
    for request in due:
        by_account[request.account_id].append(request)
    for requests in by_account.values():
        for group in _groups(requests):
            if ports.time_left() < 2 * RECORD_SECONDS:
                return
            try:
                _look_at(group, ports, swept)
            except RowUnreadable:  # has been reported, and is no failure of this run
                continue
            except LedgerUnavailable:
                swept.failures += 1


def _quiet(terms: Terms) -> timedelta:
    """Return how long a request is left alone: no run of a function outlasts lease and settle time together."""
    return min(QUIET, terms.lease + terms.settle)


def _groups(requests: Sequence[RequestRow]) -> Iterator[list[RequestRow]]:
    group: list[RequestRow] = []
    for request in requests:
        if group and sum(len(one.ids) for one in [*group, request]) > _GROUP:
            yield group
            group = []
        group.append(request)
    yield group


def _unclaimed(request: RequestRow, progress: Progress) -> list[Target]:
    """Return the messages that no call is under way for, and that wait for one: also those that never get one."""
    free = claimable_parts(request, progress)
    unnamed = [target for target in parse_targets(request.wanted_ids) if not has_one_key(target.message_id)]
    states = {target.part: row.state for target in unnamed if (row := progress.rows.get(target.part))}
    under_way = (State.RELEASING, State.UNKNOWN, State.UNREADABLE)
    waiting = {target.part for target in unnamed if states.get(target.part) not in under_way}
    return [target for target in parse_targets(request.wanted_ids) if target.part in free | waiting]


def _unread(answer: Answer) -> list[MessageRow]:
    """Return the messages under review that still have to be read by an id of this request."""
    rows = (result.row for result in answer.results if not result.is_end)
    return [row for row in rows if row is not None and row.state is State.NEEDS_REVIEW]


def _look_at(requests: Sequence[RequestRow], ports: Ports, swept: Swept) -> None:
    progress = Progress(requests, ports, Acceptance.EARLIER)
    swept.requests += len(requests)
    parts = {target.part for request in requests for target in parse_targets(request.wanted_ids)}
    progress.learn(ports.ledger.messages(progress.account_id, sorted(parts)))
    ask_each(progress, [(request, parse_targets(request.wanted_ids)) for request in requests], is_repeat=True)
    now = ports.clock()
    _end_overdue(requests, progress, now)
    still_open = [answer for answer in progress.finish() if answer.request.state is RequestState.OPEN]
    _send_hints([answer.request for answer in still_open], progress, swept)
    # A candidate id may be in a row whose attempt is closed: after a crash between the two writes, or if the reconciler
    # read the row before the id was added, and closed the attempt after it.
    unread = [row for answer in still_open for row in _unread(answer)]
    if unread:
        ports.ledger.reopen(unread, now)
    # Behind all others that wait, so that those who cannot go on hold up nobody.
    ports.ledger.postpone([answer.request for answer in still_open], ports.clock())


def _end_overdue(requests: Sequence[RequestRow], progress: Progress, now: datetime) -> None:
    """End what nothing will be sent for any more: of forced requests, and of those that are too old."""
    terms = progress.ports.terms
    for request in requests:
        # A worker that has looked at it in time may claim until its own time is over, and is not to be overtaken.
        if request.force or is_expired(request, now - _quiet(terms), terms):
            progress.end_without_call(request, _unclaimed(request, progress))


def _send_hints(requests: Sequence[RequestRow], progress: Progress, swept: Swept) -> None:
    """Send new hints for what is still free, unless its client may no longer do this, or a person has paused it."""
    ports, hints = progress.ports, list[Hint]()
    for request in requests:
        wanted = plan_hints(request, claimable_parts(request, progress))
        withheld = ports.permit(request).withheld if wanted else None
        if withheld is not None:
            swept.withheld[request.client, withheld] += 1
        elif wanted and not progress.active_pause(request):
            hints += wanted
    if hints and not ports.budget.pause_left(progress.account_id):
        ports.queue.send(hints)
        swept.hints += len(hints)
