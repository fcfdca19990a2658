"""What must hold of what callers are told where a search shows messages. The rest is in `simulated_invariants.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quarantine_release.domain.guard import Mode
from quarantine_release.domain.ids import MessageId, is_bare, is_header, message_key, postfix_part
from quarantine_release.domain.states import LETTERS, UNSETTLED, Code, Outcome, State
from quarantine_release.ledger.items import message_row, request_row
from quarantine_release.releasing.progress import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quarantine_release.domain.rows import RequestRow
    from tests.simulation.simulated_search import Search
    from tests.simulation.simulation import Simulation

_OUT = (Outcome.RELEASED, Outcome.ALREADY_RELEASED, Outcome.PARTIALLY_RELEASED)
# For so long a Message-ID may be taken to mean what a search has found.
_KEPT_SECONDS = 60.0


def check_evidence(simulation: Simulation) -> list[str]:
    """Return what callers were told, or will be, that no row and no action log bears out."""
    search, found = simulation.search, list[str]()
    if search is None:
        return found
    for told in simulation.told:
        if isinstance(told.answer, Answer):
            for result in told.answer.results:
                said = _untrue(search, result.resolved or result.id, told.at, result.outcome, result.code)
                found += [f"{told.at:.3f}: {told.request_id} was told of {result.id}: {each}" for each in said]
    for key, item in simulation.dynamodb.items.items():
        if key.startswith("R#"):
            row = request_row(item)
            for given, letter in zip(row.ids, row.letters or "", strict=False):
                said = _untrue(search, row.resolved.get(given, given), simulation.now, *LETTERS[letter])
                found += [f"{key}: is told of {given}: {each}" for each in said]
            found += [f"{key}: {given} was taken for what it no longer means alone" for given in _kept(simulation, row)]
            found += [f"{key}: {given} is told as one message, but means two" for given in _mistaken(simulation, row)]
    return found


def _untrue(search: Search, message_id: MessageId, at: float, outcome: Outcome, code: Code | None) -> Iterator[str]:
    if is_header(message_id):
        shown = [mail for mail in search.mails if mail.header == message_id and mail.is_listed and mail.is_shown(0.0)]
        if outcome is Outcome.NOT_FOUND and shown:
            yield "not_found, though it was shown all the time"
        return
    there = [mail for mail in search.meant_by(message_id) if mail.gone_from > at]
    if outcome in _OUT and not search.was_released(message_id, at):
        yield f"{outcome}, which it was not"
    if outcome is Outcome.PARTIALLY_RELEASED and not search.was_missed(message_id):
        yield "partially_released, though nobody was missed"
    if outcome is Outcome.NOT_QUARANTINED and code is not Code.NOTHING_HELD and not search.was_released(message_id, at):
        yield "not_quarantined, though it is held"
    if outcome is Outcome.NOT_FOUND and any(mail.at <= 0.0 and mail.is_listed for mail in there):
        yield "not_found, though it is there"


def _kept(simulation: Simulation, row: RequestRow) -> Iterator[MessageId]:
    """Tell which Message-IDs were taken to mean one message, though long since another was shown under it too."""
    assert simulation.search is not None
    since = simulation.seconds(row.created_at) - _KEPT_SECONDS
    for given, resolved in row.resolved.items():
        shown = [
            mail for mail in simulation.search.mails if mail.header == given and mail.is_listed and mail.is_shown(since)
        ]
        item = simulation.dynamodb.items.get(message_key(row.account_id, postfix_part(resolved)))
        message = message_row(item) if item is not None else None
        was_open = message is not None and (
            message.state in UNSETTLED - {State.NEEDS_REVIEW}
            or message.state is State.RETRYABLE
            or simulation.seconds(message.updated_at) > since
        )
        if len(shown) > 1 and not was_open:
            yield given


def _mistaken(simulation: Simulation, row: RequestRow) -> Iterator[MessageId]:
    """Tell which ids are said to be out of which each may mean two messages, both shown when they were asked for."""
    assert simulation.search is not None
    since = simulation.seconds(row.created_at) - _KEPT_SECONDS
    is_guarded = simulation.guard.mode is not Mode.OFF or row.policy is not None
    for given, letter in zip(row.ids, row.letters or "", strict=False):
        if is_header(given) or (is_bare(given) and not is_guarded):
            continue
        shown = [mail for mail in simulation.search.meant_by(given) if mail.is_listed and mail.is_shown(since)]
        if len(shown) > 1 and LETTERS[letter][0] is Outcome.RELEASED:
            yield given


def no_review_needed(simulation: Simulation, message_id: MessageId) -> bool:
    """Say whether an action log has shown for a minute that a message was released, which only a read need tell."""
    search = simulation.search
    meant = search.meant_by(message_id) if search is not None else []
    if search is None or len(meant) != 1 or not meant[0].is_listed:
        return False
    return search.success_logged(message_id, simulation.now - _KEPT_SECONDS)
