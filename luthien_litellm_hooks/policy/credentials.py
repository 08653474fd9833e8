"""What carries a credential, as its name says."""

from functools import lru_cache

_ENDINGS = (
    *("key", "token", "secret", "password", "passwd", "passphrase"),
    *("authorization", "auth", "cookie", "credential", "credentials", "assertion"),
)


@lru_cache(maxsize=1024)  # clients name the same headers all the time
def is_credential(name: str) -> bool:
    """Whether a header or a field of this name holds a credential: `x-api-key`, `accessToken`."""
    return "".join(letter for letter in name.lower() if letter.isalnum()).endswith(_ENDINGS)
