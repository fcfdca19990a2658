"""Signatures: who knows the key is believed for five minutes, in one spelling only; everybody else never."""

import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from quarantine_release.signature import KEYS_LIMIT, TOLERANCE, Signed, check_signature
from tests.stand_ins import NOON, sign

KEY, SECOND, FOREIGN = b"K" * 32, b"L" * 24, b"F" * 32
BODY = b'{"ids": ["4Njp3P0STMz2c02Q"]}'
MESSAGE_ID = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"
Multi = Mapping[str, tuple[str, ...]]


def signed(
    body: bytes = BODY, *keys: bytes, at: datetime | str = NOON, message_id: str = MESSAGE_ID
) -> dict[str, tuple[str, ...]]:
    """Return the three headers, with a signature of each key."""
    timestamp = at if isinstance(at, str) else str(int(at.timestamp()))
    signature = " ".join(sign(key, message_id, timestamp, body) for key in keys or (KEY,))
    return {"webhook-id": (message_id,), "webhook-timestamp": (timestamp,), "webhook-signature": (signature,)}


def check(headers: Multi, body: bytes | None = BODY, *keys: bytes) -> Signed:
    return check_signature(headers, body, keys or (KEY,), NOON)[0]


# --- Who is believed --------------------------------------------------------------------------------------------------


def test_what_is_signed_is_believed_and_its_id_is_known() -> None:
    assert check_signature(signed(), BODY, (KEY,), NOON) == (Signed.YES, MESSAGE_ID)


def test_the_published_vector_is_believed() -> None:
    """The example of the specification's reference libraries, "Testing"."""
    headers = {
        "webhook-id": ("msg_p5jXN8AQM9LWM0D4loKWxJek",),
        "webhook-timestamp": ("1614265330",),
        "webhook-signature": ("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",),
    }
    key, now = b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), datetime.fromtimestamp(1614265330, UTC)
    assert check_signature(headers, b'{"test": 2432232314}', (key,), now)[0] is Signed.YES
    assert check_signature(headers, b'{"test": 2432232315}', (key,), now)[0] is Signed.WRONG


@given(st.binary(min_size=24, max_size=64), st.text(max_size=200), st.integers(-TOLERANCE, TOLERANCE))
def test_what_the_reference_library_signs_is_believed(key: bytes, body: str, seconds: int) -> None:
    at = NOON + timedelta(seconds=seconds)
    signature = Webhook(f"whsec_{b64encode(key).decode()}").sign(MESSAGE_ID, at, body)
    headers = signed(at=at) | {"webhook-signature": (signature,)}
    assert check(headers, body.encode(), key) is Signed.YES


@pytest.mark.parametrize("keys", [(KEY, SECOND), (SECOND, KEY)])
def test_during_rotation_either_key_is_believed_and_both_together(keys: tuple[bytes, ...]) -> None:
    for signing in ((KEY,), (SECOND,), (KEY, SECOND), (FOREIGN, SECOND), (FOREIGN, FOREIGN, FOREIGN, KEY)):
        assert check(signed(BODY, *signing), BODY, *keys) is Signed.YES
    assert check(signed(BODY, FOREIGN), BODY, *keys) is Signed.WRONG


def test_a_request_without_a_body_is_signed_too() -> None:
    assert check(signed(b""), b"") is Signed.YES


# --- Who is not ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"webhook-signature": ()}, {"webhook-id": (MESSAGE_ID,)}])
def test_without_a_signature_nothing_is_signed(headers: Multi) -> None:
    assert check(headers) is Signed.NO


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook-signature": ("",)},
        {"webhook-id": ()},
        {"webhook-id": (MESSAGE_ID, MESSAGE_ID)},
        {"webhook-id": (f" {MESSAGE_ID}",)},
        {"webhook-id": ("another",)},
        {"webhook-timestamp": ()},
        {"webhook-timestamp": (str(int(NOON.timestamp())), str(int(NOON.timestamp())))},
        {"webhook-timestamp": (str(int(NOON.timestamp()) + 1),)},
    ],
)
def test_each_header_is_sent_once_and_as_signed(changed: Multi) -> None:
    assert check(signed() | dict(changed)) is Signed.WRONG


