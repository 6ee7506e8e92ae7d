"""`qnet doctor` against a store in process and fakes of the engine and the plugin behind real unix sockets."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from plugins.cli.app import cli
from plugins.cli.session import Session
from plugins.ipam.journal import Entry, Journal
from plugins.network.features import KINDS
from plugins.network.model import ModeName, Network, Subnet
from plugins.network.plan import Link
from qnet import clock, schema, settings
from qnet.errors import InvalidRequest, Unavailable
from qnet.schema import AddressRecord, Health, HealthRecord, HostRecord, PoolRecord, VolumePoolRecord
from qnet.settings import Settings
from qnet.store.base import EndpointStatus
from qnet.tenants import Change, Tenants
from tests.store.memory import MemoryStore

SUBNET = "10.77.0.0/24"
ETH1 = Link("eth1", "", up=True, mtu=1500)
NETWORK = {
    "Id": "a" * 64,
    "Name": "web",
    "Driver": "qnet",
    "IPAM": {"Driver": "qnet", "Options": None, "Config": [{"Subnet": SUBNET}]},
}
CONTAINER = {
    "Id": "c" * 64,
    "Names": ["/web1"],
    "State": "running",
    "NetworkSettings": {"Networks": {"web": {"EndpointID": "e" * 64, "IPAddress": "10.77.0.10", "IPAMConfig": None}}},
}
VERSION = {"Version": "28.5.1", "ApiVersion": "1.51", "MinAPIVersion": "1.24"}


class Members(MemoryStore):
    """A store that says of its members what a test wants."""

    members: tuple[EndpointStatus, ...] = (EndpointStatus("etcd1:2379", "3.4.23", leader=True, db_size=2_000_000),)

    def status(self) -> tuple[EndpointStatus, ...]:
        return self.members


class Machine:
    """A host on which all is well, and what `qnet doctor` says of it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.store = Members()
        stack.callback(self.store.close)
        self.settings = Settings(
            host=settings.Host(name="host1", state_dir=str(folder)),
            docker=settings.Docker(socket=str(folder / "docker.sock"), timeout=3.0),
            network=settings.Network(parent="eth1", socket=str(folder / "qnet.sock")),
            volume=settings.Volume(socket=str(folder / "sharedfs.sock")),
            scheduler=settings.Scheduler(socket=str(folder / "scheduler.sock"), cert=str(folder / "none.pem")),
            gateway=settings.Gateway(socket=str(folder / "docker-front.sock")),
        )
        self.features: Mapping[str, str] | Exception = dict.fromkeys(KINDS, "")
        self.links = {"eth1": ETH1}
        self.sysctls = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}
        self.engine: dict[str, Any] = {
            "/version": VERSION,
            "/networks": [NETWORK],
            "/containers/json": [CONTAINER],
        }
        self.plugin: dict[str, Any] = {"/Plugin.Activate": {"Implements": ["NetworkDriver", "IpamDriver"]}}
        self.record("10.77.0.10", "host1")
        (folder / "identity").write_text("me\n")
        self.claimed("me")

    def record(self, address: str, host: str) -> None:
        record = AddressRecord(kind="endpoint", host=host, since="", claim="c", container="web1")
        self.store.put(schema.address_key("default", SUBNET, address), schema.encode(record))

    def claimed(self, identity: str) -> None:
        record = HostRecord(name="host1", identity=identity, since="2026-01-01")
        self.store.put(schema.host_key("host1"), schema.encode(record))

    def serve(self, name: str, answers: Mapping[str, Any]) -> None:
        """Answer requests on a socket, whatever API version their paths name; None: never."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = answers.get(re.sub(r"^/v\d\.\d+", "", self.path.partition("?")[0]), 404)
                if answer is None:
                    time.sleep(1)
                    return
                body = json.dumps({"message": "no"} if isinstance(answer, int) else answer).encode()
                self.send_response(answer if isinstance(answer, int) else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingUnixStreamServer(str(self.folder / name), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.stack.callback(lambda: (server.shutdown(), thread.join(), server.server_close()))

    def examine(self) -> tuple[int, list[dict[str, str]]]:
        def features(_timeout: float) -> Mapping[str, str]:
            if isinstance(self.features, Exception):
                raise self.features
            return self.features

        session = Session(
            load=lambda _file: self.settings,
            connect=lambda _etcd: nullcontext(self.store),
            features=features,
            links=lambda: self.links,
            sysctl=lambda name: self.sysctls.get(name, ""),
            units=lambda *_: "",
        )
        self.session = session
        result = CliRunner().invoke(cli, ["doctor", "--json"], obj=session)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, json.loads(result.stdout)

    def wrong(self) -> dict[str, str]:
        """What is not ok: what it says, and its advice."""
        self.serve("docker.sock", self.engine)
        self.serve("qnet.sock", self.plugin)
        code, found = self.examine()
        wrong = {f"{one['level']} {one['what']}": one["todo"] for one in found if one["level"] != "ok"}
        assert code == any(line.startswith("fail") for line in wrong)
        return wrong


@pytest.fixture
def machine(tmp_path: Path):
    with ExitStack() as stack:
        yield Machine(tmp_path, stack)


def only(found: Mapping[str, str]) -> tuple[str, str]:
    assert len(found) == 1, found
    return next(iter(found.items()))


def test_all_is_well(machine: Machine) -> None:
    machine.serve("docker.sock", machine.engine)
    machine.serve("qnet.sock", machine.plugin)
    code, found = machine.examine()
    assert code == 0
    assert {one["level"] for one in found} == {"ok"}
    said = "\n".join(one["what"] for one in found)
    for part in (
        "this host is host1",
        "docker engine 28.5.1",
        "API 1.24 to 1.51",
        "answers as NetworkDriver and IpamDriver",
        "the kernel makes macvlan links",
        "default parent eth1 is up",
        "no release waits",
        "etcd etcd1:2379: version 3.4.23, leader, 2.0 MB",
        "etcd answers a read in ",
        "claimed by this machine since 2026-01-01",
        "every address that containers use here",
        "no address is quarantined",
        "no scheduler on this host",
        "no front on this host",
        "no host is registered: placement is not used",
        "systemd does not run here",
    ):
        assert part in said
    text = CliRunner().invoke(cli, ["doctor"], obj=machine.session).stdout
    assert [line.split()[0] for line in text.splitlines()] == ["ok"] * len(found)


def test_everything_is_down(machine: Machine) -> None:
    machine.store.members = (EndpointStatus("etcd1:2379", error="connection refused"),)
    machine.features = Unavailable("cannot try kinds of links: unshare: Operation not permitted")
    machine.links = {}
    began = time.monotonic()
    code, found = machine.examine()
    assert time.monotonic() - began < 5
    assert code == 1
    failed = [one for one in found if one["level"] == "fail"]
    said = " ".join(one["what"] for one in failed)
    for part in ("docker engine", "plugin", "default parent eth1", "etcd etcd1:2379: connection refused"):
        assert part in said
    assert all(one["todo"] for one in failed)
    assert "round trip" not in said


def test_settings_that_cannot_be_read() -> None:
    def load(_file: Path | None) -> Settings:
        raise InvalidRequest("settings file /etc/qnet/qnet.toml is not TOML")

    result = CliRunner().invoke(cli, ["doctor"], obj=Session(load=load))
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "fail settings file /etc/qnet/qnet.toml is not TOML — correct it: qnet reads nothing else before"
    ]


def test_one_member_of_three_is_down(machine: Machine) -> None:
    machine.store.members += (EndpointStatus("etcd2:2379", error="no answer in time"),)
    assert only(machine.wrong())[0] == "fail etcd etcd2:2379: no answer in time"


def test_engine_that_hangs_is_given_up(machine: Machine) -> None:
    machine.engine["/version"] = None
    hasty = settings.Docker(socket=machine.settings.docker.socket, timeout=0.5)
    machine.settings = msgspec.structs.replace(machine.settings, docker=hasty)
    began = time.monotonic()
    what, todo = only(machine.wrong())
    assert time.monotonic() - began < 5
    assert "no answer to /version: timed out" in what
    assert "systemctl start docker" in todo


def test_engine_that_refuses_the_api(machine: Machine) -> None:
    class Refusing(dict[str, Any]):
        asked = 0

        def get(self, path: str, default: Any = None) -> Any:
            self.asked += path == "/version"
            return 400 if path == "/version" and self.asked > 1 else super().get(path, default)

    machine.engine = Refusing(machine.engine)
    assert "refuses what qnet asks" in " ".join(machine.wrong())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"Implements": ["VolumeDriver"]}, "is no NetworkDriver nor IpamDriver"),
        (404, "/Plugin.Activate answers 404"),
        ([], "/Plugin.Activate answers 200: []"),
    ],
)
def test_plugin_that_is_something_else(machine: Machine, answer: Any, reason: str) -> None:
    machine.plugin["/Plugin.Activate"] = answer
    assert reason in only(machine.wrong())[0]


@pytest.mark.parametrize(
    ("kind", "level", "module"),
    [
        ("macvlan", "fail", "macvlan"),
        ("vlan", "warn", "8021q"),
        *((kind, "warn", kind) for kind in ("ipvlan", "vxlan", "ifb")),
    ],
)
def test_only_a_kernel_without_macvlan_is_a_failure(machine: Machine, kind: str, level: str, module: str) -> None:
    machine.features = dict.fromkeys(KINDS, "") | {kind: "Operation not supported"}
    what, todo = only(machine.wrong())
    assert what == f"{level} the kernel makes no {kind} link: Operation not supported"
    assert f"modprobe {module}," in todo


def test_parents_that_have_a_name_in_the_settings(machine: Machine) -> None:
    named = settings.Network(
        parent="trunk", parents={"trunk": "eth1", "dmz": "bond0"}, socket=machine.settings.network.socket
    )
    machine.settings = msgspec.structs.replace(machine.settings, network=named)
    what, _ = only(machine.wrong())
    assert what == "fail parent dmz (bond0): parent 'bond0' does not exist on this host; links: eth1"
    said = [one["what"] for one in machine.examine()[1]]
    assert {"parent trunk (eth1) is up", "default parent trunk is up"} <= set(said)


def test_parents(machine: Machine) -> None:
    folder = machine.folder / "networks"
    folder.mkdir()
    for number, parent in enumerate(("eth1", "eth2", "gone")):
        network = Network(id=f"{number}" * 64, tenant="default", subnets=(Subnet(SUBNET),), parent=parent)
        (folder / f"{network.id}.json").write_bytes(msgspec.json.encode(network))
    (folder / "x.json").write_text("{")
    machine.links["eth2"] = Link("eth2", "", up=True, mtu=1500, master="bond0")
    wrong = list(machine.wrong())
    assert len(wrong) == 3
    assert "parent eth2 of network 111111111111: parent eth2 is part of bond0" in wrong[0]
    assert "parent gone of network 222222222222: parent 'gone' does not exist" in wrong[1]
    assert "x.json is damaged" in wrong[2]


@pytest.mark.parametrize("trusted", [True, False])
def test_networks_that_must_not_meet(machine: Machine, trusted: bool) -> None:
    """The tenant lost the operator's trust after its network was made, or another one got a VLAN."""
    tenants = Tenants(machine.store, lambda: "")
    tenants.create("guest", Change(trusted=trusted))
    tenants.create("lab", Change(vlan=100))
    (machine.folder / "networks").mkdir()
    network = Network(id="1" * 64, tenant="guest", subnets=(Subnet(SUBNET),), parent="eth1")
    (machine.folder / "networks/1.json").write_bytes(msgspec.json.encode(network))
    what = "parent eth1 would carry VLANs and, untagged, the frames of tenant guest, who is not trusted with that"
    todo = "remove it, or do what that says"
    wrong = {f"fail network 111111111111: {what}: name another link, or give guest a VLAN": todo}
    assert machine.wrong() == ({} if trusted else wrong)


