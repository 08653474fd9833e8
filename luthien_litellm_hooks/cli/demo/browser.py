"""The demo's monitor page: its address with a login for one time, and a browser that opens it."""

import http
import http.client
import json
import sys
import webbrowser
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from html import escape
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Thread
from urllib.parse import urlencode

from luthien_litellm_hooks.cli.demo.proxy import HOST

PAGE = "/luthien/ui"
_SECONDS = 30
_REDIRECT = """\
<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={address}">
<title>Luthien</title>
<p><a href="{address}">Go to the monitor page</a></p>
"""


def login_address(port: int, key: str) -> str | None:
    """Returns the page's address with a ticket that logs a browser in, once; None if the proxy gives none.

    The ticket is behind a `#`: browsers send no part from there on, and the page takes it out of the address.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=_SECONDS)
    try:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", f"{PAGE}/tickets", urlencode({"key": key}), form)
        response = connection.getresponse()
        body = response.read()
        if response.status != http.HTTPStatus.OK:
            return None
        return f"http://{HOST}:{port}{PAGE}/login#ticket={json.loads(body)['ticket']}"
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None
    finally:
        connection.close()


def has_browser(environment: Mapping[str, str]) -> bool:
    """Tells if somebody sits at this terminal with a browser that opens a window of its own."""
    if not sys.stdout.isatty() or environment.get("SSH_CONNECTION"):
        return False
    return sys.platform == "darwin" or bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


@contextmanager
def opened(address: str | None) -> Generator[None]:
    """Opens the address in a browser, by a file that leads there: a process's arguments are everybody's to read.

    The file is in the user's home, for browsers in a sandbox see no folder for temporary files.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            if address is not None:
                file = NamedTemporaryFile("w", prefix="luthien-monitor-", suffix=".html", dir=Path.home())  # noqa: SIM115
                stack.enter_context(file)
                file.write(_REDIRECT.format(address=escape(address)))
                file.flush()
                Thread(
                    target=webbrowser.open, args=(Path(file.name).as_uri(),), daemon=True
                ).start()  # some wait for it
        yield
