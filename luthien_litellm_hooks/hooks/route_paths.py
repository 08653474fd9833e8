"""The paths that lead to each governed route: a client may take any of them for the same request."""

from collections.abc import Mapping
from types import MappingProxyType

PATHS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "chat": (
            *("/v1/chat/completions", "/chat/completions"),
            *("/engines/{model}/chat/completions", "/openai/deployments/{model}/chat/completions"),
        ),
        "completions": (
            *("/v1/completions", "/completions"),
            *("/engines/{model}/completions", "/openai/deployments/{model}/completions"),
        ),
        "messages": ("/v1/messages",),
        "responses": ("/v1/responses", "/responses", "/openai/v1/responses", "/cursor/chat/completions"),
        "gemini": (
            *("/v1beta/models/{model}:generateContent", "/models/{model}:generateContent"),
            *("/v1beta/models/{model}:streamGenerateContent", "/models/{model}:streamGenerateContent"),
        ),
    }
)
"""LiteLLM's paths, by the route's name."""


def paths_of(route: str, model: str) -> tuple[str, ...]:
    """All paths of a route, for a request of this model."""
    return tuple(path.replace("{model}", model) for path in PATHS.get(route, ()))