def test_gateways_on_a_host_that_does_not_forward(machine: Machine) -> None:
    (machine.folder / "networks").mkdir()
    subnets = (Subnet(SUBNET, "10.77.0.1"), Subnet("fd00:77::/64", "fd00:77::1"))
    network = Network(
        id="1" * 64, tenant="default", subnets=subnets, parent="eth1", mode="bridge", bridge="qb-eth1", nat=True
    )
    (machine.folder / "networks/1.json").write_bytes(msgspec.json.encode(network))
    machine.sysctls["net.ipv6.conf.all.forwarding"] = "0"
    assert only(machine.wrong()) == (
        "fail this host does not forward IPv6: gateways (nat=true) lead nowhere",
        "sysctl -w net.ipv6.conf.all.forwarding=1, and a line in /etc/sysctl.d",
    )


@pytest.mark.parametrize("mode", ["macvlan", "bridge", "vxlan"])
def test_bridges_that_a_firewall_sees(machine: Machine, mode: ModeName) -> None:
    one = Network(id="1" * 64, tenant="default", subnets=(Subnet(SUBNET),), parent="eth1", mode=mode)
    (machine.folder / "networks").mkdir()
    (machine.folder / "networks/1.json").write_bytes(msgspec.json.encode(one))
    machine.sysctls |= {"net.bridge.bridge-nf-call-iptables": "1", "net.bridge.bridge-nf-call-ip6tables": "0"}
    warning = "warn net.bridge.bridge-nf-call-iptables is 1: Docker's rules drop frames of modes bridge and vxlan"
    todo = "sysctl -w net.bridge.bridge-nf-call-iptables=0, and a line in /etc/sysctl.d"
    assert machine.wrong() == ({} if mode == "macvlan" else {warning: todo})
    machine.sysctls["net.bridge.bridge-nf-call-iptables"] = "0"
    fine = "no iptables rule looks at what bridges carry"
    assert (fine in [found["what"] for found in machine.examine()[1]]) is (mode != "macvlan")


