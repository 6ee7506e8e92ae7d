"""What the REST API says of itself holds for whatever is sent: schemathesis makes requests of its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from scheduler import networks
from scheduler.api import Api
from scheduler.callers import Caller
from tests.store.memory import MemoryStore
from tests.unit.placement_world import ANN, World

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
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


def test_bodies_that_break_the_document_are_refused(world: World) -> None:
    for path in ("/v1/runs", "/v1/placements", "/v1/networks", "/v1/images/pull"):
        for body in (None, [], "x", 1, {"nosuch": 1}):
            assert world.client().post(path, json=body).status_code in (400, 403)
