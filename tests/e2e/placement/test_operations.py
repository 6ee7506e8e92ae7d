"""`qnet doctor` and `qnet support-dump` on a fleet: what is up, what is away, what may be told."""

from __future__ import annotations

import json
import os
import signal
import tarfile
import time
from pathlib import Path

import pytest

from tests.e2e.placement.fleet import Fleet
from tests.lab.commands import wait_for

pytestmark = pytest.mark.slow
SECRET = "s3cr3t-e2e"


def doctor(fleet: Fleet, on: int = 0) -> dict[str, str]:
    """What it finds, by what is found: ok, warn or fail."""
    return {one["what"]: one["level"] for one in json.loads(fleet.qnet("doctor", "--json", on=on, check=False).stdout)}


def test_doctor_sees_the_whole_fleet(fleet: Fleet) -> None:
    found = doctor(fleet)
    assert [what for what, level in found.items() if what.startswith("[") and level != "ok"] == []
    assert [what for what, level in found.items() if level == "fail"] == []
    for host in fleet.hosts:
        assert any(what.startswith(f"host {host.name}: engine ") and what.endswith(": up") for what in found)
        assert any(what.startswith(f"agent of {host.name} answers in ") for what in found), found
    assert any(what.startswith("scheduler at /run/qnet/scheduler.sock knows 3 hosts") for what in found)
    assert any(what.startswith("[agent] /etc/qnet/tls/host.pem: host host1, valid until") for what in found)
    members = [what for what in found if what.startswith("etcd ") and ", answers in " in what]
    assert len(members) == len([host for host in fleet.hosts if host.etcd]), found
    fleet.hosts[1].agent.stop()
    wait_for("host2 to be down", lambda: fleet.hosts[0].scheduler.hosts_up() == 2, 20)
    found = doctor(fleet)
    warned = [what for what, level in found.items() if level == "warn"]
    assert any(what.startswith("host host2: ") and what.endswith(": down") for what in warned), found


def test_doctor_is_done_in_ten_seconds_though_everything_is_away(fleet: Fleet) -> None:
    host = fleet.hosts[0]
    services = [host.scheduler, host.gateway, host.agent, host.plugin, host.volume_plugin, host.engine, host.etcd]
    groups = [service.pid for service in services if service is not None and service.pid]
    host.partition()
    try:
        for group in groups:
            os.killpg(group, signal.SIGSTOP)
        began = time.monotonic()
        found = doctor(fleet)
        assert time.monotonic() - began < 10
    finally:
        for group in groups:
            os.killpg(group, signal.SIGCONT)
        host.heal()
    failed = [what for what, level in found.items() if level == "fail"]
    for part in ("docker engine at", "plugin at", "scheduler at", "front at", "etcd "):
        assert any(what.startswith(part) for what in failed), (part, found)


def test_a_dump_tells_everything_but_secrets(fleet: Fleet, tmp_path: Path) -> None:
    words = ("-e", f"PASSWORD={SECRET}", "-l", f"deploy={SECRET}", "busybox", "sh", "-c", f"sleep 1d # {SECRET}")
    fleet.run("d1", "--constraint", "host==host1", *words)
    file = tmp_path / "dump.tar.gz"
    shown = fleet.qnet("support-dump", str(file)).stdout
    assert f"written: {file}" in shown
    with tarfile.open(file) as archive:
        found = {one.name.partition("/")[2]: archive.extractfile(one).read().decode() for one in archive}  # type: ignore[union-attr]
    assert [name for name, text in found.items() if SECRET in text] == []
    missing = {line.partition(":")[0] for line in found["missing.txt"].splitlines()}
    assert {name for name in missing if not name.startswith("journal/")} <= {"files/releases.journal"}
    (mine,) = [one for one in json.loads(found["engine/containers.json"])["containers"] if one["Name"] == "/d1"]
    assert mine["Labels"]["deploy"] == "***"
    assert '"/qnet/v1/placement/containers/d1"' in found["store.jsonl"]
    for daemon, metric in (("network", "plugin_call_seconds"), ("agent", "agent_engine_call_seconds")):
        assert f"qnet_{metric}" in found[f"metrics/qnet-{daemon}.txt"]
    assert "eth1" in found["network/links.txt"]
