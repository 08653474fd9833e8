"""`luthien-hooks schema`: the JSON Schema of settings."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from luthien_litellm_hooks.config import Settings
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.inspection.output import complain, print_json
from luthien_litellm_hooks.policy_loading import COMPOSITIONS, config_model, short_names
from luthien_litellm_hooks.policy_spec import ParallelConfig, PolicySpec, SerialConfig, config_schema

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def run_schema(policy: str | None, *, is_of_file: bool) -> int:
    """Prints the schema of a policy's settings; without one that of all settings, or of a LiteLLM
    config with them. Returns 2 if there is no such policy."""
    try:
        schema = settings_schema() if policy is None else config_schema(policy)
    except ConfigError as error:
        complain(str(error))
        return 2
    print_json(_of_file(schema) if is_of_file and policy is None else schema)
    return 0


def settings_schema() -> dict[str, Any]:
    """What stands under `callback_settings.luthien`, with the settings of each policy that has a short name."""
    models = dict(_config_models())
    chosen: list[type[BaseModel]] = [Settings, PolicySpec, *models.values()]
    references, schema = models_json_schema([(model, "validation") for model in dict.fromkeys(chosen)])
    definitions = schema["$defs"]
    spec = definitions[_name(references[PolicySpec, "validation"])]
    spec["properties"]["class"]["examples"] = list(models)
    spec["allOf"] = [_choice(name, references[model, "validation"]) for name, model in models.items()]
    top = definitions.pop(_name(references[Settings, "validation"]))
    return {"$schema": _DIALECT, **top, "$defs": definitions}


def _config_models() -> Iterator[tuple[str, type[BaseModel]]]:
    yield from zip(COMPOSITIONS, (SerialConfig, ParallelConfig), strict=True)
    for name in short_names():
        try:
            yield name, config_model(name)
        except ConfigError as error:
            complain(str(error))


def _choice(name: str, reference: dict[str, Any]) -> dict[str, Any]:
    is_chosen = {"properties": {"class": {"const": name}}, "required": ["class"]}
    return {"if": is_chosen, "then": {"properties": {"config": reference}}}


def _name(reference: dict[str, Any]) -> str:
    return reference["$ref"].rpartition("/")[2]


def _of_file(settings: dict[str, Any]) -> dict[str, Any]:
    """A whole LiteLLM config, of which only our settings are told."""
    own = {key: value for key, value in settings.items() if key not in ("$schema", "$defs")}
    section = {"type": "object", "properties": {"luthien": own}}
    return {
        "$schema": _DIALECT,
        "type": "object",
        "properties": {"callback_settings": section},
        "$defs": settings["$defs"],
    }
