"""Lines of the log, and one request's id on its way: from a client through placement to the plugin."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import pytest

from plugins.ipam import api
from qnet import log, schema
from qnet.schema import AddressRecord
from qnet.wire import Plugin
from scheduler.audit import Audit
from scheduler.model import Container
from scheduler.view import CONTAINERS, key
from tests.store.memory import MemoryStore
from tests.unit.placement_world import NOW, World, asked
from tests.unit.world import Clock, Host

SUBNET = "10.77.0.0/24"


@pytest.fixture(autouse=True)
def no_request() -> Iterator[None]:
    with log.under(""):
        yield


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged from `info` on, as it is written."""
    stream, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(stream), root.level
    handler.setFormatter(log.Lines(journal=False))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def raised(error: Exception) -> tuple[type[Exception], Exception, TracebackType | None]:
    try:
        raise error
    except Exception as caught:
        return type(caught), caught, caught.__traceback__


def line(level: int, message: str, *, journal: bool, error: Exception | None = None, **known: object) -> str:
    record = logging.makeLogRecord({"levelno": level, "levelname": logging.getLevelName(level), "name": "qnet.x"})
    record.msg = message
    if error:
        record.exc_info = raised(error)
    record.__dict__.update(log.fields(**known))
    return log.Lines(journal=journal).format(record)


def test_a_line_has_level_request_and_fields() -> None:
    log.new_request("r.1-2_3")
    known = {"host": "host1", "empty": "", "why": 'no "room" a=b', "seconds": 0.5}
    assert line(logging.INFO, "placed", journal=False, **known) == (
        'INFO r.1-2_3 qnet.x: placed host=host1 why="no \\"room\\" a=b" seconds=0.5'
    )


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)],
)
def test_the_journal_is_told_the_priority_of_each_line(level: int, priority: int) -> None:
    name = logging.getLevelName(level)
    first, *traceback = line(level, "one", journal=True, error=ValueError("x\nINFO - qnet.audit: no")).splitlines()
    assert first == f"<{priority}>{name} - qnet.x: one"
    assert traceback[0] == f"<{priority}>  Traceback (most recent call last):"
    assert traceback[-2:] == [f"<{priority}>  ValueError: x", f"<{priority}>  INFO - qnet.audit: no"]


@pytest.mark.parametrize("end", ["\n", "\r", "\v", "\x1b[2J", "\x85", "\u2028", "\ud800"])
def test_a_name_that_somebody_sends_makes_no_line_of_its_own(end: str) -> None:
    sent = f"a{end}INFO 1 qnet.audit: done tenant=b"
    said = line(logging.INFO, f"{sent} is not there", journal=True, name=sent)
    assert len(said.splitlines()) == 1
    assert said.isprintable()
    assert ascii(end)[1:-1] in said


def test_only_the_journals_own_stream_gets_priorities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        there = os.fstat(stream.fileno())
        written = []
        for told in (f"{there.st_dev}:{there.st_ino}", f"{there.st_dev}:{there.st_ino + 1}", ""):
            monkeypatch.setenv("JOURNAL_STREAM", told)
            before = logging.getLogger().handlers[:]
            log.setup("info")
            formatter = logging.getLogger().handlers[0].formatter
            assert formatter is not None
            written.append(formatter.format(logging.makeLogRecord({"levelno": 20, "msg": "x"}))[:3])
            logging.getLogger().handlers[:] = before
    assert [text == "<6>" for text in written] == [True, False, False]


@pytest.mark.parametrize("wrong", ["", "x" * 65, "a b", "a\nb", 'a"', "ä"])
def test_what_is_no_id_is_replaced(wrong: str) -> None:
    assert log.new_request(wrong) != wrong
    assert log.ID.fullmatch(log.current())


def test_threads_go_on_under_the_request_of_who_asked() -> None:
    with ThreadPoolExecutor(2) as crew:
        log.new_request("r1")
        first = crew.submit(log.carried(log.current))
        log.new_request("r2")
        second = crew.map(log.carried(lambda _: log.current()), range(4))
        assert (first.result(), set(second), crew.submit(log.current).result()) == ("r1", {"r2"}, "")


def test_a_run_keeps_its_id_in_records_answer_and_audit(tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    world = World(MemoryStore())
    world.api._audit = Audit(str(audit), lambda: NOW)
    try:
        answer = world.client().post("/v1/runs", json=asked("a", instances=3), headers={"X-Request-Id": "mine-1"})
        assert answer.headers["X-Request-Id"] == "mine-1"
        for name in ("a-1", "a-2", "a-3"):
            found = world.store.get(key(CONTAINERS, name))
            assert found is not None
            assert schema.decode(found.value, Container).request == "mine-1"
        prefix = schema.address_key("default", SUBNET)
        records = [schema.decode(kv.value, AddressRecord) for kv in world.store.range(prefix).kvs]
        assert [record.request for record in records] == ["mine-1"] * 3
        assert [json.loads(text)["request"] for text in audit.read_text().splitlines()] == ["mine-1"] * 3
        world.client().delete("/v1/containers/a-1?force=1")
        assert json.loads(audit.read_text().splitlines()[-1])["request"] not in ("mine-1", "-", "")
        held = [schema.decode(kv.value, AddressRecord) for kv in world.store.range(prefix).kvs]
        assert sorted(record.request for record in held if record.kind == "held") == ["", "mine-1", "mine-1"]
        assert world.client().get("/v1/nothing").headers["X-Request-Id"] not in ("mine-1", "")
    finally:
        Audit("", lambda: NOW)  # closes the file
        world.close()


def test_the_plugin_goes_on_under_the_id_in_the_addresses_record(tmp_path: Path, lines: io.StringIO) -> None:
    store = MemoryStore()
    host = Host("host1", store, Clock(), tmp_path)
    try:
        pool = host.network("a", SUBNET, "10.77.0.1")
        record = AddressRecord(
            kind="held",
            host="host1",
            since="",
            claim="c",
            asked=True,
            container="web1",
            placement="p",
            request="mine-1",
        )
        store.put(schema.address_key("default", SUBNET, "10.77.0.9"), schema.encode(record))
        host.sync()
        plugin = Plugin(("IpamDriver",))
        api.register(plugin, host.service)
        for address in ("10.77.0.9", "10.77.0.10"):
            body = {"PoolID": pool, "Address": address}
            assert plugin.app.test_client().post("/IpamDriver.RequestAddress", json=body).status_code == 200
        (told,) = lines.getvalue().splitlines()
        assert told.startswith("INFO mine-1 qnet.wire: /IpamDriver.RequestAddress answered pool_id=")
        log.new_request("other")
        host.endpoints.bind("default", [("10.77.0.9", SUBNET)], "n", "e", "")
        assert log.current() == "mine-1"
    finally:
        host.close()
        store.close()
