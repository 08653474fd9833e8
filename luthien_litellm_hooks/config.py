"""Settings to a policy that runs; whatever is wrong with them is a `ConfigError` that says where."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, cast

import yaml
from pydantic import Field

from luthien_litellm_hooks.composition import members_of
from luthien_litellm_hooks.egress import MAX_ITEMS, PUT_TIMEOUT_S
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.executor import OnBlock, PolicyExecutor, Unjudged
from luthien_litellm_hooks.limits import DEFAULT_LIMITS, Limits
from luthien_litellm_hooks.policy_spec import PolicySpec, Seconds, digest, load_composition
from luthien_litellm_hooks.validation import Section, nearest, validate

POLICY_FILE_VARIABLE = "LUTHIEN_POLICY_CONFIG"
SETTINGS_KEY = "callback_settings.luthien"
_NO_ENVIRONMENT: Mapping[str, str] = MappingProxyType({})


class QueueSettings(Section):
    """The way out to a client."""

    max_items: Annotated[int, Field(gt=0)] = MAX_ITEMS
    put_timeout_s: Seconds = PUT_TIMEOUT_S
    """How long a full queue waits for a client that does not read, in seconds."""


class LimitsSettings(Section):
    """The bounds of requests, of answers, and of policies."""

    max_stream_bytes: Annotated[int, Field(gt=0)] = DEFAULT_LIMITS.max_stream_bytes
    """What one answer may bring, in bytes of its stream or characters of its texts; one that brings more
    is ended with a notice."""
    max_held_bytes: Annotated[int, Field(gt=0)] = DEFAULT_LIMITS.max_held_bytes
    """What all answers of a worker process may hold in memory, about; a policy that holds more fails."""
    max_hold_s: Seconds = DEFAULT_LIMITS.max_hold_s
    """What all hooks of one transaction may take, whatever `keepalive()` they call, in seconds."""
    max_request_values: Annotated[int, Field(gt=0)] = DEFAULT_LIMITS.max_request_values
    """What one request may hold: fields, and items of lists but numbers. A larger one is refused with status 413."""
    max_judged_characters: Annotated[int, Field(gt=0)] = DEFAULT_LIMITS.max_judged_characters
    """What all policies of one transaction may judge, in characters: a text counts once for each policy, a change to
    it as 250 more, what a shell would run ten times more. What goes beyond is blocked: it is too large to judge."""
    max_judged_blocks: Annotated[int, Field(gt=0)] = DEFAULT_LIMITS.max_judged_blocks
    """The same for the texts and tool calls of an answer: each counts once for each policy."""


Bodies = Literal["follow_litellm", "always", "never"]
Unselected = Literal["pass", "refuse"]
Readers = Literal["admins", "owners"]


class RecordSettings(Section):
    """What the record of a transaction holds, in LiteLLM's spend logs."""

    bodies: Bodies = "follow_litellm"
    """The texts of requests and answers: where LiteLLM's `store_prompts_in_spend_logs` is on, or always, or never."""
    readable_by: Readers = "admins"
    """`admins` seals reasons, evidence and texts: the holder of the proxy's salt or master key opens them. `owners`
    leaves them in clear for all who may read the row, the owner of the client's key among them."""


class EventsSettings(Section):
    """Where events of transactions are published, beside OpenTelemetry."""

    jsonl: str | None = None
    """A file to which each is added as a line of JSON; "-" is standard output."""
    redis: str | bool = False
    """The URL of a Redis, for the stream `luthien:events`. `true` takes REDIS_URL, else the proxy's own Redis."""


class Settings(Section):
    """What stands under `callback_settings.luthien`."""

    policy: PolicySpec
    on_block: OnBlock = "notice"
    """What a refused request gets, and a full answer that is ended: a normal answer with the notice,
    or an HTTP error. A stream that has begun always ends with the notice."""
    block_status: Annotated[int, Field(ge=400, le=599)] = 403
    """The HTTP status of `on_block: error`."""
    unjudged: Unjudged = "withhold"
    """What the plugin does not know of a response: withheld where a policy judges it, or let through."""
    ungoverned_routes: Literal["refuse", "allow"] | tuple[str, ...] = "refuse"
    """What becomes of routes whose answers no policy can see; a list names those to let through."""
    unselected: Unselected = "pass"
    """What becomes of a request that no policy is for, since each has a `when` that does not fit."""
    queue: QueueSettings = QueueSettings()
    limits: LimitsSettings = LimitsSettings()
    record: RecordSettings = RecordSettings()
    events: EventsSettings = EventsSettings()


class _PolicyFile(Section):
    policy: PolicySpec


def load_settings(callback_settings: Mapping[str, object], environment: Mapping[str, str]) -> Settings:
    """The settings in LiteLLM's `callback_settings`, or the policy in the file that the variable
    `LUTHIEN_POLICY_CONFIG` names. Raises `ConfigError`."""
    given: object = callback_settings.get("luthien")
    path = environment.get(POLICY_FILE_VARIABLE)
    if given is None and not path:
        near = nearest("luthien", callback_settings.keys() - {"luthien"})
        what = (
            f"no policy is set: write {SETTINGS_KEY}.policy in the LiteLLM config, or name a file with a `policy:` "
            f"in {POLICY_FILE_VARIABLE}"
        )
        hint = f" (there is a callback_settings.{near}: is that it?)" if near else ""
        raise ConfigError(what + hint, [(SETTINGS_KEY, what + hint)])
    if path:
        given = _add_policy_file({} if given is None else given, path)
    return validate(Settings, given, where=SETTINGS_KEY)


def build_executor(
    settings: Settings, environment: Mapping[str, str] = _NO_ENVIRONMENT, where: str = SETTINGS_KEY
) -> PolicyExecutor:
    """The executor of the settings' policy. Raises `ConfigError`, which says where the policy stands."""
    path = environment.get(POLICY_FILE_VARIABLE)
    return PolicyExecutor(
        load_composition(settings.policy, where=f"{path}.policy" if path else f"{where}.policy"),
        on_block=settings.on_block,
        unjudged=settings.unjudged,
        max_items=settings.queue.max_items,
        put_timeout_s=settings.queue.put_timeout_s,
        limits=Limits(**settings.limits.model_dump()),
    )


def version_of(settings: Settings, executor: PolicyExecutor) -> str:
    """Another one for other settings, or another policy behind the same name; the same after every start."""
    members = [member.version for member in members_of(executor.composition)]
    return digest([settings.model_dump(), members])


def _add_policy_file(given: object, path: str) -> object:
    if not isinstance(given, Mapping):
        return given  # and its validation says what is wrong
    if "policy" in given:
        what = (
            f"the policy is set twice: in {SETTINGS_KEY}.policy and in the file {path}, "
            f"which {POLICY_FILE_VARIABLE} names; remove one"
        )
        raise ConfigError(what, [(f"{SETTINGS_KEY}.policy", what)])
    try:
        content: object = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # yaml lets the ValueError of an impossible date through
        raise ConfigError.at((POLICY_FILE_VARIABLE, f"{path} cannot be read: {error}")) from error
    policy_file = validate(_PolicyFile, content, where=path)
    return {**cast(Mapping[str, object], given), "policy": policy_file.policy}
