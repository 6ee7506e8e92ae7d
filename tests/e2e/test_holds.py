"""Stopped is not gone: an address that a container asked for is its own until it is removed."""

from __future__ import annotations

import pytest

from tests.e2e.kit import (
    address,
    address_records,
    becomes_free,
    named,
    network,
    pings,
    refused,
    run,
    run_args,
    running,
)
from tests.lab.cluster import Lab
from tests.lab.commands import wait_for
from tests.lab.host import Host

pytestmark = [pytest.mark.slow, pytest.mark.engines]

FIXED = "10.77.0.50"
ASK = ("--ip", FIXED)


def record(lab: Lab) -> dict[str, object]:
    """The record of the address that these tests are about."""
    return address_records(lab).get(FIXED, {})


def is_held(lab: Lab, container: str = "aa", host: str = "host1") -> None:
    """The address is held for a container, soon at least."""
    wanted = {"kind": "held", "container": container, "host": host}
    wait_for(f"{FIXED} is held for {container}", lambda: wanted.items() <= record(lab).items(), 30)


def nobody_else_gets_it(hosts: list[Host], words: str) -> None:
    """A container on each host is refused the address; the refusal names the owner."""
    for host in hosts:
        said = refused(host, *run_args("late", *ASK))
        assert f"address {FIXED} of pool 10.77.0.0/24 of tenant default is taken: {words}" in said
        host.docker("rm", "-f", "late")


@pytest.fixture
def fixed(lab: Lab, hosts: list[Host]) -> list[Host]:
    """The hosts, with container `aa` on the first, which asked for the address, and `peer` on the second."""
    network(hosts)
    run(hosts[0], "aa", *ASK)
    run(hosts[1], "peer")
    named(lab, FIXED, "aa")
    return hosts


def test_stop_and_start(lab: Lab, fixed: list[Host]) -> None:
    host, other, _ = fixed
    host.docker("stop", "aa")
    nobody_else_gets_it([other], "")  # at once: no repair has looked yet
    is_held(lab)
    nobody_else_gets_it(fixed[:2], "held for container aa on host1")
    is_held(lab)
    host.docker("start", "aa")
    assert address(host, "aa") == FIXED
    assert pings(other, "peer", FIXED)
    nobody_else_gets_it(fixed[:2], "in use by container aa on host1")
    host.docker("restart", "aa")
    assert address(host, "aa") == FIXED
    assert pings(other, "peer", FIXED)
    nobody_else_gets_it([other], "in use by container aa on host1")


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_removed_is_free_within_two_seconds(fixed: list[Host], state: str) -> None:
    host, other, _ = fixed
    if state == "stopped":
        host.docker("stop", "aa")
    host.docker("rm", "-f", "aa")
    becomes_free(other, "bb", *ASK)
    assert pings(other, "bb", address(other, "peer"))


def test_disconnected_is_free(lab: Lab, fixed: list[Host]) -> None:
    host, other, _ = fixed
    host.docker("stop", "aa")
    is_held(lab)
    host.docker("network", "disconnect", "web", "aa")
    becomes_free(other, "bb", *ASK)


def test_a_container_that_failed_to_start_holds_nothing(lab: Lab, fixed: list[Host]) -> None:
    host, other, third = fixed
    refused(other, *run_args("late", *ASK))
    assert not running(other, "late")
    host.docker("rm", "-f", "aa")
    becomes_free(third, "cc", *ASK)
    assert record(lab)["host"] == "host3"
    assert FIXED in refused(other, "start", "late")


def test_two_containers_of_one_host_made_with_the_same_address(lab: Lab, fixed: list[Host]) -> None:
    host = fixed[0]
    host.docker("create", "--name", "bb", "--network", "web", *ASK, "busybox", "sleep", "1d")
    assert "in use by container aa on host1" in refused(host, "start", "bb")
    host.docker("stop", "aa")
    is_held(lab)
    assert "held for container aa on host1" in refused(host, "start", "bb")
    is_held(lab)
    host.docker("start", "aa")
    assert address(host, "aa") == FIXED
    host.docker("stop", "aa")
    host.docker("rm", "aa")
    host.docker("start", "bb")
    assert address(host, "bb") == FIXED


def test_a_renamed_container_keeps_its_address(lab: Lab, fixed: list[Host]) -> None:
    host = fixed[0]
    host.docker("stop", "aa")
    is_held(lab)
    host.docker("rename", "aa", "renamed")
    nobody_else_gets_it([fixed[1]], "held for container")
    host.docker("start", "renamed")
    wait_for("new name", lambda: record(lab)["container"] == "renamed", 30)
    assert address(host, "renamed") == FIXED


