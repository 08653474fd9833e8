"""What LiteLLM's loggers get at a real proxy: what the client got, and nothing of what was withheld from it."""

import json
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from luthien_litellm_hooks.cli.demo.proxy import HOST
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.services.test_spend_logs import BODIES, WIRES
from tests.support.all_logged import DELAYED, FILE_VARIABLE
from tests.support.collector import Collector, collector
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import KEY, Proxy, proxy_config, running_proxy
from tests.support.waiting import wait_until

SECRET = "zanzibar"
CALL = Call("Bash", json.dumps({"command": f"rm -rf / # {SECRET}"}), id="call_a")
DELIVERED = "I clean up a place."
ROOT_RUN = "run_type"
"""Member of what LangSmith gets, and S3 does not."""
POLICY = {
    "class": "serial",
    "config": {
        "policies": [
            {"class": "string_replacement", "config": {"replacements": [[SECRET, "a place"]]}},
            {"class": "block_dangerous_commands"},
        ]
    },
}
# LiteLLM streams Responses, and logs Gemini's streams, only of models whose price it knows.
MODELS: Mapping[str, Sequence[str]] = {
    "openai": ("gpt-4o", "gpt-4o-mini"),
    "anthropic": ("claude-sonnet-4-5", "claude-haiku-4-5"),
    "gemini": ("gemini-2.5-flash", "gemini-2.5-pro"),
}
S3 = {
    "s3_bucket_name": "logs",
    "s3_region_name": "eu-central-1",
    "s3_aws_access_key_id": "k",
    "s3_aws_secret_access_key": "k",
}
NOT_THREADED: tuple[RouteName, bool] = ("messages", True)
"""Route and mode about which LiteLLM asks no logger in a thread."""
STREAMED = pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "full"])


@dataclass(frozen=True)
class Listening:
    """A proxy, and all who get its logs. `lines` are what the loggers wrote, `posts` what a user's own service got."""

    proxy: Proxy
    file: Path
    spans: Collector
    posts: list[str]
    service: str

    def lines(self, call_id: str) -> list[dict[str, str]]:
        text = self.file.read_text() if self.file.exists() else ""
        lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        return [line for line in lines if line["id"] == call_id]

    def posts_of(self, call_id: str) -> list[str]:
        """What LiteLLM's logger for S3, which it calls in a thread, has stored of a call."""
        return [post for post in self.posts if call_id in post]