def test_default_parent_that_is_down(machine: Machine) -> None:
    machine.links["eth1"] = Link("eth1", "", up=False, mtu=1500)
    assert "default parent eth1: parent eth1 is down: ip link set eth1 up" in only(machine.wrong())[0]


def test_default_parent_without_a_carrier(machine: Machine) -> None:
    machine.links["eth1"] = Link("eth1", "", up=True, mtu=1500, carrier=False)
    assert only(machine.wrong()) == (
        "warn default parent eth1 has no carrier",
        "its cable, and the switch's port: no other host is reached by it",
    )


def test_releases_that_wait(machine: Machine) -> None:
    journal = Journal(machine.folder / "releases.journal")
    for number in (5, 6):
        journal.add(Entry("default", SUBNET, f"10.77.0.{number}", "claim"))
    assert only(machine.wrong())[0] == "warn 2 releases wait, the first of 10.77.0.5"
    assert len(journal.entries()) == 2


@pytest.mark.parametrize(
    ("free", "files", "says"),
    [
        (64 << 20, 1, ""),
        ((64 << 20) - 4096, 9, "warn {}: room for 63 MiB"),
        ((1 << 20) - 4096, 9, "fail {}: room for 0 MiB"),
        (64 << 20, 0, "fail {}: room for no more files"),
    ],
)
def test_room_for_records(machine: Machine, monkeypatch: pytest.MonkeyPatch, free: int, files: int, says: str) -> None:
    told = SimpleNamespace(f_bavail=free >> 12, f_frsize=4096, f_files=1000, f_favail=files)
    real = os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda path: told if path == str(machine.folder) else real(path))
    assert list(machine.wrong()) == ([says.format(machine.folder)] if says else [])


