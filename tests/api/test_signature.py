"""Signatures: who knows the key is believed for five minutes, in one spelling only; everybody else never."""

import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from standardwebhooks import Webhook

from quarantine_release.api.signature import TOLERANCE, Signed, check_signature
from quarantine_release.config.clients import KEYS_LIMIT
from tests.support.stand_ins import NOON, sign

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


@pytest.mark.parametrize(
    ("key", "message_id", "at", "signature", "body"),
    [
        (
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            b'{"test": 2432232314}',
        ),
        (
            "plJ3nmyCDGBKInavdOK15jsl",
            "msg_loFOjxBNrRLzqYUf",
            1731705121,
            "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
            b'{"event_type":"ping","data":{"success":true}}',
        ),
    ],
)
def test_the_published_vectors_are_believed(key: str, message_id: str, at: int, signature: str, body: bytes) -> None:
    """Of the reference libraries' tests, and of Svix's page "Verifying webhooks manually"."""
    headers = {"webhook-id": (message_id,), "webhook-timestamp": (str(at),), "webhook-signature": (signature,)}
    keys, now = (b64decode(key),), datetime.fromtimestamp(at, UTC)
    assert check_signature(headers, body, keys, now) == (Signed.YES, message_id)
    assert check_signature(headers, body + b" ", keys, now) == (Signed.WRONG, "")


def hmac_of(key: bytes, content: bytes) -> bytes:
    """Return HMAC-SHA256 as RFC 2104 defines it, with nothing of the module `hmac`."""
    key = (sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = sha256(bytes(byte ^ 0x36 for byte in key) + content).digest()
    return sha256(bytes(byte ^ 0x5C for byte in key) + inner).digest()


@pytest.mark.parametrize(
    ("key", "content", "expected"),
    [
        (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        (bytes(range(1, 26)), b"\xcd" * 50, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
        (b"\x0c" * 20, b"Test With Truncation", "a3b6167473100ee06e0c796c2955552b"),
        (
            b"\xaa" * 131,
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
        (
            b"\xaa" * 131,
            b"This is a test using a larger than block-size key and a larger than block-size data. "
            b"The key needs to be hashed before being used by the HMAC algorithm.",
            "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
        ),
    ],
)
def test_the_vectors_of_rfc_4231_hold(key: bytes, content: bytes, expected: str) -> None:
    """For the definition that the next test compares with, and for what `check_signature` calls."""
    assert hmac_of(key, content).hex().startswith(expected)
    assert hmac.digest(key, content, sha256).hex().startswith(expected)


@given(st.binary(min_size=24, max_size=100), st.from_regex(r"\A[a-z_-]{1,40}\Z"), st.binary(max_size=300))
def test_what_is_believed_is_hmac_sha256_by_its_definition(key: bytes, message_id: str, body: bytes) -> None:
    headers = signed(message_id=message_id)
    content = f"{message_id}.{headers['webhook-timestamp'][0]}.".encode() + body
    headers["webhook-signature"] = (f"v1,{b64encode(hmac_of(key, content)).decode()}",)
    assert check_signature(headers, body, (key,), NOON) == (Signed.YES, message_id)


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


class Rotation(RuleBasedStateMachine):
    """A caller and an owner who change keys whenever they like: believed is who signs with a key of this moment."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: tuple[bytes, ...] = ()

    @precondition(lambda self: len(self.keys) < KEYS_LIMIT)
    @rule(key=st.sampled_from([KEY, SECOND, FOREIGN]), is_first=st.booleans())
    def add(self, key: bytes, is_first: bool) -> None:
        self.keys = (key, *self.keys) if is_first else (*self.keys, key)

    @precondition(lambda self: self.keys)
    @rule(at=st.integers(0, KEYS_LIMIT - 1))
    def remove(self, at: int) -> None:
        at %= len(self.keys)
        self.keys = self.keys[:at] + self.keys[at + 1 :]

    @rule(signing=st.lists(st.sampled_from([KEY, SECOND, FOREIGN, bytes(32)]), min_size=1, max_size=4))
    def send(self, signing: list[bytes]) -> None:
        found, _ = check_signature(signed(BODY, *signing), BODY, self.keys, NOON)
        assert found is (Signed.YES if set(signing) & set(self.keys) else Signed.WRONG)


TestRotation = Rotation.TestCase
TestRotation.settings = settings(max_examples=30)


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
