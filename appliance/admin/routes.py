"""What can be asked at the admin door: the table of paths, and where their answers come from."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Union, cast
from urllib.parse import parse_qsl

from attrs import define, field, frozen

from appliance.admin.http import (
    JSON,
    TEXT,
    HttpRequest,
    HttpResponse,
    error_response,
    json_response,
)
from appliance.errors import AdminError, ApplianceError

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
MOST_FIELDS = 16

# A JSON-able document, or text.
Document = Union[Mapping[str, Any], str]  # noqa: UP007  # evaluated on Python 3.10
Answer = Union[Document, Awaitable[Document]]  # noqa: UP007
Source = Callable[[], Answer]
Action = Callable[[Mapping[str, Any]], Answer]
"""Takes the document that was sent; an `ApplianceError` it raises is the asker's to hear."""


@frozen(kw_only=True)
class AdminSources:
    """Where the answers come from. Each may be a plain or an async callable; app fills them in.

    Attributes:
        status: The document of `appliance status`.
        clients: Sessions and what is counted for each.
        models: What is served, by name and version.
        workers: Worker processes and what they do.
        metrics_text: The OpenMetrics exposition.
        drain: Begins a drain (once; again is harmless) and tells how far it is.
        reload: Reads the configuration again and tells what changed, or why nothing did.
        load_model: Serves a model as it lies in the repository now.
        unload_model: Serves one no more.
        timeline: The last seconds of batches and drops; takes what stands in the query.
        recordings: The recordings that run, and the last that did.
        record: Begins one.
        renew_recording: Tells of one, and keeps it up.
        stop_recording: Ends one.
    """

    status: Source
    clients: Source
    models: Source
    workers: Source
    metrics_text: Source
    drain: Source
    reload: Source
    load_model: Action
    unload_model: Action
    timeline: Action
    recordings: Source
    record: Action
    renew_recording: Action
    stop_recording: Action


@frozen
class Route:
    """One entry of the table: a source, or an action that takes a document.

    With GET, that document is what stands in the query.
    """

    method: str
    path: str
    source: Source | None = None
    text_type: str = TEXT
    action: Action | None = None


@define(eq=False)
class Router:
    """Answers requests from a table; `handle` is a handler for `serve_http`.

    HEAD is answered wherever GET is. A source that raises is the server's business.

    Attributes:
        read_only: Whatever is neither GET nor HEAD is refused with 405.
    """

    read_only: bool = False
    _routes: dict[str, dict[str, Route]] = field(factory=dict[str, dict[str, Route]], init=False)

    def add(self, route: Route) -> None:
        """Add a route; it replaces one of the same method and path."""
        self._routes.setdefault(route.path, {})[route.method] = route

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer with the document of the route; 404 or 405 if there is none."""
        methods = self._routes.get(request.path)
        if methods is None:
            paths = ", ".join(sorted(self._routes))
            return error_response(404, "NOT_FOUND", f"no {request.path} here; there are: {paths}")
        allowed = self._allowed(methods)
        if request.method not in allowed:
            message = f"{request.method} is not allowed for {request.path} here"
            allow = (("Allow", ", ".join(allowed)),)
            return error_response(405, "METHOD_NOT_ALLOWED", message, headers=allow)
        route = methods["GET" if request.method == "HEAD" else request.method]
        try:
            document = _ask(route, request)
            if inspect.isawaitable(document):
                document = await document
        except ApplianceError as error:
            return error_response(400, error.code, str(error))
        if isinstance(document, str):
            return HttpResponse(body=document.encode(), content_type=route.text_type)
        return json_response(document)

    def _allowed(self, methods: Mapping[str, Route]) -> list[str]:
        allowed = ["GET", "HEAD"] if "GET" in methods else []
        if not self.read_only:
            allowed += sorted(methods.keys() - {"GET"})
        return allowed


def _ask(route: Route, request: HttpRequest) -> Answer:
    """Return what a route has to say to a request.

    Raises:
        AdminError: An object in JSON is expected, and something else came.
    """
    if route.action is None:
        assert route.source is not None
        return route.source()
    if route.method == "GET":
        return route.action(_query(request.query))
    try:
        document = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise AdminError(f"{route.path}: a JSON object is expected: {error}") from error
    if not isinstance(document, dict):
        raise AdminError(f"{route.path}: a JSON object is expected, {type(document).__name__} came")
    return route.action(cast("dict[str, Any]", document))


def _query(text: str) -> dict[str, str]:
    """Return the fields of a query.

    Raises:
        AdminError: There are too many.
    """
    try:
        return dict(parse_qsl(text, max_num_fields=MOST_FIELDS))
    except ValueError as error:
        raise AdminError(f"the query: {error}") from error


def text_of(document: Mapping[str, Any], key: str) -> str:
    """Return a text that a document has to have.

    Raises:
        AdminError: It has none.
    """
    text = document.get(key)
    if not isinstance(text, str) or not text:
        raise AdminError(f"{key}: a text is expected, {text!r} came")
    return text


def admin_router(sources: AdminSources, *, read_only: bool = False) -> Router:
    """Return the router of the admin door; `read_only` for the TCP listener."""
    router = Router(read_only=read_only)
    for route in (
        Route("GET", "/v1/status", sources.status),
        Route("GET", "/v1/clients", sources.clients),
        Route("GET", "/v1/models", sources.models),
        Route("GET", "/v1/workers", sources.workers),
        Route("GET", "/metrics", sources.metrics_text, OPENMETRICS),
        Route("GET", "/v1/timeline", text_type=JSON, action=sources.timeline),
        Route("GET", "/v1/recordings", sources.recordings),
        Route("POST", "/v1/drain", sources.drain),
        Route("POST", "/v1/reload", sources.reload),
        Route("POST", "/v1/models/load", action=sources.load_model),
        Route("POST", "/v1/models/unload", action=sources.unload_model),
        Route("POST", "/v1/recordings", action=sources.record),
        Route("POST", "/v1/recordings/renew", action=sources.renew_recording),
        Route("POST", "/v1/recordings/stop", action=sources.stop_recording),
    ):
        router.add(route)
    return router
