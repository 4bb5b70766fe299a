"""A small description of the API, made from its routes."""

from collections.abc import Sequence
from typing import Any

from starlette.routing import BaseRoute, Route

NOT_PART_OF_IT = ("/demo/", "/docs")


def describe(routes: Sequence[BaseRoute], version: str) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for route in routes:
        if isinstance(route, Route) and not route.path.startswith(NOT_PART_OF_IT):
            paths.setdefault(route.path, {}).update(_operations(route))
    return {"openapi": "3.1.0", "info": {"title": "Clinic API", "version": version}, "paths": paths}


def _operations(route: Route) -> dict[str, Any]:
    names = list(route.param_convertors)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ]
    return {
        method.lower(): {
            "parameters": parameters,
            "responses": {"default": {"description": "See the contract"}},
        }
        for method in sorted(route.methods or ())
    }
