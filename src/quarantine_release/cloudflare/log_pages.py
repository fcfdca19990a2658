"""Reads the action log of a message, page by page, and what it says of a message that may have been released."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from quarantine_release.cloudflare.action_log import Action, ActionLog, released
from quarantine_release.cloudflare.entries import dicts
from quarantine_release.cloudflare.search import Got
from quarantine_release.cloudflare.walk import path_of
from quarantine_release.domain.details import Details, NotRead, NotYetRead, Unreadable
from quarantine_release.domain.verdicts import Seen

# The default of Cloudflare's lists: a server would hardly cut pages shorter than that.
PER_PAGE: Final = 20
PAGES: Final = 10


def read_log(get: Callable[[str], Got], path: str) -> ActionLog:
    """Read the log of the message at this path with `get`, which gets one page below `/investigate`.

    `page` and `per_page` are documented, `result_info` is not. So a page is the last only if it is empty, repeats the
    page before, or is shorter than the size that it states.
    """
    actions: list[Action] = []
    before: list[dict[str, Any]] = []
    for number in range(1, PAGES + 1):
        got = get(f"{path}/action_log?page={number}&per_page={PER_PAGE}")
        why = _why_not_read(got, number)
        if why is not None:
            return ActionLog(tuple(actions), got.evidence, why)
        page, info = dicts(got.content.get("result")), got.content.get("result_info")
        has_more = _has_more(info, number, len(actions) + len(page))
        if not page or page == before:  # the same page again comes from a server that does not know `page`
            is_cut = has_more or (page == before and len(page) == PER_PAGE)  # there may be more than this one page
            return ActionLog(tuple(actions), got.evidence, Unreadable.FAILED if is_cut else None)
        actions += page
        if not has_more and _is_short(info, len(page)):
            return ActionLog(tuple(actions), got.evidence)
        before = page
    return ActionLog(tuple(actions), got.evidence, Unreadable.TOO_MANY)


def without_doubt(get: Callable[[str], Got], details: Details) -> Details | NotRead:
    """Return a doubtful message as its log shows it: released if a release worked for any recipient, else unchanged.

    If the log cannot be read for now, return why.
    """
    log = read_log(get, path_of(details.message_id))
    release = released(log.actions, None)
    if release is not None and release.seen is not Seen.UNCLEAR:
        return replace(details, is_released=True, is_doubtful=False)
    return log.why if isinstance(log.why, NotYetRead) else details


def _why_not_read(got: Got, number: int) -> NotRead | None:
    """Return why a page was not read. There is no log only if the first page is absent."""
    if got.why is Unreadable.ABSENT:
        return Unreadable.ABSENT if number == 1 else Unreadable.FAILED
    if got.why is None and not _is_log(got.content.get("result")):
        return Unreadable.FAILED
    return got.why


def _is_log(result: Any) -> bool:
    """Return whether a result is a log as documented: anything else in it may be a release too."""
    return result is None or (isinstance(result, list) and all(isinstance(each, dict) for each in result))


def _has_more(info: Any, number: int, seen: int) -> bool:
    """Return whether the server says that another page follows. Zeros and nulls say nothing."""
    if not isinstance(info, Mapping):
        return False
    following, total, pages = (info.get(name) for name in ("next", "total_count", "total_pages"))
    return bool(following) or (type(total) is int and total > seen) or (type(pages) is int and pages > number)


def _is_short(info: Any, count: int) -> bool:
    size = info.get("per_page") if isinstance(info, Mapping) else None
    return type(size) is int and count < size
