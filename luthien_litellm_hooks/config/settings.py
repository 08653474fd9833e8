"""Settings of the plugin, and their executor; the rules for its guardrails. Each error is a `ConfigError` with its key.

The callback, the guardrails and `luthien-hooks check` share them.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, cast
from urllib.parse import urlsplit

import yaml
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from luthien_litellm_hooks.config.policy_spec import Enforce, PolicySpec, Seconds, digest, load_composition
from luthien_litellm_hooks.config.validation import Section, did_you_mean, nearest, validate
from luthien_litellm_hooks.engine.composition import Serial, members_of
from luthien_litellm_hooks.engine.egress_queue import MAX_ITEMS, PUT_TIMEOUT_S
from luthien_litellm_hooks.engine.executor import PING_S, OnBlock, PolicyExecutor, Unjudged
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.policy.approvals import Terms
from luthien_litellm_hooks.policy.environment import resolve_environment
from luthien_litellm_hooks.policy.limits import DEFAULT_LIMITS, Limits

POLICY_FILE_VARIABLE = "LUTHIEN_POLICY_CONFIG"
SETTINGS_KEY = "callback_settings.luthien"
_NO_ENVIRONMENT: Mapping[str, str] = MappingProxyType({})


class QueueSettings(Section):
    """Queue of outgoing chunks to a client."""

    max_items: Annotated[int, Field(gt=0)] = MAX_ITEMS
    put_timeout_s: Seconds = PUT_TIMEOUT_S
    """Wait of a full queue for a slow client, in seconds."""


class LimitsSettings(Section):
    """Bounds of requests, responses and policies."""

    max_stream_bytes: Annotated[int, Field(gt=0)] = DEFAULT_LIMITS.max_stream_bytes
    """Size of one response, in bytes of its stream or characters of its texts. A larger one is ended with a notice."""
    max_held_bytes: Annotated[int, Field(gt=0)] = DEFAULT_LIMITS.max_held_bytes
    """Memory for the held responses of a worker process, approximately. A policy that holds more fails."""
    max_hold_s: Seconds = DEFAULT_LIMITS.max_hold_s
    """Time of all hooks of one transaction, `keepalive()` or not, in seconds."""
    max_request_values: Annotated[int, Field(gt=0)] = DEFAULT_LIMITS.max_request_values
    """Values of one request: fields, and items of lists except numbers. A larger request is refused with status 413."""
    max_judged_characters: Annotated[int, Field(gt=0)] = DEFAULT_LIMITS.max_judged_characters
    """Characters judged by all policies of one transaction. A text counts once for each policy, a change to it as 250
    more, a shell command ten times more. Blocks beyond the limit are blocked as too large to judge."""
    max_judged_blocks: Annotated[int, Field(gt=0)] = DEFAULT_LIMITS.max_judged_blocks
    """The same limit for the texts and tool calls of a response: each counts once for each policy."""


Bodies = Literal["follow_litellm", "always", "never"]
Unselected = Literal["pass", "refuse"]
Originals = Literal["always", "never"]
Readers = Literal["admins", "owners"]
Store = Literal["auto", "spend_logs", "sqlite", "off"]
State = Literal["auto", "sqlite", "postgres", "redis"]


def _off(given: object) -> object:
    """Returns "off" for a YAML 1.1 reader's `off`, which is false."""
    return "off" if given is False else given


class RecordSettings(Section):
    """Records of transactions: their place and their content."""

    store: Annotated[Store, BeforeValidator(_off)] = "auto"
    """Place of the records: LiteLLM's spend logs, a file of SQLite, or none. `auto` takes the spend logs, and the file
    where the proxy has no database. `LUTHIEN_RECORDS` names the file."""
    max_days: Annotated[float, Field(gt=0, le=36_500)] = 30
    """Age at which a record leaves the file, in days. LiteLLM's own settings bound its spend logs."""
    max_bytes: Annotated[int, Field(gt=0)] = 500_000_000
    """Size of the file. The oldest records leave a larger one."""

    bodies: Bodies = "follow_litellm"
    """The texts of requests and responses: stored if LiteLLM's `store_prompts_in_spend_logs` is on, always, or never.
    """
    original: Originals = "always"
    """A request that policies changed, as the client sent it: stored with the texts, or never, for policies that redact
    on purpose. With `never` its decisions have no quotes either."""
    readable_by: Readers = "admins"
    """`admins` seals reasons, evidence and texts: the holder of the proxy's salt or master key opens them. `owners`
    leaves them in clear for all who may read the row, such as the owner of the client's key. In the file they are in
    clear: it belongs to the proxy's user alone."""