@pytest.mark.parametrize("lost", [False, True])
def test_host_name_that_is_anothers(machine: Machine, lost: bool) -> None:
    machine.claimed("other" if not lost else "me")
    if lost:
        (machine.folder / "identity").unlink()
    what, todo = only(machine.wrong())
    assert "host name host1: claimed by another machine since 2026-01-01" in what
    assert "qnet host forget host1" in todo


def test_host_name_that_is_free(machine: Machine) -> None:
    machine.store.delete(schema.host_key("host1"))
    assert machine.wrong() == {}


def test_address_of_another_host(machine: Machine) -> None:
    machine.record("10.77.0.10", "host2")
    before = machine.store.range(schema.ROOT).kvs
    what, todo = only(machine.wrong())
    assert "10.77.0.10" in what
    assert "container web1 uses it here, but in use by container web1 on host2" in what
    assert todo == "stop one of the two: docker stop web1"
    assert machine.store.range(schema.ROOT).kvs == before


def test_address_without_a_record(machine: Machine) -> None:
    machine.store.delete(schema.address_key("default", SUBNET, "10.77.0.10"))
    assert "container web1 has it without a record" in only(machine.wrong())[0]


def test_address_that_was_handed_over_between_two_questions(machine: Machine) -> None:
    """The container stopped, and another host has the address, before the second look."""

    class Stopping(dict[str, Any]):
        asked = 0

        def get(self, path: str, default: Any = None) -> Any:
            self.asked += path == "/containers/json"
            return [] if path == "/containers/json" and self.asked > 1 else super().get(path, default)

    machine.engine = Stopping(machine.engine)
    machine.record("10.77.0.10", "host2")
    assert machine.wrong() == {}


