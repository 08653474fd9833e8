"""The admin's route that opens sealed records, for `luthien-hooks` where it reads from a running proxy."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from luthien_litellm_hooks.hooks.admins import admin_router
from luthien_litellm_hooks.hooks.sealing import unseal_here


class _Closed(BaseModel):
    sealed: Annotated[list[str], Field(max_length=100)]


def record_routes() -> APIRouter:
    """`POST /luthien/open`: answers the records that the texts under `sealed` hold; null for each that this proxy's
    key does not open, or that is none."""
    router = admin_router()

    async def open_records(closed: _Closed) -> JSONResponse:
        return JSONResponse({"records": [unseal_here(sealed) for sealed in closed.sealed]})

    router.add_api_route("/open", open_records, methods=["POST"])
    return router
