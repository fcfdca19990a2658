"""What is wanted, and how it is packed into calls of one wire form each. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from quarantine_release.domain.facts import Facts
from quarantine_release.domain.guard import Guarded
from quarantine_release.domain.ids import MessageId, PostfixPart, RequestId, is_bare
from quarantine_release.domain.rows import MessageRow, Target, WireForm

# A claim is one transaction: the attempt, its messages, and a look at each request that a message is claimed for.
CLAIM_LIMIT: Final = 99


@dataclass(frozen=True, slots=True)
class WantedRelease:
    """One message and the requests that want it released; it is claimed for the first of them that still does.

    `guards`: how it came past the guard, for each request that it may be claimed for; None where the guard is off.
    `confirmed`: the id that Cloudflare told when it was read, `facts` what to keep of that. `named`: the id by which a
    request wants it, if another.
    """

    target: Target
    requests: tuple[RequestId, ...]
    guards: Mapping[RequestId, Guarded | None] = field(default_factory=dict)
    disposition: str | None = None
    confirmed: MessageId | None = None
    facts: Facts | None = None
    named: Mapping[RequestId, MessageId] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """One call to be made: in this form, for these."""

    wire_form: WireForm
    wants: tuple[WantedRelease, ...]


def plan_calls(
    wants: Iterable[WantedRelease], rows: Mapping[PostfixPart, MessageRow], forced: WireForm | None
) -> list[PlannedCall]:
    """Pack what is wanted into as few calls as one claim each allows: each wire form apart, and who may not be many."""
    groups: dict[tuple[WireForm, int], list[list[WantedRelease]]] = {}
    for want in wants:
        row = rows.get(want.target.part)
        largest = (row.largest_call if row is not None else None) or CLAIM_LIMIT
        form = forced or (WireForm.ARRAY if is_bare(want.target.message_id) else WireForm.OBJECT)
        packs = groups.setdefault((form, largest), [[]])
        owners = {other.requests[0] for other in packs[-1]} | {want.requests[0]}
        if len(packs[-1]) == largest or len(packs[-1]) + 1 + len(owners) > CLAIM_LIMIT:
            packs.append([])
        packs[-1].append(want)
    return [PlannedCall(form, tuple(pack)) for (form, _), packs in groups.items() for pack in packs]