class EventsSettings(Section):
    """Sinks for events of transactions, beside OpenTelemetry."""

    jsonl: str | None = None
    """File for the events, one line of JSON each; "-" is standard output."""
    redis: str | bool = False
    """URL of a Redis, for the stream `luthien:events`. `true` takes REDIS_URL, else the proxy's own Redis."""


class Approvers(Section):
    """People who may decide about a tool call, beside the proxy's admins. Their keys need
    `allowed_routes: ["/luthien/approvals", "/luthien/grants"]`."""

    users: tuple[str, ...] = ()
    """Ids of users."""
    teams: tuple[str, ...] = ()
    """Ids or aliases of teams; the key's team counts."""


class NotifySettings(Section):
    """Webhook that is told when a call begins to wait for a person."""

    url: Annotated[str, BeforeValidator(resolve_environment), Field(pattern=r"^https?://[^/]", repr=False)]
    """Address for a POST with JSON; its `text` is for Slack and chats like it. Or "os.environ/NAME"."""
    secret: Annotated[str | None, BeforeValidator(resolve_environment), Field(min_length=1, repr=False)] = None
    """Secret for the header `Luthien-Signature`, or "os.environ/NAME"."""
    with_arguments: bool = False
    """Adds the call's arguments, as the model wrote them."""


_DEFAULT_TERMS = Terms()
_Hold = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ApprovalsSettings(Section):
    """Questions to people about tool calls, for policies that ask."""

    hold_s: _Hold = _DEFAULT_TERMS.hold_s
    """Longest wait of a streamed response for a decision, in seconds. Then the call is refused, and passes when it is
    made again after an approval. 0 refuses at once."""
    hold_full_s: _Hold = _DEFAULT_TERMS.hold_full_s
    """The same for a full response, whose client gets no sign of life meanwhile."""
    valid_s: Seconds = _DEFAULT_TERMS.valid_s
    """Time in which a call can be decided, and from then on the time in which the decision counts, in seconds."""
    in_client: bool = False
    """A client that asks for verdicts on its tool calls, as Claude Code does in its auto mode, gets the call flagged,
    and leaves it to its own user. Nothing holds the call then: whoever has the key can run it."""
    approvers: Approvers = Approvers()
    notify: tuple[NotifySettings, ...] = ()
    """Webhooks."""

    @field_validator("valid_s")
    @classmethod
    def _outlasts_the_hold(cls, valid_s: float, info: ValidationInfo) -> float:
        if valid_s < max(info.data.get("hold_s", 0.0), info.data.get("hold_full_s", 0.0)):
            raise ValueError("should be at least hold_s and hold_full_s")
        return valid_s

    @property
    def terms(self) -> Terms:
        """Times for the gate."""
        return Terms(self.hold_s, self.hold_full_s, self.valid_s, self.in_client)

    def within(self, limits: LimitsSettings) -> "ApprovalsSettings":
        """Returns the settings with a default hold of at most half of `limits.max_hold_s`."""
        hold_s = self.hold_s if "hold_s" in self.model_fields_set else min(self.hold_s, limits.max_hold_s / 2)
        return self.model_copy(update={"hold_s": hold_s})


