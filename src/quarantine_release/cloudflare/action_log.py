"""What a message's action log proves of its release. Pure.

Source: Cloudflare's API reference, "Get email action log": an entry has `operation`, `success`, `status`, `started_at`
and `properties`. No field for a recipient is documented, so the usual names are looked for in both places. An entry
that names no recipient is about the whole message.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from quarantine_release.cloudflare.entries import RELEASE
from quarantine_release.cloudflare.release_traces import as_list, letters, resembles_release
from quarantine_release.domain.details import NotRead, Unreadable
from quarantine_release.domain.verdicts import NO_RECIPIENTS, Evidence, ReadBack, Recipients, Seen

Action = Mapping[str, Any]
_RECIPIENT_NAMES: Final = ("recipient", "client_recipient", "recipients", "client_recipients")
# A status with one of these in it contradicts `success: true`.
_UNSUCCESSFUL: Final = ("fail", "error", "cancel", "reject", "pend", "progress", "queue", "unsuccess")


@dataclass(frozen=True, slots=True)
class ActionLog:
    """The actions read. `why` is set if the log was not read to its end; ABSENT means that there is no log."""

    actions: tuple[Action, ...]
    evidence: Evidence
    why: NotRead | None = None

    @property
    def is_whole(self) -> bool:
        return self.why in (None, Unreadable.ABSENT)


@dataclass(slots=True)
class _Tally:
    """Recipients by lower-case name, each as first spelled; `whole` is for entries that name none."""

    delivered: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    pending: dict[str, str] = field(default_factory=dict)
    whole: set[bool | None] = field(default_factory=set)
    has_release: bool = False

    @property
    def has_success(self) -> bool:
        return True in self.whole or bool(self.delivered)

    def add(self, action: Action) -> None:
        """Count the result of a release for each recipient that it names, or for the whole message."""
        success = _success(action)
        names = _recipients(action)
        if not names:
            self.whole.add(success)
        counted = self.delivered if success else self.pending if success is None else self.failed
        for name in names:
            counted.setdefault(name.casefold(), name)

    def undelivered(self, names: Mapping[str, str]) -> list[str]:
        """Return those of these recipients for whom no release worked."""
        return [name for key, name in names.items() if key not in self.delivered]


def released(actions: Iterable[Action], since: datetime | None) -> ReadBack | None:
    """Return RELEASED or PARTIAL if the log shows a success, UNCLEAR if it shows only other releases, None if none.

    A success for any recipient is one, because a release serves all recipients and a second call would deliver twice.
    With `since`, only releases that began then or later count. In `recipients` of a PARTIAL reading, `undelivered` are
    those whose release has no result yet. The reading carries no evidence.
    """
    tally = _count_releases(actions, since)
    if not tally.has_success:
        return ReadBack(Seen.UNCLEAR, Evidence()) if tally.has_release else None
    failed, pending = tally.undelivered(tally.failed), tally.undelivered(tally.pending)
    is_partial = bool(failed or pending) or (True not in tally.whole and bool(tally.whole))
    recipients = Recipients.of(tally.delivered.values(), pending, failed)
    return ReadBack(Seen.PARTIAL if is_partial else Seen.RELEASED, Evidence(), recipients=recipients)


def clarify(reading: ReadBack, log: ActionLog, since: datetime | None) -> ReadBack | None:
    """Return what a message's action log makes of its reading; None if the log was cut off before it showed a success.

    Any other release in the log leaves the message unclear. So does a log without the release that the message shows.
    """
    release = released(log.actions, since)
    if release is not None and release.seen is not Seen.UNCLEAR:
        return ReadBack(release.seen, log.evidence, reading.message_id, release.recipients)
    if not log.is_whole:
        return None
    if release is not None or reading.seen is Seen.RELEASED:
        return ReadBack(Seen.UNCLEAR, log.evidence, reading.message_id)
    return reading


def unnamed(reading: ReadBack) -> ReadBack:
    """Return the reading without recipients' names, but with their counts."""
    if reading.recipients is NO_RECIPIENTS:
        return reading
    return ReadBack(reading.seen, reading.evidence, reading.message_id, reading.recipients.unnamed)


def _count_releases(actions: Iterable[Action], since: datetime | None) -> _Tally:
    tally = _Tally()
    for action in actions:
        if resembles_release(action):
            tally.has_release = True
            if action.get("operation") == RELEASE and (since is None or _began(action, since)):
                tally.add(action)
    return tally


def _success(action: Action) -> bool | None:
    """Return whether the action worked; None if that is not known, or if its fields contradict one another."""
    success = action.get("success")
    if success is True and any(each in letters(action.get("status")) for each in _UNSUCCESSFUL):
        return None
    return success if isinstance(success, bool) else None


def _recipients(action: Action) -> list[str]:
    properties = action.get("properties")
    holders: Sequence[Action] = (action, properties) if isinstance(properties, dict) else (action,)
    values = [holder.get(name) for holder in holders for name in _RECIPIENT_NAMES]
    listed = [each for value in values for each in as_list(value)]
    return [each.strip() for each in listed if isinstance(each, str) and each.strip()]


def _began(action: Action, since: datetime) -> bool:
    """Return whether an action began then or later. A time without an offset is no time: nobody knows when it was."""
    try:
        began = datetime.fromisoformat(str(action.get("started_at")))
    except ValueError:
        return False
    return began.tzinfo is not None and began >= since
