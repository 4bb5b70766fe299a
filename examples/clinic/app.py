"""Wires the sample upstream: settings, tables, routes, CORS. One app a process."""

import os
from pathlib import Path

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from examples.clinic import openapi
from examples.clinic.api import accounts, demo, documents, patients, public, workflow
from examples.clinic.endpoint import Call, route
from examples.clinic.llm import providers
from examples.clinic.refusals import as_json
from examples.clinic.settings import Settings, read_settings
from examples.clinic.store.database import prepare

PAGES = Path(__file__).parent / "pages"


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the app, as uvicorn's `--factory`; without `settings` it reads them from the environment."""
    settings = settings or read_settings(os.environ)
    prepare(settings.data_dir)
    providers.load(settings.model)
    # Starlette's own 500, the one without CORS headers, lies outside the middleware given here.
    # FastAPI, as in that app, because OpenTelemetry instruments by class; the routes are Starlette's own.
    app = FastAPI(
        routes=_routes(),
        middleware=[_cors(settings)],
        exception_handlers={HTTPException: as_json},
        openapi_url=None,
    )
    app.state.settings = settings
    return app


def _routes() -> list[BaseRoute]:
    subjects = (public, accounts, patients, workflow, documents, demo)
    routes: list[BaseRoute] = [one for subject in subjects for one in subject.ROUTES]
    description = openapi.describe(routes, public.VERSION)

    def show_description(call: Call) -> object:
        return description

    pages = Mount("/app", StaticFiles(directory=PAGES, html=True))
    return [*routes, route("/api/openapi.json", "GET", show_description, is_public=True), pages]


def _cors(settings: Settings) -> Middleware:
    return Middleware(
        CORSMiddleware,
        allow_origins=settings.origins,
        allow_credentials=True,
        allow_methods=["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"],
        allow_headers=["Authorization", "Content-Type", "Accept", "Origin", "X-Requested-With"],
        expose_headers=["Content-Length"],
        max_age=600,
    )
