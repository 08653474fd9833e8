"""Takes the pictures of the monitor page: `python -m docs.pictures.monitor`, from the repository's root.

A proxy of its own runs a short story, and Chromium shows its pages. PNG files differ from machine to machine, so
beside them stands a digest of each page.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, chdir, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, FloatRect, Page

from docs.pictures.approvals import CALL, put
from luthien_litellm_hooks.testing.answers import Answer, Call, Gate, Say, Step, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider, serve
from tests.support.chromium import new_context, running_chromium
from tests.support.monitor_page import PATH, sign_in
from tests.support.proxy import Proxy, deployment, proxy_config, running_proxy
from tests.support.waiting import wait_until

FOLDER = Path(__file__).parent
DIGESTS = Path(__file__).with_suffix(".json")
STYLE = Path(__file__).parents[2] / "luthien_litellm_hooks" / "monitor" / "static" / "monitor.css"
SIZE: Any = {"width": 1000, "height": 640}
SESSION = "f3b1c0de-7a52-4c8e-9d10-2f6b8a4e1c77"
MODEL = "claude-sonnet"
POLICIES: Any = [
    {"class": "block_dangerous_commands"},
    {"class": "secrets"},
    {"class": "protect_work", "enforce": False},
]
SECRET = "AKIA" + "QYLPMN5HFIQR7XYA"  # of nobody
STORY: Sequence[tuple[str, Sequence[Step]]] = (
    ("The build is broken. Why?", [Say("I look at it first."), Call("Bash", '{"command": "make -n build"}')]),
    ("It says that the disk is full.", [Say("Then I tidy up."), Call("Bash", '{"command": "cd / && rm -rf *"}')]),
    ("Which key does it deploy with?", [Say(f"With {SECRET}, out of the file .env.")]),
    ("Push it.", [Say("The branches differ."), Call("Bash", '{"command": "git push --force origin main"}')]),
)
_CHANGES = (
    (r"\d\d-\d\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\d[ T][\d:.+Z]+", "TIME"),
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|(?<![0-9a-f])[0-9a-f]{8,64}\b|chatcmpl-\w+", "ID"),
    (r"[\d,.]+ (ms|µs|s)\b", "DURATION"),
    (r"/\S*labels\.jsonl", "FILE"),
)
"""What is another in each run."""


@contextmanager
def played(browser: Browser) -> Generator[tuple[Page, Mapping[str, str]]]:
    """Runs the story, and yields a page that is logged in, and the path of each picture.

    One more response is streaming, and a call of another key waits for a person.
    """
    provider, gate = ScriptedProvider(), Gate()
    with (
        serve(provider) as url,
        tempfile.TemporaryDirectory() as folder,
        _proxy(url, Path(folder)) as proxy,
        new_context(browser, viewport=SIZE) as context,
        ThreadPoolExecutor(1) as pool,
    ):
        page = context.new_page()
        sign_in(page, proxy)
        messages: list[dict[str, Any]] = []
        for asked, steps in STORY:
            messages.append({"role": "user", "content": asked})
            _ask(proxy, provider, messages, steps)
            messages.append({"role": "assistant", "content": "I did."})
        wait_until(lambda: _is_recorded(page, proxy))
        rows = page.request.get(f"{proxy.url}{PATH}/?format=json").json()["rows"]
        [blocked] = [row["id"] for row in rows if row["outcome"] == "blocked"]
        pool.submit(put, proxy.records, CALL.model_copy(update={"asked_at": datetime.now(UTC)})).result()
        streaming = pool.submit(_ask, proxy, provider, messages[:1], [Say("Wait."), Wait(gate)])
        try:
            gate.wait_reached()
            page.goto(f"{proxy.url}{PATH}/")
            paths = {"live": "/", "transaction": f"/t/{blocked}", "session": f"/s/{SESSION}"}
            yield page, {**paths, "report": "/report", "policy": "/policy", "approvals": "/approvals"}
        finally:
            gate.open()
        streaming.result()


@contextmanager
def _proxy(provider_url: str, folder: Path) -> Generator[Proxy]:
    policy = {"class": "serial", "config": {"policies": POLICIES}}
    settings = {"policy": policy, "ui": {"enabled": True}, "record": {"bodies": "always"}}
    config = proxy_config(provider_url, settings)
    config["model_list"].append(deployment(provider_url, MODEL, "openai/scripted"))
    with ExitStack() as stack:
        with chdir(folder):  # where it keeps labels
            proxy = stack.enter_context(running_proxy(config, folder / "proxy", {}))
        yield proxy


def _ask(proxy: Proxy, provider: ScriptedProvider, messages: Sequence[Any], steps: Sequence[Step]) -> None:
    provider.answers["scripted"] = Answer(steps)
    body = {"model": MODEL, "messages": messages, "stream": True}
    proxy.http.post("/v1/chat/completions", json=body, headers={"x-litellm-session-id": SESSION}).raise_for_status()


def _is_recorded(page: Page, proxy: Proxy) -> bool:
    """Tells if all of the story is recorded."""
    report = page.request.get(f"{proxy.url}{PATH}/report?format=json").json()
    live = page.request.get(f"{proxy.url}{PATH}/?format=json").json()
    counts = (report["observed"], live["hour"]["total"], sum(row["outcome"] is not None for row in live["rows"]))
    return counts == (len(STORY),) * 3


def opened(page: Page, path: str) -> None:
    page.goto(page.url.partition(PATH)[0] + PATH + path)


def digest(page: Page) -> str:
    """Returns a hash of the lines on the page and of how they are drawn, without what is another in each run.

    The lines are sorted: LiteLLM adds fields to a request in any order.
    """
    text = page.locator("main").inner_text()
    for pattern, name in _CHANGES:
        text = re.sub(pattern, name, text)
    return hashlib.sha256(
        "\n".join([STYLE.read_text(encoding="utf-8"), *sorted(text.splitlines())]).encode()
    ).hexdigest()[:16]


def _clip(page: Page) -> FloatRect:
    """Returns the first screen of a page; of a transaction, the part from its decisions to its last comparison; of the
    inbox, all to the end of the call."""
    compared, card = page.locator(".compare"), page.locator(".card")
    if card.count():
        box: Any = card.bounding_box()
        return {"x": 0, "y": 0, "width": SIZE["width"], "height": box["y"] + box["height"] + 16}
    if not compared.count():
        return {"x": 0, "y": 0, **SIZE}
    first: Any = page.locator("#decisions").bounding_box()
    last: Any = compared.last.bounding_box()
    top, end = first["y"] - 8, last["y"] + last["height"] + 16
    return {"x": 0, "y": top, "width": SIZE["width"], "height": end - top}


def main() -> None:
    digests: dict[str, str] = {}
    with running_chromium() as browser, played(browser) as (page, paths):
        for name, path in paths.items():
            opened(page, path)
            page.screenshot(path=FOLDER / f"monitor-{name}.png", clip=_clip(page), full_page=True)
            digests[name] = digest(page)
    DIGESTS.write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