@pytest.mark.parametrize(
    "text",
    [" {}", "{} ", "{}.7", "{}\n", "0{}", "+{}", "{}e0", "-{}", "1e9", "", "nan", "inf", "99999999999", "999999999"],
)
def test_a_time_that_is_not_ten_digits_is_no_time_though_it_is_signed(text: str) -> None:
    assert check(signed(at=text.format(int(NOON.timestamp())))) is Signed.WRONG


def test_digits_of_other_scripts_and_underscores_are_no_time() -> None:
    now = str(int(NOON.timestamp()))
    for text in (now.translate({ord(digit): 0x660 + int(digit) for digit in "0123456789"}), f"{now[:9]}_{now[9]}"):
        assert check(signed(at=text)) is Signed.WRONG


@pytest.mark.parametrize("message_id", ["", "msg.1", "m" * 256, "msg 1", "msg\n", "mşg", '"msg"', "ms\\g"])
def test_an_id_that_could_be_read_in_two_ways_is_refused_though_it_is_signed(message_id: str) -> None:
    assert check(signed(message_id=message_id)) is Signed.WRONG


def test_a_full_stop_cannot_be_moved_from_the_body_to_the_time() -> None:
    headers = signed(b"1.two")
    moved = headers | {"webhook-timestamp": (f"{headers['webhook-timestamp'][0]}.1",)}
    assert check(headers, b"1.two") is Signed.YES
    assert check(moved, b"two") is Signed.WRONG


@pytest.mark.parametrize(("seconds", "found"), [(TOLERANCE, Signed.YES), (TOLERANCE + 1, Signed.LONG_AGO)])
def test_five_minutes_before_and_after_now_and_not_a_second_more(seconds: int, found: Signed) -> None:
    for sign_of in (1, -1):
        headers = signed(at=NOON + sign_of * timedelta(seconds=seconds))
        assert check_signature(headers, BODY, (KEY,), NOON) == (found, MESSAGE_ID if found is Signed.YES else "")


def test_five_signatures_are_too_many() -> None:
    assert check(signed(BODY, KEY, FOREIGN, FOREIGN, FOREIGN)) is Signed.YES
    assert check(signed(BODY, KEY, FOREIGN, FOREIGN, FOREIGN, FOREIGN)) is Signed.WRONG
    assert check(signed(BODY, FOREIGN, FOREIGN, FOREIGN, FOREIGN, KEY)) is Signed.WRONG


def test_what_fills_the_place_of_a_missing_key_signs_nothing() -> None:
    assert check(signed(BODY, bytes(32)), BODY, KEY) is Signed.WRONG
    assert check_signature(signed(BODY, bytes(32)), BODY, (), NOON)[0] is Signed.WRONG


@pytest.mark.parametrize("filler", ["", "XXXX", "None", "null"])
@pytest.mark.parametrize("sent", [(), (MESSAGE_ID, MESSAGE_ID)])
def test_nothing_that_is_signed_takes_the_place_of_an_id_that_was_not_sent_once(
    filler: str, sent: tuple[str, ...]
) -> None:
    assert check(signed(message_id=filler) | {"webhook-id": sent}) is Signed.WRONG


@pytest.mark.parametrize("name", signed())
def test_half_a_surrogate_pair_signs_nothing(name: str) -> None:
    """The gateway's event may hold one, and bytes cannot."""
    assert check(signed() | {name: ("\ud800",)}) is Signed.WRONG


def test_a_body_that_could_not_be_read_was_not_signed() -> None:
    assert check(signed(b""), None) is Signed.WRONG


