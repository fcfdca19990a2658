"""Which ids of a request are free to be claimed, and the hints that send them to the worker. Pure."""

from collections.abc import Sequence
from typing import Final

from quarantine_release.domain.ids import MessageId, PostfixPart, postfix_part
from quarantine_release.domain.results import claimable
from quarantine_release.domain.rows import RequestRow, Target, parse_targets
from quarantine_release.releasing.ports import Hint
from quarantine_release.releasing.progress import Progress

# So many messages a hint stands for: with the request and the attempt they are one claim.
CHUNK: Final = 98


def claimable_parts(request: RequestRow, progress: Progress) -> set[PostfixPart]:
    """Return the messages that an open request still waits for and that may be claimed for it."""
    if not request.may_claim:
        return set()
    now = progress.ports.clock()
    left = {result.part for result in progress.results(request) if not result.is_end}
    targets = parse_targets(request.wanted_ids)
    free = {t.part for t in targets if claimable(progress.rows.get(t.part), t, force=False, now=now)}
    return free & left


def plan_hints(request: RequestRow, parts: set[PostfixPart]) -> list[Hint]:
    """Return a hint for each chunk of the request that holds one of these messages."""
    message_ids = request.message_ids
    chunks = {position // CHUNK for position, each in enumerate(message_ids) if postfix_part(each) in parts}
    return [Hint(request.request_id, chunk) for chunk in sorted(chunks)]


def ids_of_hint(request: RequestRow, chunk: int | None) -> Sequence[MessageId]:
    """Return the ids, as given, that a hint stands for; none for a chunk that the request does not have."""
    return request.ids if chunk is None else request.ids[chunk * CHUNK : (chunk + 1) * CHUNK]


def targets_of_hint(request: RequestRow, chunk: int | None) -> Sequence[Target]:
    """Return the messages that a hint stands for."""
    targets = parse_targets(request.wanted_ids)
    if chunk is None or len(request.ids) <= CHUNK:
        return targets if not chunk else ()
    parts = {postfix_part(request.resolved.get(given, given)) for given in ids_of_hint(request, chunk)}
    return [target for target in targets if target.part in parts]
