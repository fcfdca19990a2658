"""Which messages many hints stand for, and who wants each. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from quarantine_release.domain.ids import PostfixPart, RequestId, contradict, fullest
from quarantine_release.domain.packing import WantedRelease
from quarantine_release.domain.rows import RequestRow, Target


def merged(
    wanted: Sequence[tuple[RequestRow, Sequence[Target]]],
    free: Mapping[RequestId, set[PostfixPart]],
    *,
    is_read: bool,
) -> list[WantedRelease]:
    """Merge what requests still wait for, message by message; an id that contradicts an earlier one is left.

    A message that is read before its claim is read under the fullest id, which a reading proves right for all or wrong.
    Otherwise each goes out under the id of the request that came first.
    """
    targets: dict[PostfixPart, Target] = {}
    wanted_by: dict[PostfixPart, dict[RequestId, None]] = defaultdict(dict)
    for request, own in wanted:
        for target in own:
            if target.part not in free[request.request_id]:
                continue
            known = targets.setdefault(target.part, target)
            if not contradict(known.message_id, target.message_id):
                if is_read:
                    targets[target.part] = Target(target.part, fullest((known.message_id, target.message_id)))
                wanted_by[target.part][request.request_id] = None
    return [WantedRelease(target, tuple(wanted_by[part])) for part, target in targets.items()]


def ended(
    wanted: Sequence[tuple[RequestRow, Sequence[Target]]], free: Mapping[RequestId, set[PostfixPart]]
) -> list[WantedRelease]:
    """Return what requests no longer wait for, because it has ended in the ledger, each under the id that they gave."""
    wanted_by: dict[Target, dict[RequestId, None]] = defaultdict(dict)
    for request, own in wanted:
        for target in own if request.may_claim else ():
            if target.part not in free[request.request_id] | request.ended_parts:
                wanted_by[target][request.request_id] = None
    return [WantedRelease(target, tuple(names)) for target, names in wanted_by.items()]
