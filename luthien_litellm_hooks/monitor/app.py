"""App of the monitor: its pages, each behind a cookie, and the login.

Each route asks for its own cookie: the proxy's authentication is not in front of it. Only the login and the static
files need none. Every response has the headers of `access.HEADERS`, errors included.
"""

import secrets
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from luthien_litellm_hooks.errors import LuthienError
from luthien_litellm_hooks.monitor.access import TOKEN, TOKEN_HEADER, WithHeaders, base_of, check_origin
from luthien_litellm_hooks.monitor.pages import approvals, labels, live, policy, report, session, transaction
from luthien_litellm_hooks.monitor.site import HERE, Page, Site, form_of, render
from luthien_litellm_hooks.telemetry.log_lines import logger

PAGES: tuple[Page, ...] = (
    *live.PAGES,
    *transaction.PAGES,
    *session.PAGES,
    *report.PAGES,
    *labels.PAGES,
    *policy.PAGES,
    *approvals.PAGES,
)
"""All pages. A new one is a file in `pages/`, and its `PAGES` here."""

_UNKNOWN = "The proxy does not know this key, or it may not read here."
_TYPES = {".css": "text/css", ".js": "text/javascript"}


def monitor_app(site: Site, pages: tuple[Page, ...] = PAGES) -> ASGIApp:
    """Returns the app, to be called with its own path as `root_path`."""
    app = Starlette(
        routes=[
            Route("/login", _answering(_login_page), methods=["GET"]),
            Route("/login", _answering(_login), methods=["POST"]),
            Route("/tickets", _answering(_ticket), methods=["POST"]),
            Route("/logout", _answering(_logout), methods=["POST"]),
            Route("/static/{name}", _answering(_static), methods=["GET"]),
            *(Route(page.path, _answering(_guarded(page)), methods=[page.method]) for page in pages),
        ],
        exception_handlers={HTTPException: _refused},
    )
    app.router.redirect_slashes = False
    app.state.site, app.state.pages = site, pages
    return WithHeaders(app)


_Endpoint = Callable[[Site, Request], Awaitable[Response]]


def _answering(endpoint: _Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """Returns the endpoint of a route, whose errors are pages of ours and lines of the log."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request.app.state.site, request)
        except HTTPException as error:
            return _problem(request, error.status_code, error.detail)
        except LuthienError as error:
            return _problem(request, 503, str(error))
        except Exception:
            number = secrets.token_hex(4)
            logger.exception("the monitor page failed (error %s); requests and responses go on", number)
            return _problem(request, 500, f"The page failed. The proxy's log has the error: {number}")

    return answer


def _guarded(page: Page) -> _Endpoint:
    async def answer(site: Site, request: Request) -> Response:
        visitor = await site.access.visitor(request)
        if visitor is None:
            return _login_form(request, 403)
        request.state.visitor = visitor
        if not visitor.may(page.may):
            raise HTTPException(403, "Your key does not open this page.")
        if page.method != "GET":
            await _check_form(site, request)
        return await page.answer(site, request)

    return answer


async def _check_form(site: Site, request: Request) -> None:
    """Raises a 403 for a form that no page of ours has sent. Its fields are then in the request's state."""
    check_origin(request)
    request.state.form = await form_of(request)
    given = request.headers.get(TOKEN_HEADER) or request.state.form.get(TOKEN, "")
    if not site.access.has_token(request, given):
        raise HTTPException(403, "The form has expired: load the page again.")


async def _refused(request: Request, error: Exception) -> Response:
    """Returns the page for a path or a method that no route has."""
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, "")
    return _problem(request, status, detail)


def _problem(request: Request, status: int, message: str) -> Response:
    return render(request, "problem.html", {"status": status, "error": message}, status)


async def _login_page(site: Site, request: Request) -> Response:
    return _login_form(request, 200)


def _login_form(request: Request, status: int, error: str = "") -> Response:
    return render(request, "login.html", {"error": error or "Log in with a key of the proxy."}, status)


async def _login(site: Site, request: Request) -> Response:
    """Admits the holder of a key, of a ticket, or of a session of LiteLLM's Admin UI."""
    check_origin(request)
    fields = await form_of(request)
    credential = site.tickets.take(fields["ticket"]) if "ticket" in fields else site.credential_of(fields)
    response: Response = (
        RedirectResponse(f"{base_of(request)}/", 303) if "key" in fields else JSONResponse({"ok": True})
    )
    visitor = None if credential is None else await site.access.admit(credential, request, response)
    if visitor is None:
        return _login_form(request, 403, _UNKNOWN)
    if not visitor.may("read") and "claim" not in fields:
        response.headers["location"] = f"{base_of(request)}{approvals.PATH}"
    return response


async def _ticket(site: Site, request: Request) -> Response:
    """Issues a ticket to the holder of a key. A page that does not know the key gains nothing by asking."""
    credential = site.credential_of(await form_of(request))
    if credential is None or await site.access.admit(credential, request, Response()) is None:
        raise HTTPException(403, _UNKNOWN)
    return JSONResponse({"ticket": site.tickets.issue(credential)})


async def _logout(site: Site, request: Request) -> Response:
    await _check_form(site, request)
    response = RedirectResponse(f"{base_of(request)}/login", 303)
    site.access.dismiss(request, response)
    return response


async def _static(site: Site, request: Request) -> Response:
    found = {path.name: path for path in (HERE / "static").iterdir()}.get(request.path_params["name"])
    if found is None or found.suffix not in _TYPES:
        raise HTTPException(404, "There is no such file.")
    return FileResponse(found, media_type=_TYPES[found.suffix], headers={"Cache-Control": "no-cache"})
