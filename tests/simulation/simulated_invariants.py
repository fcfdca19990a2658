"""What must hold in every simulated run: at every write, and at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quarantine_release.domain.ids import postfix_part
from quarantine_release.domain.rows import MessageRow, RequestRow, RequestState
from quarantine_release.domain.states import EXPIRING, LETTERS, TRANSITIONS, Code, Outcome, State
from quarantine_release.ledger.items import message_row, request_row
from quarantine_release.ledger.keys import request_key
from quarantine_release.releasing.progress import Answer
from quarantine_release.usecases.admission import NotAccepted
from tests.simulation.simulated_evidence import check_evidence, no_review_needed
from tests.simulation.simulated_ids import check_ids, is_made_up

if TYPE_CHECKING:
    from tests.simulation.simulation import Post, Simulation

CALLS_BEFORE_REVIEW = 5
LEASE_AND_SETTLE_SECONDS = 210.0
WINDOW_SECONDS = 300.0


def check_transition(simulation: Simulation, before: MessageRow | None, after: MessageRow) -> None:
    """Check one write to a message."""
    old, new = before.state if before else None, after.state
    if old is new and before is not None and before.attempt == after.attempt:
        return
    where = f"{simulation.now:.3f}: {after.part}: {old} -> {new}"
    simulation.note(f"{after.part}: {old} -> {new}")
    if new not in TRANSITIONS[old]:
        simulation.violations.append(f"{where} is no legal transition")
    needs_force = old in EXPIRING or (old is State.NEEDS_REVIEW and new is State.RELEASING)
    if before is not None and needs_force and before.code is not Code.CLOUDFLARE_REJECTED:
        owner = _request(simulation, after.owner) if after.owner else None
        if owner is None or not owner.force:
            simulation.violations.append(f"{where}: an ended state changed without force")
    if before is not None and old is State.RELEASING and before.attempt != after.attempt and not before.forced_over:
        simulation.violations.append(f"{where}: written by a stale attempt")
    effects = [at for at in simulation.effects.get(after.part, ()) if at <= simulation.now]
    if new is State.RELEASED and not effects:
        simulation.violations.append(f"{where}: but Cloudflare released nothing")
    if new is State.FAILED and after.part not in simulation.rejected:
        simulation.violations.append(f"{where}: but Cloudflare rejected nothing")
    calls = sum(post.part == after.part for post in simulation.posts)
    is_doubtful = after.part in simulation.doubtful or after.forced_over or is_made_up(simulation, after.message_id)
    if new is State.NEEDS_REVIEW and calls < CALLS_BEFORE_REVIEW and not is_doubtful:
        simulation.violations.append(f"{where}: though only {calls} calls may have had an effect")
    if new is State.NEEDS_REVIEW and not after.forced_over and no_review_needed(simulation, after.message_id):
        simulation.violations.append(f"{where}: though its action log shows a release that worked")


def check_end(simulation: Simulation) -> list[str]:
    """Return everything that was violated by the end of the run."""
    if simulation.damages is not None:
        simulation.damages.end()
    return [
        *simulation.violations,
        *simulation.late_calls,
        *_too_many_calls(simulation),
        *_calls_after_cancel(simulation),
        *_repeated_calls(simulation),
        *_calls_after_refusal(simulation),
        *_unended(simulation),
        *_untruthful(simulation),
        *_denied_and_released(simulation),
        *_released_and_ended(simulation),
        *check_evidence(simulation),
        *check_ids(simulation),
    ]


def _repeated_calls(simulation: Simulation) -> list[str]:
    """No second call without a read that said "still quarantined" after lease and settle; no message out twice."""
    found = []
    posts: dict[str, Post] = {}
    for post in simulation.posts:
        first = posts.get(post.part)
        posts[post.part] = post
        forced = (owner := _request(simulation, post.owner)) is not None and owner.force
        if first is None or forced or post.part in simulation.rejected:
            continue
        reads = simulation.negative_reads.get(post.part, ())
        if not any(first.claimed_at + LEASE_AND_SETTLE_SECONDS <= at <= post.at for at in reads):
            found.append(f"{post.at:.3f}: second call for {post.part} without a negative read")
    for part, effects in simulation.effects.items():
        forced_calls = sum(
            (owner := _request(simulation, post.owner)) is not None and owner.force
            for post in simulation.posts
            if post.part == part
        )
        if len(effects) > 1 + forced_calls:
            found.append(f"{part} was released {len(effects)} times")
    return found


def _too_many_calls(simulation: Simulation) -> list[str]:
    """Never more calls than the limit in any five minutes, releases and reads of all processes together."""
    calls = sorted(simulation.calls)
    return [
        f"{at:.3f}: {simulation.limit + 1} calls within five minutes"
        for at, later in zip(calls, calls[simulation.limit :], strict=False)
        if later - at < WINDOW_SECONDS
    ]


def _calls_after_cancel(simulation: Simulation) -> list[str]:
    """Nothing leaves on behalf of a request for an id whose caller was told that it is cancelled."""
    return [
        f"{post.at:.3f}: {post.part} left for {post.owner}, though told as cancelled at {told.at:.3f}"
        for told in simulation.cancelled
        if isinstance(told.answer, Answer)
        for result in told.answer.results
        if result.outcome is Outcome.CANCELLED
        for post in simulation.posts
        if (post.owner, post.part) == (told.request_id, result.part) and post.at > told.at
    ]


def _calls_after_refusal(simulation: Simulation) -> list[str]:
    """Nothing leaves on behalf of a request whose caller was told no."""
    last = {told.request_id: told for told in simulation.told}
    return [
        f"{post.at:.3f}: {post.part} left for {post.owner}, whose caller was told no at {told.at:.3f}"
        for post in simulation.posts
        if post.owner is not None
        and (told := last.get(post.owner)) is not None
        and isinstance(told.answer, NotAccepted)
        and (post.at > told.at or any(at > told.at for at in simulation.effects.get(post.part, ())))
    ]


def _denied_and_released(simulation: Simulation) -> list[str]:
    """Nothing leaves on behalf of a request for an id that it was denied; and no such end is ever taken back."""
    found = []
    for told in simulation.told:
        row = _request(simulation, told.request_id)
        if not isinstance(told.answer, Answer) or row is None:
            continue
        for result in told.answer.results:
            if result.ended is None:
                continue
            if row.nonce == told.answer.request.nonce and row.ended.get(result.id) != result.ended:
                found.append(f"{told.at:.3f}: {told.request_id} was told {result.ended}, which was taken back")
            found += [
                f"{post.at:.3f}: {post.part} left for {post.owner}, which was denied it at {told.at:.3f}"
                for post in simulation.posts
                if (post.owner, post.part) == (told.request_id, result.part) and post.at > told.at
            ]
    return found


def _released_and_ended(simulation: Simulation) -> list[str]:
    """What left on behalf of a request alone is not told to it as an end that came before any claim."""
    found = []
    for key, item in simulation.dynamodb.items.items():
        if not key.startswith("R#"):
            continue
        row = request_row(item)
        for part in row.ended_parts:
            owners = {post.owner for post in simulation.posts if post.part == part}
            if simulation.effects.get(part) and owners == {row.request_id}:
                found.append(f"{key}: {part} has ended before a claim, and was released on its behalf")
    return found


def _unended(simulation: Simulation) -> list[str]:
    """What was accepted has reached its end, and one outcome per id."""
    found = []
    for key, item in simulation.dynamodb.items.items():
        if simulation.damages is not None and key in simulation.damages.waiting:
            continue
        if "open_kind" in item and not key.startswith("M#"):
            found.append(f"{key} is still open at {simulation.now:.0f}")
        if key.startswith("M#") and message_row(item).state in (State.RELEASING, State.UNKNOWN):
            found.append(f"{key} is still {message_row(item).state} at {simulation.now:.0f}")
    for told in simulation.told:
        row = _request(simulation, told.request_id)
        if isinstance(told.answer, Answer) and row is None:
            found.append(f"{told.request_id} was answered and is not there")
        if isinstance(told.answer, Answer) and row is not None and row.state is RequestState.REFUSED:
            found.append(f"{told.request_id} was accepted and then refused")
        if row is not None and row.state is RequestState.CLOSED and len(row.letters or "") != len(row.ids):
            found.append(f"{told.request_id} has {row.letters!r} for {len(row.ids)} ids")
    return found


def _untruthful(simulation: Simulation) -> list[str]:
    """What callers and letters say is so."""
    found = []
    for key, item in simulation.dynamodb.items.items():
        if not key.startswith("R#"):
            continue
        row = request_row(item)
        for given, letter in zip(row.message_ids, row.letters or "", strict=False):
            part = postfix_part(given)
            is_released = bool(simulation.effects.get(part))
            outcome, code = LETTERS[letter]
            if outcome in (Outcome.RELEASED, Outcome.ALREADY_RELEASED) and not is_released:
                found.append(f"{key}: {part} is told as {outcome} and was not released")
            if outcome is Outcome.RELEASED and not any(
                post.part == part and post.owner == row.request_id for post in simulation.posts
            ):
                found.append(f"{key}: {part} is told as released by a request that never called")
            if outcome is Outcome.FAILED and code is not Code.NOT_ATTEMPTED and part not in simulation.rejected:
                found.append(f"{key}: {part} is told as failed and was not")
            owners = {post.owner for post in simulation.posts if post.part == part}
            is_own = is_released and owners == {row.request_id}
            if outcome is Outcome.CANCELLED and (row.cancelled_at is None or is_own):
                found.append(f"{key}: {part} is told as cancelled and was not")
            if outcome is Outcome.NOT_QUARANTINED and is_released:
                found.append(f"{key}: {part} is told as {outcome}, and this very ledger released it")
            if outcome is Outcome.EXPIRED and not _may_expire(simulation, row):
                found.append(f"{key}: {part} is told as {outcome} though there was time")
    for told in simulation.told:
        if not isinstance(told.answer, Answer):
            continue
        for result in told.answer.results:
            effects = [at for at in simulation.effects.get(result.part, ()) if at <= told.at]
            if result.outcome in (Outcome.RELEASED, Outcome.ALREADY_RELEASED) and not effects:
                found.append(
                    f"{told.at:.3f}: {told.request_id} was told {result.outcome} of {result.id}, which it was not"
                )
            # What one call was refused another may have been granted later.
            was_its_own = result.code is Code.NOT_ATTEMPTED or result.part in simulation.rejected
            if result.outcome is Outcome.FAILED and effects and not was_its_own:
                found.append(f"{told.at:.3f}: {told.request_id} was told failed of {result.id}, which was released")
    return found


def _may_expire(simulation: Simulation, row: RequestRow) -> bool:
    """What a client asked for that was revoked until the end need not be released."""
    closed_at = simulation.seconds(row.closed_at) if row.closed_at is not None else None
    return simulation.clients is not None and simulation.clients.is_lost(row.client, closed_at)


def _request(simulation: Simulation, request_id: str | None) -> RequestRow | None:
    item = simulation.dynamodb.items.get(request_key(request_id)) if request_id else None  # type: ignore[arg-type]
    return request_row(item) if item else None
