"""The HTTP API and the web page, in front of whatever answers: a service in this process, or replicas of Ray Serve."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from dreamrl.serving import responses
from dreamrl.serving.events import event_stream
from dreamrl.serving.guard import Guard
from dreamrl.serving.limits import LIMITS, OVERLOADED, Limits, Refused
from dreamrl.serving.metrics import Metrics
from dreamrl.serving.requests import EditRequest, GenerateRequest, SceneRequest

WEB = Path(__file__).parent / "web"
DESCRIPTION = """
Ask a model that thinks in pictures. The same request with the same seed gives the same dreams and the same answer.
Errors are `{"error": reason}`.
"""
STREAM = """
Server-sent events: `queued`, `start` (the question and the first picture), `steps` (every new step of every dream, as
it is imagined), then `answer` (as from /v1/generate) or `error`. Leaving gives the request up.
"""


class Backend(Protocol):
    """What answers; :class:`dreamrl.serving.service.Service` says how."""

    async def generate(self, request: dict[str, Any]) -> dict[str, Any]:
        """An answer."""
        ...

    async def edit(self, request: dict[str, Any]) -> dict[str, Any]:
        """Two answers."""
        ...

    def stream(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Events."""
        ...

    async def scene(self, request: dict[str, Any]) -> dict[str, Any]:
        """A scene."""
        ...

    async def worlds(self) -> dict[str, Any]:
        """All worlds."""
        ...

    async def health(self) -> dict[str, Any]:
        """State."""
        ...


def make_app(
    backend: Backend, token_digest: str | None = None, metrics: Metrics | None = None, limits: Limits = LIMITS
) -> Any:
    """The ASGI application.

    Args:
        backend: answers.
        token_digest: of the token that clients must send; None: this machine only.
        metrics: counts; its own unless given.
        limits: of bodies.
    """
    metrics = metrics or Metrics()
    app = FastAPI(title="dreamrl", version="1", description=DESCRIPTION, docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_page(app)
    _add_routes(app, backend, metrics)
    return Guard(app, token_digest, metrics, limits)


def _documented(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    documented: dict[int | str, dict[str, Any]] = {200: {"model": model}}
    for code in (400, 401, 403, 408, 413, 415, 422, 503, 504):
        documented[code] = {"model": responses.Failure}
    return documented


def _add_routes(app: FastAPI, backend: Backend, metrics: Metrics) -> None:
    @app.post("/v1/generate", responses=_documented(responses.ResultShown), summary="Answer a question")
    async def generate(request: GenerateRequest) -> Response:
        result = await backend.generate(request.model_dump())
        metrics.batches[result["batch"]] += 1
        return JSONResponse(result)

    @app.post(
        "/v1/stream",
        responses={200: {"content": {"text/event-stream": {}}, "description": "events"}},
        summary="Answer a question, and show the dreams while they are imagined",
        description=STREAM,
    )
    async def stream(request: GenerateRequest) -> Response:
        events = backend.stream(request.model_dump())
        first = await anext(events)  # a request that is refused gets its status: no stream has begun

        async def counted() -> AsyncGenerator[dict[str, Any], None]:
            try:
                yield first
                async for event in events:
                    if event["event"] == "answer":
                        metrics.batches[event["batch"]] += 1
                    yield event
            finally:
                await events.aclose()

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(event_stream(counted()), media_type="text/event-stream", headers=headers)

    @app.post("/v1/edit", responses=_documented(responses.EditShown), summary="Edit dreams and answer again")
    async def edit(request: EditRequest) -> Response:
        result = await backend.edit(request.model_dump())
        metrics.batches[result["batch"]] += 1
        return JSONResponse(result)

    @app.post("/v1/scene", responses=_documented(responses.SceneShown), summary="See a scene")
    async def scene(request: SceneRequest) -> Response:
        return JSONResponse(await backend.scene(request.model_dump()))

    @app.get("/v1/worlds", responses=_documented(responses.WorldsShown), summary="What can be asked about")
    async def worlds() -> Response:
        return JSONResponse(await backend.worlds())

    @app.get("/v1/health", responses=_documented(responses.HealthShown), summary="Whether answers can be had")
    async def health() -> Response:
        return JSONResponse(await backend.health())

    @app.get("/v1/metrics", response_class=PlainTextResponse, summary="Counts and times, for Prometheus")
    async def show_metrics() -> str:
        return metrics.text()


def _add_page(app: FastAPI) -> None:
    """The page and its assets, read once: no path of a client ever reaches the disk."""
    files = {path.name: path.read_bytes() for path in sorted(WEB.iterdir()) if path.is_file()}

    def send(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "there is no such file")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(files[name], media_type=kind, headers={"Cache-Control": "no-cache"})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return send("index.html")

    @app.get("/web/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        return send(name)


def _add_errors(app: FastAPI) -> None:
    """Every error is a JSON object with the reason."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        headers = {"Retry-After": "1"} if error.status == OVERLOADED else None
        return JSONResponse({"error": error.reason}, error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return JSONResponse({"error": f"{where}: {first['msg']}" if where else first["msg"]}, 422)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "something went wrong inside; the server's log says what"}, 500)
