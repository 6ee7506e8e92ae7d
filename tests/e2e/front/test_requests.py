"""One request is found in the logs of every part that had to do with it, on every host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.front import sides
from tests.e2e.placement.fleet import SLEEP, Fleet
from tests.lab.commands import wait_for
from tests.lab.service import Service

pytestmark = pytest.mark.slow
MINE = "e2e.request-1"


def lines(service: Service | None, request: str) -> list[str]:
    """What a daemon has logged under an id."""
    assert service is not None
    return [line for line in service.log.read_text(errors="replace").splitlines() if f" {request} " in line]


def test_a_run_has_one_id_in_all_logs(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"HttpHeaders": {"X-Request-Id": MINE}}))
    front = sides.front(fleet.hosts[0], tmp_path)
    words = ("--network", "web", "--label", "qnet.constraint=host==host3", "--name", "q1")
    front.ok("run", "-d", *words, *SLEEP)
    assert fleet.records()["q1"]["request"] == MINE
    here, there = fleet.hosts[0], fleet.host("host3")
    told = lines(here.gateway, MINE)
    assert any("scheduler.gateway.server: POST /containers/create answered" in line for line in told), told
    (audit,) = [json.loads(line.partition("qnet.audit: ")[2]) for line in told if '"did":"create"' in line]
    assert (audit["what"], audit["where"], audit["request"]) == ("q1", "host3", MINE)
    calls = [line.split(" answered")[0].rpartition("/")[2] for line in lines(there.plugin, MINE)]
    assert calls == ["IpamDriver.RequestAddress", "NetworkDriver.CreateEndpoint", "NetworkDriver.Join"]
    wait_for("the agent to tell", lambda: any("container q1 is running" in one for one in lines(there.agent, MINE)), 10)
    assert not lines(fleet.hosts[1].agent, MINE)


def test_an_error_of_qnet_run_has_the_id_of_the_replicas_log(fleet: Fleet) -> None:
    said = fleet.refused("run", "-d", "--network", "web", "--name", "q2", "--memory", "9999g", *SLEEP)
    request = said.rpartition("(request ")[2].rstrip(")")
    assert lines(fleet.hosts[0].scheduler, request), said
    loud = fleet.qnet("-v", "ps").stderr
    assert loud.startswith("INFO ")
    assert "GET /v1/containers answered status=200" in loud
