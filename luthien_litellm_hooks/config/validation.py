"""Validation of settings: each error is a `ConfigError` with its key."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.policy.described import Described

ModelT = TypeVar("ModelT", bound=BaseModel)


class Section(Described):
    """Section of the settings."""


def validate(model: type[ModelT], given: object, where: str) -> ModelT:
    """Validates `given` as a `model`; `where` is its key. Raises `ConfigError`."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problems: dict[str, list[str]] = {}
        for item in error.errors(include_url=False):
            key = ".".join([where, *_path(given, item)])
            problems.setdefault(key, []).append(_explain(model, item, key))
        raise ConfigError.at(*((key, ", or: ".join(said)) for key, said in problems.items())) from None


def _path(given: object, error: Any) -> list[str]:
    """Returns the path of an error within `given`, without pydantic's union members."""
    path: list[str] = []
    for part in error["loc"]:
        if isinstance(given, Mapping) and part in given:
            given = cast(Mapping[object, object], given)[part]
        elif isinstance(given, list) and isinstance(part, int) and part < len(cast(list[object], given)):
            given = cast(list[object], given)[part]
        else:
            continue
        path.append(str(part))
    return [*path, str(error["loc"][-1])] if error["type"] == "missing" else path


def _explain(model: type[BaseModel], error: Any, key: str) -> str:
    if error["type"] == "extra_forbidden":
        return f"unknown key{did_you_mean(str(error['loc'][-1]), _keys(model, error['loc'][:-1]))}"
    if error["type"] == "missing":
        return "missing"
    if error["type"] in ("model_type", "dict_type"):
        return f"should be a mapping of keys to values, not {_shown(key, error['input'])}"
    return f"{error['msg']} (it is {_shown(key, error['input'])})"


def _shown(key: str, value: object) -> str:
    """Returns `value` for a message; only its type if it is long or may be a secret."""
    is_secret = any(word in key.rpartition(".")[2].lower() for word in ("key", "token", "secret", "password"))
    shown = repr(value)
    return f"a {type(value).__name__}" if is_secret or len(shown) > 60 else shown


def _keys(model: type[BaseModel], path: tuple[object, ...]) -> list[str]:
    for part in path:
        if isinstance(part, int):
            continue  # an index in a list
        inner = next((field for name, field in model.model_fields.items() if part in (name, field.alias)), None)
        if inner is None:
            continue  # a member of a union
        found = _model_in(inner.annotation)
        if found is None:
            return []
        model = found
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Returns the model in a field's type: itself, in a list, or optional."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner)) is not None), None)


def did_you_mean(name: str, known: Iterable[object]) -> str:
    """Returns a hint at the name in `known` closest to `name`; "" if none is close."""
    found = nearest(name, known)
    return f"; did you mean {found!r}?" if found else ""


def nearest(name: str, known: Iterable[object]) -> str | None:
    """Returns the name in `known` closest to `name`, if any is close."""
    return next(iter(difflib.get_close_matches(name, [key for key in known if isinstance(key, str)], n=1)), None)
