"""The guardrail that a LiteLLM config names: `luthien_litellm_hooks.LuthienGuardrail`."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from typing import Any, cast

from litellm.caching.dual_cache import DualCache
from litellm.integrations.custom_guardrail import CustomGuardrail
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.utils import pipeline_managed_guardrail_names
from litellm.types.guardrails import GuardrailEventHooks, LitellmParams
from litellm.types.utils import CallTypes, GenericGuardrailAPIInputs

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.guardrail_settings import check_params
from luthien_litellm_hooks.hooks import start
from luthien_litellm_hooks.hooks.config_file import checked_config
from luthien_litellm_hooks.hooks.governing import Governing, govern_deployment, in_stead_of_provider
from luthien_litellm_hooks.hooks.in_force import InForce
from luthien_litellm_hooks.hooks.playground import judged_answer, judged_request
from luthien_litellm_hooks.hooks.self_check import check_dispatch
from luthien_litellm_hooks.hooks.spend_logs import remove_forged
from luthien_litellm_hooks.hooks.transaction import Transaction, UngovernedError, current
from luthien_litellm_hooks.hooks.ungoverned import path_of, refusal
from luthien_litellm_hooks.hooks.versions import running
from luthien_litellm_hooks.log_lines import logger


class LuthienGuardrail(CustomGuardrail):
    """Runs those requests through a policy that LiteLLM selects it for, and their answers.

    LiteLLM selects when the request comes; what it would select for the answer does not count.
    Each hook stands in this class itself: LiteLLM does not see inherited ones.
    """

    use_native_lifecycle_hooks = True  # `apply_guardrail` is for the playground, not in place of the hooks

    def __init__(self, guardrail_name: str, event_hook: object, default_on: bool = False, **params: object) -> None:
        """As LiteLLM makes it from an entry's `litellm_params`. Raises `ConfigError`, on which LiteLLM
        does not start."""
        cast(Any, super()).__init__(guardrail_name=guardrail_name, event_hook=event_hook, default_on=default_on)
        try:
            in_force, governing = self._load(f"guardrails.{guardrail_name}.litellm_params", event_hook, params)
        except ConfigError as error:
            with checked_config():
                raise error
        self._name = guardrail_name
        self._in_force: InForce = in_force
        self._governing: Governing = governing
        check_dispatch(self)
        logger.info("%s: the guardrail %s is %s", running(), guardrail_name, in_force)

    def _load(self, where: str, event_hook: object, params: Mapping[str, object]) -> tuple[InForce, Governing]:
        check_params(event_hook, params, where)
        start.check_name(self)
        return start.join({key: value for key, value in params.items() if key not in LitellmParams.model_fields}, where)

    @property
    def in_force(self) -> InForce:
        """The policy, and what is set with it."""
        return self._in_force

    def should_run_guardrail(self, data: Mapping[str, Any], event_type: GuardrailEventHooks) -> bool:
        """Whether LiteLLM is to call the hook."""
        transaction = current.get()
        if event_type is GuardrailEventHooks.pre_call and transaction is not None and transaction.is_over:
            current.set(None)  # of the request before this one, which came on the same connection
        if event_type is GuardrailEventHooks.post_call and transaction is not None and self._name in transaction.asked:
            return True
        return bool(cast(Any, super()).should_run_guardrail(data, event_type))

    def get_guardrail_from_metadata(self, data: Mapping[str, Any]) -> list[Any]:
        """All that are selected, wherever LiteLLM has noted it. Its own code takes the first place that says
        anything, which on some routes is what the client has sent."""
        places = (data, data.get("metadata"), data.get("litellm_metadata"))
        return [name for place in places for name in _listed(place)]

    async def async_pre_call_hook(
        self, user_api_key_dict: UserAPIKeyAuth, cache: DualCache, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Before the provider is called. Returns `data`, changed in place if the policy wants it."""
        remove_forged(data)
        if self._name in pipeline_managed_guardrail_names(data, "post_call"):  # LiteLLM would not ask about the answer
            raise refusal(500, f"The request was refused: {self._name} cannot be a step of a pipeline.")
        await self._governing.request(self._name, self._in_force, user_api_key_dict, data, call_type)
        return data

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: object) -> dict[str, Any] | None:
        """Just before a provider is called: a client's request that LiteLLM has selected this guardrail for
        without asking it, such as one that falls back to a model that has it, stops here."""
        if not self._was_asked(current.get()) and self._is_selected_for(kwargs, call_type):
            logger.error("the guardrail %s was not asked about a request; it is refused", self._name)
            raise refusal(403, "The request was refused: its policy could not check it.")
        govern_deployment(kwargs)
        return in_stead_of_provider(kwargs, call_type)

    def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: UserAPIKeyAuth, response: AsyncIterable[object], request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """The client's stream for the provider's. The provider's own errors leave as they are."""
        self._withhold_unless_asked()
        return self._governing.stream(self._name, response, request_data, user_api_key_dict)

    async def async_post_call_success_hook(
        self, data: dict[str, Any], user_api_key_dict: UserAPIKeyAuth, response: object
    ) -> object:
        """The client's answer for the provider's full one."""
        self._withhold_unless_asked()
        return await self._governing.full(self._name, response)

    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: object, call_type: object
    ) -> None:
        """Nothing: LiteLLM would have an answer judged here and, for the client, once more."""

    async def async_pre_call_hook_on_messages(
        self, request_data: Mapping[str, object], messages: Sequence[Any]
    ) -> tuple[Any, ...]:
        """What LiteLLM has found in a vector store, which is no request of its own."""
        return tuple(messages)

    async def apply_guardrail(
        self,
        inputs: GenericGuardrailAPIInputs,
        request_data: dict[str, Any],
        input_type: str,
        logging_obj: object = None,
    ) -> GenericGuardrailAPIInputs:
        """What the policy makes of texts, each a request or an answer of its own: for LiteLLM's playground."""
        judged = judged_answer if input_type == "response" else judged_request
        texts = [await judged(self._in_force, text) for text in inputs.get("texts") or ()]
        return {**inputs, "texts": texts}

    def _is_selected_for(self, kwargs: dict[str, Any], call_type: object) -> bool:
        """Whether a client's request is for this guardrail; of MCP calls none is."""
        is_clients = path_of(kwargs) is not None and call_type is not CallTypes.call_mcp_tool
        return is_clients and cast(Any, super()).should_run_guardrail(kwargs, GuardrailEventHooks.pre_call) is True

    def _was_asked(self, transaction: Transaction | None) -> bool:
        """Whether about the request; of one that was answered before our turn, nobody needs to ask us."""
        return transaction is not None and (self._name in transaction.asked or transaction.in_stead is not None)

    def _withhold_unless_asked(self) -> None:
        if not self._was_asked(current.get()):
            logger.error("an answer came without a request that was checked; it is withheld")
            raise UngovernedError


def _listed(place: object) -> list[object]:
    given = cast(Mapping[str, object], place).get("guardrails") if isinstance(place, Mapping) else None
    return [given] if isinstance(given, str) else list(cast(Iterable[object], given or ()))
