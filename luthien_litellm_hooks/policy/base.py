"""`Policy`: every hook, declared once, with what it may rely on."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from luthien_litellm_hooks.policy.context import PolicyContext, StreamingResponseContext
from luthien_litellm_hooks.policy.helpers import passthrough_last_chunk
from luthien_litellm_hooks.policy.request import Answer, Request


class PolicyConfig(BaseModel):
    """Settings of a policy; an unknown key is an error, a field's docstring its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Policy:
    """Decides what an agent is told, and told to do.

    One object serves all requests at once, so it keeps nothing of a request on itself: once it is
    loaded, its attributes cannot be set. State of a request lives in `ctx.scratchpad`.

    The hooks of an answer are called one after the other, in this order: for each chunk
    `on_chunk_received`; for each event in it, first the complete hook of the block that it ends,
    then the delta hook of the block that it adds to; `on_finish_reason` once, after every complete
    hook; `on_stream_complete` once, if the provider's answer came to its end; `on_stream_closed`
    always, and last. An answer that is not streamed calls the same hooks, with one delta a block.

    As they are, the delta hooks let everything through. A delta hook that is overridden takes
    over: what it does not let out is held, until a later hook lets it out; what nobody lets out is
    never delivered. Raise `PolicyBlockedError` anywhere to end the request or the answer with a
    message. Any other exception, and a hook that runs longer than `timeout_s` without
    `ctx.keepalive()`, is a failure of the policy, and `on_policy_error` says what happens then.
    """

    Config: ClassVar[type[BaseModel]] = PolicyConfig
    """The settings of the policy; an instance of it is what `__init__` is given."""

    _is_sealed = False

    def __init__(self, config: BaseModel | None = None) -> None:
        """Takes the settings; a policy without any need not care."""

    def __setattr__(self, name: str, value: object) -> None:
        if self._is_sealed:
            raise AttributeError(
                f"{type(self).__name__}.{name} cannot be set: one policy object serves all requests at once; "
                "keep what belongs to a request in ctx.scratchpad"
            )
        object.__setattr__(self, name, value)

    def seal(self) -> None:
        """Called once it is loaded: from now on no attribute can be set."""
        object.__setattr__(self, "_is_sealed", True)

    async def on_request(self, request: Request, ctx: PolicyContext) -> Request | Answer:
        """Before the provider is called, once for a request however often it is tried.

        Returns the request, a changed one (the provider gets that), or an `Answer` (the client
        gets that, the provider is not called). `stream` cannot be changed.
        """
        return request

    async def on_chunk_received(self, ctx: StreamingResponseContext) -> None:
        """A chunk came; `get_last_ingress_chunk` gives it. Nothing of it was judged yet."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        """A piece of text came: `ctx.delta`, of `ctx.block`, a `ContentStreamBlock`."""
        await passthrough_last_chunk(ctx)

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        """A block of text is complete."""

    async def on_reasoning_delta(self, ctx: StreamingResponseContext) -> None:
        """A piece of reasoning came: `ctx.delta`, of `ctx.block`, a `ReasoningStreamBlock`."""
        await passthrough_last_chunk(ctx)

    async def on_reasoning_complete(self, ctx: StreamingResponseContext) -> None:
        """A block of reasoning is complete."""

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
        """A piece of a tool call came: `ctx.delta`, of `ctx.block`, a `ToolCallStreamBlock`."""
        await passthrough_last_chunk(ctx)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        """A tool call is complete."""

    async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
        """The provider said why it stopped: `ctx.ingress_state.finish_reason`.

        What is sent here is delivered before the reason is. Called once for each choice.
        """

    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        """All of the answer came. What is sent here is still delivered, before the finish."""

    async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
        """The answer is over, however it ended: nothing can be sent any more. For cleaning up."""

    async def process_full_response(self, response: object, ctx: PolicyContext) -> object:
        """For an answer that is not streamed, after all other hooks: the answer as LiteLLM is to
        send it, in its wire format. What is returned is sent."""
        return response
