"""Whether a request is signed by who knows the client's key: Standard Webhooks, HMAC-SHA256 over the raw bytes. Pure.

The headers and what is signed are of the Standard Webhooks specification, "Signature scheme". What its reference
library lets pass is refused here: a time that is not ten digits, and a signature that is not in its one canonical form.
"""

import hmac
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Final

from quarantine_release.config.clients import KEYS_LIMIT

# Seconds before and after now; a signature that is older may have been recorded, one of the future kept back.
TOLERANCE: Final = 300

_SIGNATURES_LIMIT: Final = 4
# Printable, and fit to be an idempotency key; without a full stop, which ends it in what is signed.
_ID: Final = re.compile(r"\A[\x21\x23-\x2d\x2f-\x5b\x5d-\x7e]{1,255}\Z")
_TIMESTAMP: Final = re.compile(r"\A[0-9]{10}\Z")
_NO_KEY: Final = bytes(32)


class Signed(StrEnum):
    """What a request's signature headers prove."""

    NO = "not signed"
    YES = "signed"
    LONG_AGO = "signed, and too long ago or too far ahead"
    WRONG = "signed by nobody known"


def check_signature(
    headers: Mapping[str, tuple[str, ...]], body: bytes | None, keys: Sequence[bytes], now: datetime
) -> tuple[Signed, str]:
    """Say what the headers prove of the body, and the id that is signed with it ("" unless signed).

    The work depends on what was sent and not on the keys.
    """
    if not headers.get("webhook-signature"):
        return Signed.NO, ""
    message_id, timestamp, sent = (_only(headers, f"webhook-{name}") for name in ("id", "timestamp", "signature"))
    signatures = sent.split(" ")
    content = b".".join((_bytes(message_id), _bytes(timestamp), body or b""))
    if not _is_made_with_a_key(content, signatures[:_SIGNATURES_LIMIT], keys):
        return Signed.WRONG, ""
    if body is None or len(signatures) > _SIGNATURES_LIMIT:
        return Signed.WRONG, ""
    if not _ID.match(message_id) or not _TIMESTAMP.match(timestamp):
        return Signed.WRONG, ""
    if abs(now.timestamp() - int(timestamp)) > TOLERANCE:
        return Signed.LONG_AGO, ""
    return Signed.YES, message_id


def _is_made_with_a_key(content: bytes, signatures: Sequence[str], keys: Sequence[bytes]) -> bool:
    """Return whether one of the signatures is right. Each is compared with that of every key, of which there are two.

    A key that a client does not have is replaced by one that counts for nothing.
    """
    is_known = False
    for position in range(KEYS_LIMIT):
        key = keys[position] if position < len(keys) else _NO_KEY
        expected = b"v1," + b64encode(hmac.digest(key, content, sha256))
        for signature in signatures:
            is_same = hmac.compare_digest(expected, _bytes(signature))
            is_known |= is_same and position < len(keys)
    return is_known


def _only(headers: Mapping[str, tuple[str, ...]], name: str) -> str:
    values = headers.get(name, ())
    return values[0] if len(values) == 1 else ""


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
