"""The lab itself: what other tests rely on when they kill a host, cut it off, or look for leftovers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cluster import Lab
from tests.lab.commands import CommandError, Result, run
from tests.lab.engine import missing
from tests.lab.host import Host
from tests.lab.model import ENGINES, PROJECT, LabError, Layout
from tests.lab.processes import Process, find, namespace
from tests.lab.unixhttp import call

DIRECTORY = "/run/qnet-labtest"
OTHER = "/run/qnet-labtest2"
PREFIX = Layout.find(OTHER).prefix
SUBNET = ("--subnet", "10.66.0.0/24", "--gateway", "10.66.0.254")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three hosts, three members of etcd, no plugin."""
    with Lab.up(hosts=3, etcd=3, plugin=False, directory=DIRECTORY, replace=True) as lab:
        yield lab
    assert lab.leftovers() == []


@pytest.fixture
def hosts(lab: Lab) -> Iterator[list[Host]]:
    """The hosts, all up; without containers and networks of a test afterwards."""
    yield lab.hosts
    for host in lab.hosts:
        if not host.namespaces.holder:
            host.start()
        host.heal()
        ids = host.docker("ps", "-aq").stdout.split()
        if ids:
            host.docker("rm", "-f", *ids)
        host.docker("network", "prune", "-f")


def lab_command(*args: str, check: bool = True) -> Result:
    """`python -m tests.lab` for the labs of this file."""
    argv = [sys.executable, "-m", "tests.lab", "--dir", DIRECTORY, *args]
    return run(["env", "-C", str(PROJECT), *argv], check=check, timeout=120)


def start_macvlan(host: Host, address: str) -> None:
    """A container named `c1` on a network of the engine's own macvlan driver over eth1."""
    host.docker("network", "create", "-d", "macvlan", "-o", "parent=eth1", *SUBNET, "m")
    host.docker("run", "-d", "--name", "c1", "--network", "m", "--ip", address, "busybox", "sleep", "1000")


def pings(host: Host, address: str) -> bool:
    """Whether one of two pings from the container `c1` is answered."""
    done = host.docker("exec", "c1", "ping", "-c", "2", "-W", "1", address, check=False)
    return done.returncode == 0


def test_engines_are_different_ones(hosts: list[Host]) -> None:
    ids = {host.docker("info", "--format", "{{.ID}}").stdout for host in hosts}
    names = [host.docker("info", "--format", "{{.Name}}").stdout.strip() for host in hosts]
    assert len(ids) == 3
    assert names == ["host1", "host2", "host3"]


def test_links_of_a_host(hosts: list[Host]) -> None:
    links = {link["ifname"]: link for link in json.loads(hosts[0].exec("ip", "-j", "addr").stdout)}
    assert set(links) == {"lo", "eth0", "eth1", "eth2"}
    assert {a["local"] for a in links["eth0"]["addr_info"]} >= {"10.99.0.11", "fd99::11"}
    assert links["eth1"]["addr_info"] == []
    assert "UP" in links["eth1"]["flags"]
    assert "UP" not in links["eth2"]["flags"]


def test_containers_of_two_hosts_share_the_trunk(hosts: list[Host]) -> None:
    start_macvlan(hosts[0], "10.66.0.1")
    start_macvlan(hosts[1], "10.66.0.2")
    assert pings(hosts[0], "10.66.0.2")
    hosts[1].partition("trunk")
    assert not pings(hosts[0], "10.66.0.2")
    hosts[1].heal()
    assert pings(hosts[0], "10.66.0.2")


def test_hosts_do_not_write_to_the_machine(hosts: list[Host]) -> None:
    probes = [f"{folder}/qlab-probe" for folder in ("/etc", "/var/lib", "/run", "/var/log")]
    hosts[0].exec("touch", *probes)
    assert not any(Path(probe).exists() for probe in probes)
    assert hosts[1].exec("ls", "/etc/qlab-probe", check=False).returncode != 0


def test_etcd_survives_the_loss_of_its_leader(lab: Lab, hosts: list[Host]) -> None:
    listed = lab.etcdctl("member", "list").stdout.splitlines()
    assert len(listed) == 3
    lab.etcdctl("put", "/k", "v")
    leader = lab.etcd_leader()
    assert leader.etcd
    leader.etcd.kill()
    deadline = time.monotonic() + 20
    while lab.etcdctl("put", "/k", "w", check=False).returncode and time.monotonic() < deadline:
        time.sleep(0.2)
    leader.etcd.start()
    assert lab.etcdctl("get", "/k", "--print-value-only").stdout.strip() == "w"
    assert "degraded" not in leader.status().state


def test_partition_drops_in_silence_and_heal_restores(hosts: list[Host]) -> None:
    probe = ("ping", "-c", "2", "-W", "1", "10.99.0.12")
    assert hosts[0].exec(*probe, check=False).returncode == 0
    hosts[1].partition()
    assert hosts[1].status().state == "partitioned from mgmt"
    assert hosts[0].exec(*probe, check=False).returncode != 0
    carrier = hosts[1].exec("ip", "-j", "link", "show", "eth0")
    assert json.loads(carrier.stdout)[0]["operstate"] == "UP"
    hosts[1].heal()
    assert hosts[0].exec(*probe, check=False).returncode == 0