def test_the_other_spellings_of_a_signature_are_refused() -> None:
    """A lenient decoder takes each of these for the same bytes."""
    signature = signed()["webhook-signature"][0]
    text = signature.removeprefix("v1,")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    same_bytes = [character for character in last if b64decode(text[:42] + character + "=") == b64decode(text)]
    assert len(same_bytes) == 4
    others = [f"v1,{text[:42]}{character}=" for character in same_bytes if character != text[42]]
    others += [
        f"v1,{text}=",
        f"v1,{text[:-1]}",
        f"v1,{text[:9]}!{text[9:]}",
        f"v1,{text[:9]}\n{text[9:]}",
        f"v1, {text}",
        f"V1,{text}",
        f"v1a,{text}",
        f"v2,{text}",
        f"v1:{text}",
        text,
        f"{signature},",
        f"{signature}\n",
        f"\t{signature}",
        f"v1,{text.lower()}",
        f"v1,{b64decode(text).hex()}",
    ]
    assert [other for other in others if check(signed() | {"webhook-signature": (other,)}) is not Signed.WRONG] == []


# --- Whatever is sent -------------------------------------------------------------------------------------------------

values = st.lists(
    st.sampled_from([*[value for (value,) in signed().values()], "v1,", "v1", " ", "1", "\ud800", "ü"])
    | st.text(st.characters(), max_size=60),
    max_size=3,
).map(tuple)


@given(
    st.dictionaries(st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]), values),
    st.none() | st.binary(max_size=40) | st.just(BODY),
    st.lists(st.sampled_from([KEY, SECOND]), max_size=KEYS_LIMIT, unique=True),
)
def test_any_headers_and_bytes_are_signed_or_not(headers: Multi, body: bytes | None, keys: list[bytes]) -> None:
    found, message_id = check_signature(headers, body, keys, NOON)
    assert (found is Signed.YES) == bool(message_id)
    if found is Signed.YES:
        assert headers == signed() | {"webhook-signature": headers["webhook-signature"]}
        assert signed()["webhook-signature"][0] in headers["webhook-signature"][0].split(" ")
        assert (body, KEY in keys) == (BODY, True)


@given(st.data())
def test_no_mutation_of_what_is_signed_is_believed(data: st.DataObject) -> None:
    """Bytes of the body, characters of a header, other keys: each change is noticed."""
    headers, body = signed(), BODY
    part = data.draw(st.sampled_from(["body", *headers]))
    text = body.decode() if part == "body" else headers[part][0]
    at = data.draw(st.integers(0, len(text) - 1))
    put = data.draw(st.characters(exclude_categories=["Cs"]))
    changed = data.draw(
        st.sampled_from([text[:at] + put + text[at:], text[:at] + text[at + 1 :], text[:at] + put + text[at + 1 :]])
    )
    assume(changed != text)
    # A space may follow or precede a signature: it ends it, and what is beside it is one more, which is wrong.
    assume(part != "webhook-signature" or changed.strip(" ") != text)
    if part == "body":
        body = changed.encode()
    else:
        headers[part] = (changed,)
    assert check(headers, body) is Signed.WRONG


@pytest.mark.parametrize("keys", [(), (KEY,), (KEY, SECOND)])
def test_each_signature_is_compared_with_each_key_in_constant_time(
    monkeypatch: pytest.MonkeyPatch, keys: tuple[bytes, ...]
) -> None:
    compared: list[bytes] = []

    def compare(expected: bytes, given: bytes) -> bool:
        compared.append(given)
        return secrets.compare_digest(expected, given)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for signing in ((KEY, FOREIGN), (FOREIGN, KEY), (FOREIGN, FOREIGN)):
        compared.clear()
        headers = signed(BODY, *signing)
        check_signature(headers, BODY, keys, NOON)
        assert compared == headers["webhook-signature"][0].encode().split() * KEYS_LIMIT
