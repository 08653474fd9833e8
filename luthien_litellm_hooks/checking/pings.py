"""Pings that LiteLLM writes into streams whose clients do not know them."""

from collections.abc import Iterator

from luthien_litellm_hooks.checking.source import Finding
from luthien_litellm_hooks.checking.started import Start, items, mapping

_PINGS = "sse_keepalive_ping_interval_seconds"
_GEMINI = ("gemini/", "vertex_ai/", "*")


def pings_on_gemini(start: Start) -> Iterator[Finding]:
    """LiteLLM's pings are comments, also on Gemini's route, where Google's own clients fail on them."""
    if start.section("litellm_settings").get(_PINGS) and any(
        map(_is_gemini, items(start.source.values.get("model_list")))
    ):
        message = "LiteLLM pings streams of Gemini's route too, where Google's clients fail: remove it if they are used"
        yield start.finding(f"litellm_settings.{_PINGS}", message, "warning")


def _is_gemini(entry: object) -> bool:
    return str(mapping(mapping(entry).get("litellm_params")).get("model")).startswith(_GEMINI)
