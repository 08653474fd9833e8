"""Units of the responses wire on their way out: those that came, and those that are ours, numbered in one row."""

from litellm.llms.openai.responses.transformation import OpenAIResponsesAPIConfig
from litellm.types.llms.openai import GenericEvent
from pydantic import BaseModel, ValidationError

from luthien_litellm_hooks.adapters.responses_parts import changed, get

_PLACE = frozenset({"item_id", "output_index", "content_index", "summary_index"})


class Units:
    """Writes units.

    As long as all that came leaves as it came, so do its units: the very objects. From the first
    unit on that does not, numbers are ours, and what repeats the answer repeats what left of it.
    """

    def __init__(self) -> None:
        self.is_own = False
        """What has left is no longer just what came."""
        self.is_whole = False
        """What is written now is a whole unit of the provider's."""
        self.is_observing = False
        """What is written now has left as it came."""
        self.count = 0
        """How many have left."""
        self.has_numbers = True
        self.latest_raw: BaseModel | None = None
        """The unit that left last, while they leave as they came."""
        self._number = -1

    def emit(self, raw: BaseModel, **changes: object) -> BaseModel:
        """`raw` with those of `changes` that it has fields for; `raw` itself if they change nothing."""
        self.count += 1
        if not self.is_own:
            self.latest_raw = raw
            return changed(raw, **{name: value for name, value in changes.items() if _may_change(raw, name)})
        if self.has_numbers and isinstance(get(raw, "sequence_number"), int):
            changes["sequence_number"] = self._next_number()
        return changed(raw, **{name: value for name, value in changes.items() if _must_say(raw, name)})

    def make(self, type: str, **content: object) -> BaseModel:
        """A unit of ours."""
        self.count += 1
        self.is_own = True
        if self.has_numbers:
            content["sequence_number"] = self._next_number()
        # LiteLLM's own classes of the other events refuse items that LiteLLM itself makes.
        made = OpenAIResponsesAPIConfig.get_event_model_class(type) if "response" in content else GenericEvent
        try:
            return made.model_validate({"type": type, **content})
        except ValidationError:  # what the provider's response says of itself is not as LiteLLM knows it
            return GenericEvent.model_validate({"type": type, **content})

    def _next_number(self) -> int:
        """One more than the unit before has, whether it came so or is ours."""
        if self.latest_raw is not None:
            number, self.latest_raw = get(self.latest_raw, "sequence_number"), None
            self._number = number if isinstance(number, int) else self._number
        self._number += 1
        return self._number


def _must_say(raw: BaseModel, name: str) -> bool:
    return name == "output_index" or get(raw, name) is not None


def _may_change(raw: BaseModel, name: str) -> bool:
    return name not in _PLACE and get(raw, name) is not None
