"""The least that a plugin can do that holds tool calls: it lets each go, as it came, when its last piece is there.

How long that takes to reach the client is LiteLLM's own time.
"""

from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from benchmarks.streams import CALLS, MARK


class HoldingHook(CustomLogger):
    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: object, response: AsyncIterable[Any], request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        has_calls = str(request_data["model"]).endswith(f"/{CALLS}")
        held: list[Any] = []
        async for chunk in response:
            held.append(chunk)
            if not has_calls or MARK in str(chunk):
                for item in held:
                    yield item
                held = []
        for item in held:
            yield item


hook = HoldingHook()