def test_a_cut_from_etcd_lets_other_packets_pass(hosts: list[Host]) -> None:
    asks = ("etcdctl", "--endpoints=10.99.0.11:2379", "--command-timeout=2s", "endpoint", "status")
    api = {"ETCDCTL_API": "3"}
    assert hosts[1].exec(*asks, env=api, check=False).returncode == 0
    hosts[1].partition("etcd")
    assert hosts[1].status().state == "partitioned from etcd"
    assert hosts[1].exec(*asks, env=api, check=False).returncode != 0
    assert hosts[1].exec("ping", "-c", "1", "-W", "1", "10.99.0.11", check=False).returncode == 0
    hosts[1].heal()
    assert hosts[1].exec(*asks, env=api, check=False).returncode == 0


def test_kill_and_start_is_a_reboot(hosts: list[Host]) -> None:
    host = hosts[2]
    start_macvlan(host, "10.66.0.3")
    host.exec("ip", "link", "add", "stray", "type", "bridge")
    host.exec("touch", "/run/stray", "/etc/kept")
    before = host.docker("info", "--format", "{{.ID}}").stdout
    host.kill()
    assert host.status().state == "down"
    with pytest.raises(LabError, match="host3 is down"):
        host.exec("true")
    host.start()
    assert host.docker("info", "--format", "{{.ID}}").stdout == before
    assert host.docker("ps", "-a", "--format", "{{.Names}} {{.State}}").stdout.split() == ["c1", "exited"]
    assert host.exec("ls", "/run/stray", check=False).returncode != 0
    assert host.exec("ls", "/etc/kept").returncode == 0
    assert host.exec("ip", "link", "show", "stray", check=False).returncode != 0
    host.docker("start", "c1")


def test_engine_killed_leaves_its_containers(hosts: list[Host]) -> None:
    host = hosts[0]
    start_macvlan(host, "10.66.0.1")
    pid = int(host.docker("inspect", "-f", "{{.State.Pid}}", "c1").stdout)
    host.stop_engine(kill=True)
    assert host.status().state == "degraded: no dockerd"
    assert Path(f"/proc/{pid}").exists()
    host.start_engine()
    assert host.docker("ps", "-aq").stdout.split()


def test_errors_name_what_exists(lab: Lab, hosts: list[Host]) -> None:
    with pytest.raises(LabError, match="no host 'host9': there are host1, host2, host3"):
        lab.host("host9")
    with pytest.raises(CommandError) as failed:
        hosts[0].docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (failed.value.status, failed.value.stdout, failed.value.stderr) == (7, "out\n", "err\n")
    with pytest.raises(LabError, match="a lab is up"):
        Lab.up(hosts=1, plugin=False, directory=DIRECTORY)


def test_command_line(lab: Lab) -> None:
    status = json.loads(lab_command("status", "--json").stdout)
    assert [row["name"] for row in status] == ["host1", "host2", "host3"]
    assert {row["state"] for row in status} == {"up"}
    assert all(Path(row["docker_socket"]).is_socket() for row in status)
    assert lab_command("docker", "host2", "run", "--rm", "busybox", "hostname").stdout.strip()
    assert lab_command("docker", "host2", "run", "--rm", "busybox", "false", check=False).returncode == 1
    assert lab_command("exec", "host2", "sh", "-c", "hostname; pwd").stdout.split() == ["host2", str(PROJECT)]
    unknown = lab_command("exec", "host9", "true", check=False)
    assert unknown.returncode == 1
    assert "there are host1, host2, host3" in unknown.stderr
    again = lab_command("up", "--hosts", "3", "--etcd", "3", "--no-plugin")
    assert "up already" in again.stdout
    other = lab_command("up", "--hosts", "2", "--no-plugin", check=False)
    assert other.returncode == 1
    assert "take it `down` first" in other.stderr


def foreign(text: str) -> bool:
    """Whether something belongs to another lab, which may come and go during a test."""
    if "/run/netns" in text:  # is there as long as any lab is
        return PREFIX not in text
    return ("qlab" in text or "qnet-lab" in text) and PREFIX not in text and OTHER not in text


def daemons() -> set[str]:
    """Processes in mount namespaces of their own, other labs' left aside."""
    mine = namespace(os.getpid(), "mnt")
    labs = [path for path in Path("/var/tmp").glob("qnet-lab*") if path != Layout.find(OTHER).data]
    others = {process.pid for process in find(labs, [])} if labs else set()
    pids = {int(path.name) for path in Path("/proc").glob("[0-9]*")} - others
    return {
        f"{pid} {read(Path(f'/proc/{pid}/comm'))}"
        for pid in pids
        if namespace(pid, "mnt") not in (mine, None) and Process.of(pid)
    }


