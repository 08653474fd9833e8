"""A visitor of the monitor page, without a browser: the cookie, the forms, and the events."""

import html
import json
import queue
import re
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import httpx

from luthien_litellm_hooks.testing.answers import PATIENCE_SECONDS
from tests.support.proxy import KEY, Proxy

UI = "/luthien/ui"
SAME: Mapping[str, str] = {"sec-fetch-site": "same-origin"}
"""Header that a browser sends with the form of a page of this origin."""


@contextmanager
def visiting(proxy: Proxy, root: str = "", **fields: str) -> Generator[httpx.Client]:
    """A visitor who has logged in with the fields, or the master key. Its paths begin below the monitor's."""
    with httpx.Client(base_url=f"{proxy.url}{root}{UI}", timeout=60) as visitor:
        logged_in = visitor.post("/login", data=fields or {"key": KEY}, headers=SAME)
        assert logged_in.status_code in (200, 303), logged_in.text
        assert visitor.get("/").status_code == 200
        yield visitor


class Events:
    """Server-sent events of an open live page. `ended` is set when the proxy closes it."""

    def __init__(self, visitor: httpx.Client, query: str = "") -> None:
        page = visitor.get(f"/{query}").text
        address = html.unescape(re.search('data-events="([^"]+)"', page)[1])  # pyright: ignore[reportOptionalSubscript]
        self._found: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self.ended = threading.Event()
        self.is_open = threading.Event()
        arguments = (visitor, address.partition(UI)[2])
        threading.Thread(target=self._read, args=arguments, daemon=True).start()
        assert self.is_open.wait(PATIENCE_SECONDS)

    def _read(self, visitor: httpx.Client, address: str) -> None:
        kind = ""
        try:
            with suppress(httpx.TransportError), visitor.stream("GET", address, timeout=None) as response:
                assert response.status_code == 200
                for line in response.iter_lines():
                    self.is_open.set()
                    if line.startswith("event: "):
                        kind = line.removeprefix("event: ")
                    elif line.startswith("data: "):
                        self._found.put((kind, json.loads(line.removeprefix("data: "))))
        finally:
            self.ended.set()

    def row_with(self, *words: str) -> dict[str, Any]:
        """Waits for a row whose markup has all these words."""
        while True:
            kind, data = self._found.get(timeout=PATIENCE_SECONDS)
            if kind == "row" and all(word in data["html"] for word in words):
                return data

    def has_row(self, *words: str, limit_s: float = 3.0) -> bool:
        """Tells if such a row comes within so many seconds."""
        try:
            kind, data = self._found.get(timeout=limit_s)
        except queue.Empty:
            return False
        return kind == "row" and all(word in data["html"] for word in words)
