"""What a secret is to those who read one, and how reading it fails."""

from typing import Protocol, TypeVar

Content = TypeVar("Content", covariant=True)


class Secret(Protocol[Content]):
    """A parsed secret. Both methods raise SecretUnavailable and SecretMalformed."""

    def get(self) -> Content:
        """Return the content as cached."""

    def refetch(self) -> Content:
        """Return the content as it is now, if that was not asked for within 30 s."""


class SecretMalformed(Exception):
    """A secret cannot be used as it is. The text names members and rules, never a value."""


class SecretUnavailable(Exception):
    """Secrets Manager did not hand the secret out, and no copy that is recent enough is at hand. The text says why."""
