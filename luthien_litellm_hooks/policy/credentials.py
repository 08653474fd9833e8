"""What carries a credential, as its name says."""

_ENDINGS = (
    *("key", "token", "secret", "password", "passwd", "passphrase"),
    *("authorization", "auth", "cookie", "credential", "credentials", "assertion"),
)


def is_credential(name: str) -> bool:
    """Whether a header or a field of this name holds a credential: `x-api-key`, `accessToken`."""
    return "".join(letter for letter in name.lower() if letter.isalnum()).endswith(_ENDINGS)
