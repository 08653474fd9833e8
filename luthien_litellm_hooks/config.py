"""Settings to a policy that runs; whatever is wrong with them is a `ConfigError` that says where."""

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping, MutableMapping, MutableSequence, MutableSet
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from luthien_litellm_hooks.egress import MAX_ITEMS, PUT_TIMEOUT_S
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.executor import HOOK_TIMEOUT_S, OnBlock, PolicyExecutor
from luthien_litellm_hooks.policies import SHORT_NAMES
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.running_answer import OnPolicyError

POLICY_FILE_VARIABLE = "LUTHIEN_POLICY_CONFIG"
SETTINGS_KEY = "callback_settings.luthien"
_NO_ENVIRONMENT: Mapping[str, str] = MappingProxyType({})

ModelT = TypeVar("ModelT", bound=BaseModel)
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PolicySpec(_Settings):
    """Which policy, its own settings, and what happens when it fails."""

    class_: str = Field(alias="class")
    """A short name, or "module:Class"."""
    config: dict[str, Any] = Field(default_factory=dict[str, Any])
    timeout_s: Seconds = HOOK_TIMEOUT_S
    """What one hook call may take without `keepalive()`, in seconds."""
    on_policy_error: OnPolicyError = "block"


class QueueSettings(_Settings):
    """The way out to a client."""

    max_items: Annotated[int, Field(gt=0)] = MAX_ITEMS
    put_timeout_s: Seconds = PUT_TIMEOUT_S
    """How long a full queue waits for a client that does not read, in seconds."""


class Settings(_Settings):
    """What stands under `callback_settings.luthien`."""

    policy: PolicySpec
    on_block: OnBlock = "notice"
    """What a refused request gets, and a full answer that is ended: a normal answer with the notice,
    or an HTTP error. A stream that has begun always ends with the notice."""
    block_status: Annotated[int, Field(ge=400, le=599)] = 403
    """The HTTP status of `on_block: error`."""
    ungoverned_routes: Literal["refuse", "allow"] | tuple[str, ...] = "refuse"
    """What becomes of routes whose answers no policy can see; a list names those to let through."""
    queue: QueueSettings = QueueSettings()


class _PolicyFile(_Settings):
    policy: PolicySpec


def load_settings(callback_settings: Mapping[str, object], environment: Mapping[str, str]) -> Settings:
    """The settings in LiteLLM's `callback_settings`, or the policy in the file that the variable
    `LUTHIEN_POLICY_CONFIG` names. Raises `ConfigError`."""
    given: object = callback_settings.get("luthien")
    path = environment.get(POLICY_FILE_VARIABLE)
    if given is None and not path:
        near = _nearest("luthien", callback_settings.keys() - {"luthien"})
        raise ConfigError(
            f"no policy is set: write {SETTINGS_KEY}.policy in the LiteLLM config, or name a file with a `policy:` "
            f"in {POLICY_FILE_VARIABLE}" + (f" (there is a callback_settings.{near}: is that it?)" if near else "")
        )
    if path:
        given = _add_policy_file({} if given is None else given, path)
    return _validate(Settings, given, where=SETTINGS_KEY)


def build_executor(settings: Settings, environment: Mapping[str, str] = _NO_ENVIRONMENT) -> PolicyExecutor:
    """The executor of the settings' policy. Raises `ConfigError`, which says where the policy stands."""
    spec = settings.policy
    path = environment.get(POLICY_FILE_VARIABLE)
    return PolicyExecutor(
        load_policy(spec, where=f"{path}: policy" if path else f"{SETTINGS_KEY}.policy"),
        name=spec.class_,
        timeout_s=spec.timeout_s,
        on_policy_error=spec.on_policy_error,
        on_block=settings.on_block,
        max_items=settings.queue.max_items,
        put_timeout_s=settings.queue.put_timeout_s,
    )


def load_policy(spec: PolicySpec, where: str = "policy") -> Policy:
    """The policy that `spec` names, sealed: from here on its attributes cannot be set.

    `where` is the key under which the spec stands, for messages. Raises `ConfigError`.
    """
    cls = _policy_class(spec.class_, where=f"{where}.class")
    try:
        config = _validate(cls.Config, spec.config, where=f"{where}.config")
        policy = cls(config)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{where}: {spec.class_} cannot be made: {type(error).__name__}: {error}") from error
    _check_is_stateless(policy, where)
    policy.seal()
    return policy


