"""Restarts, upgrades and reboots, while containers work: a ping, a writer and an attached terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plugins.cli.daemon_checks import DAEMONS
from tests.lab.commands import wait_for
from tests.package.site import FRONT, Site, rebuilt, settle

ANSWER = re.compile(r"seq=(\d+)")


@contextmanager
def load(site: Site) -> Iterator[None]:
    """Containers on both hosts: one pings the other, one writes to a volume, one has a terminal attached. At the end
    none of them may have noticed anything."""
    first, second = site.machines
    first.docker("volume", "create", "-d", "sharedfs", "-o", "size=1G", "load")
    write = "i=0; while :; do i=$((i+1)); echo $i >>/data/log && sync /data/log || echo broken; sleep 0.1; done"
    with (
        site.container(second, "target", "busybox", "sleep", "1d") as target,
        site.container(first, "writer", "-v", "load:/data", "busybox", "sh", "-c", write),
        site.container(first, "pinger", "busybox", "ping", "-i", "0.2", target),
        site.container(first, "terminal", "-it", "busybox", "cat"),
    ):
        terminal = first.start("script -qec 'docker attach --sig-proxy=false terminal' /dev/null")
        assert terminal.stdin is not None
        assert terminal.stdout is not None
        try:
            terminal.stdin.write("before\n")
            terminal.stdin.flush()
            assert "before" in terminal.stdout.readline()
            yield
            lines = lines_of(site)
            wait_for("another line", lambda: len(lines_of(site)) > len(lines), 30, 0.2)
            terminal.stdin.write("after\n")
            terminal.stdin.flush()
            while "after" not in terminal.stdout.readline():
                assert terminal.poll() is None
        finally:
            terminal.kill()
            terminal.communicate(timeout=10)
        assert "broken" not in first.docker("logs", "writer").stdout
        lines = lines_of(site)
        assert lines == [str(number + 1) for number in range(len(lines))]
        answered = [int(number) for number in ANSWER.findall(first.docker("logs", "pinger").stdout)]
        assert len(answered) > 5
        assert answered == list(range(answered[0], answered[-1] + 1))
    first.docker("volume", "rm", "load")


def lines_of(site: Site) -> list[str]:
    return site.first.docker("exec", "writer", "cat", "/data/log").stdout.splitlines()


@pytest.mark.parametrize("unit", [*DAEMONS, "qnet.target"])
def test_a_restart_is_invisible_to_what_runs(site: Site, unit: str) -> None:
    with load(site):
        for machine in site.machines:
            machine.sh(f"systemctl restart {unit}", timeout=90)
            for one in DAEMONS if unit == "qnet.target" else [unit]:
                settle(machine, one, "active")


def test_an_upgrade_and_a_downgrade_are_invisible_to_what_runs(site: Site, package: Path, tmp_path: Path) -> None:
    """One host after the other, so that two releases run together for a while."""
    earlier = rebuilt(package, "0.0.9-1", tmp_path)
    settings = [machine.sh("cat /etc/qnet/qnet.toml").stdout for machine in site.machines]
    for machine in site.machines:
        (machine.files / "root" / earlier.name).write_bytes(earlier.read_bytes())
    with load(site):
        for machine in site.machines:
            before = machine.shown("qnet-agent", "MainPID")["MainPID"]
            machine.sh(f"DEBIAN_FRONTEND=noninteractive dpkg --install /root/{earlier.name}", timeout=180)
            for unit in DAEMONS:
                settle(machine, unit, "active", 60)
            assert machine.shown("qnet-agent", "MainPID")["MainPID"] != before
        site.wait_ready()
        site.first.sh(f"{FRONT} run --rm --network web busybox true", timeout=90)
        for machine in site.machines:
            machine.sh(f"DEBIAN_FRONTEND=noninteractive dpkg --install /root/{package.name}", timeout=180)
            for unit in DAEMONS:
                settle(machine, unit, "active", 60)
    assert [machine.sh("cat /etc/qnet/qnet.toml").stdout for machine in site.machines] == settings
    site.wait_ready()


def test_after_a_reboot_all_is_as_before(site: Site) -> None:
    machine = site.second
    where = "-e constraint:host==host2"
    address = site.first.sh(
        f"{FRONT} run -d --restart always --network web --ip auto --name steady {where} busybox sleep 1d"
        f" >/dev/null; {FRONT} inspect -f '{{{{.NetworkSettings.Networks.web.IPAddress}}}}' steady",
        timeout=90,
    ).stdout
    machine.reboot()
    for unit in DAEMONS:
        settle(machine, unit, "active", 60)
    site.wait_ready()
    inspect = "inspect -f '{{.State.Running}} {{.NetworkSettings.Networks.web.IPAddress}}' steady"
    wait_for("the container", lambda: machine.sh(f"docker {inspect}", check=False).stdout.startswith("true"), 60, 0.5)
    assert machine.sh(f"docker {inspect}").stdout == f"true {address}"
    with site.container(site.first, "near", "busybox", "sleep", "1d"):
        site.first.docker("exec", "near", "ping", "-c", "1", "-w", "10", address.strip())
    order = machine.sh(
        "systemd-analyze dot --order 'docker.service' 2>/dev/null | grep -c 'qnet-network.service'"
    ).stdout
    assert int(order) > 0
    site.first.sh(f"{FRONT} rm -f steady")
