"""`debug_logging` at a real proxy: its lines, without a secret."""

import re

import pytest

from luthien_litellm_hooks.testing import Call, Say, ScriptedAnswer, ScriptedProvider, Think
from tests.support.proxy import KEY, Proxies
from tests.support.selected import selected

DEBUG_LOGGING = selected({"class": "debug_logging"})
LINE = re.compile(r"transaction (\S+): ([^:]+): (.*)")
ANSWER = [Think("hm", "sig"), Say("An answer\nof two lines."), Call("read", '{"path": "x"}', id="call_a")]


@pytest.mark.parametrize("full", [False, True], ids=["stream", "full"])
def test_the_proxy_shows_its_lines_without_a_secret(proxies: Proxies, provider: ScriptedProvider, full: bool) -> None:
    name = f"debugged-{full}"
    provider.answers[name] = ScriptedAnswer(ANSWER)
    proxy = proxies.lab(DEBUG_LOGGING)
    body = {
        "model": f"anthropic/{name}",
        "max_tokens": 9,
        "stream": not full,
        "messages": [{"role": "user", "content": '{"password": "SECRET-1"}'}],
    }
    stock, logged = [
        which.http.post("/v1/messages", json=body, headers={"x-api-key": "SECRET-2", "x-team": name})
        for which in (proxies.lab(None), proxy)
    ]
    assert logged.status_code == 200
    assert re.sub(r'"id": ?"msg_\w+"', "", logged.text) == re.sub(r'"id": ?"msg_\w+"', "", stock.text)
    found = [match for line in proxy.output.splitlines() if (match := LINE.search(line))]
    [transaction] = {match[1] for match in found if name in match[3]}
    mine = [match for match in found if match[1] == transaction]
    assert [match[2] for match in mine] == [
        "request (user turn)",
        "reasoning",
        "text",
        "tool call",
        "finish",
        "closed, decisions",
    ]
    assert "SECRET-" not in proxy.output
    assert KEY not in proxy.output
