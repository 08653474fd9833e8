"""Each kind of route of LiteLLM: without model text it passes, with such text beside pictures that is judged, and
what no hook sees is refused."""

import json
from collections.abc import Callable, Generator
from typing import Any

import pytest
from litellm.types.utils import CallTypes
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from luthien_litellm_hooks.hooks.routes import NO_MODEL_OUTPUT, REFUSED
from luthien_litellm_hooks.testing.provider import serve
from luthien_litellm_hooks.wire import FORMATS
from tests.support.proxy import KEY, Proxies, Proxy
from tests.support.selected import NOOP, selected

MARK = "mark-7"
DROPS_TEXT = selected({"class": "tests.support.lab:DropsText"})
FILE = {"id": "file-1", "object": "file", "bytes": 3, "created_at": 1, "filename": "a.jsonl", "purpose": "batch"}
PICTURE = {"b64_json": "aGk=", "revised_prompt": f"a cat, {MARK}"}
ANSWERS: dict[str, Any] = {
    "/images/generations": {"created": 1, "data": [PICTURE, {"b64_json": "aGk="}]},
    "/images/edits": {"created": 1, "data": [PICTURE]},
    "/embeddings": {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
        "model": "m",
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    },
    "/moderations": {
        "id": "modr-1",
        "model": "m",
        "results": [{"flagged": False, "categories": {}, "category_scores": {}}],
    },
    "/audio/transcriptions": {"text": f"heard {MARK}"},
    "/audio/translations": {"text": f"heard {MARK}"},
    "/files": FILE,
    "/files/file-1": {**FILE, "deleted": True},
}


async def _answer(request: Request) -> Response:
    path = request.url.path.removeprefix("/v1")
    if path == "/audio/speech":
        return Response(b"sound", media_type="audio/mpeg")
    if path.endswith("/content"):
        return Response(json.dumps({"response": MARK}), media_type="application/jsonl")
    if path == "/files" and request.method == "GET":
        return JSONResponse({"object": "list", "data": [FILE], "has_more": False})
    return JSONResponse(ANSWERS[path]) if path in ANSWERS else JSONResponse({"error": {"message": path}}, 404)


@pytest.fixture(scope="module")
def model_url() -> Generator[str]:
    with serve(
        Starlette(routes=[Route("/{path:path}", _answer, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])])
    ) as url:
        yield url


@pytest.fixture(scope="module")
def proxy_of(model_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Callable[[str], Proxy]]:
    """The proxy in front of all those models, with a policy."""
    files = {"custom_llm_provider": "openai", "api_base": f"{model_url}/v1", "api_key": "k"}
    proxies = Proxies(model_url, tmp_path_factory.mktemp("routes"))
    yield lambda policy: proxies.lab(policy, sections={"files_settings": [files]})
    proxies.close()


@pytest.fixture(scope="module")
def proxy(proxy_of: Callable[[str], Proxy]) -> Proxy:
    return proxy_of(DROPS_TEXT)


@pytest.fixture(scope="module")
def noop(proxy_of: Callable[[str], Proxy]) -> Proxy:
    return proxy_of(NOOP)


