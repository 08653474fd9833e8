"""Settings of LiteLLM's with which records, or a part of them, are not kept; it says nothing of that itself."""

from collections.abc import Iterator

from luthien_litellm_hooks.checking.source import Finding
from luthien_litellm_hooks.checking.started import Start, items, mapping

_FIELDS = "general_settings.spend_logs_metadata_fields"
_SLOT = "spend_logs_metadata"
"""The member of a row's metadata that holds the record."""


def lost_records(start: Start) -> Iterator[Finding]:
    """A warning for each such setting."""
    general = start.section("general_settings")
    if general.get("disable_spend_logs") is True:
        message = "LiteLLM writes no spend logs, and with them no record of what policies did"
        yield start.finding("general_settings.disable_spend_logs", message, "warning")
    fields = mapping(general.get("spend_logs_metadata_fields"))
    included, excluded = fields.get("include"), fields.get("exclude")
    if included is not None and _SLOT not in items(included):
        message = f"LiteLLM drops the records of what policies did: add {_SLOT}"
        yield start.finding(f"{_FIELDS}.include", message, "warning")
    if _SLOT in items(excluded):
        message = f"LiteLLM drops the records of what policies did: take {_SLOT} out"
        yield start.finding(f"{_FIELDS}.exclude", message, "warning")


def unsealed_records(start: Start) -> Iterator[Finding]:
    """A warning if the proxy has no key, without which reasons and texts are not kept."""
    if not _has_key(start) and any(_is_sealed(section.given) for section in start.settings()):
        message = (
            "records will hold no reasons and no texts, for want of a key to seal them with: set LITELLM_SALT_KEY or a "
            "master key, or `record.readable_by: owners`"
        )
        yield start.finding("general_settings.master_key", message, "warning")


def _has_key(start: Start) -> bool:
    if start.section("general_settings").get("master_key"):
        return True
    names = ("LITELLM_SALT_KEY", "LITELLM_MASTER_KEY")
    return any(start.environment.get(name) for name in names)


def _is_sealed(settings: object) -> bool:
    """Whether these are settings, and do not leave records in clear."""
    given = mapping(settings)
    return bool(given) and mapping(given.get("record")).get("readable_by") != "owners"