def _add_policy_file(given: object, path: str) -> object:
    if not isinstance(given, Mapping):
        return given  # and its validation says what is wrong
    if "policy" in given:
        raise ConfigError(
            f"the policy is set twice: in {SETTINGS_KEY}.policy and in the file {path}, "
            f"which {POLICY_FILE_VARIABLE} names; remove one"
        )
    try:
        content: object = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # yaml lets the ValueError of an impossible date through
        raise ConfigError(f"{POLICY_FILE_VARIABLE}: {path} cannot be read: {error}") from error
    policy_file = _validate(_PolicyFile, content, where=path)
    return {**cast(Mapping[str, object], given), "policy": policy_file.policy}


def _policy_class(name: str, where: str) -> type[Policy]:
    module_name, _, class_name = SHORT_NAMES.get(name, name).partition(":")
    if not class_name:
        raise ConfigError(
            f"{where}: no policy is called {name!r}{_similar(name, SHORT_NAMES)}; "
            f'known are {", ".join(SHORT_NAMES)}, or write "module:Class"'
        )
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except Exception as error:
        raise ConfigError(f"{where}: {module_name} cannot be imported: {type(error).__name__}: {error}") from error
    if found is None:
        raise ConfigError(f"{where}: {module_name} has no {class_name}{_similar(class_name, _names(module_name))}")
    if not (isinstance(found, type) and issubclass(found, Policy)):
        raise ConfigError(f"{where}: {name} is not a subclass of luthien_litellm_hooks.Policy")
    _check_hooks(found, where)
    return found


def _names(module_name: str) -> Iterable[str]:
    return vars(importlib.import_module(module_name))


def _check_hooks(cls: type[Policy], where: str) -> None:
    for name, hook in inspect.getmembers(Policy, inspect.iscoroutinefunction):
        if not inspect.iscoroutinefunction(getattr(cls, name)) and getattr(cls, name) is not hook:
            raise ConfigError(f"{where}: {cls.__name__}.{name} must be an `async def`")


def _check_is_stateless(policy: Policy, where: str) -> None:
    own = {
        name: value for cls in type(policy).__mro__ if cls not in Policy.__mro__ for name, value in vars(cls).items()
    }
    for name, value in {**own, **vars(policy)}.items():
        if name.startswith("__"):
            continue
        kind = type(cast(object, value))
        if issubclass(kind, MutableSequence | MutableMapping | MutableSet):
            raise ConfigError(
                f"{where}: {type(policy).__name__}.{name} is a {kind.__name__}, which all requests would share; "
                "keep what belongs to a request in ctx.scratchpad, and make a constant a tuple, frozenset or "
                "MappingProxyType"
            )


def _validate(model: type[ModelT], given: object, where: str) -> ModelT:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        lines = [_explain(model, item, where) for item in error.errors(include_url=False)]
        raise ConfigError("; ".join(lines)) from None


def _explain(model: type[BaseModel], error: Any, where: str) -> str:
    key = ".".join([where, *(str(part) for part in error["loc"])])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key{_similar(str(error['loc'][-1]), _keys(model, error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"{key}: missing"
    if error["type"] in ("model_type", "dict_type"):
        return f"{key}: should be a mapping of keys to values, not {_shown(key, error['input'])}"
    return f"{key}: {error['msg']} (it is {_shown(key, error['input'])})"


def _shown(key: str, value: object) -> str:
    """`value` for a message, or only its kind if it is long or may be a secret."""
    is_secret = any(word in key.rpartition(".")[2].lower() for word in ("key", "token", "secret", "password"))
    shown = repr(value)
    return f"a {type(value).__name__}" if is_secret or len(shown) > 60 else shown


def _keys(model: type[BaseModel], path: tuple[object, ...]) -> list[str]:
    for part in path:
        inner = next((field for name, field in model.model_fields.items() if part in (name, field.alias)), None)
        if inner is None or not (isinstance(inner.annotation, type) and issubclass(inner.annotation, BaseModel)):
            return []
        model = inner.annotation
    return [field.alias or name for name, field in model.model_fields.items()]


def _similar(name: str, known: Iterable[object]) -> str:
    found = _nearest(name, known)
    return f"; did you mean {found!r}?" if found else ""


def _nearest(name: str, known: Iterable[object]) -> str | None:
    return next(iter(difflib.get_close_matches(name, [key for key in known if isinstance(key, str)], n=1)), None)
