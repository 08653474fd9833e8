"""What becomes of each of LiteLLM's routes: governed, free of model text, or refused.

A route is named by the `call_type` that LiteLLM gives `async_pre_call_hook`.
"""

import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType

from litellm.types.utils import ModelResponseStream

from luthien_litellm_hooks.adapters.base import Adapter
from luthien_litellm_hooks.adapters.chat import ChatAdapter
from luthien_litellm_hooks.policy.request import Request


def _chat(request: Request) -> Adapter:
    return ChatAdapter(like=ModelResponseStream(id=f"chatcmpl-{uuid.uuid4()}", model=request.model))


GOVERNED: Mapping[str, Callable[[Request], Adapter]] = MappingProxyType({"acompletion": _chat, "completion": _chat})
"""The routes whose answers the policy sees, and the adapter of each."""

WITHOUT_MODEL_TEXT = frozenset(
    {
        *("aembedding", "embedding", "aimage_generation", "image_generation", "aimage_edit", "image_edit"),
        *("amoderation", "moderation", "arerank", "rerank", "asearch", "search"),
        *("aspeech", "speech", "atranscription", "transcription"),
        *("acreate_file", "create_file", "afile_retrieve", "file_retrieve", "afile_list", "file_list"),
        *("afile_delete", "file_delete", "afile_content", "file_content"),
        *("avector_store_search", "vector_store_search", "avector_store_create", "vector_store_create"),
        "list_mcp_tools",
    }
)
"""The routes that bring no model's answer: they stay as they are. All others are refused."""
