"""The monitor page as a person has it: signed in with a key, or inside LiteLLM's Admin UI."""

from collections.abc import Generator, Mapping
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, ConsoleMessage, Frame, Page

from tests.support.prisma_client import prisma_environment
from tests.support.proxy import KEY, Proxy, free_port, proxy_config, running_proxy

PATH = "/luthien/ui"
_REPORTER = """
addEventListener("securitypolicyviolation", (event) => reported(`${event.violatedDirective}: ${event.blockedURI}`));
"""


@contextmanager
def running_monitor(
    provider_url: str, postgres_url: str, folder: Path, settings: Mapping[str, Any]
) -> Generator[Proxy]:
    """A proxy with the page, and with an Admin UI that shows it. Its policies are those of `settings`."""
    port = free_port()
    config = proxy_config(provider_url, {"ui": {"enabled": True}, "record": {"bodies": "always"}, **settings})
    url = f"http://127.0.0.1:{port}{PATH}"
    config["general_settings"] = {"plugins": [{"name": "luthien", "display_name": "Luthien", "url": url}]}
    environment = {**prisma_environment(postgres_url), "LITELLM_SALT_KEY": KEY}
    with ExitStack() as stack:
        with chdir(folder.parent):  # where it keeps labels
            proxy = stack.enter_context(running_proxy(config, folder, environment, port))
        yield proxy


@dataclass
class Heard:
    """What went wrong on the pages of a context: broken rules of the content security policy, errors, dialogs."""

    said: list[str] = field(default_factory=list[str])

    @classmethod
    def on(cls, context: BrowserContext) -> "Heard":
        heard = cls()
        context.expose_binding("reported", lambda _source, text: heard.said.append(f"policy: {text}"))
        context.add_init_script(_REPORTER)
        context.on("console", heard._console)
        context.on("weberror", lambda error: heard.said.append(f"error: {error.error}"))
        context.on("dialog", heard._dialog)
        return heard

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.said.append(f"console: {message.text}")

    def _dialog(self, dialog: Any) -> None:
        self.said.append(f"dialog: {dialog.message}")
        dialog.dismiss()


def sign_in(page: Page, proxy: Proxy, key: str = KEY) -> None:
    """Signs in at the page itself."""
    page.goto(f"{proxy.url}{PATH}/login")
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Transactions").wait_for()


def sign_in_to_admin_ui(page: Page, proxy: Proxy) -> None:
    page.goto(f"{proxy.url}/ui")
    page.get_by_placeholder("Enter your username").fill("admin")
    page.get_by_placeholder("Enter your password").fill(KEY)
    page.get_by_placeholder("Enter your password").press("Enter")
    page.get_by_role("button", name="AI Gateway").wait_for()


def switch_view(page: Page, proxy: Proxy) -> Frame:
    """Chooses our view in the Admin UI. The frame is signed in when it returns."""
    page.get_by_role("button", name="AI Gateway").click()
    page.get_by_role("menuitem", name="Luthien").click()
    page.frame_locator("iframe[title=Luthien]").get_by_role("heading", name="Transactions").wait_for()
    return next(frame for frame in page.frames if frame.url.startswith(f"{proxy.url}{PATH}"))
