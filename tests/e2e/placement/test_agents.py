"""What agents tell of their hosts, and whom they let through to the engine."""

from __future__ import annotations

import json
import time

import pytest

from tests.e2e import kit
from tests.e2e.placement.fleet import SLEEP, Fleet
from tests.lab import certificates
from tests.lab.commands import wait_for

SEEN = 30.0  # seconds: the figure is measured elsewhere (`make bench ONLY=placement`)


def test_containers_that_others_make_are_seen_and_keep_their_names(fleet: Fleet) -> None:
    for host in fleet.hosts[:2]:
        host.docker("run", "-d", "--name", "own", *SLEEP)
    wait_for("both to be seen", lambda: len(fleet.ps()) == 2, SEEN)
    assert set(fleet.ps()) in ({"own", "host1/own"}, {"own", "host2/own"})
    assert "container name own is in use by a container on" in fleet.refused("run", "--name", "own", "busybox")
    fleet.hosts[0].docker("stop", "-t", "0", "own")
    wait_for("the stop to be seen", lambda: {one["host"] for one in fleet.ps().values()} == {"host2"}, SEEN)
    assert len(fleet.ps("-a", "--host", "host1")) == 1
    for host in fleet.hosts[:2]:
        host.docker("rm", "-f", "own")
    wait_for("both to be gone", lambda: fleet.ps("-a") == {}, SEEN)


def test_what_is_done_on_the_host_itself_is_followed(fleet: Fleet) -> None:
    ran = fleet.run("p1")
    host = fleet.host(ran["host"])
    host.docker("kill", "p1")
    wait_for("its end", lambda: fleet.ps("-a")["p1"]["state"] == "exited", SEEN)
    assert fleet.ps("-a")["p1"]["exit"] == 137
    host.docker("start", "p1")
    wait_for("its start", lambda: fleet.ps().get("p1", {}).get("state") == "running", SEEN)
    assert fleet.ps()["p1"]["addresses"] == ran["addresses"]
    host.docker("rename", "p1", "p2")
    wait_for("its name", lambda: set(fleet.ps()) == {"p2"}, SEEN)
    host.docker("rm", "-f", "p2")
    wait_for("its removal", lambda: fleet.ps("-a") == {}, SEEN)
    (record,) = [one for one in kit.address_records(fleet.lab).values() if one["kind"] == "held"]
    assert record["host"] == ""


def test_what_happened_while_an_agent_was_away_is_found(fleet: Fleet) -> None:
    ran = {host.name: fleet.run(f"on-{host.name}", "--constraint", f"host=={host.name}") for host in fleet.hosts}
    host = fleet.hosts[1]
    host.agent.kill()
    wait_for("host2 to be down", lambda: fleet.api("GET", "/v1/hosts/host2")[1]["state"] == "down", 15)
    assert "1 down" in fleet.refused("run", "--constraint", "host==host2", "busybox")
    assert "its host host2 is down" in fleet.refused("rm", "-f", "on-host2")
    host.docker("rm", "-f", "on-host2")
    host.docker("run", "-d", "--name", "fresh", *SLEEP)
    assert "on-host2" in fleet.ps()
    host.agent.start()
    wait_for("it to be found", lambda: "fresh" in fleet.ps() and "on-host2" not in fleet.ps("-a"), 20)
    again = fleet.run("on-host2")
    assert again["addresses"] == ran["host2"]["addresses"]
    fleet.agree()


def test_an_engine_and_a_plugin_that_are_away_are_trouble(fleet: Fleet) -> None:
    def trouble(number: int) -> list[str]:
        found: list[str] = fleet.api("GET", f"/v1/hosts/host{number}")[1]["trouble"]
        return found

    fleet.hosts[0].stop_engine()
    wait_for("trouble of host1", lambda: trouble(1) == ["the engine"], 30)
    fleet.hosts[1].plugin.kill()
    wait_for("trouble of host2", lambda: trouble(2) == ["qnet-network"], 30)
    assert {fleet.run(f"t{number}", network="none")["host"] for number in range(3)} == {"host3"}
    said = fleet.refused("run", "--constraint", "host!=host3", "busybox", on=2)
    assert "1 has trouble with the engine" in said
    assert "1 has trouble with qnet-network" in said
    fleet.hosts[0].start_engine()
    fleet.hosts[1].start_plugin()
    wait_for("no trouble", lambda: trouble(1) == trouble(2) == [], 30)


def test_a_host_that_boots_again_is_what_it_was(fleet: Fleet) -> None:
    fleet.run("b1", "--constraint", "host==host3", "--restart", "always")
    fleet.hosts[2].kill()
    wait_for("host3 to be down", lambda: fleet.api("GET", "/v1/hosts/host3")[1]["state"] == "down", 15)
    assert "b1" in fleet.ps("-a")
    assert "container name b1 is in use" in fleet.refused("run", "--name", "b1", "busybox")
    fleet.hosts[2].start()
    wait_for("b1 to run again", lambda: fleet.ps().get("b1", {}).get("state") == "running", 40)
    fleet.agree()