class UiSettings(Section):
    """Monitor page at `/luthien/ui`."""

    enabled: bool = False
    url: str | None = None
    """Address of the page as browsers have it, such as `https://llm.example.com/luthien/ui`: for the log, for links to
    it, and for LiteLLM's Admin UI. Cookies of an `https` address travel encrypted only."""

    @field_validator("url")
    @classmethod
    def _is_absolute(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("should be an absolute address, such as https://llm.example.com/luthien/ui")
        return url.rstrip("/")


class Settings(Section):
    """Settings under `callback_settings.luthien`."""

    policy: PolicySpec
    enforce: Enforce = True
    """The requests on which the policies have an effect; on the others they only observe. A policy's own `enforce`
    narrows it."""
    on_block: OnBlock = "notice"
    """Reply to a refused request, and to a full response that is ended: a normal response with the notice, or an HTTP
    error. A stream that has begun always ends with the notice. `retry` is `notice`, and asks the model once more if all
    tool calls of a response were withheld."""
    block_status: Annotated[int, Field(ge=400, le=599)] = 403
    """HTTP status of `on_block: error`."""
    unjudged: Unjudged = "withhold"
    """Unknown parts of a response: withheld where a policy judges the response, or forwarded."""
    ungoverned_routes: Literal["refuse", "allow"] | tuple[str, ...] = "refuse"
    """Routes with responses invisible to policies: refused or allowed; a list names those to allow."""
    unselected: Unselected = "pass"
    """Requests without a policy, since no `when` matches them: forwarded or refused."""
    ping_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = PING_S
    """Wait of a client for a policy before the stream carries a ping, in seconds. 0 sends none."""
    queue: QueueSettings = QueueSettings()
    limits: LimitsSettings = LimitsSettings()
    record: RecordSettings = RecordSettings()
    events: EventsSettings = EventsSettings()
    approvals: ApprovalsSettings = ApprovalsSettings()
    state: State = "auto"
    """Place of what workers share, such as approvals: a file of SQLite beside the records, or the proxy's PostgreSQL or
    Redis. `auto` takes the first that the proxy has: PostgreSQL, Redis, the file."""
    ui: UiSettings = UiSettings()

    @field_validator("approvals")
    @classmethod
    def _is_within_the_limits(cls, approvals: ApprovalsSettings, info: ValidationInfo) -> ApprovalsSettings:
        limits: LimitsSettings | None = info.data.get("limits")
        if limits is None:
            return approvals
        longest = max(approvals.within(limits).hold_s, approvals.hold_full_s)
        if longest >= limits.max_hold_s:
            raise ValueError(f"a hold should be shorter than limits.max_hold_s, which is {limits.max_hold_s:g}")
        return approvals


class _PolicyFile(Section):
    policy: PolicySpec


def load_settings(callback_settings: Mapping[str, object], environment: Mapping[str, str]) -> Settings:
    """Loads the settings from LiteLLM's `callback_settings`, with the policy of the file that the variable
    `LUTHIEN_POLICY_CONFIG` names. Raises `ConfigError`."""
    given: object = callback_settings.get("luthien")
    path = environment.get(POLICY_FILE_VARIABLE)
    if given is None and not path:
        near = nearest("luthien", callback_settings.keys() - {"luthien"})
        message = (
            f"no policy is set: write {SETTINGS_KEY}.policy in the LiteLLM config, or name a file with a `policy:` "
            f"in {POLICY_FILE_VARIABLE}"
        )
        hint = f"; did you mean callback_settings.{near}?" if near else ""
        raise ConfigError(message + hint, [(SETTINGS_KEY, message + hint)])
    if path:
        given = _add_policy_file({} if given is None else given, path)
    return validate(Settings, given, where=SETTINGS_KEY)


def build_executor(
    settings: Settings, environment: Mapping[str, str] = _NO_ENVIRONMENT, where: str = SETTINGS_KEY
) -> PolicyExecutor:
    """Returns the executor of the settings' policy. Raises `ConfigError` with the policy's key."""
    path = environment.get(POLICY_FILE_VARIABLE)
    composition = load_composition(settings.policy, where=f"{path}.policy" if path else f"{where}.policy")
    return PolicyExecutor(
        composition if settings.enforce is True else Serial([composition], enforce=settings.enforce),
        on_block=settings.on_block,
        unjudged=settings.unjudged,
        max_items=settings.queue.max_items,
        put_timeout_s=settings.queue.put_timeout_s,
        ping_s=settings.ping_s,
        limits=Limits(**settings.limits.model_dump()),
    )


def version_of(settings: Settings, executor: PolicyExecutor) -> str:
    """Returns a version of the settings and policies, which stays the same after a restart."""
    members = [member.version for member in members_of(executor.composition)]
    return digest([settings.model_dump(), members])


def _add_policy_file(given: object, path: str) -> object:
    if not isinstance(given, Mapping):
        return given  # its validation fails
    if "policy" in given:
        message = (
            f"duplicate policy: {SETTINGS_KEY}.policy and the file {path}, "
            f"which {POLICY_FILE_VARIABLE} names, both set it; remove one"
        )
        raise ConfigError(message, [(f"{SETTINGS_KEY}.policy", message)])
    try:
        content: object = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: an impossible date
        raise ConfigError.at((POLICY_FILE_VARIABLE, f"{path} cannot be read: {error}")) from error
    policy_file = validate(_PolicyFile, content, where=path)
    return {**cast(Mapping[str, object], given), "policy": policy_file.policy}


GUARDRAIL = "luthien_litellm_hooks.LuthienGuardrail"
SHORT_NAME = "luthien"
"""Alternative name of the guardrail; LiteLLM knows it once the callback is loaded."""
DUPLICATE_NAME = "another guardrail has this name: give each its own"
"""Error for guardrails with the same name; LiteLLM would call either."""
PROCESS_WIDE = ("ungoverned_routes", "queue", "limits", "record", "events", "approvals", "state", "ui")
"""Settings shared by the callback and all guardrails."""
_LITELLMS_KEYS = ("guardrail", "mode", "default_on")
"""LiteLLM's own keys in `litellm_params`, for hints at misspelt ones."""
_MODES = {"pre_call", "post_call"}
_BLIND = ("run_in_parallel", "scan_raw_request")
"""LiteLLM's switches that hide the request from a guardrail, or ignore its changes."""


def load_guardrail_settings(given: Mapping[str, object], where: str) -> Settings:
    """Validates the settings in `given`: the plugin's keys, and all that LiteLLM does not know. `where` is their key.
    Raises `ConfigError`."""
    unknown = [key for key in given if key not in Settings.model_fields]
    if unknown:
        known = [*Settings.model_fields, *_LITELLMS_KEYS]
        raise ConfigError.at(*((f"{where}.{key}", f"unknown key{did_you_mean(key, known)}") for key in unknown))
    return validate(Settings, given, where)


def check_params(mode: object, params: Mapping[str, object], where: str) -> None:
    """Raises `ConfigError` if LiteLLM would not call the guardrail for requests and their responses."""
    modes = cast(Iterable[object], mode) if isinstance(mode, list | tuple) else (mode,)
    problems: list[tuple[str, str]] = []
    if {str(getattr(mode, "value", mode)) for mode in modes} != _MODES:
        message = "should be [pre_call, post_call]: a policy needs the request and the response, and has no other hooks"
        problems.append((f"{where}.mode", message))
    for key in _BLIND:
        if params.get(key):
            message = "a policy cannot run this way: LiteLLM would ignore its changes to the request"
            problems.append((f"{where}.{key}", message))
    if problems:
        raise ConfigError.at(*problems)


def check_process_wide(settings: Settings, where: str, first: Settings, first_key: str) -> None:
    """Raises `ConfigError` for each process-wide setting that differs from `first`, the settings under `first_key`."""
    message = f"applies to the whole proxy, and {first_key} has another value: set it only there"
    given = [key for key in PROCESS_WIDE if key in settings.model_fields_set]
    problems = [(f"{where}.{key}", message) for key in given if getattr(settings, key) != getattr(first, key)]
    if problems:
        raise ConfigError.at(*problems)
