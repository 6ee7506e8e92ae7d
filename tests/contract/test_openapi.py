"""What the REST API says of itself holds for whatever is sent: schemathesis makes requests of its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from unittest.mock import Mock

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    status_code_conformance,
)

from scheduler import networks
from scheduler.api import Api
from scheduler.callers import Caller
from tests.store.memory import MemoryStore
from tests.unit.placement_world import ANN, World, asked


def is_as_told(document: Mapping[str, Any], path: str, method: str, status: int, answer: object) -> None:
    """Raises ValidationError: an answer is not what the document says of it."""
    content = document["paths"][path][method.lower()]["responses"][str(status)]["content"]
    schema = content["application/json"]["schema"]
    Draft202012Validator({**schema, "components": document["components"]}).validate(answer)


def response_as_told(_context: object, response: schemathesis.Response, case: schemathesis.Case) -> None:
    """schemathesis' own check takes arrays of fixed items (prefixItems) for a mistake in the document."""
    document = case.operation.schema.raw_schema
    is_as_told(document, case.path, case.method, response.status_code, response.json())


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_as_told]
EXAMPLES = 40


@pytest.fixture(scope="module", params=[ANN, Caller("tenant shop", "shop")], ids=["operator", "tenant"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "EVERYWHERE", 0.0)  # no agent makes them here
        yield from _world(request.param)


def _world(caller: Caller) -> Iterator[World]:
    made = World(MemoryStore())
    made.tenant("shop")
    made.run("a1")
    made.caller = caller
    yield made
    made.close()


@pytest.fixture
def fresh() -> Iterator[World]:
    yield from _world(ANN)


ROUTES = [(route.path, route.method) for route in Api.routes(Mock())]


@pytest.mark.parametrize(("path", "method"), ROUTES, ids=lambda value: value.replace("/", "_"))
def test_every_call_answers_what_it_says(world: World, path: str, method: str) -> None:
    operation = schemathesis.openapi.from_wsgi("/openapi.json", world.app)[path][method]
    checks = CHECKS if path != "/v1/images/pull" else CHECKS[:2]  # its answer is no JSON, but lines of it

    @given(case=operation.as_strategy())
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def answers(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=checks)

    answers()


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/containers", "GET", 200),
        ("/v1/containers/{name}", "GET", 200),
        ("/v1/hosts", "GET", 200),
        ("/v1/placements", "POST", 200),
        ("/v1/runs", "POST", 201),
    ],
)
def test_good_answers_are_what_the_document_says(fresh: World, path: str, method: str, status: int) -> None:
    """Those about what is there, which made up requests hit by chance."""
    container = {"Image": "busybox", "HostConfig": {"PortBindings": {"53/udp": [{"HostPort": "5353"}]}}}
    name = fresh.run(container=container)["name"]
    document = fresh.client().get("/openapi.json").json
    got, answer = fresh.call(
        method, path.replace("{name}", name), asked(container=container) if method == "POST" else None
    )
    assert got == status
    is_as_told(document, path, method, got, answer)
    assert answer != []


def test_bodies_that_break_the_document_are_refused(world: World) -> None:
    for path in ("/v1/runs", "/v1/placements", "/v1/networks", "/v1/images/pull"):
        for body in (None, [], "x", 1, {"nosuch": 1}):
            assert world.client().post(path, json=body).status_code in (400, 403)