def test_exited_containers_are_collected_only_where_that_is_said(fleet: Fleet) -> None:
    one, two = fleet.hosts[:2]
    one.agent.stop()
    one.agent.start(env={"QNET_AGENT_COLLECT_AFTER": "1.0", "QNET_AGENT_COLLECT_KEEP": "1"})
    for host in (one, two):
        for number in range(3):
            keep = ("--label", "qnet.keep=1") if number == 0 else ()
            where = ("--constraint", f"host=={host.name}", *keep)
            fleet.run(f"{host.name}-{number}", *where, "busybox", "true", network="none")
            time.sleep(1.1)  # ages differ
    kept = {"host1-0", "host1-2", "host2-0", "host2-1", "host2-2"}
    wait_for("host1's to be collected", lambda: set(fleet.ps("-a")) == kept, 40)
    one.agent.stop()
    one.agent.start()


@pytest.mark.parametrize("role", ["", "tenant", "operator", "host", "stranger"])
def test_nobody_but_a_scheduler_reaches_an_engine(fleet: Fleet, role: str) -> None:
    words = ["curl", "-sk", "--max-time", "10", "https://10.99.0.12:7443/v1.41/info"]
    layout = fleet.lab.layout
    if role == "stranger":
        make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /OU=scheduler/CN=x"
        fleet.hosts[0].exec("sh", "-c", f"{make} -keyout /tmp/x.key -out /tmp/x.pem")
        words += ["--cert", "/tmp/x.pem", "--key", "/tmp/x.key"]
    elif role:
        cert, key = certificates.make(layout, role, "someone")
        words += ["--cert", str(cert), "--key", str(key)]
    done = fleet.hosts[0].exec(*words, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    cert, key = certificates.make(layout, "scheduler", "other")
    good = fleet.hosts[0].exec(*words[:5], "--cert", str(cert), "--key", str(key))
    assert json.loads(good.stdout)["ServerVersion"]


def test_a_tenant_by_certificate_sees_its_own(fleet: Fleet) -> None:
    kit.qnet(fleet.hosts[0], "tenant", "create", "shop", kit.CREATE.tag)
    try:
        fleet.run("w1")
        asked = {"name": "shop", "subnets": [{"Subnet": "10.90.0.0/24"}]} | (
            {"options": {"mode": kit.CREATE.mode}} if kit.CREATE.mode != "macvlan" else {}
        )
        status, made = _as_tenant(fleet, "POST", "/v1/networks", asked)
        assert (status, made.get("tenant")) == (201, "shop"), made
        body = {"name": "s1", "networks": [{"name": "shop"}], "container": {"Image": "busybox", "Cmd": ["sleep", "1d"]}}
        status, ran = _as_tenant(fleet, "POST", "/v1/runs", body)
        assert status == 201, ran
        assert [one["name"] for one in _as_tenant(fleet, "GET", "/v1/containers", None)[1]] == ["s1"]
        assert _as_tenant(fleet, "DELETE", "/v1/containers/w1?force=1", None)[0] == 404
        assert _as_tenant(fleet, "GET", "/v1/hosts", None)[0] == 403
        privileged = {"container": {"Image": "busybox", "HostConfig": {"Privileged": True}}}
        for refused, with_status in (({"networks": [{"name": "web"}]}, 404), (privileged, 400)):
            assert _as_tenant(fleet, "POST", "/v1/runs", {**body, "name": "s2", **refused})[0] == with_status
        wait_for("both to be told as running", lambda: set(fleet.ps()) == {"w1", "s1"}, 30)
        assert _as_tenant(fleet, "DELETE", "/v1/containers/s1?force=1", None)[0] == 200
        for address in kit.address_records(fleet.lab, "10.90.0.0/24", "shop"):
            kit.qnet(fleet.hosts[0], "address", "release", "--tenant", "shop", "--yes", address, check=False)
        assert _as_tenant(fleet, "DELETE", "/v1/networks/shop", None)[0] == 200
    finally:

        def gone() -> bool:
            return kit.qnet(fleet.hosts[0], "tenant", "rm", "--yes", "shop", check=False).returncode == 0

        wait_for("tenant shop to be gone", gone, 20, 0.5)


def _as_tenant(fleet: Fleet, method: str, path: str, body: object) -> tuple[int, dict[str, object]]:
    """A call over TLS with a certificate of tenant shop."""
    cert, key = certificates.make(fleet.lab.layout, "tenant", "shop")
    ca = certificates.folder(fleet.lab.layout) / "ca.pem"
    words = ["curl", "-s", "--cacert", str(ca), "--cert", str(cert), "--key", str(key), "-w", "\n%{http_code}"]
    data = ["-d", json.dumps(body)] if body is not None else []
    done = fleet.hosts[0].exec(*words, "-X", method, *data, f"https://10.99.0.11:7444{path}")
    text, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(text)
