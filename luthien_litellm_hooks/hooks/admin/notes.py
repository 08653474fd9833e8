"""Notes to webhooks about tool calls that wait for a person."""

from collections.abc import Callable
from datetime import timedelta

from luthien_litellm_hooks.config.settings import ApprovalsSettings
from luthien_litellm_hooks.policy.asked_calls import AskedCall
from luthien_litellm_hooks.telemetry.log_lines import bounded_line
from luthien_litellm_hooks.telemetry.webhooks import Webhook, Webhooks

_MAX_NAME, _MAX_REASON = 100, 300
_MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""Characters with which a text would mention people, or link, in Slack."""


def notifier(settings: Callable[[], ApprovalsSettings], ui_url: str | None) -> Callable[[AskedCall], None]:
    """Returns a function that tells the webhooks of the present settings about a call, with a link to the page."""
    webhooks = Webhooks()

    def tell(call: AskedCall) -> None:
        for each in settings().notify:
            note = note_of(call, ui_url, with_arguments=each.with_arguments)
            webhooks.send(Webhook(each.url, each.secret), note)

    return tell


def note_of(call: AskedCall, ui_url: str | None, *, with_arguments: bool) -> dict[str, object]:
    """Returns the note: `text` for a chat, and the same in fields. Arguments, and words of the user, are left out."""
    link = None if ui_url is None else f"{ui_url}/approvals#a-{call.id}"
    tool, reason = bounded_line(call.tool, _MAX_NAME), bounded_line(call.reason or "no reason given", _MAX_REASON)
    who = call.key_alias or call.user_id or (call.key_hash or "")[:8]
    where = link or f"`luthien-hooks approvals show {call.id}`"
    text = f"A call of {tool} by {bounded_line(who, _MAX_NAME)} waits for a person ({call.id}): {reason}."
    note: dict[str, object] = {
        "type": "approval.asked",
        "text": f"{text.translate(_MARKUP)} {where}",
        "id": call.id,
        "digest": call.digest,
        "tool": call.tool,
        "policy": call.policy,
        "reason": call.reason,
        "transaction_id": call.transaction,
        "session": call.session,
        "model": call.model,
        "key_alias": call.key_alias,
        "user_id": call.user_id,
        "team_id": call.team_id,
        "team_alias": call.team_alias,
        "asked_at": call.asked_at.isoformat(),
        "ends_at": (call.asked_at + timedelta(seconds=call.valid_s)).isoformat(),
        "url": link,
    }
    return note | {"arguments": call.arguments} if with_arguments else note
