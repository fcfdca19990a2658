"""Bytes to JSON values without JSON's traps: no second key, no number, no depth, nothing but UTF-8. Pure."""

import json
import re
from typing import Any, Final

DEPTH_LIMIT: Final = 4
# API Gateway hands over a body as text, with this in place of bytes that are no UTF-8.
_REPLACEMENT: Final = "\ufffd"
# A string, ended or not, or a bracket. It matches at every quote, so that no text is scanned twice.
_STRING_OR_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.?)*(?:"|\Z)|[\[\]{}]', re.DOTALL)


class JsonInvalid(Exception):
    """The bytes are not JSON as it is accepted here. The text names the rule."""


class Number:
    """A number of whatever size: it is kept as written, so that none loses digits and none takes long to read."""

    def __init__(self, text: str) -> None:
        self.text = text


def parse_json(raw: bytes) -> Any:
    """Parse strictly. Raises JsonInvalid."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise JsonInvalid("The body must be UTF-8.") from None
    if _REPLACEMENT in text:
        raise JsonInvalid("The body must be UTF-8, and hold no U+FFFD, which stands where it was not.")
    if _is_too_deep(text):
        raise JsonInvalid(f"The body must not be nested deeper than {DEPTH_LIMIT} levels.")
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=Number,
            parse_float=Number,
        )
    except (ValueError, RecursionError):
        raise JsonInvalid("The body must be JSON.") from None


def _is_too_deep(text: str) -> bool:
    """Measure nesting before the parser does, which would fail on its own stack."""
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        if match.group() in "[{":
            depth += 1
            if depth > DEPTH_LIMIT:
                return True
        elif match.group() in "]}":
            depth -= 1
    return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse what two parsers may read differently: the same key twice."""
    content = dict(pairs)
    if len(content) != len(pairs):
        raise JsonInvalid("The body must not hold the same key twice in one object.")
    return content


def _no_constant(_: str) -> Any:
    raise JsonInvalid("The body must not hold NaN or Infinity.")