def test_a_plugin_restart_changes_nothing(lab: Lab, fixed: list[Host]) -> None:
    host, other, _ = fixed
    run(host, "bb", "--ip", "10.77.0.51")
    host.docker("stop", "aa")
    host.plugin.kill()
    host.start_plugin()
    is_held(lab)
    assert pings(other, "peer", "10.77.0.51")
    host.docker("start", "aa")
    assert address(host, "aa") == FIXED
    before = address_records(lab)["10.77.0.51"]
    host.stop_plugin()
    host.start_plugin()
    assert address_records(lab)["10.77.0.51"] == before
    nobody_else_gets_it([other], "in use by container aa on host1")


@pytest.mark.parametrize("how", ["orderly", "kill"])
def test_an_engine_restart(lab: Lab, fixed: list[Host], how: str) -> None:
    host, other, _ = fixed
    host.docker("create", "--name", "stopped", "--network", "web", "--ip", "10.77.0.51", "busybox", "sleep", "1d")
    host.docker("start", "stopped")
    host.docker("stop", "-t", "0", "stopped")
    host.stop_engine(kill=how == "kill")
    nobody_else_gets_it([other], "")
    host.start_engine()
    nobody_else_gets_it(fixed[:2], "")
    assert not running(host, "aa")
    is_held(lab)
    assert "10.77.0.51 of pool 10.77.0.0/24 of tenant default is taken" in refused(
        other, *run_args("late", "--ip", "10.77.0.51")
    )
    host.docker("start", "aa", "stopped")
    assert (address(host, "aa"), address(host, "stopped")) == (FIXED, "10.77.0.51")
    assert pings(other, "peer", FIXED)


@pytest.mark.parametrize("how", ["orderly", "kill"])
def test_an_engine_restart_with_live_restore(lab: Lab, fixed: list[Host], how: str) -> None:
    host, other, _ = fixed
    host.stop_engine()
    host.start_engine(["--live-restore"])
    host.docker("start", "aa")
    free = run(host, "bb")
    before = {text: one["claim"] for text, one in address_records(lab).items()}
    host.stop_engine(kill=how == "kill")
    assert pings(other, "peer", FIXED)
    host.start_engine(["--live-restore"])
    assert running(host, "aa")
    assert running(host, "bb")
    assert pings(other, "peer", FIXED)
    assert pings(other, "peer", free)
    nobody_else_gets_it(fixed[:2], "in use by container aa on host1")
    assert {text: one["claim"] for text, one in address_records(lab).items()} == before
    host.docker("rm", "-f", "aa", "bb")
    becomes_free(other, "cc", *ASK)
    host.stop_engine()
    host.start_engine()


def test_a_restart_policy_brings_the_address_back(lab: Lab, fixed: list[Host]) -> None:
    host, other, _ = fixed
    run(host, "always", "--ip", "10.77.0.52", "--restart", "always")
    host.stop_engine(kill=True)
    host.start_engine()
    wait_for("restart", lambda: running(host, "always"), 10)
    assert address(host, "always") == "10.77.0.52"
    assert pings(other, "peer", "10.77.0.52")


def test_a_power_cut_and_a_boot(lab: Lab, fixed: list[Host]) -> None:
    _, other, host = fixed  # host1 has etcd
    run(host, "cut", "--ip", "10.77.0.53", "--restart", "no")
    run(host, "back", "--ip", "10.77.0.54", "--restart", "always")
    run(host, "any")
    named(lab, "10.77.0.53", "cut")
    host.kill()
    said = refused(other, *run_args("late", "--ip", "10.77.0.53"))
    assert "in use by container cut on host3" in said
    other.docker("rm", "-f", "late")
    host.start()
    wait_for("restart", lambda: running(host, "back"), 20)
    assert address(host, "back") == "10.77.0.54"
    assert pings(other, "peer", "10.77.0.54")
    assert "10.77.0.53 of pool 10.77.0.0/24 of tenant default is taken" in refused(
        other, *run_args("late", "--ip", "10.77.0.53")
    )
    host.docker("start", "cut", "any")
    assert address(host, "cut") == "10.77.0.53"
    assert pings(other, "peer", "10.77.0.53")
    assert pings(other, "peer", address(host, "any"))
