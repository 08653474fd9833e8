"""What becomes of each of LiteLLM's routes: governed, free of model text, or refused.

A route is named by the `call_type` that LiteLLM gives `async_pre_call_hook`.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
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


_VIDEO = (
    *("acreate_video", "create_video", "avideo_generation", "video_generation", "avideo_retrieve", "video_retrieve"),
    *("avideo_content", "video_content", "avideo_remix", "video_remix", "avideo_list", "video_list"),
    *("avideo_retrieve_job", "video_retrieve_job", "avideo_delete", "video_delete", "avideo_edit", "video_edit"),
    *("avideo_create_character", "video_create_character", "avideo_get_character", "video_get_character"),
    *("avideo_extension", "video_extension"),
)
_OF_STORES_AND_MODELS = (
    *("avector_store_file_create", "vector_store_file_create", "avector_store_file_list", "vector_store_file_list"),
    *("avector_store_file_retrieve", "vector_store_file_retrieve"),
    *("avector_store_file_update", "vector_store_file_update"),
    *("avector_store_file_delete", "vector_store_file_delete"),
    *("acreate_fine_tuning_job", "create_fine_tuning_job", "acancel_fine_tuning_job", "cancel_fine_tuning_job"),
    *("list_fine_tuning_jobs", "aretrieve_fine_tuning_job", "retrieve_fine_tuning_job"),
)

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

IMAGES = frozenset({"aimage_generation", "image_generation", "aimage_edit", "image_edit"})
"""The routes whose answers are pictures. Beside each may stand the prompt as a model revised it, which is judged."""


def _by_call_type(*groups: tuple[str, Iterable[str]]) -> Mapping[str, str]:
    return MappingProxyType({call_type: reason for reason, call_types in groups for call_type in call_types})


WITHOUT_MODEL_TEXT: Mapping[str, str] = _by_call_type(
    ("pictures", IMAGES),
    ("numbers", ("aembedding", "embedding")),
    ("scores of the client's text", ("amoderation", "moderation")),
    ("the client's documents in another order", ("arerank", "rerank")),
    ("sound, in which the client's text is read out", ("aspeech", "speech")),
    ("texts of people, found on the web", ("asearch", "search")),
    ("texts that clients stored", ("avector_store_search", "vector_store_search")),
    ("names and sizes of files", ("acreate_file", "create_file", "afile_retrieve", "file_retrieve")),
    ("names and sizes of files", ("afile_list", "file_list", "afile_delete", "file_delete")),
    ("names of jobs; LiteLLM gives this name to its list of files, too", ("alist_fine_tuning_jobs",)),
    ("the name of a store", ("avector_store_create", "vector_store_create")),
    ("what guardrails make of the client's text", ("apply_guardrail",)),
    ("the tools of MCP servers, which policies see in the request that brings them to a model", ("list_mcp_tools",)),
)
"""The routes that bring no model's answer, and what they bring: they stay as they are. All others are refused."""

REFUSED: Mapping[str, str] = _by_call_type(
    ("a file may be what a batch has answered", ("afile_content", "file_content")),
    ("a file may be what a batch has answered", ("avector_store_file_content", "vector_store_file_content")),
    ("it brings what a model has heard", ("atranscription", "transcription")),
    ("it brings what a model has read", ("aocr", "ocr", "aextraction", "extraction")),
    ("its answers come later, in a file", ("acreate_batch", "create_batch", "aretrieve_batch", "retrieve_batch")),
    ("its answers come later, in a file", ("acancel_batch", "cancel_batch")),
    ("its answers come through a socket", ("_arealtime", "_aresponses_websocket")),
    ("it keeps to the provider's own format", ("pass_through_endpoint", "llm_passthrough_route")),
    ("it keeps to the provider's own format", ("allm_passthrough_route",)),
    ("it brings the choices of a model", ("adecisions", "decisions", "asystemone", "systemone")),
    ("it brings the items of a stored request", ("alist_input_items",)),
    ("the agent runs elsewhere", ("aget_assistants", "get_assistants", "acreate_assistants", "create_assistants")),
    ("the agent runs elsewhere", ("adelete_assistant", "delete_assistant", "acreate_thread", "create_thread")),
    ("the agent runs elsewhere", ("aget_thread", "get_thread", "a_add_message", "add_message")),
    ("the agent runs elsewhere", ("aget_messages", "get_messages", "arun_thread", "run_thread")),
    ("the agent runs elsewhere", ("arun_thread_stream", "run_thread_stream", "asend_message", "send_message")),
    ("the agent runs elsewhere", ("acreate_interaction", "create_interaction", "acreate_skill")),
    ("it answers from what it retrieves", ("aquery", "query", "aingest", "ingest")),
    ("code runs elsewhere", ("acreate_container", "create_container", "alist_containers", "list_containers")),
    ("code runs elsewhere", ("aretrieve_container", "retrieve_container", "adelete_container", "delete_container")),
    ("code runs elsewhere", ("alist_container_files", "list_container_files")),
    ("code runs elsewhere", ("aupload_container_file", "upload_container_file")),
    ("code runs elsewhere", ("acreate_sandbox", "create_sandbox", "adelete_sandbox", "delete_sandbox")),
    ("code runs elsewhere", ("arun_code", "run_code", "acode_interpreter_tool", "code_interpreter_tool")),
    ("it may repeat a prompt that a model revised", _VIDEO),
    ("it was not looked into", _OF_STORES_AND_MODELS),
)
"""The routes of which it is known why no policy can see their answers. Those in no table are refused too."""
