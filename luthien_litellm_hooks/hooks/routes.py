"""What becomes of each of LiteLLM's routes: governed, free of model text, or refused.

A route is named by the `call_type` that LiteLLM gives `async_pre_call_hook`.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType

from litellm.types.llms.openai import ResponsesAPIResponse
from litellm.types.utils import ModelResponseStream, TextCompletionResponse

from luthien_litellm_hooks.adapters.base import Adapter
from luthien_litellm_hooks.adapters.chat import ChatAdapter
from luthien_litellm_hooks.adapters.completions import CompletionsAdapter
from luthien_litellm_hooks.adapters.gemini import GeminiAdapter
from luthien_litellm_hooks.adapters.messages import MessagesAdapter
from luthien_litellm_hooks.adapters.responses import ResponsesAdapter
from luthien_litellm_hooks.policy.request import Request


def _chat(request: Request) -> Adapter:
    return ChatAdapter(lambda: ModelResponseStream(id=f"chatcmpl-{uuid.uuid4()}", model=request.model))


def _completions(request: Request) -> Adapter:
    return CompletionsAdapter(like=TextCompletionResponse(id=f"cmpl-{uuid.uuid4()}", model=request.model))


def _gemini(request: Request) -> Adapter:
    return GeminiAdapter(like={"modelVersion": request.model, "responseId": str(uuid.uuid4())})


def _messages(request: Request) -> Adapter:
    return MessagesAdapter(model=request.model, id=f"msg_{uuid.uuid4().hex}")


def _responses(request: Request) -> Adapter:
    def own() -> ResponsesAPIResponse:
        like = ResponsesAPIResponse(id=f"resp_{uuid.uuid4().hex}", created_at=int(time.time()), output=[])
        return like.model_copy(update={"object": "response", "model": request.model})

    return ResponsesAdapter(own)


_ROUTES: Mapping[str, tuple[tuple[str, ...], Callable[[Request], Adapter]]] = MappingProxyType(
    {
        "chat": (("acompletion", "completion"), _chat),
        "responses": (("aresponses", "responses"), _responses),
        "messages": (("anthropic_messages", "aanthropic_messages"), _messages),
        "completions": (("atext_completion", "text_completion"), _completions),
        "gemini": (
            ("agenerate_content", "generate_content", "agenerate_content_stream", "generate_content_stream"),
            _gemini,
        ),
    }
)

GOVERNED: Mapping[str, Callable[[Request], Adapter]] = MappingProxyType(
    {call_type: adapter for call_types, adapter in _ROUTES.values() for call_type in call_types}
)
"""The routes whose answers the policy sees, and the adapter of each."""

NAMES: Mapping[str, str] = MappingProxyType(
    {call_type: name for name, (call_types, _) in _ROUTES.items() for call_type in call_types}
)
"""What the governed routes are called in spans and metrics."""

WITHOUT_MODEL_TEXT = frozenset(
    {
        *("aembedding", "embedding", "aimage_generation", "image_generation", "aimage_edit", "image_edit"),
        *("amoderation", "moderation", "arerank", "rerank", "asearch", "search"),
        *("aspeech", "speech", "atranscription", "transcription"),
        *("acreate_file", "create_file", "afile_retrieve", "file_retrieve", "afile_list", "file_list"),
        *("afile_delete", "file_delete", "afile_content", "file_content"),
        *("avector_store_search", "vector_store_search", "avector_store_create", "vector_store_create"),
        *("list_mcp_tools", "apply_guardrail"),
    }
)
"""The routes that bring no model's answer: they stay as they are. All others are refused."""
