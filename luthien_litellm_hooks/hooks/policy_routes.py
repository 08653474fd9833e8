"""The admin's routes: what is in force, and reading the settings again."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from luthien_litellm_hooks.hooks.admins import admin_router
from luthien_litellm_hooks.hooks.in_force import LivePolicy


def policy_routes(live: LivePolicy, reload: Callable[[], Awaitable[None]]) -> APIRouter:
    """`GET /luthien/policy` and `POST /luthien/reload`. Both answer what is in force; the second first reads the
    settings again, and answers with status 400 if they are wrong."""
    router = admin_router()

    async def show() -> JSONResponse:
        return JSONResponse(_shown(live))

    async def read_again() -> JSONResponse:
        await reload()
        return JSONResponse(_shown(live), 200 if live.complaint is None else 400)

    router.add_api_route("/policy", show, methods=["GET"])
    router.add_api_route("/reload", read_again, methods=["POST"])
    return router


def _shown(live: LivePolicy) -> dict[str, Any]:
    current, complaint = live.current, live.complaint
    error = None if complaint is None else {"message": complaint, "type": "config_error", "param": None, "code": "400"}
    return {
        "version": current.version,
        "policies": [{"name": name, "version": version} for name, version in current.policies],
        "after_restart": live.after_restart,
        "error": error,
    }
