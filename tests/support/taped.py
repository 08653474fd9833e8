"""Official clients of a proxy that keep each byte that comes, and readers that believe none of it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import anthropic
import httpx
import httpx2
import openai
from google import genai
from google.genai import errors
from google.genai.types import GenerateContentResponse, HttpOptions
from litellm.types.utils import ModelResponseStream

from tests.support import messages, responses
from tests.support.chat import Delivered
from tests.support.clients import ROUTES, Said
from tests.support.proxy import Proxy


def taping(library: Any, heard: bytearray) -> Any:
    """A client of `library`, which is httpx or its successor, that keeps in `heard` what comes through its sockets."""

    class Taped(library.SyncByteStream):
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def __iter__(self) -> Iterator[bytes]:
            for piece in self._stream:
                heard.extend(piece)
                yield piece

        def close(self) -> None:
            self._stream.close()

    class Transport(library.HTTPTransport):
        def handle_request(self, request: Any) -> Any:
            response = super().handle_request(request)
            response.stream = Taped(response.stream)
            return response

    return library.Client(transport=Transport(verify=False), timeout=60, headers={"accept-encoding": "identity"})


@dataclass(frozen=True, kw_only=True)
class TapedProxy(Proxy):
    """A proxy to a client with this key, whose official clients are taped into `heard`."""

    key: str
    heard: bytearray

    @cached_property
    def openai(self) -> openai.OpenAI:
        client = taping(httpx, self.heard)
        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key=self.key,
            max_retries=0,
            http_client=client,
            default_headers=self.headers,
        )

    @cached_property
    def anthropic(self) -> anthropic.Anthropic:
        client = taping(httpx2, self.heard)
        return anthropic.Anthropic(
            base_url=self.url, api_key=self.key, max_retries=0, http_client=client, default_headers=self.headers
        )

    @cached_property
    def genai(self) -> genai.Client:
        options = HttpOptions(
            base_url=self.url,
            api_version="v1beta",
            timeout=60_000,
            headers=dict(self.headers),
            httpx_client=self._for_genai,
        )
        return genai.Client(api_key=self.key, http_options=options)

    @cached_property
    def _for_genai(self) -> Any:
        return taping(httpx, self.heard)

    def close_clients(self) -> None:
        super().close_clients()
        if "_for_genai" in vars(self):
            self._for_genai.close()  # which Google's client leaves open, for it was given


@dataclass
class Got:
    """What one client got: what its official client makes of it, or the error that this raised; and every byte,
    which is there as soon as it came."""

    said: Said | None = None
    error: Exception | None = None
    raw: bytearray = field(default_factory=bytearray)

    def ask(self, proxy: Proxy, key: str, route: str, model: str, stream: bool, headers: Mapping[str, str]) -> None:
        """Asks with the official client of the route."""
        taped = TapedProxy(proxy.port, proxy.log, proxy.headers, key=key, heard=self.raw)
        try:
            self.said = ROUTES[route](taped, model, stream, headers)
        except (
            openai.APIError,
            anthropic.APIError,
            errors.APIError,
            httpx.TransportError,
            httpx2.TransportError,
        ) as error:
            self.error = error
        except RuntimeError as error:  # as which the client tells of a stream of Responses without an end
            self.error = error
        except TypeError as error:  # as which Google's client tells of LiteLLM's own errors, whose codes are texts
            self.error = error
        finally:
            taped.close_clients()


def check_strictly(route: str, raw: bytes | bytearray) -> None:
    """Fails if a stream is not legal from its first byte to its end."""
    raw = bytes(raw)
    if route == "messages":
        messages.read(raw)
    elif route == "responses":
        responses.Strict().read(payloads(raw))
    elif route == "gemini":
        _check_gemini(raw)
    else:
        assert raw.endswith(b"data: [DONE]\n\n")
        assert len(Delivered.of(ModelResponseStream(**chunk) for chunk in payloads(raw)).finish_reasons) == 1


def _check_gemini(raw: bytes) -> None:
    *frames, rest = raw.decode().split("\n\n")
    assert rest == ""
    assert all(frame.startswith("data: ") for frame in frames), "Google's client reads no other lines"
    answers = [GenerateContentResponse(**json.loads(frame.removeprefix("data: "))) for frame in frames]
    candidates = [candidate for answer in answers for candidate in answer.candidates or ()]
    assert [candidate.finish_reason is not None for candidate in candidates] == [False] * (len(candidates) - 1) + [True]
    parts = [part for candidate in candidates if candidate.content for part in candidate.content.parts or ()]
    said = ["call" if part.function_call else "text" for part in parts if part.function_call or part.text]
    assert "text" not in said[said.index("call") :] if "call" in said else True, "text after a call"


def payloads(raw: bytes) -> list[dict[str, Any]]:
    """The JSON of each frame of a stream."""
    frames = [line.removeprefix(b"data: ") for line in raw.splitlines() if line.startswith(b"data: ")]
    return [json.loads(frame) for frame in frames if frame != b"[DONE]"]
