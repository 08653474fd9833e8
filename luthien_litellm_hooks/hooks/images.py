"""The prompts beside the pictures that a model made: revised by a model, they are its text."""

from collections.abc import Sequence
from typing import cast

from litellm.types.utils import ImageObject, ImageResponse

from luthien_litellm_hooks.adapters.texts import TextsAdapter
from luthien_litellm_hooks.executor import PolicyExecutor
from luthien_litellm_hooks.log_lines import logger
from luthien_litellm_hooks.policy.context import PolicyContext

_UNJUDGED = "provider_specific_fields"


async def govern_images(executor: PolicyExecutor, response: object, context: PolicyContext) -> object:
    """The answer that the client is to get, the same object if the policy changes nothing of it. A prompt that
    cannot be judged is left out; the picture stays."""
    if not isinstance(response, ImageResponse):
        return response
    pictures = cast(Sequence[ImageObject], response.data or ())
    came = [picture.revised_prompt for picture in pictures]
    if not any(came):
        return response
    try:
        texts = cast(Sequence[str | None], await executor.run_full(came, TextsAdapter(), context))
    except Exception:
        logger.exception("the prompt of a picture could not be checked; it is withheld")
        texts = [None] * len(came)
    if texts == came:
        return response
    judged = [
        picture if text == before else picture.model_copy(update={"revised_prompt": text, _UNJUDGED: None})
        for picture, before, text in zip(pictures, came, texts, strict=False)
    ]
    return response.model_copy(update={"data": judged})