UPLOAD = {"files": {"file": ("a.txt", b"hi", "text/plain")}, "data": {"purpose": "assistants"}}
SOUND = {"files": {"file": ("a.wav", b"RIFF", "audio/wav")}, "data": {"model": "openai/whisper-1"}}
PASSING: dict[str, tuple[str, str, dict[str, Any]]] = {
    "embeddings": ("POST", "/v1/embeddings", {"json": {"model": "openai/e", "input": "x"}}),
    "moderation": ("POST", "/v1/moderations", {"json": {"model": "openai/omni-moderation-latest", "input": "x"}}),
    "speech": ("POST", "/v1/audio/speech", {"json": {"model": "openai/tts-1", "input": "x", "voice": "alloy"}}),
    "upload": ("POST", "/v1/files", UPLOAD),
    "list of files": ("GET", "/v1/files", {}),
    "a file": ("GET", "/v1/files/file-1", {}),
    "deletion of a file": ("DELETE", "/v1/files/file-1", {}),
    "models": ("GET", "/v1/models", {}),
}
CLOSED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "content of a file": ("GET", "/v1/files/file-1/content", {}),
    "content of a file, by its provider": ("GET", "/openai/v1/files/file-1/content", {}),
    "transcription": ("POST", "/v1/audio/transcriptions", SOUND),
    "batch": ("POST", "/v1/batches", {"json": {"input_file_id": "f", "endpoint": "/v1/chat/completions"}}),
    "a batch": ("GET", "/v1/batches/batch_1", {}),
    "ocr": ("POST", "/v1/ocr", {"json": {"model": "openai/o", "document": {"type": "document_url"}}}),
    "an answer that was stored": ("GET", "/v1/responses/resp_1", {}),
    "codex, with ChatGPT's sign-in": (
        "POST",
        "/backend-api/codex/responses",
        {
            "json": {"model": "gpt-5", "input": "x"},
            "headers": {"Authorization": "Bearer of-chatgpt", "x-litellm-api-key": KEY},
        },
    ),
    "deletion of an answer that was stored": ("DELETE", "/v1/responses/resp_1", {}),
    "deletion of an interaction": ("DELETE", "/v1beta/interactions/x", {}),
    "pass-through, with PUT": ("PUT", "/anthropic/v1/messages", {"json": {"model": "m"}}),
    "pass-through, with PATCH": ("PATCH", "/openai/chat/completions", {"json": {"model": "m"}}),
    "pass-through, with DELETE": ("DELETE", "/openai/threads/thread_1", {}),
    "a video": ("POST", "/v1/videos", {"data": {"model": "openai/sora", "prompt": "x"}}),
}


@pytest.mark.parametrize("name", PASSING)
def test_routes_without_model_text_pass(proxy: Proxy, name: str) -> None:
    method, path, rest = PASSING[name]
    response = proxy.http.request(method, path, **rest)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("name", CLOSED)
def test_routes_with_text_that_no_hook_sees_are_closed(noop: Proxy, name: str) -> None:
    method, path, rest = CLOSED[name]
    response = noop.http.request(method, path, **rest)
    assert MARK not in response.text
    assert response.status_code in (403, 404, 405), response.text
    assert response.status_code != 403 or "so it is closed" in response.text
    assert (response.status_code == 403) or "codex" in path


IMAGE = {"json": {"model": "openai/gpt-image-1", "prompt": "a cat"}}
EDIT = {"files": {"image": ("a.png", b"png", "image/png")}, "data": {"model": "openai/gpt-image-1", "prompt": "a cat"}}


@pytest.mark.parametrize(("path", "asked"), [("/v1/images/generations", IMAGE), ("/v1/images/edits", EDIT)])
def test_a_prompt_that_a_model_revised_is_judged(noop: Proxy, proxy: Proxy, path: str, asked: dict[str, Any]) -> None:
    plain, judged = [one.http.post(path, **asked) for one in (noop, proxy)]
    assert (plain.status_code, judged.status_code) == (200, 200), judged.text
    assert plain.json()["data"][0]["revised_prompt"] == PICTURE["revised_prompt"]
    assert MARK not in judged.text
    assert [picture["b64_json"] for picture in judged.json()["data"]] == [
        picture["b64_json"] for picture in plain.json()["data"]
    ]


def test_every_call_type_of_litellm_stands_in_one_table() -> None:
    governed = [call_type for wire in FORMATS for call_type in wire.call_types]
    tables = (governed, NO_MODEL_OUTPUT, REFUSED)
    assert sum(map(len, tables)) == len({*governed, *NO_MODEL_OUTPUT, *REFUSED})
    elsewhere = {"call_mcp_tool", "list_mcp_tools"}  # `hooks.mcp`
    known = {call_type.value for call_type in CallTypes}
    assert known - elsewhere - {*governed, *NO_MODEL_OUTPUT, *REFUSED} == set()


def test_without_ui_enabled_there_is_no_monitor_page(noop: Proxy) -> None:
    assert [noop.http.get(f"/luthien/ui{path}").status_code for path in ("", "/", "/login", "/events")] == [404] * 4
