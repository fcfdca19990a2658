"""Words that stand in every secret and personal field of the tests, and how to find them wherever they leak to."""

from base64 import b64encode

# What must never leave the process, and what belongs in rows and in answers to those who may see it.
SECRET = "secret-canary"
PERSONAL = "canary"


def leaked(text: str, marker: str = PERSONAL) -> list[str]:
    """Return how the marker stands in a text: as it is, or encoded."""
    return [spelling for spelling in _spellings(marker) if spelling.lower() in text.lower()]


def _spellings(marker: str) -> set[str]:
    raw = marker.encode()
    # Base64 begins anew every three bytes: of each of the three ways to lie in it, what does not depend on neighbours.
    shifted = {
        b64encode(bytes(shift) + raw).decode()[(0, 2, 3)[shift] : (shift + len(raw)) * 8 // 6] for shift in range(3)
    }
    return {marker, "".join(f"%{byte:02x}" for byte in raw), raw.hex(), *shifted}
