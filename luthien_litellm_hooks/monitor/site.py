"""Parts that all pages share: what they get of the proxy, how they are listed, and how they are rendered."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic_core import to_jsonable_python
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from luthien_litellm_hooks.monitor.access import TOKEN, Access, Credential, Right, Visitor, base_of
from luthien_litellm_hooks.monitor.feed import Feed
from luthien_litellm_hooks.monitor.hour import LastHour
from luthien_litellm_hooks.monitor.labels import USUAL_FILE
from luthien_litellm_hooks.monitor.rows import Rows
from luthien_litellm_hooks.monitor.tickets import Tickets
from luthien_litellm_hooks.monitor.tryout import Build
from luthien_litellm_hooks.telemetry.log_lines import escape

HERE = Path(__file__).parent
_MAX_FORM_BYTES = 1_000_000


class Inbox(Protocol):
    """Calls that wait for a person. Its methods raise an `HTTPException` for what the visitor may not do, and for what
    does not count."""

    async def calls(self, visitor: Visitor) -> Sequence[Mapping[str, Any]]:
        """Returns all calls, the oldest first, as the routes for approvers show them."""
        ...

    async def decide(self, visitor: Visitor, id: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Decides about a call. `given` is the body of the route's request."""
        ...


@dataclass(frozen=True, slots=True)
class Site:
    """Parts of the proxy that the pages need.

    `rows` returns the way to the stored transactions: the database is known only once LiteLLM has connected to it.
    `feed` has what runs in this process, `hour` the counts of the last hour. `credential_of` returns the credential of
    a login form's fields, None if there is none in them. `policy` returns the policy in force as `GET /luthien/policy`
    does, None if guardrails alone have policies; `build` builds another. `labels` is the file of labels. `inbox` has
    the calls that wait for a person, None without approvals.
    """

    access: Access
    rows: Callable[[], Rows]
    feed: Feed
    hour: LastHour
    credential_of: Callable[[Mapping[str, str]], Credential | None]
    policy: Callable[[], Mapping[str, Any] | None]
    build: Build
    labels: Path = USUAL_FILE
    inbox: Inbox | None = None
    tickets: Tickets = field(default_factory=Tickets)


@dataclass(frozen=True, slots=True)
class Page:
    """A route of the monitor.

    Only visitors with the right `may` get there; a POST also needs the token of a page of ours. A page with a `title`
    is in the navigation.
    """

    path: str
    answer: Callable[[Site, Request], Awaitable[Response]]
    may: Right = "read"
    method: str = "GET"
    title: str | None = None


def visitor_of(request: Request) -> Visitor:
    """Returns the visitor, known on every page."""
    return request.state.visitor


def render(request: Request, template: str, view: object, status: int = 200) -> Response:
    """Returns the view as a page; as JSON with `?format=json`, or for a client that takes nothing else."""
    if wants_json(request):
        return json_response(view, status)
    return HTMLResponse(html(request, template, view), status)


def html(request: Request, template: str, view: object) -> str:
    """Returns a template with a view. Every text in it is escaped: markup, and characters that deceive a reader."""
    visitor: Visitor | None = getattr(request.state, "visitor", None)
    pages: tuple[Page, ...] = request.app.state.pages
    return _environment.get_template(template).render(
        view=view,
        base=base_of(request),
        here=request.scope["path"].removeprefix(base_of(request)) or "/",
        json_url=_with(request, format="json"),
        visitor=visitor,
        token_name=TOKEN,
        token=request.app.state.site.access.token(request) if visitor else "",
        navigation=[page for page in pages if page.title and visitor is not None and visitor.may(page.may)],
    )


def fragment(template: str, base: str, **names: object) -> str:
    """Returns a part of a page, as a page of that path would have it."""
    return _environment.get_template(template).render(base=base, **names)


def json_response(view: object, status: int = 200) -> Response:
    """Returns JSON in ASCII: a terminal shows an invisible character as its escape."""
    text = json.dumps(to_jsonable_python(view, fallback=str), allow_nan=False)
    return Response(text, status, media_type="application/json")


def wants_json(request: Request) -> bool:
    return request.query_params.get("format") == "json" or request.headers.get("accept") == "application/json"


def _with(request: Request, **changed: str) -> str:
    """Returns the query of the request with other values."""
    return "?" + urlencode({**dict(request.query_params), **changed})


async def form_of(request: Request) -> Mapping[str, str]:
    """Returns the fields of a form or of a JSON object. Raises a 400 or 413."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_FORM_BYTES:
            raise HTTPException(413, "The form is too large.")
    try:
        text = body.decode()
        if request.headers.get("content-type", "").startswith("application/json"):
            return {str(name): str(value) for name, value in json.loads(text).items()}
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=1_000))
    except (ValueError, AttributeError):
        raise HTTPException(400, "The form cannot be read.") from None


def _shown(value: Any) -> Any:
    if value is None:
        return ""
    return escape(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_environment = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
