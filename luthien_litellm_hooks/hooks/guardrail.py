"""Guardrail that a LiteLLM config names: `luthien_litellm_hooks.LuthienGuardrail`; and its part of LiteLLM's
playground."""

import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from typing import Any, cast

import litellm
from litellm.caching.dual_cache import DualCache
from litellm.integrations.custom_guardrail import CustomGuardrail
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.utils import pipeline_managed_guardrail_names
from litellm.types.guardrails import Guardrail, GuardrailEventHooks, LitellmParams
from litellm.types.utils import CallTypes, Choices, GenericGuardrailAPIInputs, Message, ModelResponse

from luthien_litellm_hooks.config.settings import check_params
from luthien_litellm_hooks.errors import ConfigError, PolicyBlockedError
from luthien_litellm_hooks.hooks import running
from luthien_litellm_hooks.hooks.active_policy import ActivePolicy
from luthien_litellm_hooks.hooks.callback import check_dispatch
from luthien_litellm_hooks.hooks.config_file import checked_config
from luthien_litellm_hooks.hooks.enforcement import Enforcement, govern_deployment, replaced_provider
from luthien_litellm_hooks.hooks.routes import adapter_for, path_of, refusal
from luthien_litellm_hooks.hooks.spend_logs import strip_client_metadata
from luthien_litellm_hooks.hooks.startup import build_guardrail, check_name
from luthien_litellm_hooks.hooks.transaction import Transaction, UngovernedError, current_transaction, set_current
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.telemetry.log_lines import logger


class LuthienGuardrail(CustomGuardrail):
    """Guardrail with a policy for the requests of LiteLLM's selection, and for their responses.

    LiteLLM selects when the request comes; its selection for the response does not count. Each hook is defined in this
    class itself: LiteLLM does not see inherited ones.
    """

    use_native_lifecycle_hooks = True  # `apply_guardrail` is for the playground, and does not replace the hooks

    def __init__(self, guardrail_name: str, event_hook: object, default_on: bool = False, **params: object) -> None:
        """Takes an entry's `litellm_params`. Raises `ConfigError`, and then LiteLLM does not start."""
        cast(Any, super()).__init__(guardrail_name=guardrail_name, event_hook=event_hook, default_on=default_on)
        try:
            in_force, enforcement = self._load(f"guardrails.{guardrail_name}.litellm_params", event_hook, params)
        except ConfigError as error:
            with checked_config():
                raise error
        self._name = guardrail_name
        self._in_force: ActivePolicy = in_force
        self._enforcement: Enforcement = enforcement
        check_dispatch(self)
        logger.info("%s: the guardrail %s is %s", running(), guardrail_name, in_force)

    def _load(self, where: str, event_hook: object, params: Mapping[str, object]) -> tuple[ActivePolicy, Enforcement]:
        check_params(event_hook, params, where)
        check_name(self)
        return build_guardrail(
            {key: value for key, value in params.items() if key not in LitellmParams.model_fields}, where
        )

    @property
    def in_force(self) -> ActivePolicy:
        return self._in_force

    def should_run_guardrail(self, data: Mapping[str, Any], event_type: GuardrailEventHooks) -> bool:
        """Returns whether LiteLLM calls the hook."""
        transaction = current_transaction()
        if event_type is GuardrailEventHooks.pre_call and transaction is not None and transaction.is_over:
            set_current(None)  # it belongs to the request before this one, on the same connection
        if (
            event_type is GuardrailEventHooks.post_call
            and transaction is not None
            and self._name in transaction.seen_by
        ):
            return True
        return bool(cast(Any, super()).should_run_guardrail(data, event_type))

    def get_guardrail_from_metadata(self, data: Mapping[str, Any]) -> list[Any]:
        """Returns all selected guardrails, from all of LiteLLM's places for them.

        LiteLLM's own code takes the first filled place; on some routes the client has filled it.
        """
        places = (data, data.get("metadata"), data.get("litellm_metadata"))
        return [name for place in places for name in _listed(place)]

    async def async_pre_call_hook(
        self, user_api_key_dict: UserAPIKeyAuth, cache: DualCache, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Runs before the provider is called. Returns `data`, changed in place."""
        strip_client_metadata(data)
        if self._name in pipeline_managed_guardrail_names(data, "post_call"):
            # LiteLLM would not call the hook of the response.
            raise refusal(500, f"The request was refused: {self._name} cannot be a step of a pipeline.")
        await self._enforcement.on_request(self._name, self._in_force, user_api_key_dict, data, call_type)
        return data

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: object) -> dict[str, Any] | None:
        """Refuses a client's request if LiteLLM has selected this guardrail without calling its request hook.

        Such a request may fall back to a model with the guardrail.
        """
        if not self._saw_request(current_transaction()) and self._is_selected_for(kwargs, call_type):
            logger.error("the guardrail %s was not asked about a request; it is refused", self._name)
            raise refusal(403, "The request was refused: its policy could not check it.")
        govern_deployment(kwargs)
        return replaced_provider(kwargs, call_type)

    def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: UserAPIKeyAuth, response: AsyncIterable[object], request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Returns the client's stream. The provider's own errors leave unchanged."""
        self._require_request()
        return self._enforcement.on_stream(self._name, response, request_data, user_api_key_dict)

    async def async_post_call_success_hook(
        self, data: dict[str, Any], user_api_key_dict: UserAPIKeyAuth, response: object
    ) -> object:
        """Returns the client's full response."""
        self._require_request()
        return await self._enforcement.on_response(self._name, response, data)

    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: object, call_type: object
    ) -> None:
        """Does nothing: otherwise LiteLLM would have a response judged here, and for the client once more."""

    async def async_pre_call_hook_on_messages(
        self, request_data: Mapping[str, object], messages: Sequence[Any]
    ) -> tuple[Any, ...]:
        """Returns the results of a vector store unchanged: they are not a request of their own."""
        return tuple(messages)

    async def apply_guardrail(
        self,
        inputs: GenericGuardrailAPIInputs,
        request_data: dict[str, Any],
        input_type: str,
        logging_obj: object = None,
    ) -> GenericGuardrailAPIInputs:
        """Judges texts for LiteLLM's playground, each as a request or a response of its own."""
        judged = judged_response if input_type == "response" else judged_request
        texts = [await judged(self._in_force, text) for text in inputs.get("texts") or ()]
        return {**inputs, "texts": texts}

    def _is_selected_for(self, kwargs: dict[str, Any], call_type: object) -> bool:
        """Returns whether LiteLLM selects this guardrail for a client's request; it selects none for MCP calls."""
        is_clients = path_of(kwargs) is not None and call_type is not CallTypes.call_mcp_tool
        return is_clients and cast(Any, super()).should_run_guardrail(kwargs, GuardrailEventHooks.pre_call) is True

    def _saw_request(self, transaction: Transaction | None) -> bool:
        """Returns whether LiteLLM called the request hook, or a policy answered the request before this guardrail's
        turn."""
        return transaction is not None and (
            self._name in transaction.seen_by or transaction.immediate_answer is not None
        )

    def _require_request(self) -> None:
        if not self._saw_request(current_transaction()):
            logger.error("a response came without a checked request; it is withheld")
            raise UngovernedError