@contextmanager
def _service() -> Generator[tuple[str, list[str]]]:
    """Somebody's own HTTP service, which keeps what is posted to it."""
    posts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append(self.rfile.read(int(self.headers["Content-Length"])).decode(errors="replace"))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_PUT = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            return None

    server = ThreadingHTTPServer((HOST, 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}", posts
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answers(provider: ScriptedProvider) -> None:
    for says, fails in MODELS.values():
        provider.answers[says] = Answer([Say(f"I clean up {SECRET}."), CALL])
        provider.answers[fails] = Answer([Say(f"failed_generation: {SECRET}")], status=500)


@contextmanager
def _listening(provider_url: str, postgres_url: str, folder: Path, **settings: Any) -> Generator[Listening]:
    config = proxy_config(provider_url, {"policy": POLICY, **settings})
    config["litellm_settings"]["callbacks"] = [
        *("otel", "tests.support.all_logged.logger", "luthien_litellm_hooks.luthien"),
    ]
    config["general_settings"] = {"store_prompts_in_spend_logs": True}
    file = folder / "logged.jsonl"
    with collector() as spans, _service() as (url, posts):
        config["litellm_settings"] |= {"success_callback": ["s3"], "s3_callback_params": {**S3, "s3_endpoint_url": url}}
        environment = {
            **prisma_environment(postgres_url),
            FILE_VARIABLE: str(file),
            "OTEL_EXPORTER": "otlp_http",
            "OTEL_ENDPOINT": spans.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "LANGSMITH_BATCH_SIZE": "1",
        }
        with running_proxy(config, folder / "proxy", environment) as proxy:
            yield Listening(proxy, file, spans, posts, url)


@pytest.fixture(scope="module")
def listening(
    provider: ScriptedProvider, provider_url: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Listening]:
    """Where what is withheld is told in a notice."""
    before = dict(provider.answers)
    _answers(provider)
    with _listening(provider_url, postgres_url, tmp_path_factory.mktemp("loggers")) as listening:
        yield listening
    provider.answers.clear()
    provider.answers.update(before)


def ask(proxy: Proxy, route: RouteName, *, fails: bool, is_streamed: bool, key: str = KEY, begins: str = "call") -> str:
    """The call id of a request."""
    call_id = f"{begins}-{route}-{fails}-{is_streamed}-{key[-6:]}"
    model, body = MODELS[WIRES[route]][fails], BODIES[route]
    if route == "gemini":
        method = "streamGenerateContent?alt=sse" if is_streamed else "generateContent"
        path = f"/v1beta/models/gemini/{model}:{method}"
    else:
        path, body = ROUTES[route].path, {**body, "model": f"{WIRES[route]}/{model}", "stream": is_streamed}
    headers = {"Authorization": f"Bearer {key}", "x-litellm-call-id": call_id}
    answer = httpx.post(proxy.url + path, json=body, headers=headers, timeout=60)
    assert fails or SECRET not in answer.text
    assert fails or answer.is_success, answer.text
    return call_id


@STREAMED
@pytest.mark.parametrize("route", list(ROUTES))
def test_loggers_get_the_delivered_answer_and_nothing_of_what_was_withheld(
    listening: Listening, route: RouteName, is_streamed: bool
) -> None:
    call_id = ask(listening.proxy, route, fails=False, is_streamed=is_streamed)
    is_asked = (route, is_streamed) != NOT_THREADED
    wait_until(lambda: bool(listening.lines(call_id) and (listening.posts_of(call_id) or not is_asked)))
    [line] = listening.lines(call_id)
    for logged in (line["texts"], line["response"], *listening.posts_of(call_id)):
        assert SECRET not in logged
        assert DELIVERED in logged


@STREAMED
@pytest.mark.parametrize("route", list(ROUTES))
def test_loggers_get_nothing_of_what_a_providers_error_quotes(
    listening: Listening, route: RouteName, is_streamed: bool
) -> None:
    call_id = ask(listening.proxy, route, fails=True, is_streamed=is_streamed)
    wait_until(lambda: {line["hook"] for line in listening.lines(call_id)} >= {"async failure", "blocking"})
    for line in listening.lines(call_id):
        assert SECRET not in line["texts"], line["hook"]


def test_spans_hold_the_delivered_answer_alone(listening: Listening) -> None:
    for route in ROUTES:
        for is_streamed in (True, False):
            ask(listening.proxy, route, fails=False, is_streamed=is_streamed)

    def told() -> list[str]:
        names = ("litellm_request", "raw_gen_ai_request")
        return [str(span) for span in listening.spans.spans if span.name in names]

    wait_until(lambda: sum(DELIVERED in span for span in told()) >= 2 * len(ROUTES))
    assert SECRET not in "".join(told())


THREADED: list[tuple[RouteName, bool]] = [
    (route, is_streamed) for route in ROUTES for is_streamed in (True, False) if (route, is_streamed) != NOT_THREADED
]


@pytest.fixture(scope="module")
def late(listening: Listening) -> Mapping[tuple[RouteName, bool], str]:
    """The ids of calls whose other loggers are late, all at the same time."""

    def ask_late(way: tuple[RouteName, bool]) -> str:
        return ask(listening.proxy, way[0], fails=False, is_streamed=way[1], begins=DELAYED)

    with ThreadPoolExecutor(len(THREADED)) as threads:
        return dict(zip(THREADED, threads.map(ask_late, THREADED), strict=True))


@pytest.mark.parametrize(("route", "is_streamed"), THREADED)
def test_a_blocking_logger_gets_the_record_though_the_other_loggers_are_late(
    listening: Listening, late: Mapping[tuple[RouteName, bool], str], route: RouteName, is_streamed: bool
) -> None:
    call_id = late[route, is_streamed]
    wait_until(lambda: bool(listening.posts_of(call_id)))
    [post] = listening.posts_of(call_id)
    metadata = json.loads(post)["metadata"]
    outcome = "complete" if route == "completions" else "blocked"  # which has no calls
    assert metadata["spend_logs_metadata"]["luthien"]["outcome"] == outcome
    assert metadata["applied_guardrails"] == ["luthien"]
    assert (DELIVERED in post, SECRET in post) == (True, False)
    [line] = listening.lines(call_id)
    assert '"luthien"' in line["metadata"], "the payload for the other loggers is not written over"


@STREAMED
@pytest.mark.parametrize("fails", [False, True], ids=["blocked", "provider fails"])
def test_a_logger_that_a_user_sets_on_a_key_gets_no_more_than_the_client(
    listening: Listening, fails: bool, is_streamed: bool
) -> None:
    variables = {"langsmith_api_key": "k", "langsmith_base_url": listening.service, "langsmith_project": "own"}
    logging = [{"callback_name": "langsmith", "callback_type": "success_and_failure", "callback_vars": variables}]
    key = listening.proxy.virtual_key(metadata={"logging": logging})
    before = len(listening.posts)
    ask(listening.proxy, "chat", fails=fails, is_streamed=is_streamed, key=key)
    wait_until(lambda: len(listening.posts) > before)
    wait_until(lambda: any(ROOT_RUN in post for post in listening.posts[before:]))
    for post in listening.posts[before:]:
        assert "sealed" in post
        assert SECRET not in post
