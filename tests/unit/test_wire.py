"""The plugin protocol: whatever comes in, JSON with an error under both names goes out."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from qnet.errors import Conflict
from qnet.wire import MAX_BODY, Empty, Id, Plugin


class Ask(msgspec.Struct):
    """One of each."""

    id: Id
    number: int = 0


def boom(call: Ask) -> Empty:
    if call.number == 1:
        raise Conflict("it is taken")
    if call.number == 2:
        raise RuntimeError("secret detail")
    return Empty()


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    plugin = Plugin(("NetworkDriver", "IpamDriver"))
    plugin.call("/Test.Do", Ask, boom)
    return plugin.app.test_client()


def errors(body: bytes) -> str:
    parsed: dict[str, Any] = json.loads(body)
    assert parsed["Err"] == parsed["Error"]
    return str(parsed["Err"])


def test_activation_says_what_it_is(client: FlaskClient) -> None:
    answer = client.post("/Plugin.Activate")
    assert json.loads(answer.data) == {"Implements": ["NetworkDriver", "IpamDriver"]}
    assert answer.content_type == "application/vnd.docker.plugins.v1.2+json"


def test_content_type_does_not_matter(client: FlaskClient) -> None:
    for content_type in (None, "text/plain", "application/json"):
        assert client.post("/Test.Do", data=b'{"id": "ab"}', content_type=content_type).status_code == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty body"),
        (b"  \n", "empty body"),
        (b"{", "/Test.Do: Input data was truncated"),
        (b"{}", "missing required field `id`"),
        (b'{"id": 5}', r"Expected `str`, got `int` - at `$.id`"),
        (b'{"id": "../../etc"}', "matching regex"),
        (b'{"id": "ab\\n"}', "matching regex"),
        (b'{"id": "ab", "number": "x"}', "Expected `int`"),
        (b"[" * 100_000, "/Test.Do: "),
        (b'{"id": "\xff"}', "/Test.Do: "),
        (b'{"id": "ab", "number": 1}', "it is taken"),
    ],
)
def test_bad_input_gets_a_clear_error(client: FlaskClient, body: bytes, says: str) -> None:
    answer = client.post("/Test.Do", data=body)
    assert answer.status_code == 500
    assert says in errors(answer.data)


def test_bugs_are_not_told_to_the_engine(client: FlaskClient) -> None:
    answer = client.post("/Test.Do", data=b'{"id": "ab", "number": 2}')
    assert "secret" not in errors(answer.data)
    assert "RuntimeError" in errors(answer.data)


def test_other_refusals_are_json_too(client: FlaskClient) -> None:
    assert client.get("/Test.Do").status_code == 405
    assert "/Nothing" in errors(client.post("/Nothing").data)
    huge = client.post("/Test.Do", data=b"x" * (MAX_BODY + 1))
    assert huge.status_code == 413
    assert errors(huge.data)


@given(st.binary(max_size=200))
def test_any_bytes_get_json(body: bytes) -> None:
    plugin = Plugin(())
    plugin.call(f"/Any.{len(body)}", Ask, boom)
    answer = plugin.app.test_client().post(f"/Any.{len(body)}", data=body)
    assert answer.status_code in (200, 500)
    json.loads(answer.data)
