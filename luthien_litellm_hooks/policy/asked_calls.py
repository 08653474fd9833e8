"""Tool calls before people: as they are stored, and the decisions about them."""

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from luthien_litellm_hooks.errors import LuthienError
from luthien_litellm_hooks.policy.context import Question, StreamingResponseContext
from luthien_litellm_hooks.policy.limits import off_loop
from luthien_litellm_hooks.policy.request import schema_of_tool
from luthien_litellm_hooks.policy.trajectory import Said
from luthien_litellm_hooks.recording.digest import action_digest
from luthien_litellm_hooks.recording.state import Entry, Store
from luthien_litellm_hooks.wire.events import ToolCall, ToolCallStreamBlock, ToolForm

MAX_OPEN = 5
"""Calls of one session that may wait for a person. More would teach people to approve without a look."""
MAX_OPEN_OF_KEY = 20
"""The same for all sessions of one key: clients name their sessions."""
MAX_CHARACTERS = 100_000
"""Longest arguments for a person to read."""
MAX_SCHEMA = 20_000
"""Longest schema that an edit is checked against, in characters."""
_MAX_BESIDE = 2_000
"""Longest text beside the arguments; of the user's words the last ones."""
_MOST_BESIDE, _MAX_OF_OTHER = 10, 300
"""Other calls of the response that a person is shown, and the characters of each."""
_PREFIX = "approval/"
_LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"
_OF_TOOL = ("namespace", "server_label")
"""Fields beside a call's name that tell its tool from others."""


class AskedCall(BaseModel):
    """A tool call before a person, as it is stored.

    `arguments` are the model's own text, `edited` those of the person. `tool_schema` is the JSON schema that they must
    fit, as a text; None if the request offered none. `beside` are the other calls of the response, shortened, `words`
    the user's last ones. `transaction` is the one that asked. `valid_s` is the validity of a decision, in seconds.
    `origin` tells the tool from others of its name, `version` is the policy's.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    state: Literal["pending", "approved", "denied", "used"] = "pending"
    digest: str
    tool: str
    form: ToolForm
    arguments: str
    origin: dict[str, str] = {}
    policy: str
    version: str = ""
    reason: str | None
    evidence: str | None
    transaction: str
    session: str | None
    model: str
    words: str
    tool_schema: str | None = None
    beside: tuple[str, ...] = ()
    key_hash: str | None
    key_alias: str | None
    user_id: str | None
    team_id: str | None
    team_alias: str | None
    asked_at: datetime
    valid_s: float
    by: str | None = None
    decided_at: datetime | None = None
    message: str | None = None
    edited: str | None = None

    @property
    def tool_call(self) -> ToolCall:
        """Call of the model."""
        return ToolCall(None, self.tool, self.arguments, self.form, dict(self.origin))


class UnknownApprovalError(LuthienError):
    """Approval without an entry: it never was, or its time is over."""


class DecidedError(LuthienError):
    """Approval that somebody has decided already."""


class InvalidEditError(LuthienError):
    """Arguments of a person that the tool does not take."""


def action_of(call: ToolCall) -> str:
    """Returns the digest of a tool and its arguments. Free text counts as written, even if it is JSON."""
    return action_digest(call.name, json.dumps(call.arguments) if call.form == "custom" else call.arguments)


def digest_of(ctx: StreamingResponseContext, call: ToolCall) -> str:
    """Returns the digest of a call in this session, by this key, for this version of the policy. No id counts."""
    bound = {
        "v": 1,
        "action": action_of(call),
        "form": call.form,
        **origin_of(call),
        "session": ctx.request.session,
        "key": ctx.identity.key_hash,
        "policy": ctx.policy_name,
        "version": ctx.policy_version,
    }
    return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()


def origin_of(call: ToolCall) -> dict[str, str]:
    """Returns the fields that tell the call's tool from others of its name."""
    return {name: text for name in _OF_TOOL if isinstance(text := call.extra.get(name), str)}


def described(ctx: StreamingResponseContext, question: Question, valid_s: float) -> AskedCall:
    """Returns a call as a person sees it."""
    who, request, call = ctx.identity, ctx.request, question.call
    said = [part.text for part in request.trajectory if isinstance(part, Said) and part.author == "user"]
    return AskedCall(
        id=new_id(),
        digest=digest_of(ctx, call),
        tool=printable(call.name),
        form=call.form,
        arguments=printable(call.arguments),
        origin={name: printable(text) for name, text in origin_of(call).items()},
        policy=ctx.policy_name,
        version=ctx.policy_version,
        reason=_bounded(question.reason),
        evidence=_bounded(question.evidence),
        transaction=ctx.transaction_id,
        session=_bounded(request.session),
        model=_bounded(request.model) or "",
        words=printable(said[-1][-_MAX_BESIDE:]) if said else "",
        beside=tuple(_others(ctx, call)),
        tool_schema=schema_text(schema_of_tool(request, call.name)),
        key_hash=who.key_hash,
        key_alias=who.key_alias,
        user_id=who.user_id,
        team_id=who.team_id,
        team_alias=who.team_alias,
        asked_at=datetime.now(UTC),
        valid_s=valid_s,
    )


