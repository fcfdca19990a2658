"""JSON as it is accepted: strictly, so that no two parsers can read one body differently."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.api.strict_json import DEPTH_LIMIT, JsonInvalid, Number, parse_json

REPLACED = "The body must be UTF-8, and hold no U+FFFD, which stands where it was not."
UTF8 = "The body must be UTF-8."
JSON = "The body must be JSON."
DEPTH = "The body must not be nested deeper than 4 levels."
TWICE = "The body must not hold the same key twice in one object."
NAN = "The body must not hold NaN or Infinity."


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"[]", []),
        (b'"text"', "text"),
        (b' {"ids": ["a"], "force": true, "reason": null} ', {"ids": ["a"], "force": True, "reason": None}),
        ('{"reason": "für später"}'.encode(), {"reason": "für später"}),
        (b'{"a": {"a": {"a": {}}}}', {"a": {"a": {"a": {}}}}),
        (b'["[[[[[[{{{{{{", "\\"[[[[[[", "\\\\"]', ["[[[[[[{{{{{{", '"[[[[[[', "\\"]),
    ],
)
def test_json_is_read(raw: bytes, value: Any) -> None:
    assert parse_json(raw) == value


@pytest.mark.parametrize("number", [b"1", b"-1.5", b"1e999", b"-1e999", b"1" * 5000])
def test_a_number_is_a_number_of_no_value(number: bytes) -> None:
    assert isinstance(parse_json(number), Number)


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        (b"", JSON),
        (b"not json", JSON),
        (b"{'ids': []}", JSON),
        (b'{"ids": []} trailing', JSON),
        (b'{"ids": [],}', JSON),
        (b'"line\nend"', JSON),
        (b'"\\', JSON),
        (b'"', JSON),
        (b"]]]]][[[[", JSON),
        (b"\xef\xbb\xbf[]", JSON),
        (b"\xff[]", UTF8),
        (b"\xed\xa0\x80", UTF8),
        ("[]".encode("utf-16"), UTF8),
        ('{"ids": ["ä"]}'.encode("latin-1"), UTF8),
        ('{"ids": [], "reason": "M\ufffdller"}'.encode(), REPLACED),
        (b'{"ids": ["good"], "ids": ["evil"]}', TWICE),
        (b'{"ids": ["good"], "\\u0069ds": ["evil"]}', TWICE),
        (b'[{"a": {"b": 1, "b": 1}}]', TWICE),
        (b"NaN", NAN),
        (b'{"a": Infinity}', NAN),
        (b"[-Infinity]", NAN),
        (b"[[[[[]]]]]", DEPTH),
        (b'{"a": [{"a": [{}]}]}', DEPTH),
        (b"[" * 65_536, DEPTH),
        (b'{"a":' * 10_000, DEPTH),
    ],
)
def test_what_is_not_strictly_json_is_told_with_its_rule(raw: bytes, rule: str) -> None:
    with pytest.raises(JsonInvalid) as invalid:
        parse_json(raw)
    assert str(invalid.value) == rule


@pytest.mark.parametrize(
    "raw",
    [b"\\" * 65_536, b'"' * 65_536, b'"' + b"\\" * 65_535, b'"\\' * 32_768, b"[]" * 32_768, b"[1," * 20_000],
)
def test_nothing_of_64_kb_takes_long_to_refuse(raw: bytes) -> None:
    began = time.process_time()
    with pytest.raises(JsonInvalid):
        parse_json(raw)
    assert time.process_time() - began < 0.5


@given(
    st.binary(max_size=60) | st.text('[]{}":,\\aN 1e\ud800', max_size=60).map(lambda t: t.encode("utf-8", "replace"))
)
def test_any_bytes_are_json_or_invalid_with_one_of_the_rules(raw: bytes) -> None:
    rule = None
    try:
        parse_json(raw)
    except JsonInvalid as invalid:
        rule = str(invalid)
    assert rule in (None, UTF8, JSON, DEPTH, TWICE, NAN)


json_values = st.recursive(
    st.none() | st.booleans() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


def depth_of(value: Any) -> int:
    """Return how many brackets stand around the innermost value."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(json_values, st.booleans())
def test_what_is_not_too_deep_is_read_as_json_reads_it(value: Any, ascii_only: bool) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if depth_of(value) <= DEPTH_LIMIT:
        assert parse_json(raw) == value
    else:
        with pytest.raises(JsonInvalid, match="nested"):
            parse_json(raw)
