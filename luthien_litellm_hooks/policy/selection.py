"""`when:` which requests a policy is for."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType

from pydantic import Field, field_validator

from luthien_litellm_hooks.policy.base import PolicyConfig
from luthien_litellm_hooks.policy.context import Identity
from luthien_litellm_hooks.policy.request import Request

Globs = tuple[str, ...]


class When(PolicyConfig):
    """A request is meant if every key that is given fits it; a list fits if one of its globs does.

    `keys` are key aliases, `teams` ids or aliases of teams, `routes` the paths that clients ask for,
    `tools` the tools that the request offers. `headers` maps names to globs for their values.
    """

    models: Globs = ()
    keys: Globs = ()
    teams: Globs = ()
    routes: Globs = ()
    tools: Globs = ()
    headers: Mapping[str, str] = Field(default_factory=lambda: MappingProxyType[str, str]({}))

    @field_validator("models", "keys", "teams", "routes", "tools", mode="before")
    @classmethod
    def _one_is_a_list_too(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def applies_to(self, request: Request, identity: Identity) -> bool:
        """Whether the policy is for this request."""
        return (
            _fits(self.models, [request.model])
            and _fits(self.keys, [identity.key_alias])
            and _fits(self.teams, [identity.team_id, identity.team_alias])
            and _fits(self.routes, [request.route])
            and _fits(self.tools, request.tool_names)
            and all(_fits((glob,), [request.headers.get(name.lower())]) for name, glob in self.headers.items())
        )


def _fits(globs: Globs, values: Iterable[str | None]) -> bool:
    return not globs or any(fnmatchcase(value, glob) for value in values if value is not None for glob in globs)