def machine() -> dict[str, set[str]]:
    """What must be after `down` as it was before `up`."""
    folders = ("/run", "/etc", "/var/lib", "/var/log", "/var/tmp", "/etc/docker", "/etc/qnet", "/var/lib/qnet")
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    groups = [Path(line.split()[4]) for line in mounts if " - cgroup" in line]
    found = {
        "namespaces": run(["ip", "netns", "list"]).stdout.splitlines(),
        "links": [link["ifname"] for link in json.loads(run(["ip", "-j", "link"]).stdout)],
        "mounts": mounts,
        "files": [
            str(path)
            for folder in folders
            if Path(folder).is_dir()
            for path in Path(folder).iterdir()
            if str(path) == OTHER or not (path / "state.json").exists()
        ],
        "cgroups": [str(path) for group in groups for path in group.iterdir() if path.is_dir()],
    }
    seen = {kind: {line for line in lines if not foreign(line)} for kind, lines in found.items()}
    return {**seen, "daemons": daemons()}


def new_since(before: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is on the machine and stays there, by kind. Other labs' things may come and go, so it looks again."""
    for _ in range(20):
        now = machine()
        new = {kind: now[kind] - before[kind] for kind in now if now[kind] - before[kind]}
        if not new:
            break
        time.sleep(0.2)
    return new


def read(path: Path) -> str:
    """The text of a file of /proc; empty if its process has ended."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


@pytest.fixture
def before() -> Iterator[dict[str, set[str]]]:
    """The machine before the test; the other lab is gone after it."""
    Lab.remove(OTHER)
    yield machine()
    Lab.remove(OTHER)


STAND_IN = """
import http.server, os, socketserver, sys
os.makedirs("/run/docker/plugins", exist_ok=True)
path = "/run/docker/plugins/qnet.sock"
if os.path.exists(path):
    os.unlink(path)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"Implements": []}')
    def log_message(self, *args):
        print(os.environ.get("PROBE"), flush=True)
socketserver.UnixStreamServer(path, Handler).serve_forever()
"""


def test_plugin_is_started_stopped_and_configured(before: dict[str, set[str]]) -> None:
    """With a stand-in for the plugin: this is about the lab."""
    command = [sys.executable, "-c", STAND_IN]
    settings = "[ipam]\nrest = 1\n[network]\nparent = 'eth2'\n"
    with Lab.up(hosts=1, plugin_command=command, settings=settings, directory=OTHER) as lab:
        host = lab.hosts[0]
        text = tomllib.loads(host.exec("cat", "/etc/qnet/qnet.toml").stdout)
        assert text["network"] == {"parent": "eth2", "underlay": "eth0"}
        assert text["ipam"] == {"rest": 1, "supernets": {"default": ["10.128.0.0/12", "fd00:128::/48"]}}
        assert text["etcd"] == {"endpoints": ["10.99.0.11:2379"]}
        assert call(host.plugin_socket, "POST", "/Plugin.Activate") == (200, {"Implements": []})
        host.stop_plugin(signal.SIGKILL)
        assert host.status().state == "degraded: no qnet-network"
        host.start_plugin(env={"PROBE": "set by the test"})
        assert "set by the test" in host.plugin.tail()
        host.stop_plugin()
        with pytest.raises(LabError, match=r"qnet-network of host1: ended instead of answering: (.|\n)*boom"):
            host.start_plugin(["/bin/sh", "-c", "sleep 0.3; echo boom; exit 3"])
    assert new_since(before) == {}


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_comes_up_and_down_leaves_nothing(engine: str, before: dict[str, set[str]]) -> None:
    if missing(engine) and "could not be fetched" in str(missing(engine)):
        pytest.skip(str(missing(engine)))
    lab = Lab.up(hosts=2, engine=engine, plugin=False, directory=OTHER)
    start_macvlan(lab.hosts[0], "10.66.0.1")
    start_macvlan(lab.hosts[1], "10.66.0.2")
    assert pings(lab.hosts[0], "10.66.0.2")
    expected = {"debian12": "20.", "debian13": "26.", "unstable": ""}[engine]
    assert str(lab.hosts[0].status().engine_version).startswith(expected)
    assert lab.leftovers()
    lab.down()
    assert lab.leftovers() == []
    assert new_since(before) == {}


@pytest.mark.parametrize("seconds", [0.3, 0.6, 1.0, 1.5])
def test_up_cleans_after_a_crashed_up(seconds: float, before: dict[str, set[str]]) -> None:
    argv = [sys.executable, "-m", "tests.lab", "--dir", OTHER, "up", "--hosts", "2", "--no-plugin"]
    with subprocess.Popen(argv, cwd=PROJECT, stdout=subprocess.DEVNULL) as crashing:
        time.sleep(seconds)
        crashing.send_signal(signal.SIGKILL)
    with Lab.up(hosts=2, plugin=False, directory=OTHER, replace=True) as lab:
        assert [host.status().state for host in lab.hosts] == ["up", "up"]
    assert new_since(before) == {}


def test_down_needs_no_state_file(before: dict[str, set[str]]) -> None:
    lab = Lab.up(hosts=1, plugin=False, directory=OTHER)
    start_macvlan(lab.hosts[0], "10.66.0.1")
    lab.layout.state_file.unlink()
    Lab.remove(OTHER)
    assert new_since(before) == {}
