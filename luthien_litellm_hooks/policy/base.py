"""`Policy`, the base class with every hook; its settings; and `When`, the requests to which a policy applies."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Annotated, ClassVar

from pydantic import BaseModel, Field, field_validator

from luthien_litellm_hooks.policy.context import PolicyContext, StreamingResponseContext
from luthien_litellm_hooks.policy.described import Described
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.policy.sending import passthrough_last_chunk
from luthien_litellm_hooks.recording.decision import Identity


class PolicyConfig(Described):
    """Settings of a policy. An unknown key is an error. A field's docstring is its description."""


class Policy:
    """Base class of policies, which control an agent's requests and responses.

    One object serves all requests at once, so it keeps nothing of a request on itself: after loading, its attributes
    cannot be set. State of a request lives in `ctx.scratchpad`.

    The hooks of a response run one after the other, in this order: `on_chunk_received` for each chunk; for each event
    in it, first the complete hook of the block that it ends, then the delta hook of the block that it extends;
    `on_finish_reason` once, after every complete hook; `on_stream_complete` once, if the provider's response came to
    its end; `on_stream_closed` always, and last. A full response runs the same hooks, with one delta a block.

    By default, the delta hooks forward everything. A delta hook of your own takes over: events that it does not forward
    are held until a later hook releases them. Events that no hook releases are never delivered. Raise
    `PolicyBlockedError` anywhere to end the request or the response with a message. Any other exception is a failure of
    the policy, and so is a hook that runs longer than `timeout_s` without `ctx.keepalive()`: `on_policy_error` decides
    the rest.
    """

    Config: ClassVar[type[BaseModel]] = PolicyConfig
    """Class of the policy's settings; `__init__` gets an instance of it."""
    is_recorded: ClassVar[bool] = True
    """Records and log lines name the policy; false for one that only shows others at work."""

    _is_sealed = False

    def __init__(self, config: BaseModel | None = None) -> None:
        """Takes the settings; a policy without settings can ignore this."""

    def __setattr__(self, name: str, value: object) -> None:
        if self._is_sealed:
            raise AttributeError(
                f"{type(self).__name__}.{name} cannot be set: one policy object serves all requests at once; "
                "keep what belongs to a request in ctx.scratchpad"
            )
        object.__setattr__(self, name, value)

    def seal(self) -> None:
        """Forbids setting attributes from now on; runs once after loading."""
        object.__setattr__(self, "_is_sealed", True)

    async def on_request(self, request: Request, ctx: PolicyContext) -> Request | Answer:
        """Handles a request before the provider is called, once for all tries.

        Returns the request, a changed one for the provider, or an `Answer` for the client, without a call of the
        provider. `stream` cannot be changed.
        """
        return request

    async def on_chunk_received(self, ctx: StreamingResponseContext) -> None:
        """Handles a chunk, given by `get_last_ingress_chunk`, before any of it is judged."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        """Handles a piece of text: `ctx.delta`, of `ctx.block`, a `ContentStreamBlock`."""
        await passthrough_last_chunk(ctx)

    def count_untouched(self, ctx: StreamingResponseContext, pieces: Sequence[str]) -> int:
        """Returns how many of the next `pieces` of `ctx.block` leave unchanged, without their delta hook.

        Pieces that came together are asked about before their hooks, if none of the block is held. By default each has
        its hook.
        """
        return 0

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        """Handles a complete block of text."""

    async def on_reasoning_delta(self, ctx: StreamingResponseContext) -> None:
        """Handles a piece of reasoning: `ctx.delta`, of `ctx.block`, a `ReasoningStreamBlock`."""
        await passthrough_last_chunk(ctx)

    async def on_reasoning_complete(self, ctx: StreamingResponseContext) -> None:
        """Handles a complete block of reasoning."""

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
        """Handles a piece of a tool call: `ctx.delta`, of `ctx.block`, a `ToolCallStreamBlock`."""
        await passthrough_last_chunk(ctx)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        """Handles a complete tool call."""

    async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
        """Handles the provider's reason for stopping: `ctx.ingress_state.finish_reason`.

        Events sent here are delivered before the reason. Runs once for each choice.
        """

    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        """Handles the end of the whole response. Events sent here are still delivered, before the finish."""

    async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
        """Cleans up after a response, however it ended. Nothing can be sent any more."""

    async def process_full_response(self, response: object, ctx: PolicyContext) -> object:
        """Returns the full response for the client, in its wire format, after all other hooks."""
        return response


Globs = tuple[str, ...]


class When(PolicyConfig):
    """Selection of requests: each given key must match, and a list matches if one of its globs does.

    Unknown facts of a request match, and so do facts of one of its fallbacks alone.
    """

    models: Globs = ()
    """Any name of a model that may respond: the client's, an alias, a model group, the provider's."""
    keys: Globs = ()
    """Alias of the key. The key's owner may choose it."""
    teams: Globs = ()
    """Id or alias of the key's team, or of a team of the key's owner."""
    users: Globs = ()
    """Id or e-mail address of the key's owner, or the id of the key's creator."""
    routes: Globs = ()
    """Path of the client's route; all paths of a route count as one."""
    tools: Globs = ()
    """Tool in the request."""
    headers: Mapping[str, str] = Field(default_factory=lambda: MappingProxyType[str, str]({}))
    """Names of headers to globs of their values. A client chooses them."""
    share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the sessions, from 0 to 1. A request without a session counts by its key. A session stays in or out, and
    a larger share only adds sessions. A client can choose its session."""

    @field_validator("models", "keys", "teams", "users", "routes", "tools", mode="before")
    @classmethod
    def _one_is_a_list_too(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def applies_to(self, request: Request, identity: Identity, sample: str = "") -> bool:
        """Tells if the policy applies to this request; `sample` names what `share` decides about."""
        return (
            self._fits_share(sample)
            and _fits(self.keys, [identity.key_alias])
            and self._fits_team(identity)
            and _fits(self.users, [identity.user_id, identity.user_email, identity.key_maker_id])
            and (request.is_untold or self._fits_request(request))
        )

    def _fits_share(self, sample: str) -> bool:
        if self.share is None:
            return True
        drawn = int.from_bytes(hashlib.sha256(sample.encode()).digest()[:8])
        return drawn < self.share * 2**64

    def _fits_request(self, request: Request) -> bool:
        requests = (request, *request.alternatives)
        return (
            _fits(self.routes, [request.route, *request.paths])
            and all(_fits((glob,), [request.headers.get(name.lower())]) for name, glob in self.headers.items())
            and any(self._fits_model(one) for one in requests)
            and any(_fits(self.tools, one.tool_names) or one.has_untold_tools for one in requests)
        )

    def _fits_team(self, identity: Identity) -> bool:
        if identity.user_teams is None:
            return True
        return _fits(self.teams, [identity.team_id, identity.team_alias, *identity.user_teams])

    def _fits_model(self, request: Request) -> bool:
        if not self.models or request.models is None:
            return True
        names = [name.lower() for name in (request.model, *request.models)]  # some providers ignore case
        return _fits([glob.lower() for glob in self.models], names)


def _fits(globs: Iterable[str], values: Iterable[str | None]) -> bool:
    return not globs or any(fnmatchcase(value, glob) for value in values if value is not None for glob in globs)
