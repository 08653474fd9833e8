"""The end of a provider's stream: its connection is closed, and what came is paid for."""

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, cast

import httpx
from litellm.proxy import proxy_server
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.common_request_processing import ProxyBaseLLMRequestProcessing

from luthien_litellm_hooks.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.worker import close_stream


class PaidFor:
    """A provider's stream. When it is closed because its client does not read, LiteLLM logs what came: by
    itself it would do so only when the client's connection ends, which may be never."""

    def __init__(
        self,
        response: AsyncIterable[object],
        kept: DefaultTransactionRecorder,
        request_data: dict[str, Any],
        user: UserAPIKeyAuth,
    ) -> None:
        self._response = response
        self._kept = kept
        self._request_data = request_data
        self._user = user

    def __aiter__(self) -> AsyncIterator[object]:
        return aiter(self._response)

    async def aclose(self) -> None:
        """Closes the stream, and the connection that LiteLLM leaves open when it closes one of Responses."""
        if self._kept.outcome == "client_disconnected":
            await cast(Any, ProxyBaseLLMRequestProcessing).finalize_streaming_generator_cleanup(
                None,
                self._request_data,
                _unwrapped(self._response),
                client_disconnected=True,
                user_api_key_dict=self._user,
                proxy_logging_obj=cast(Any, proxy_server).proxy_logging_obj,
            )
        await close_stream(self._response)
        connection: object = getattr(self._response, "response", None)
        if isinstance(connection, httpx.Response):
            await connection.aclose()


def _unwrapped(response: object) -> object:
    """The stream in LiteLLM's own wrapper, through which LiteLLM does not see on Python 3.12 and newer: there a
    protocol's check no longer asks `__getattr__`."""
    is_wrapped = type(response).__name__ == "_UpstreamStreamBoundary"
    return getattr(response, "_source", response) if is_wrapped else response
