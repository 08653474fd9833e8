"""The monitor inside LiteLLM's own Admin UI: its session signs in, and a stream is seen while it streams."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor

from playwright.sync_api import Browser, expect

from luthien_litellm_hooks.testing.answers import Answer, Call, Gate, Say, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.browser.conftest import Visit
from tests.support.chromium import new_context
from tests.support.monitor_page import PATH, Heard, sign_in_to_admin_ui, switch_view
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until


def test_a_stream_appears_while_it_streams_and_its_held_call_as_withheld(
    chromium: Browser, monitor: Proxy, provider: ScriptedProvider
) -> None:
    model, gate = uuid.uuid4().hex, Gate()
    commands = ["rm -rf /", f"git push --force origin {model}"]
    calls = [Call("Bash", json.dumps({"command": command})) for command in commands]
    provider.answers[model] = Answer([Say("I tidy up."), *calls, Wait(gate)])
    with new_context(chromium) as context, ThreadPoolExecutor(1) as pool:
        page = context.new_page()
        sign_in_to_admin_ui(page, monitor)
        heard = Heard.on(context)
        frame = switch_view(page, monitor)
        client = pool.submit(delivered, monitor, model)
        try:
            row = frame.locator("tr", has_text=model)
            expect(row).to_contain_text("running")
            gate.wait_reached()  # all of the call is here
            assert not client.done()
            expect(row).not_to_contain_text("block")
        finally:
            gate.open()
        expect(row).to_contain_text("block Bash")
        expect(row).to_contain_text("blocked")
        text, arguments = client.result()
        assert text.startswith("I tidy up.")
        assert json.loads(arguments) == {"command": commands[1]}
        row.get_by_role("link").first.click()
        expect(frame.locator("main")).to_contain_text("recursive deletion of /")
        assert frame.url.startswith(f"{monitor.url}{PATH}/t/")
        call = frame.locator("form.label", has=frame.get_by_role("button", name="Block")).last
        call.get_by_role("button", name="Block").click()
        expect(frame.locator("main")).to_contain_text("labelled block")
        frame.get_by_role("link", name="Report").click()
        expect(frame.locator(".examples > li", has_text=model)).to_contain_text("labelled block")
        assert heard.said == ["console: Failed to load resource: the server responded with a status of 403 (Forbidden)"]


def delivered(monitor: Proxy, model: str) -> tuple[str, str]:
    """The text that a client gets, and the arguments of its calls."""
    text, arguments = "", ""
    messages = [{"role": "user", "content": "Clean."}]
    for chunk in monitor.openai.chat.completions.create(model=f"openai/{model}", messages=messages, stream=True):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            for call in choice.delta.tool_calls or ():
                arguments += (call.function.arguments if call.function else None) or ""
    return text, arguments


def test_an_observed_call_is_labelled_where_the_report_shows_it(
    visit: Visit, monitor: Proxy, provider: ScriptedProvider
) -> None:
    model = uuid.uuid4().hex
    provider.answers[model] = Answer([Call("Bash", json.dumps({"command": f"git push --force origin {model}"}))])
    assert delivered(monitor, model)[1], "a policy that observes withholds nothing"
    visit.page.goto(f"{monitor.url}{PATH}/")
    row = visit.page.locator("tr", has_text=model)
    expect(row).to_contain_text("complete")
    transaction = str(row.get_attribute("id")).removeprefix("t-")
    example = visit.page.locator(".examples > li", has_text=model)
    wait_until(lambda: bool(visit.page.goto(f"{monitor.url}{PATH}/report") and example.count()))
    example.get_by_role("button", name="Block").click()
    expect(example).to_contain_text("labelled block")
    labels = map(json.loads, (monitor.log.parent.parent / "labels.jsonl").read_text().splitlines())
    assert {label["transaction"]: label["label"] for label in labels}[transaction] == "block"
    assert visit.heard.said == []


def test_without_the_admin_uis_session_the_frame_asks_for_a_key(chromium: Browser, monitor: Proxy) -> None:
    with new_context(chromium) as context:
        page = context.new_page()
        response = page.goto(f"{monitor.url}{PATH}/")
        assert response is not None
        assert response.status == 403
        page.evaluate("postMessage({ type: 'litellm-auth', session_claim: 'forged' }, location.origin)")
        expect(page.get_by_label("Key")).to_be_visible()
        assert context.cookies() == []
