"""Reads the action log of a message, page by page."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from quarantine_release.action_log import Action, ActionLog
from quarantine_release.cloudflare_calls import Got
from quarantine_release.guard import NotRead
from quarantine_release.reading import dicts

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
        result, info = got.content.get("result"), got.content.get("result_info")
        if got.why is NotRead.ABSENT and number == 1:
            return ActionLog((), got.evidence, NotRead.ABSENT)
        why = got.why or (None if _is_log(result) else NotRead.FAILED)
        if why is not None:
            return ActionLog(tuple(actions), got.evidence, NotRead.FAILED if why is NotRead.ABSENT else why)
        page = dicts(result)
        more = _has_more(info, number, len(actions) + len(page))
        if not page or page == before:  # the same page again comes from a server that does not know `page`
            return ActionLog(tuple(actions), got.evidence, NotRead.FAILED if more else None)
        actions += page
        if not more and _is_short(info, len(page)):
            return ActionLog(tuple(actions), got.evidence)
        before = page
    return ActionLog(tuple(actions), got.evidence, NotRead.TOO_MANY)


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
