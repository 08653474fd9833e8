"""The names of the models that may answer a request: LiteLLM has several for one model, and may change to another."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import litellm
from litellm.proxy import proxy_server
from litellm.router import Router
from litellm.router_utils.fallback_event_handlers import get_fallback_model_group

from luthien_litellm_hooks.hooks import extra_body
from luthien_litellm_hooks.hooks.client_request import headers_of

_FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
_STRATEGY = "auto_router/"
_CHOOSING = ("auto_routers", "complexity_routers", "adaptive_routers", "quality_routers")
"""Of a router: what chooses among models by what is asked."""
_AGENT = "x-claude-code-agent-id"
"""The header of agents whose session a router may have bound to its choice, whatever they ask for."""


def models_of(data: Mapping[str, Any], named_by_client: object, team_id: str | None) -> Collection[str] | None:
    """All names of the models that LiteLLM's `data` ask for, and of those that the operator lets it fall back
    on. None if they cannot be told: the model is another's choice, or a prompt's that LiteLLM puts in later."""
    if any(data.get(key) for key in ("user_config", "prompt_id")):
        return None
    later = _mapping(data.get("context_window_fallback_dict"))
    asked = _names([data.get("model"), named_by_client, *extra_body.models(data), *later.values()])
    router = cast(Router | None, cast(Any, proxy_server).llm_router)
    if router is None:
        return _with_stripped(asked)
    return _Names(router, data, team_id).all_of(asked)


class _Names:
    """Goes from each name to those that a router takes in its place."""

    def __init__(self, router: Router, data: Mapping[str, Any], team_id: str | None) -> None:
        self._router: Any = router
        self._team_id = team_id
        override: object = data.get("router_settings_override")
        self._override: Mapping[str, Any] = _mapping(override)
        self._is_bound = _AGENT in headers_of(data) and any(getattr(router, choosing, None) for choosing in _CHOOSING)

    def all_of(self, asked: Iterable[str]) -> Collection[str] | None:
        groups, labels, to_do = set[str](), set[str](), list(asked)
        while to_do:
            name = to_do.pop()
            if name in groups:
                continue
            groups.add(name)
            deployments = self._deployments(name)
            if self._is_bound or any(_is_chosen_later(deployment) for deployment in deployments):
                return None
            labels.update(label for deployment in deployments for label in _labels(deployment))
            to_do += self._next(name, has_deployments=bool(deployments))
        return _with_stripped(groups | labels)

    def _deployments(self, name: str) -> list[Mapping[str, Any]]:
        """What LiteLLM would choose from, as the router's own `_common_checks_available_deployment` finds it."""
        found: list[Mapping[str, Any]] = list(self._router.get_model_list(model_name=name, team_id=self._team_id) or ())
        patterns: list[Any] = [self._router.pattern_router]
        patterns += [own for team, own in self._router.team_pattern_routers.items() if team == self._team_id]
        for pattern in patterns:
            found += cast(list[Mapping[str, Any]], pattern.get_deployments_by_pattern(model=name))
        if name not in self._router.model_names and self._router.has_model_id(name):
            found += [one for one in self._router.model_list if one["model_info"]["id"] == name]
        return found or [one for one in self._router.model_list if one["litellm_params"]["model"] == name]

    def _next(self, name: str, *, has_deployments: bool) -> Iterator[str]:
        alias: object = _mapping(self._override.get("model_group_alias")).get(name)
        yield from _names([cast(Any, litellm).model_alias_map.get(name), self._router.get_model_from_alias(model=name)])
        yield from _names([_mapping(alias).get("model", alias)])
        group: Any = self._router.get_routing_group(name)
        yield from _names(group.models if group is not None else ())
        for field in _FALLBACKS:
            for listed in (getattr(self._router, field), self._override.get(field)):
                yield from _fallbacks_of(name, cast(list[object], listed) if isinstance(listed, list) else [])
        if not has_deployments and self._router.default_deployment is not None:
            yield str(self._router.default_deployment["litellm_params"]["model"])


def _fallbacks_of(name: str, listed: Sequence[object]) -> Iterator[str]:
    """What a list has for this model: names, or fields, or names by that of a model."""
    mappings = [named for entry in listed if (named := _mapping(entry)) and "model" not in named]
    found, of_any = get_fallback_model_group(fallbacks=mappings, model_group=name)
    targets: list[object] = [entry for entry in listed if entry not in mappings]
    targets += found or ()
    targets += mappings[of_any]["*"] if of_any is not None else ()
    yield from _names(_mapping(target).get("model", target) for target in targets)


def _labels(deployment: Mapping[str, Any]) -> Iterator[str]:
    info = cast(Mapping[str, Any], deployment.get("model_info") or {})
    names = (
        deployment.get("model_name"),
        info.get("team_public_model_name"),
        deployment["litellm_params"].get("model"),
    )
    yield from (name for name in names if isinstance(name, str))


def _is_chosen_later(deployment: Mapping[str, Any]) -> bool:
    params = _mapping(deployment["litellm_params"])
    return str(params.get("model")).startswith(_STRATEGY) or bool(params.get("prompt_id"))


def _mapping(value: object) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}


def _names(values: Iterable[object]) -> list[str]:
    """The names in `values`: several may stand in one, with commas between them."""
    return [name.strip() for value in values if isinstance(value, str) for name in (value, *value.split(","))]


def _with_stripped(names: Iterable[str]) -> Collection[str]:
    """These names, and what they are without the names of providers before them."""
    found = set[str]()
    for name in names:
        found.add(name)
        provider, _, rest = name.partition("/")
        while rest and provider in cast(Any, litellm).provider_list:
            found.add(rest)
            provider, _, rest = rest.partition("/")
    return found