def schema_text(schema: Mapping[str, Any] | None) -> str | None:
    """Returns a schema as JSON, for storage; None without one. One that is too long becomes `false`, which nothing
    fits."""
    if schema is None:
        return None
    text = json.dumps(schema)
    return text if len(text) <= MAX_SCHEMA else "false"


def _others(ctx: StreamingResponseContext, call: ToolCall) -> Iterator[str]:
    blocks = [block for block in ctx.ingress_state.blocks if isinstance(block, ToolCallStreamBlock)]
    for block in [block for block in blocks if block.tool_call != call][:_MOST_BESIDE]:
        yield printable(f"{block.name} {block.arguments}"[:_MAX_OF_OTHER])


def _bounded(text: str | None) -> str | None:
    return None if text is None else printable(text[:_MAX_BESIDE])


def printable(text: str) -> str:
    """Returns the text with its lone surrogates as escapes: no encoding has them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def new_id() -> str:
    """Returns an id that a person can type."""
    letters = "".join(secrets.choice(_LETTERS) for _ in range(8))
    return f"{letters[:4]}-{letters[4:]}"


def key_of(digest: str) -> str:
    """Returns the key of a call's entry."""
    return f"{_PREFIX}{digest}"


def read_call(entry: Entry) -> AskedCall | None:
    """Returns the call of an entry; None for one of another version of this package."""
    try:
        return AskedCall.model_validate_json(entry.value)
    except ValidationError:
        return None


async def open_calls(store: Store) -> list[AskedCall]:
    """Returns the calls that wait for a person, the oldest first. Raises `StateError`."""
    return [asked for asked in await all_calls(store) if asked.state == "pending"]


async def all_calls(store: Store) -> list[AskedCall]:
    """Returns all calls in the store, the oldest first. Raises `StateError`."""
    found = [asked for entry in await store.scan(_PREFIX) if (asked := read_call(entry)) is not None]
    return sorted(found, key=lambda asked: asked.asked_at)


def is_too_much(asked: AskedCall, waiting: Iterable[AskedCall]) -> bool:
    """Tells if one call more may not wait beside those of its session and its key."""
    of_key = [one for one in waiting if one.key_hash == asked.key_hash and one.digest != asked.digest]
    of_session = [one for one in of_key if one.session == asked.session]
    return len(of_session) >= MAX_OPEN or len(of_key) >= MAX_OPEN_OF_KEY


async def find_call(store: Store, id: str) -> AskedCall:
    """Returns the call with this id. Raises `UnknownApprovalError`, `StateError`."""
    return (await _find(store, id))[0]


async def _find(store: Store, id: str) -> tuple[AskedCall, Entry]:
    for entry in await store.scan(_PREFIX):
        asked = read_call(entry)
        if asked is not None and asked.id == id:
            return asked, entry
    raise UnknownApprovalError(f"there is no approval {id}, or its time is over")


async def decide(
    store: Store,
    id: str,
    decision: Literal["approved", "denied"],
    *,
    by: str,
    message: str | None = None,
    arguments: str | None = None,
) -> AskedCall:
    """Decides about a call that waits, and returns it.

    `arguments` replace those of the model. Raises `UnknownApprovalError`, `DecidedError`, `InvalidEditError` and
    `StateError`.
    """
    asked, entry = await _find(store, id)
    if asked.state != "pending":
        raise DecidedError(f"approval {id} is {asked.state} already, by {asked.by}")
    if arguments is not None:
        await off_loop(_check_edit, asked, arguments)
    decided = asked.model_copy(
        update={
            "state": decision,
            "by": by,
            "decided_at": datetime.now(UTC),
            "message": message,
            "edited": arguments,
        }
    )
    if not await store.put(entry.key, decided.model_dump_json(), asked.valid_s, replacing=entry.version):
        raise DecidedError(f"approval {id} was decided at the same moment by somebody else")
    return decided


def _check_edit(asked: AskedCall, arguments: str) -> None:
    if len(arguments) > MAX_CHARACTERS:
        raise InvalidEditError(f"the arguments are longer than {MAX_CHARACTERS} characters")
    if asked.form == "custom":
        return
    try:
        given: object = json.loads(arguments, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise InvalidEditError("the arguments should be a JSON object")
    schema: object = None if asked.tool_schema is None else json.loads(asked.tool_schema)
    if schema is None:
        return
    if not isinstance(schema, dict):
        raise InvalidEditError(
            "the tool's schema is too long to check an edit: approve the call as it came, or deny it"
        )
    from luthien_litellm_hooks.policy.tool_schema import UncheckedSchemaError, schema_fault

    try:
        fault = schema_fault(cast(dict[str, Any], schema), cast(object, given))
    except UncheckedSchemaError as error:
        message = f"the tool's schema cannot be checked: {error}; approve the call as it came, or deny it"
        raise InvalidEditError(message) from None
    if fault is not None:
        raise InvalidEditError(f"the arguments do not fit the tool's schema: {fault}")


def _no_constant(name: str) -> object:
    """Refuses NaN and the infinities, which JSON lacks."""
    raise ValueError(name)
