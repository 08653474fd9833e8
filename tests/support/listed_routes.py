"""Prints every route that LiteLLM answers a GET on, as this version has them, also those that it loads late."""

import contextlib
import importlib
import json
from collections.abc import Iterable, Iterator

from fastapi.routing import APIRoute
from litellm.proxy._lazy_features import LAZY_FEATURES
from litellm.proxy.proxy_server import app


def main() -> None:
    for feature in LAZY_FEATURES:
        with contextlib.suppress(ImportError, AttributeError):
            feature.register_fn(app, importlib.import_module(feature.module_path))
    print(json.dumps(sorted(set(_paths(app.routes)))))


def _paths(routes: Iterable[object]) -> Iterator[str]:
    for route in routes:
        if isinstance(route, APIRoute) and "GET" in route.methods:
            yield route.path
        yield from _paths(getattr(getattr(route, "original_router", None), "routes", ()))
