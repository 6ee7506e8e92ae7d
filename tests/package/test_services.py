"""Services under systemd: sockets that wait, restarts that nobody notices, watchdogs, settings."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from plugins.cli.daemon_checks import DAEMONS
from tests.lab.commands import wait_for
from tests.package.machine import Machine
from tests.package.site import Site, settle

STOPS_WITHIN = 5.0  # seconds
WAITS = {"etcd": "etcd is unreachable", "docker": "engine"}


@contextmanager
def changed_unit(machine: Machine, unit: str, *lines: str) -> Iterator[None]:
    """A unit with settings of `[Service]` over its own, restarted."""
    folder = machine.files / f"etc/systemd/system/{unit}.service.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.conf").write_text("\n".join(("[Service]", *lines)) + "\n")
    machine.sh(f"systemctl daemon-reload; systemctl restart {unit}")
    try:
        yield
    finally:
        machine.sh(f"rm -r /etc/systemd/system/{unit}.service.d; systemctl daemon-reload; systemctl restart {unit}")


@contextmanager
def changed_settings(machine: Machine, old: str, new: str) -> Iterator[None]:
    """The settings with a line in place of another."""
    file = machine.files / "etc/qnet/qnet.toml"
    before = file.read_text()
    assert old in before
    file.write_text(before.replace(old, new, 1))
    try:
        yield
    finally:
        file.write_text(before)


def workers(machine: Machine, unit: str) -> list[str]:
    """The processes of a daemon that serve; not those that watch over them."""
    listed = machine.sh(f"pgrep -f '^/opt/qnet/bin/python3 /opt/qnet/bin/{unit}'").stdout.split()
    return listed[-1:]


def test_an_engine_whose_plugins_are_stopped_waits_for_them(site: Site) -> None:
    machine = site.first
    machine.sh("systemctl stop qnet-network.service sharedfs.service")
    assert machine.active("qnet-network.socket") == machine.active("sharedfs.socket") == "active"
    with site.container(machine, "woken", "busybox", "sleep", "1d") as address:
        assert address.startswith("10.77.0.")
    machine.docker("volume", "ls")
    assert machine.docker("volume", "create", "-d", "sharedfs", "woken").stdout == "woken\n"
    machine.docker("volume", "rm", "woken")
    settle(machine, "qnet-network.service", "active")
    settle(machine, "sharedfs.service", "active")


@pytest.mark.parametrize("unit", DAEMONS)
def test_a_service_stops_in_five_seconds(site: Site, unit: str) -> None:
    began = time.monotonic()
    site.first.sh(f"systemctl stop {unit}.service")
    took = time.monotonic() - began
    assert site.first.shown(unit, "Result")["Result"] == "success"
    site.first.sh(f"systemctl start {unit}.service")
    settle(site.first, unit, "active")
    assert took < STOPS_WITHIN


@pytest.mark.parametrize("unit", DAEMONS)
def test_a_daemon_that_hangs_is_restarted_by_its_watchdog(site: Site, unit: str) -> None:
    machine = site.first
    with changed_unit(machine, unit, "WatchdogSec=4"):
        restarts = int(machine.shown(unit, "NRestarts")["NRestarts"])
        time.sleep(6)
        assert int(machine.shown(unit, "NRestarts")["NRestarts"]) == restarts  # who lives is left alone
        (pid,) = workers(machine, unit)
        machine.sh(f"kill -STOP {pid}")
        wait_for(
            f"restart of {unit}",
            lambda: int(machine.shown(unit, "NRestarts")["NRestarts"]) > restarts,
            40,
            0.5,
        )
        settle(machine, unit, "active")
        assert "watchdog" in machine.sh(f"journalctl --no-pager -u {unit} -n 60").stdout.lower()


def test_wrong_settings_end_a_daemon_with_the_line_and_are_not_tried_again(site: Site) -> None:
    machine = site.first
    with changed_settings(machine, "[etcd]\n", "[etcd]\ntimeout = 9\n"):
        line = (machine.files / "etc/qnet/qnet.toml").read_text().splitlines().index("timeout = 9") + 1
        restarted = machine.sh("systemctl restart qnet-scheduler", check=False)
        assert restarted.returncode != 0
        time.sleep(3)
        shown = machine.shown("qnet-scheduler", "ActiveState", "ExecMainStatus", "NRestarts")
        assert (shown["ActiveState"], shown["ExecMainStatus"]) == ("failed", "78")
        told = machine.journal("qnet-scheduler", 10)
        assert f"/etc/qnet/qnet.toml line {line}: etcd.timeout is 9" in told
        assert machine.sh("qnet config check", check=False).returncode == 1
    machine.sh("systemctl restart qnet-scheduler")
    settle(machine, "qnet-scheduler", "active")


@pytest.mark.parametrize("unit", DAEMONS)
def test_settings_are_read_again_on_reload(site: Site, unit: str) -> None:
    machine = site.first
    level = '#level = "info"\n'
    pid = machine.shown(unit, "MainPID")["MainPID"]
    with (
        changed_settings(machine, level, 'level = "debug"\n'),
        changed_settings(machine, "[etcd]\n", "[etcd]\ntimeout = 3.5\n"),
    ):
        machine.sh(f"systemctl reload {unit}")
        later = f"need a restart (systemctl restart {unit}): etcd.timeout"
        wait_for("its word", lambda: later in machine.journal(unit, 30), 30, 0.2)
        assert "in force: log.level" in machine.journal(unit, 30)
    with changed_settings(machine, "[etcd]\n", "[etcd]\ntimeout = 99\n"):
        machine.sh(f"systemctl reload {unit}")
        wait_for("its refusal", lambda: "the settings stay as they are" in machine.journal(unit, 20), 30, 0.2)
    machine.sh(f"systemctl reload {unit}")
    assert machine.shown(unit, "MainPID")["MainPID"] == pid
    assert machine.active(unit) == "active"


@pytest.mark.parametrize("away", ["etcd", "docker"])
def test_daemons_start_without_what_they_need_and_say_what_it_is(site: Site, away: str) -> None:
    machine = site.first
    units = DAEMONS if away == "etcd" else ("qnet-network", "qnet-agent")
    stop = "systemctl stop docker.socket docker" if away == "docker" else "systemctl stop etcd"
    machine.sh(stop)
    try:
        machine.sh(f"systemctl restart {' '.join(units)}", timeout=90)
        for unit in units:
            assert machine.active(unit) == "active"
            status = machine.shown(unit, "StatusText")["StatusText"]
            assert status.startswith("waiting: "), f"{unit}: {status}"
            assert WAITS[away] in status
    finally:
        machine.sh(f"systemctl start {away}")
    for unit in units:
        wait_for(
            f"{unit} serving", lambda unit=unit: machine.shown(unit, "StatusText")["StatusText"] == "serving", 60, 0.5
        )
    site.wait_ready()


def test_docker_elsewhere_reaches_the_front_by_a_certificate_of_an_operator(site: Site) -> None:
    first, second = site.machines
    made = first.sh("rm -rf /root/ann; qnet cert operator ann --dir /root/ann; ls /root/ann").stdout
    assert all(file in made for file in ("ca.pem", "cert.pem", "key.pem"))
    shutil.copytree(first.files / "root/ann", second.files / "root/ann", dirs_exist_ok=True)
    try:
        with changed_settings(first, "[gateway]\n", '[gateway]\nlisten = "10.99.0.11:2376"\n'):
            first.sh("systemctl restart qnet-gateway")
            asked = "docker --tlsverify -H tcp://10.99.0.11:2376 info --format '{{.Name}}'"
            assert second.sh(f"DOCKER_CERT_PATH=/root/ann {asked}").stdout.strip()
            refused = second.sh(f"mkdir -p /root/nobody; DOCKER_CERT_PATH=/root/nobody {asked}", check=False)
            assert refused.returncode != 0
    finally:
        first.sh("systemctl restart qnet-gateway; rm -r /root/ann")


def test_a_daemon_that_fails_again_and_again_is_started_after_longer_and_longer_pauses(site: Site) -> None:
    machine, unit = site.first, "qnet-scheduler"
    machine.sh("rm -rf /run/qnet/failures")  # of other tests
    for _ in range(3):
        restarts = int(machine.shown(unit, "NRestarts")["NRestarts"])
        machine.sh(f"kill -KILL {machine.shown(unit, 'MainPID')['MainPID']}")
        wait_for("a restart", lambda n=restarts: int(machine.shown(unit, "NRestarts")["NRestarts"]) > n, 20, 0.1)
        settle(machine, unit, "active")
    told = machine.sh(f"journalctl --no-pager -u {unit} -n 60").stdout
    pauses = re.findall(rf"{unit}\.service failed again .*started anew in (\d+) s", told)
    assert pauses[-2:] == ["2", "3"], told


@pytest.mark.parametrize("port", range(9470, 9475))
def test_every_daemon_tells_prometheus_when_it_started(site: Site, port: int) -> None:
    told = site.first.sh(f"curl -sS -m 5 http://127.0.0.1:{port}/metrics").stdout
    began = re.search(r"^qnet_start_timestamp_seconds (\S+)$", told, re.MULTILINE)
    assert began is not None, told[:200]
    assert 0 < time.time() - float(began[1]) < 86400
