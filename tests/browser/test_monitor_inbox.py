"""The inbox of approvers in Chromium: a call appears while it is held, and leaves as a person decides."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from luthien_litellm_hooks.testing.answers import Answer, Call
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.browser.conftest import Visit
from tests.support.monitor_page import PATH
from tests.support.proxy import Proxy


@pytest.mark.parametrize("decision", ["approve", "edit", "deny"])
def test_a_held_call_appears_and_is_decided(
    visit: Visit, monitor: Proxy, provider: ScriptedProvider, decision: str
) -> None:
    model = uuid.uuid4().hex
    command = f"npm publish {model} # <script>hacked = 1</script>\u202e"
    provider.answers[model] = Answer([Call("Bash", json.dumps({"command": command}))])
    visit.page.set_viewport_size({"width": 390, "height": 800})
    visit.page.goto(f"{monitor.url}{PATH}/approvals")
    card = visit.page.locator(".card", has_text=model)
    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(called, monitor, model)
        expect(card).to_contain_text("pending")
        expect(card).to_contain_text(r"<script>hacked = 1</script>\u202e")
        assert not client.done()
        findings = Axe().run(visit.page).response["violations"]
        assert [one["id"] for one in findings if one["impact"] in ("serious", "critical")] == []
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
        if decision == "edit":
            card.get_by_text("Edit the arguments").click()
            card.get_by_label("Arguments").fill('{"command": "npm publish --dry-run"}')
            card.get_by_role("button", name="Approve as edited").click()
        elif decision == "deny":
            card.get_by_label("Message to the agent").fill("Not today.")
            card.get_by_role("button", name="Deny").click()
        else:
            card.get_by_role("button", name="Approve", exact=True).click()
        expected = {"approve": [command], "edit": ["npm publish --dry-run"], "deny": []}[decision]
        assert client.result() == expected
    expect(card).to_contain_text("denied" if decision == "deny" else "used")
    expect(card.get_by_role("button")).to_have_count(0)
    assert visit.page.evaluate("typeof hacked") == "undefined"
    assert visit.heard.said == []


def called(monitor: Proxy, model: str) -> list[str]:
    """The commands that a client with a key of its own gets."""
    client = monitor.openai.with_options(api_key=monitor.virtual_key(key_alias=model))
    texts: dict[int, str] = {}
    messages = [{"role": "user", "content": "Publish."}]
    for chunk in client.chat.completions.create(model=f"openai/{model}", messages=messages, stream=True):
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or ():
                texts[call.index] = texts.get(call.index, "") + (call.function.arguments or "")
    return [json.loads(text)["command"] for text in texts.values()]
