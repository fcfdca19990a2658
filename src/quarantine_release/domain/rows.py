"""What the ledger knows: the rows as values. Pure.

How they lie in DynamoDB is in `items.py`, and what they mean for a request in `results.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache

from quarantine_release.domain.facts import Facts
from quarantine_release.domain.guard import Ended, Guarded
from quarantine_release.domain.ids import (
    AccountId,
    AttemptId,
    MessageId,
    OperationId,
    PostfixPart,
    RequestId,
    contradict,
    fullest,
    postfix_part,
)
from quarantine_release.domain.policy import Policy
from quarantine_release.domain.request_options import ANY, FailOn, Narrowing
from quarantine_release.domain.states import Code, State
from quarantine_release.domain.verdicts import NO_RECIPIENTS, Evidence, Recipients, Verdict


class WireForm(StrEnum):
    """The two published bodies of Cloudflare's release call (`client.py` says which is which)."""

    ARRAY = "array"
    OBJECT = "object"


@dataclass(frozen=True, slots=True)
class Target:
    """One message that a request wants released, under the fullest id given for it."""

    part: PostfixPart
    message_id: MessageId


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRow:
    """One message. `attempt` is the last claim's, `owner` the request on whose behalf it was claimed.

    `owner_client` is the client of the last claim, which recipients and evidence come from; it stays when the message
    is nobody's again. None in rows of version 4c3b95d.
    `message_id` is the id under which it was claimed last, `confirmed_id` the one that Cloudflare itself told of it.
    `candidates` are other ids that callers gave and nobody confirmed, `rejected` those under which Cloudflare rejected
    it before.
    `largest_call` is how many ids a call with this one may hold, since a larger one was rejected as a whole; `facts`
    are what was read about it last;
    `operations` are what a person has changed about it.
    """

    account_id: AccountId
    part: PostfixPart
    state: State
    attempt: AttemptId
    message_id: MessageId
    updated_at: datetime
    owner: RequestId | None = None
    owner_client: str | None = None
    deadline: datetime | None = None
    expires_at: datetime | None = None
    code: Code | None = None
    recipients: Recipients = NO_RECIPIENTS
    evidence: Evidence | None = None
    attempts: frozenset[AttemptId] = frozenset()
    refusals: int = 0
    last_refused: AttemptId | None = None
    forced_over: State | None = None
    forced_after: datetime | None = None
    asks: frozenset[RequestId] = frozenset()
    asks_uncounted: int = 0
    largest_call: int | None = None
    guard: Guarded | None = None
    disposition: str | None = None
    confirmed_at: datetime | None = None
    operations: frozenset[OperationId] = frozenset()
    confirmed_id: MessageId | None = None
    candidates: frozenset[MessageId] = frozenset()
    rejected: frozenset[MessageId] = frozenset()
    facts: Facts | None = None

    @property
    def own_id(self) -> MessageId | None:
        """Return the full id that Cloudflare confirmed. A released row of 4c3b95d has it as its `message_id`."""
        if self.confirmed_id is not None:
            return self.confirmed_id
        is_out = self.state in (State.RELEASED, State.PARTIAL)
        return self.message_id if is_out and str(self.message_id) != self.part else None

    @property
    def known_id(self) -> MessageId:
        """Return the id to call the message by."""
        return self.own_id or self.message_id

    @property
    def is_readable(self) -> bool:
        return self.state is not State.UNREADABLE


