"""What a secret is to those who read one, and how reading it fails."""


class SecretMalformed(Exception):
    """A secret cannot be used as it is. The text names members and rules, never a value."""


class SecretUnavailable(Exception):
    """Secrets Manager did not hand the secret out, and no copy that is recent enough is at hand. The text says why."""
