"""What LiteLLM tells its callbacks, and no guardrail, of what it is about to log."""

from typing import Any

from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import UserAPIKeyAuth

from luthien_litellm_hooks.hooks.governing import Governing


class RecordWriter(CustomLogger):
    """Gives each transaction its record. The callback is one; where only guardrails govern, one of these stands in."""

    def __init__(self, governing: Governing) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]  # LiteLLM leaves its **kwargs untyped
        self._governing = governing

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: UserAPIKeyAuth,
        traceback_str: str | None = None,
    ) -> HTTPException | None:
        """Before a failure is logged, whoever failed. Returns what the client gets instead, where it may not
        be told what failed."""
        return await self._governing.failed(request_data, original_exception)

    async def async_logging_hook(
        self, kwargs: dict[str, Any], result: object, call_type: str
    ) -> tuple[dict[str, Any], object]:
        """Before an answer is logged, by anyone."""
        await self._governing.logged(kwargs)
        return kwargs, result
