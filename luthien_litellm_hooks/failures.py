"""A policy's failure: what it may do to an answer, and who is told what of it."""

from typing import Literal

from luthien_litellm_hooks.log_lines import logger
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.notices import NOTICE_MARK

OnPolicyError = Literal["block", "pass"]


def failure_notice(ctx: PolicyContext) -> str:
    """What a client is told when something of ours failed."""
    return f"{NOTICE_MARK} This answer was stopped because a policy check failed (transaction {ctx.transaction_id})."


def unread_notice(ctx: PolicyContext) -> str:
    """What a client is told that reads again after it was given up."""
    return f"{NOTICE_MARK} This answer was stopped because it was not read (transaction {ctx.transaction_id})."


def note_failure(ctx: PolicyContext, policy: str, on_policy_error: str, hook: str, error: Exception) -> None:
    """Tells the operator, and nobody else, how a policy failed."""
    ctx.note_error(hook, error)
    logger.error(
        "transaction %s: policy %s failed in %s (on_policy_error: %s)",
        ctx.transaction_id,
        policy,
        hook,
        on_policy_error,
        exc_info=error,
    )
