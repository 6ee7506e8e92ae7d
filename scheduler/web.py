"""HTTP for people and programs: routes with typed bodies, who calls, errors, and the OpenAPI document of all of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from flask import Flask, Response, request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from werkzeug.exceptions import HTTPException

from qnet import log, metrics
from qnet.errors import Conflict, Exhausted, InvalidRequest, NotFound, QnetError, Unavailable
from scheduler.callers import Caller, Forbidden, caller_of

logger = logging.getLogger(__name__)

MAX_BODY = 4 << 20
JSON, LINES = "application/json", "application/x-ndjson"
STATUSES: tuple[tuple[type[QnetError], int], ...] = (
    (InvalidRequest, 400),
    (NotFound, 404),
    (Conflict, 409),
    (Exhausted, 409),
    (Unavailable, 503),
    (Forbidden, 403),
)
OPENAPI = "3.1.0"


class Problem(msgspec.Struct, frozen=True):
    """An error: what is wrong and what to do instead, and its kind."""

    message: str
    kind: str


class Empty(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request without a body."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request: what stands in its path, its query, its body."""

    caller: Caller
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any = None


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer that is told piece by piece: one JSON object a line."""

    parts: Iterator[msgspec.Struct]


@dataclass(frozen=True, slots=True)
class Route:
    """One call: `path` has names in braces, `query` its parameters with what they mean. `status` if all is well."""

    method: str
    path: str
    summary: str
    handler: Callable[[Call], Any]
    answer: Any
    body: type[msgspec.Struct] | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    operators: bool = False


def identify() -> Caller:
    """Who is at the other end of the connection. Raises Forbidden."""
    return caller_of(request.environ.get("gunicorn.socket"))


def create_app(routes: Sequence[Route], who: Callable[[], Caller] = identify) -> Flask:
    """The application that serves the routes, `/openapi.json` and, for operators, `/metrics`."""
    app = Flask("qnet-scheduler")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.register_error_handler(HTTPException, _http_error)
    app.before_request(_identified)
    app.after_request(_signed)
    document = json.dumps(openapi(routes)).encode()
    app.add_url_rule("/openapi.json", view_func=lambda: Response(document, content_type=JSON))

    def tell_metrics() -> Response:
        return _guarded(lambda: _metrics(who()))

    app.add_url_rule("/metrics", view_func=tell_metrics)
    for route in routes:
        path = route.path.replace("{", "<").replace("}", ">")
        name = f"{route.method} {route.path}"
        app.add_url_rule(path, endpoint=name, view_func=_view(route, who), methods=[route.method])
    return app


def _identified() -> None:
    log.new_request(request.headers.get(log.HEADER, ""))


def _signed(response: Response) -> Response:
    response.headers[log.HEADER] = log.current()
    return response


def _view(route: Route, who: Callable[[], Caller]) -> Callable[..., Response]:
    decoder = msgspec.json.Decoder(route.body) if route.body else None
    timer = metrics.API.labels(f"{route.method} {route.path}")

    def view(**path: str) -> Response:
        def answer() -> Response:
            caller = who()
            if route.operators and not caller.operator:
                raise Forbidden(f"{route.method} {route.path} is for operators")
            unknown = sorted(set(request.args) - set(route.query))
            if unknown:
                allowed = ", ".join(route.query) or "none"
                raise InvalidRequest(f"parameter {unknown[0][:64]}: no such one; there are: {allowed}")
            call = Call(caller, path, request.args.to_dict(), _decode(decoder, route))
            return _response(route, route.handler(call))

        with timer.time():
            return _guarded(answer)

    return view


def _decode(decoder: msgspec.json.Decoder[Any] | None, route: Route) -> Any:
    if decoder is None:
        return None
    try:
        return decoder.decode(request.get_data(cache=False) or b"null")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{route.path}: {error or 'nested too deep'}") from error


def _response(route: Route, found: Any) -> Response:
    if isinstance(found, Stream):
        lines = (msgspec.json.encode(part) + b"\n" for part in found.parts)
        return Response(lines, route.status, content_type=LINES)
    return Response(msgspec.json.encode(found), route.status, content_type=JSON)


def _guarded(answer: Callable[[], Response]) -> Response:
    try:
        return answer()
    except HTTPException:
        raise
    except QnetError as error:
        status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
        logger.info("%s %s: %s", request.method, request.path, error)
        return _problem(str(error), type(error).__name__, status)
    except Exception as error:
        logger.exception("%s %s failed", request.method, request.path)
        return _problem(f"internal error, see the scheduler's log ({type(error).__name__})", "Internal", 500)


def _problem(message: str, kind: str, status: int) -> Response:
    return Response(msgspec.json.encode(Problem(message, kind)), status, content_type=JSON)


def _http_error(error: HTTPException) -> Response:
    response = _problem(f"{request.method} {request.path}: {error.description}", error.name, error.code or 500)
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response


def _metrics(caller: Caller) -> Response:
    if not caller.operator:
        raise Forbidden("metrics are for operators")
    return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)


# -- OpenAPI ----------------------------------------------------------------------------------------------------


def openapi(routes: Iterable[Route]) -> dict[str, Any]:
    """The document that says what the routes take and answer (https://spec.openapis.org/oas/v3.1.0)."""
    known = list(routes)
    types = [kind for route in known for kind in (route.body, route.answer) if kind is not None]
    schemas, components = msgspec.json.schema_components([*types, Problem], ref_template="#/components/schemas/{name}")
    by_type = dict(zip([repr(kind) for kind in (*types, Problem)], schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in known:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type)
    return {
        "openapi": OPENAPI,
        "info": {"title": "qnet placement", "version": "1", "description": "Hosts, placements and containers."},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route, by_type: Mapping[str, Any]) -> dict[str, Any]:
    problem = {"description": "What is wrong.", "content": {JSON: {"schema": by_type[repr(Problem)]}}}
    answers: dict[str, Any] = {str(code): problem for code in (400, 403, 404, 405, 409, 413, 415, 500, 503)}
    content = LINES if route.answer is None else JSON
    answers[str(route.status)] = {
        "description": route.summary,
        "content": {content: {"schema": by_type[repr(route.answer)] if route.answer is not None else {}}},
    }
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    text = {"type": "string"}
    parameters = [{"name": name, "in": "path", "required": True, "schema": text} for name in names]
    parameters += [
        {"name": name, "in": "query", "description": meaning, "schema": text} for name, meaning in route.query.items()
    ]
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method.lower()}{route.path.replace('/', '_').replace('{', '').replace('}', '')}",
        "parameters": parameters,
        "responses": answers,
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": by_type[repr(route.body)]}}}
    return operation
