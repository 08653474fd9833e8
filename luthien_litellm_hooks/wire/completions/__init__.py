"""Record of the wire of OpenAI's text completions."""

from luthien_litellm_hooks.wire.chat import choices_of, has_texts
from luthien_litellm_hooks.wire.format import (
    Adapter,
    Blocks,
    JsonObject,
    LogShape,
    NewResponse,
    ResponseRules,
    WireFormat,
    of_choice,
    text_of,
)
from luthien_litellm_hooks.wire.request_shape import Json, RequestShape

_RULES = ResponseRules(
    marks_blocks=False,
    has_text_after_calls=False,
    stop_reason="stop",
    tool_reasons=("stop",),
    cut_reasons=("length",),
)


def _adapter(new: NewResponse) -> Adapter:
    from litellm.types.utils import TextCompletionResponse

    from luthien_litellm_hooks.wire.completions.adapter import CompletionsAdapter

    return CompletionsAdapter(_RULES, template=TextCompletionResponse(id=f"cmpl-{new.id}", model=new.model))


def _question(text: str, max_tokens: int) -> JsonObject:
    return {"prompt": text, "max_tokens": max_tokens}


def _logged(logged: Json, blocks: Blocks, finish_reason: str | None) -> JsonObject:
    return {
        "choices": [
            {
                "index": choice.get("index") or 0,
                "finish_reason": finish_reason or choice.get("finish_reason"),
                "text": text_of(of_choice(blocks, choice.get("index") or 0)),
            }
            for choice in choices_of(logged)
        ]
    }


FORMAT = WireFormat(
    name="completions",
    operation="text_completion",
    call_types=("atext_completion", "text_completion"),
    paths=(
        *("/v1/completions", "/completions"),
        *("/engines/{model}/completions", "/openai/deployments/{model}/completions"),
    ),
    adapter=_adapter,
    rules=_RULES,
    request=RequestShape(
        texts={"prompt": "user", "suffix": "user", "stop": "system"},
        conversation=("prompt",),
        token_limits=(("max_tokens",),),
    ),
    response_texts=frozenset({"text", "reasoning_content"}),
    recognises=has_texts,
    log=LogShape(holds=has_texts, content=_logged),
    logged_fields=("prompt",),
    question=_question,
    makes_mock_streams=True,
)
