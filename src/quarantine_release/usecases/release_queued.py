"""The use case of the worker: many hints at once, merged per account into as few calls as may be.

Pure but for its ports. A hint only says where to look: what arrives twice, late, or for a request that is gone finds
nothing to do.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from quarantine_release.domain.ids import AccountId, RequestId
from quarantine_release.domain.ledger_errors import LedgerUnavailable, RowUnreadable
from quarantine_release.domain.permit import Withheld
from quarantine_release.domain.results import Result
from quarantine_release.domain.rows import MessageRow, RequestRow
from quarantine_release.domain.transitions import is_expired
from quarantine_release.releasing.ports import Hint, Ports
from quarantine_release.usecases.account_turns import AccountTurns

# Maximum age of a listing that the guard may rely on, counted from its beginning.
LISTS_HOLD: Final = timedelta(seconds=25)


@dataclass(slots=True)
class Batch:
    """What became of a batch of hints. `failed` are those to be delivered again: the ledger did not do its part.

    `withheld` counts hints whose client may no longer do what they lead to.
    """

    settled: list[MessageRow] = field(default_factory=list)
    ended: list[tuple[Result, RequestRow]] = field(default_factory=list)
    requests: dict[RequestId, RequestRow] = field(default_factory=dict)
    failed: set[Hint] = field(default_factory=set)
    hints: int = 0
    stale: int = 0
    calls: int = 0
    withheld: Counter[tuple[str, Withheld]] = field(default_factory=Counter)

    def add(self, turns: AccountTurns) -> None:
        """Add what became of one account's hints, whatever failed after it."""
        self.settled += turns.progress.settled
        self.ended += turns.ended
        self.requests |= turns.progress.requests
        self.calls += turns.progress.calls
        self.withheld += turns.withheld


def release_hinted(hints: Sequence[Hint], ports: Ports) -> Batch:
    """Release what the hints lead to, account by account in turns; what must wait goes out as new hints."""
    batch = Batch(hints=len(hints))
    with _keeping(hints, batch):
        batch.requests = ports.ledger.requests(sorted({hint.request_id for hint in hints}))
    accounts = [AccountTurns(group, batch.requests, ports) for group in _by_account(hints, batch, ports).values()]
    waiting = deque(accounts)
    while waiting:  # an account that is slow holds up the others by one look and one call at most
        turns = waiting.popleft()
        with _keeping(turns.hints, batch):
            if turns.take_turn():
                waiting.append(turns)
    for turns in accounts:
        batch.add(turns)
    return batch


def _by_account(hints: Sequence[Hint], batch: Batch, ports: Ports) -> Mapping[AccountId, list[Hint]]:
    """Group hints by account, each once, and count those that lead to nothing."""
    groups: dict[AccountId, list[Hint]] = defaultdict(list)
    for hint, times in Counter(hints).items():
        request = batch.requests.get(hint.request_id)
        if request is not None and _is_to_be_released(request, ports):
            batch.stale += times - 1
            groups[request.account_id].append(hint)
        elif hint not in batch.failed:
            batch.stale += times
    return groups


def _is_to_be_released(request: RequestRow, ports: Ports) -> bool:
    """Whether the worker continues with a request: never with a forced one, which is done at once or not at all."""
    return request.may_claim and not request.force and not is_expired(request, ports.clock(), ports.terms)


@contextmanager
def _keeping(hints: Sequence[Hint], batch: Batch) -> Iterator[None]:
    try:
        yield
    except RowUnreadable:  # the same hint would meet the same row: the sweep comes back to what is open
        return
    except LedgerUnavailable:
        batch.failed.update(hints)
