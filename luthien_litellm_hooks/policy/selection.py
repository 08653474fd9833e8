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

    What cannot be told of a request fits, and so does what holds for one of its fallbacks alone.
    """

    models: Globs = ()
    """A model that may answer, by any of its names: the client's, an alias, a model group, the provider's."""
    keys: Globs = ()
    """The key's alias, which its owner may choose."""
    teams: Globs = ()
    """The id or alias of the key's team, or of a team that the key's owner is in."""
    users: Globs = ()
    """The id or e-mail address of the key's owner, or the id of the user who made the key."""
    routes: Globs = ()
    """A path of the route that the client asked for; all paths of a route count as one."""
    tools: Globs = ()
    """A tool that the request offers."""
    headers: Mapping[str, str] = Field(default_factory=lambda: MappingProxyType[str, str]({}))
    """Names of headers to globs of their values, which a client chooses."""

    @field_validator("models", "keys", "teams", "users", "routes", "tools", mode="before")
    @classmethod
    def _one_is_a_list_too(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def applies_to(self, request: Request, identity: Identity) -> bool:
        """Tells whether the policy is for this request."""
        requests = (request, *request.alternatives)
        return (
            _fits(self.keys, [identity.key_alias])
            and self._fits_team(identity)
            and _fits(self.users, [identity.user_id, identity.user_email, identity.key_maker_id])
            and _fits(self.routes, [request.route, *request.paths])
            and all(_fits((glob,), [request.headers.get(name.lower())]) for name, glob in self.headers.items())
            and any(self._fits_model(one) for one in requests)
            and any(_fits(self.tools, one.tool_names) or one.has_untold_tools for one in requests)
        )

    def _fits_team(self, identity: Identity) -> bool:
        if identity.user_teams is None:
            return True
        return _fits(self.teams, [identity.team_id, identity.team_alias, *identity.user_teams])

    def _fits_model(self, request: Request) -> bool:
        if not self.models or request.models is None:
            return True
        names = [name.lower() for name in (request.model, *request.models)]  # some providers take either case
        return _fits([glob.lower() for glob in self.models], names)


def _fits(globs: Iterable[str], values: Iterable[str | None]) -> bool:
    return not globs or any(fnmatchcase(value, glob) for value in values if value is not None for glob in globs)