def test_quarantined_addresses(machine: Machine) -> None:
    pool = PoolRecord(tenant="default", subnet=SUBNET, since="")
    machine.store.put(schema.pool_key("default", SUBNET), schema.encode(pool))
    record = AddressRecord(kind="quarantine", host="host2", since="", claim="c", note="answered by 02:00:00:00:00:99")
    machine.store.put(schema.address_key("default", SUBNET, "10.77.0.11"), schema.encode(record))
    what, todo = only(machine.wrong())
    assert what == "warn quarantined: 10.77.0.11 of tenant default (answered by 02:00:00:00:00:99)"
    assert "qnet address release" in todo


def test_slow_store_is_a_warning(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
    from plugins.cli import cluster_checks

    (finding,) = cluster_checks.round_trip(machine.store)
    assert (finding.level, finding.what) == ("warn", "etcd answers a read in 1000.0 ms")


def pool(machine: Machine, state: Health = "up", up: int = 6, age: int = 0) -> None:
    record = VolumePoolRecord(name="main", volume="gv0", servers=("gl1",), since="")
    at = (datetime.fromisoformat(clock.now()) - timedelta(seconds=age)).isoformat()
    health = HealthRecord(at=at, host="host2", state=state, bricks=6, bricks_up=up, heal=3, free=1, total=2)
    machine.store.put(schema.volume_pool_key("main"), schema.encode(record))
    machine.store.put(schema.volume_health_key("main"), schema.encode(health))


def test_a_host_that_can_mount_volumes_is_well(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugins.cli.volume_checks.FUSE", machine.folder)
    monkeypatch.setattr("shutil.which", lambda name: name)
    pool(machine)
    machine.serve("sharedfs.sock", {"/Plugin.Activate": {"Implements": ["VolumeDriver"]}})
    assert machine.wrong() == {}


def test_a_pool_that_nobody_looks_at_any_more_is_not_well(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugins.cli.volume_checks.FUSE", machine.folder)
    monkeypatch.setattr("shutil.which", lambda name: name)
    pool(machine, age=400)
    machine.serve("sharedfs.sock", {"/Plugin.Activate": {"Implements": ["VolumeDriver"]}})
    (found,) = machine.wrong()
    assert found.startswith("fail pool main is up: 6 of 6 bricks up")
    assert found.endswith("; nobody has looked since")


def test_what_a_host_lacks_for_volumes_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugins.cli.volume_checks.FUSE", machine.folder / "fuse")
    monkeypatch.setattr("shutil.which", lambda name: None)
    pool(machine, "degraded", 5)
    found = machine.wrong()
    assert len(found) == 4
    told = "\n".join(f"{what} {todo}" for what, todo in found.items())
    for part in (
        "warn pool main is degraded: 5 of 6 bricks up, 3 files to heal, as host2 saw it at 20",
        "gluster volume status gv0",
        "systemctl start sharedfs",
        "modprobe fuse",
        "apt install glusterfs-client",
    ):
        assert part in told


def test_a_pool_that_is_down_or_unknown(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugins.cli.volume_checks.FUSE", machine.folder)
    monkeypatch.setattr("shutil.which", lambda name: name)
    machine.serve("sharedfs.sock", {"/Plugin.Activate": {"Implements": []}})
    pool(machine, "down", 2)
    found = machine.wrong()
    assert {line.split()[0] for line in found} == {"fail"}
    assert "is no VolumeDriver" in "".join(found)
