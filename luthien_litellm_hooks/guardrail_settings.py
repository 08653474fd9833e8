"""What a guardrail's `litellm_params` must say, beside what LiteLLM wants of them."""

from collections.abc import Iterable, Mapping
from typing import cast

from luthien_litellm_hooks.config import Settings
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.validation import similar, validate

GUARDRAIL = "luthien_litellm_hooks.LuthienGuardrail"
SHORT_NAME = "luthien"
"""What the guardrail is also called where the callback is loaded."""
PROCESS_WIDE = ("ungoverned_routes", "queue", "limits", "record", "events")
"""The settings that the callback and all guardrails have in common."""
_LITELLMS_KEYS = ("guardrail", "mode", "default_on")
"""That are most likely to stand beside the plugin's."""
_MODES = {"pre_call", "post_call"}
_BLIND = ("run_in_parallel", "scan_raw_request")
"""LiteLLM's switches that take the request from a guardrail, or what the guardrail makes of it."""


def load_guardrail_settings(given: Mapping[str, object], where: str) -> Settings:
    """The settings in `given`, the plugin's keys and all that LiteLLM does not know. `where` is the key
    that they stand under. Raises `ConfigError`."""
    strange = [key for key in given if key not in Settings.model_fields]
    if strange:
        known = [*Settings.model_fields, *_LITELLMS_KEYS]
        raise ConfigError.at(*((f"{where}.{key}", f"unknown key{similar(key, known)}") for key in strange))
    return validate(Settings, given, where)


def check_params(mode: object, params: Mapping[str, object], where: str) -> None:
    """Raises `ConfigError` if LiteLLM would not call the guardrail for requests and their answers."""
    modes = cast(Iterable[object], mode) if isinstance(mode, list | tuple) else (mode,)
    problems: list[tuple[str, str]] = []
    if {str(getattr(mode, "value", mode)) for mode in modes} != _MODES:
        what = "should be [pre_call, post_call]: a policy needs the request and the answer, and has no other hooks"
        problems.append((f"{where}.mode", what))
    for key in _BLIND:
        if params.get(key):
            what = "a policy cannot run so: it may change the request, which LiteLLM would then not notice"
            problems.append((f"{where}.{key}", what))
    if problems:
        raise ConfigError.at(*problems)


def check_process_wide(settings: Settings, where: str, first: Settings, whose: str) -> None:
    """Raises `ConfigError` for each setting that is one for the whole proxy, and differs from that of
    `first`, which stands under the key `whose`."""
    what = f"is one for the whole proxy, and {whose} says otherwise: set it there, and nowhere else"
    given = [key for key in PROCESS_WIDE if key in settings.model_fields_set]
    problems = [(f"{where}.{key}", what) for key in given if getattr(settings, key) != getattr(first, key)]
    if problems:
        raise ConfigError.at(*problems)