def _listed(place: object) -> list[object]:
    given = cast(Mapping[str, object], place).get("guardrails") if isinstance(place, Mapping) else None
    return [given] if isinstance(given, str) else list(cast(Iterable[object], given or ()))


def initialize_guardrail(litellm_params: LitellmParams, guardrail: Guardrail) -> CustomGuardrail:
    """Makes a guardrail that a config names by its short name. LiteLLM has no other way to one."""
    given = litellm_params.model_dump(exclude_none=True, exclude={"guardrail", "mode", "default_on", "stream_scope"})
    made = LuthienGuardrail(
        guardrail_name=guardrail["guardrail_name"],
        event_hook=litellm_params.mode,
        default_on=bool(litellm_params.default_on),
        **given,
    )
    litellm.logging_callback_manager.add_litellm_callback(made)
    return made


async def judged_request(in_force: ActivePolicy, text: str) -> str:
    """Returns a user's text as the provider would get it, or the policy's answer to it. Raises a refusal if that is an
    error."""
    context = _context(text)
    try:
        result = await in_force.executor.on_request(context)
    except PolicyBlockedError as blocked:
        if in_force.executor.on_block == "error":
            raise refusal(in_force.block_status, blocked.message) from None
        return blocked.message
    return result.text if isinstance(result, Answer) else str(result.body["messages"][-1]["content"])


async def judged_response(in_force: ActivePolicy, text: str) -> str:
    """Returns a response's text as the client would get it. Raises a refusal if that is an error."""
    context = _context("")
    choice = Choices(index=0, finish_reason="stop", message=Message(role="assistant", content=text))
    response = ModelResponse(model=context.request.model, choices=[choice])
    adapter = adapter_for("acompletion", context.request)
    try:
        judged = cast(Any, await in_force.executor.run_full(response, adapter, context))
    except PolicyBlockedError as blocked:
        raise refusal(in_force.block_status, blocked.message) from None
    return str(judged.choices[0].message.content or "")


def _context(text: str) -> PolicyContext:
    body = {"model": "playground", "messages": [{"role": "user", "content": text}]}
    return PolicyContext(str(uuid.uuid4()), Request(body))
