"""The least that a plugin of LiteLLM's can do to a stream: it hands on what it gets."""

from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any

from litellm.integrations.custom_logger import CustomLogger


class IdentityHook(CustomLogger):
    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: object, response: AsyncIterable[Any], request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        async for chunk in response:
            yield chunk


hook = IdentityHook()