class RequestState(StrEnum):
    """OPEN until every id has ended, then CLOSED; REFUSED if the caller was told no and nothing may leave."""

    OPEN = "OPEN"
    CLOSED = "CLOSED"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow:
    """One accepted request. `nonce` tells this acceptance from any other under the same key.

    Once `cancelled_at` is set nothing is claimed for it any more; it is open until what was claimed has ended. One
    with an `operation` was made by it, out of what an earlier one had left.
    `resolved` and `ended` are what lookup and guard made of its ids; neither changes once it is written; `notes` counts
    how often something was. `policy` is the client's own, as it was when the request was made. `fingerprint_v1` is what
    version 4c3b95d would have stored as the fingerprint of this payload; it is compared, never stored.
    """

    request_id: RequestId
    client: str
    account_id: AccountId
    fingerprint: str
    nonce: str
    ids: tuple[MessageId, ...]
    created_at: datetime
    state: RequestState
    reason: str | None = None
    ticket: str | None = None
    requested_by: str | None = None
    force: bool = False
    fail_on: FailOn = FailOn.NEVER
    trace_id: str | None = None
    operation: OperationId | None = None
    cancelled_at: datetime | None = None
    letters: str | None = None
    closed_at: datetime | None = None
    expires_at: datetime | None = None
    override: bool = False
    dry_run: bool = False
    confirm: bool = False
    narrowing: Narrowing = ANY
    policy: Policy | None = None
    resolved: Mapping[MessageId, MessageId] = field(default_factory=dict)
    ended: Mapping[MessageId, Ended] = field(default_factory=dict)
    notes: int = 0
    fingerprint_v1: str | None = None

    @property
    def message_ids(self) -> tuple[MessageId, ...]:
        """Return the id of each message as far as it is known, in the order given."""
        if not self.resolved:
            return self.ids
        return tuple(self.resolved.get(given, given) for given in self.ids)

    def repeats(self, earlier: "RequestRow") -> bool:
        return earlier.fingerprint in (self.fingerprint, self.fingerprint_v1)

    @property
    def ended_parts(self) -> frozenset[PostfixPart]:
        """Return the messages all whose ids have ended for it before they were claimed."""
        if not self.ended:
            return frozenset()
        left = {postfix_part(self.resolved.get(given, given)) for given in self.ids if given not in self.ended}
        return frozenset(postfix_part(self.resolved.get(given, given)) for given in self.ended) - left

    @property
    def wanted_ids(self) -> tuple[MessageId, ...]:
        """Return `message_ids` without those that have ended by themselves: another id of the message has not."""
        if not self.ended:
            return self.message_ids
        over = self.ended_parts
        ids = zip(self.ids, self.message_ids, strict=True)
        return tuple(each for given, each in ids if given not in self.ended or postfix_part(each) in over)

    @property
    def may_ask(self) -> bool:
        """An open request that is not cancelled. A dry run may ask too, but never claim."""
        return self.state is RequestState.OPEN and self.cancelled_at is None

    @property
    def may_claim(self) -> bool:
        """Say whether a message may still be claimed on its behalf."""
        return self.may_ask and not self.dry_run


class AttemptState(StrEnum):
    """OPEN from before the call; ANSWERED with its outcome in the row; REFUSED if it provably had no effect.

    SETTLED once what the call left unknown was found out by reading.
    """

    OPEN = "OPEN"
    ANSWERED = "ANSWERED"
    REFUSED = "REFUSED"
    SETTLED = "SETTLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One Cloudflare call: written before it goes out. `owners` says on whose behalf each message was claimed."""

    account_id: AccountId
    attempt: AttemptId
    wire_form: WireForm
    targets: tuple[Target, ...]
    owners: Mapping[PostfixPart, RequestId]
    sent_at: datetime
    deadline: datetime
    state: AttemptState
    ended_at: datetime | None = None
    evidence: Evidence | None = None
    verdicts: Mapping[PostfixPart, Verdict] | None = None
    expires_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Say whether something about this call is still to be found out."""
        if self.state is AttemptState.ANSWERED:
            return any(verdict.state is State.UNKNOWN for verdict in (self.verdicts or {}).values())
        return self.state is AttemptState.OPEN


@lru_cache(maxsize=1024)
def parse_targets(ids: tuple[MessageId, ...]) -> tuple[Target, ...]:
    """Group the ids given by message, each under its fullest id; ids that contradict one another give no target."""
    groups: dict[PostfixPart, list[MessageId]] = {}
    for given in ids:
        groups.setdefault(postfix_part(given), []).append(given)
    return tuple(
        Target(part, fullest(given))
        for part, given in groups.items()
        if not any(contradict(fullest(given), other) for other in given)
    )


@lru_cache(maxsize=1024)
def targets_by_part(ids: tuple[MessageId, ...]) -> Mapping[PostfixPart, Target]:
    """Return the targets of the ids given by message."""
    return {target.part: target for target in parse_targets(ids)}
