"""Tickets: links that log a browser in once, for a command that already has a key."""

import secrets
import time
from collections import OrderedDict

from luthien_litellm_hooks.monitor.access import Credential

VALID_S = 600.0
_MOST = 100


class Tickets:
    """Unused tickets of this process. The oldest makes way for one too many."""

    def __init__(self) -> None:
        self._issued: OrderedDict[str, tuple[Credential, float]] = OrderedDict()

    def issue(self, credential: Credential) -> str:
        """Returns a ticket for the holder of the credential, who is known."""
        ticket = secrets.token_urlsafe(24)
        self._issued[ticket] = (credential, time.monotonic() + VALID_S)
        while len(self._issued) > _MOST:
            self._issued.popitem(last=False)
        return ticket

    def take(self, ticket: str) -> Credential | None:
        """Returns the ticket's credential, once; None if it was used, has expired, or was never issued."""
        credential, expires = self._issued.pop(ticket, (None, 0.0))
        return credential if time.monotonic() < expires else None
