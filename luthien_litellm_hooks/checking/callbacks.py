"""Whether LiteLLM loads the plugin, once, and where it has the last word."""

from collections.abc import Iterator, Mapping
from typing import cast

from luthien_litellm_hooks.checking.source import Finding
from luthien_litellm_hooks.checking.started import CALLBACKS, SECTIONS, Start, names
from luthien_litellm_hooks.validation import nearest

CALLBACK = "luthien_litellm_hooks.luthien"
_OTHER_LISTS = ("success_callback", "failure_callback", "audit_log_callbacks", "post_call_rules")
_BEFORE_US = frozenset({"otel"})
"""LiteLLM's own callbacks that must stand before ours: their spans are the parents of ours."""


def misplaced(start: Start) -> Iterator[Finding]:
    """The plugin stands where LiteLLM loads it, and then calls none of the hooks that judge."""
    settings = start.section("litellm_settings")
    for name in _OTHER_LISTS:
        for number, entry in enumerate(names(settings.get(name))):
            if entry == CALLBACK:
                message = f"LiteLLM asks nobody in this list whether an answer may pass: move it to {CALLBACKS}"
                yield start.finding(f"litellm_settings.{name}.{number}", message)


def order(start: Start) -> Iterator[Finding]:
    """What stands behind the plugin, where it should be the last."""
    entries = start.callbacks()
    if CALLBACK not in entries:
        return
    first = entries.index(CALLBACK)
    for number, entry in enumerate(entries[first + 1 :], first + 1):
        key = f"{CALLBACKS}.{number}"
        if entry == CALLBACK:
            yield start.finding(key, "the plugin is named twice: every answer would be judged twice")
        elif entry in _BEFORE_US:
            yield start.finding(key, "should stand before the plugin, whose spans belong below its own", "warning")
        elif "." in entry:
            yield start.finding(key, "may change what the policy let out: name the plugin last", "warning")


def unnamed(start: Start) -> Iterator[Finding]:
    """Why LiteLLM would not load the plugin, which then cannot stop the start."""
    if is_named(start) or any(misplaced(start)):
        return
    if any(start.guardrails()):
        yield from _misspelt(start)
        return
    yield next(_misspelt(start), None) or start.finding(
        CALLBACKS, f"the plugin is not named, so LiteLLM starts without it: add {CALLBACK!r}"
    )


def is_named(start: Start) -> bool:
    """Whether LiteLLM loads the callback; it may load guardrails alone."""
    return any(_loads_us(entry, start) for entry in start.callbacks())


def _misspelt(start: Start) -> Iterator[Finding]:
    for number, entry in enumerate(start.callbacks()):
        if "luthien" in entry or nearest(entry, [CALLBACK]):
            yield start.finding(f"{CALLBACKS}.{number}", f"names nothing; did you mean {CALLBACK!r}?")
    top, settings = start.source.values, start.source.values.get("litellm_settings")
    for above, keys, name in (("", top, "litellm_settings"), ("litellm_settings.", settings, "callbacks")):
        near = _near_key(keys, name)
        if near:
            yield start.finding(f"{above}{near}", f"LiteLLM takes no notice of this key; did you mean {name!r}?")
    if "callbacks" in top:
        yield start.finding("callbacks", f"LiteLLM takes no notice of it here: write {CALLBACKS}")


def _near_key(keys: object, name: str) -> str | None:
    if not isinstance(keys, Mapping) or name in keys:
        return None
    return nearest(name, cast(Mapping[str, object], keys).keys() - {*SECTIONS, *_OTHER_LISTS})


def _loads_us(entry: str, start: Start) -> bool:
    """Whether LiteLLM finds the plugin under this name: installed, in a bucket, or beside the config."""
    if entry == CALLBACK:
        return True
    module, _, name = entry.rpartition(".")
    if not module or name != "luthien":
        return False
    beside = start.source.file.parent / f"{module.replace('.', '/')}.py"
    return entry.startswith(("s3://", "gcs://")) or beside.exists()
