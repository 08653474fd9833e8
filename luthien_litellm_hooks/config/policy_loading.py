"""Policies by the names in a config."""

import importlib
import inspect
from collections.abc import Iterable, Mapping, MutableMapping, MutableSequence, MutableSet
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import cast

from pydantic import BaseModel

from luthien_litellm_hooks.config.validation import did_you_mean, validate
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.policies import SHORT_NAMES
from luthien_litellm_hooks.policy.base import Policy

ENTRY_POINTS = "luthien_litellm_hooks.policies"
"""Entry-point group for policies of other packages, by short names."""

COMPOSITIONS = ("serial", "parallel")
"""Names of compositions of several policies."""


def load_policy(name: str, config: Mapping[str, object], where: str = "policy") -> Policy:
    """Loads and seals the policy called `name`: from then on its attributes cannot be set.

    `where` is the key of both arguments, for messages. Raises `ConfigError`.
    """
    cls = policy_class(name, where=f"{where}.class")
    try:
        policy = cls(validate(cls.Config, config, where=f"{where}.config"))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError.at((where, f"{name} cannot be created: {type(error).__name__}: {error}")) from error
    _check_is_stateless(policy, where)
    policy.seal()
    return policy


def config_model(name: str) -> type[BaseModel]:
    """Returns the settings model of the policy called `name`. Raises `ConfigError`."""
    return policy_class(name, where="class").Config


@cache
def short_names() -> Mapping[str, str]:
    """Maps each short name to "module:Class": our names, and those of installed packages. A duplicate name maps to both
    classes, so choosing it is an error."""
    names = dict(SHORT_NAMES)
    for entry in entry_points(group=ENTRY_POINTS):
        taken = names.get(entry.name, entry.value)
        names[entry.name] = entry.value if taken == entry.value else f"{taken} and {entry.value}"
    return MappingProxyType(names)


def policy_class(name: str, where: str) -> type[Policy]:
    """Returns the class called `name`; `where` is the key of the name. Raises `ConfigError`."""
    target = short_names().get(name, name)
    if " and " in target:
        raise ConfigError.at((where, f"duplicate name {name!r}: write {target.replace(' and ', ' or ')}"))
    module_name, _, class_name = target.partition(":")
    if not class_name:
        known = (*short_names(), *COMPOSITIONS)
        hint = f'known are {", ".join(known)}, or write "module:Class"'
        raise ConfigError.at((where, f"unknown policy {name!r}{did_you_mean(name, known)}; {hint}"))
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except Exception as error:
        message = f"{module_name} cannot be imported: {type(error).__name__}: {error}"
        raise ConfigError.at((where, message)) from error
    if found is None:
        message = f"{module_name} has no {class_name}{did_you_mean(class_name, _names(module_name))}"
        raise ConfigError.at((where, message))
    if not (isinstance(found, type) and issubclass(found, Policy)):
        raise ConfigError.at((where, f"{name} is not a subclass of luthien_litellm_hooks.Policy"))
    _check_hooks(found, where)
    return found


def _names(module_name: str) -> Iterable[str]:
    return vars(importlib.import_module(module_name))


def _check_hooks(cls: type[Policy], where: str) -> None:
    for name, hook in inspect.getmembers(Policy, inspect.iscoroutinefunction):
        if not inspect.iscoroutinefunction(getattr(cls, name)) and getattr(cls, name) is not hook:
            raise ConfigError.at((where, f"{cls.__name__}.{name} must be an `async def`"))


def _check_is_stateless(policy: Policy, where: str) -> None:
    own = {
        name: value for cls in type(policy).__mro__ if cls not in Policy.__mro__ for name, value in vars(cls).items()
    }
    for name, value in {**own, **vars(policy)}.items():
        if name.startswith("__"):
            continue
        kind = type(cast(object, value))
        if issubclass(kind, MutableSequence | MutableMapping | MutableSet):
            message = (
                f"{type(policy).__name__}.{name} is a {kind.__name__}, which all requests would share: "
                "keep the state of a request in ctx.scratchpad, and make a constant a tuple, frozenset or "
                "MappingProxyType"
            )
            raise ConfigError.at((where, message))
