"""Checks of `qnet doctor` of certificates, daemons, units, the fleet and the way to its agents, each by itself."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from plugins.cli import cluster_checks, daemon_checks, file_checks, fleet_checks
from plugins.cli.file_checks import Use
from plugins.cli.health import Check, Finding, at_once
from qnet import schema, settings
from qnet.errors import Unavailable
from qnet.store.base import EndpointStatus
from tests.store.memory import MemoryStore

TODAY = datetime(2026, 6, 1, tzinfo=UTC)


def told(found: Iterator[Finding]) -> list[str]:
    return [f"{one.level} {one.what}" for one in found]


def wrong(found: Iterator[Finding]) -> list[str]:
    all_ = list(found)
    assert all(one.todo for one in all_ if one.level != "ok"), all_
    return told(one for one in all_ if one.level != "ok")


# -- all at once -------------------------------------------------------------------------------------------------------


def test_checks_are_made_at_once_and_a_late_one_is_left_behind() -> None:
    release, both = threading.Event(), threading.Barrier(2, timeout=2)

    def meets(name: str) -> Check:
        def check() -> Iterator[Finding]:
            both.wait()
            yield Finding("ok", name)

        return check

    def hangs() -> Iterator[Finding]:
        release.wait(10)
        yield Finding("ok", "never")

    def fails() -> Iterator[Finding]:
        raise Unavailable("away")

    began = time.monotonic()
    checks = [("hangs", hangs), ("one", meets("one")), ("fails", fails), ("two", meets("two"))]
    found = told(at_once(checks, began + 0.5))
    release.set()
    assert found == ["fail hangs: not known in time", "ok one", "fail fails: away", "ok two"]
    assert time.monotonic() - began < 2


# -- etcd --------------------------------------------------------------------------------------------------------------


class Members(MemoryStore):
    """A store whose members are given."""

    def __init__(self, *members: EndpointStatus) -> None:
        super().__init__()
        self.members = members

    def status(self) -> tuple[EndpointStatus, ...]:
        return self.members


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"version": "3.3.27"}, "fail etcd m: version 3.3.27"),
        ({"troubles": ("memberID:1 alarm:NOSPACE ",)}, "full: it takes no writes"),
        ({"troubles": ("etcdserver: no leader",)}, "etcdserver: no leader"),
        ({"db_size": 1_700_000_000}, "warn etcd m: version 3.5.1, follower, 1700.0 MB"),
    ],
)
def test_what_is_wrong_with_a_member(fields: Mapping[str, Any], says: str) -> None:
    store = Members(EndpointStatus(**{"endpoint": "m", "version": "3.5.1", **fields}))
    (line,) = wrong(iter(cluster_checks.members(store)))
    assert says in line
    store.close()


def test_members_of_two_clusters() -> None:
    store = Members(*(EndpointStatus(name, "3.5.1", cluster=name * 2, seconds=0.012) for name in ("a", "b")))
    found = told(iter(cluster_checks.members(store)))
    assert found[0] == "ok etcd a: version 3.5.1, follower, 0.0 MB, answers in 12 ms"
    assert found[2] == "fail etcd: the members are of 2 clusters: a of aa, b of bb"
    store.close()


# -- certificates ------------------------------------------------------------------------------------------------------


@dataclass
class Authority:
    """Makes certificates in a folder."""

    folder: Path
    name: str = "ca"

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        self.write("", self.key, self.subject, TODAY + timedelta(days=3650), ca=True)

    def write(
        self, name: str, key: ec.EllipticCurvePrivateKey, subject: x509.Name, until: datetime, *, ca: bool = False
    ) -> None:
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(TODAY - timedelta(days=10))
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName("h1.example"), x509.IPAddress(ip_address("127.0.0.1"))]),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )
        (self.folder / f"{name or self.name}.pem").write_bytes(made.public_bytes(Encoding.PEM))
        if name:
            file = self.folder / f"{name}.key"
            file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.chmod(0o600)

    def make(self, name: str, role: str = "host", until: datetime = TODAY + timedelta(days=90)) -> Use:
        subject = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role)]
        subject += [x509.NameAttribute(NameOID.COMMON_NAME, "host1")]
        self.write(name, ec.generate_private_key(ec.SECP256R1()), x509.Name(subject), until)
        ca, cert, key = (str(self.folder / file) for file in (f"{self.name}.pem", f"{name}.pem", f"{name}.key"))
        return Use("agent", ca, cert, key, ("host",), "h1.example")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_good_certificate(authority: Authority) -> None:
    use = authority.make("host")
    assert told(file_checks.files(use, TODAY)) == [f"ok [agent] {use.cert}: host host1, valid until 2026-08-30"]


def test_what_is_wrong_with_a_certificate(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other")
    good, other = authority.make("host"), stranger.make("host")

    def says(use: Use, today: datetime = TODAY) -> str:
        (line,) = wrong(file_checks.files(use, today))
        return line

    def changed(**fields: Any) -> Use:
        return Use(**{name: getattr(good, name) for name in Use.__slots__} | fields)

    assert "is not signed by" in says(changed(cert=other.cert, key=other.key))
    assert "do not belong together" in says(changed(key=other.key))
    assert says(authority.make("t", "tenant")).endswith("has role tenant")
    assert "is for h1.example, 127.0.0.1, and others reach this host at 10.0.0.9" in says(changed(address="10.0.0.9"))
    assert says(good, TODAY + timedelta(days=61)).endswith("is valid until 2026-08-30")
    assert says(good, TODAY + timedelta(days=91)).startswith("fail")
    early = wrong(file_checks.files(good, TODAY - timedelta(days=11)))
    assert [line.partition(".pem ")[2] for line in early] == ["is valid from 2026-05-22 00:00 on"] * 2  # the CA's too
    Path(good.key).chmod(0o604)
    assert "everybody on this host may read it" in says(good)
    Path(good.key).chmod(0o640)
    assert wrong(file_checks.files(good, TODAY)) == []
    Path(good.cert).write_text("x")
    assert "is damaged" in says(good)
    Path(good.cert).unlink()
    assert says(good).endswith("host.pem is not there")


def test_certificates_that_are_not_used(tmp_path: Path) -> None:
    there = settings.Settings(
        agent=settings.Agent(ca="/no/ca", cert="/no/cert", key="/no/key"),
        scheduler=settings.Scheduler(ca="/no/ca", cert="/no/cert", key="/no/key", listen="0.0.0.0:7444"),
        client=settings.Client(ca="/no/ca", cert="/no/cert", key="/no/key"),
        etcd=settings.Etcd(ca="/no/etcd-ca", password_file=str(tmp_path / "password")),
    )
    (tmp_path / "password").write_text("x")
    (tmp_path / "password").chmod(0o644)
    found = [line for use in file_checks.uses(there) for line in told(file_checks.files(use, TODAY))]
    assert found == [
        "fail [etcd] ca /no/etcd-ca is not there",
        f"fail [etcd] password_file {tmp_path}/password: everybody on this host may read it",
        "ok [agent]: no certificate, so it is not used on this host",
        *(f"fail [scheduler] {option} /no/{option} is not there" for option in ("ca", "cert", "key")),
        "ok [client]: no certificate, so it is not used on this host",
    ]


# -- the fleet ---------------------------------------------------------------------------------------------------------


def fleet(**hosts: Mapping[str, Any]) -> MemoryStore:
    """Hosts as their agents tell of them; `up` and `drain` besides."""
    store = MemoryStore()
    for name, fields in hosts.items():
        record = {"name": name, "engine": "28.5.1", "qnet": "0.1.0", "url": f"{name}:7443", **fields}
        if record.pop("up", True):
            store.put(f"{schema.PLACEMENT}alive/{name}", b"")
        if record.pop("drain", False):
            store.put(f"{schema.PLACEMENT}orders/{name}", b'{"state":"drain"}')
        store.put(f"{schema.PLACEMENT}machines/{name}", json.dumps(record).encode())
    return store


def test_every_host_is_told() -> None:
    store = fleet(host1={"drain": True}, host2={"up": False}, host3={"trouble": ["sharedfs"]}, host4={"qnet": "0.2.0"})
    found = told(fleet_checks.hosts(store, "host1"))
    assert found == [
        "ok host host1: engine 28.5.1, qnet 0.1.0, at host1:7443: up, drained",
        "warn host host2: engine 28.5.1, qnet 0.1.0, at host2:7443: down",
        "warn host host3: engine 28.5.1, qnet 0.1.0, at host3:7443: trouble with sharedfs",
        "ok host host4: engine 28.5.1, qnet 0.2.0, at host4:7443: up",
        "warn hosts have different versions of qnet: 0.1.0 on host1, host3, 0.2.0 on host4",
    ]
    assert told(fleet_checks.hosts(store, "host2"))[1].startswith("fail host host2")
    assert told(fleet_checks.hosts(store, "host9"))[-2] == "warn this host, host9, is not registered"
    store.close()


def test_hosts_that_lack_a_network_of_the_cluster_are_named() -> None:
    has = {"networks": {"web": {}}, "parents": ["eth1"]}
    store = fleet(host1=dict(has), host2={"parents": ["eth1"]}, host3={}, host4={"parents": ["eth1"], "up": False})
    for name, options in (("web", {"parent": "eth1"}), ("all", {})):
        store.put(f"{schema.PLACEMENT}networks/{name}", json.dumps({"v": 1, "name": name, "options": options}).encode())
    assert wrong(fleet_checks.networks(store)) == [
        "warn network all of the cluster is not on host1, host2, host3",
        "warn network web of the cluster is not on host2",
    ]
    store.close()


def test_a_fleet_of_nobody_and_one_that_nobody_places_on() -> None:
    empty, idle, busy = fleet(), fleet(host1={}), fleet(host1={})
    busy.put(f"{schema.PLACEMENT}replicas/host1-aa", b"")
    busy.put(f"{schema.PLACEMENT}replicas/host-2-bb", b"")
    assert wrong(fleet_checks.hosts(empty, "host1")) == wrong(fleet_checks.replicas(empty)) == []
    assert wrong(fleet_checks.replicas(idle)) == ["warn there are hosts, and nobody places containers on them"]
    (line,) = told(fleet_checks.replicas(busy))
    assert line == "ok 2 schedulers and fronts place containers: 1 on host-2, 1 on host1"
    for store in (empty, idle, busy):
        store.close()


@pytest.mark.parametrize(
    ("ahead", "says"),
    [(0, "answers in"), (60, "s ahead of this host's"), (-60, "s behind this host's")],
)
def test_agents_are_reached_and_their_clocks_compared(tmp_path: Path, ahead: int, says: str) -> None:
    fresh = Authority(tmp_path)
    today = datetime.now(UTC)
    server_side, own = (
        fresh.make(name, role, today + timedelta(days=9000)) for name, role in (("a", "host"), ("s", "scheduler"))
    )

    class Agent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            self.send_header("Date", formatdate(time.time() + ahead, usegmt=True))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(server_side.ca)
    context.load_cert_chain(server_side.cert, server_side.key)
    server = HTTPServer(("127.0.0.1", 0), Agent)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    store = fleet(here={"url": f"127.0.0.1:{server.server_port}"}, gone={"url": "127.0.0.1:1"}, off={"up": False})
    config = settings.Scheduler(ca=own.ca, cert=own.cert, key=own.key)
    try:
        found = told(fleet_checks.agents(store, config))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        store.close()
    assert len(found) == 2
    assert found[0] == "fail agent of gone at 127.0.0.1:1: connection refused"
    assert found[1].startswith("warn" if ahead else "ok")
    assert says in found[1]


def test_agents_are_asked_by_those_who_may(tmp_path: Path) -> None:
    store = fleet(host1={})
    (line,) = told(fleet_checks.agents(store, settings.Scheduler(cert=str(tmp_path / "none.pem"))))
    assert line.startswith("ok agents are not asked")
    store.close()


# -- daemons -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[dict[str, tuple[int, bytes]]]:
    """What a server at `s.sock` answers, by path."""
    answers: dict[str, tuple[int, bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, b"{}"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingUnixStreamServer(str(tmp_path / "s.sock"), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield answers
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_scheduler_answers_and_listens(served: dict[str, tuple[int, bytes]], tmp_path: Path) -> None:
    config = settings.Scheduler(socket=str(tmp_path / "s.sock"), listen="0.0.0.0:1")
    assert wrong(daemon_checks.scheduler(config)) == [
        f"fail scheduler at {config.socket}: /v1/health answers 404: {{}}"
    ]
    served["/v1/health"] = (200, b'{"ready":false}')
    assert wrong(daemon_checks.scheduler(config))[0].endswith("has not read the store")
    served["/v1/health"] = (200, b'{"ready":true,"hosts":3,"containers":12}')
    assert told(daemon_checks.scheduler(config)) == [
        f"ok scheduler at {config.socket} knows 3 hosts, 12 containers",
        "fail scheduler at 0.0.0.0:1: connection refused",
    ]
    away = settings.Scheduler(socket=str(tmp_path / "none"))
    assert told(daemon_checks.scheduler(away)) == [f"ok no scheduler on this host (nothing at {away.socket})"]


def test_the_front_answers(served: dict[str, tuple[int, bytes]], tmp_path: Path) -> None:
    config = settings.Gateway(socket=str(tmp_path / "s.sock"))
    served["/_ping"] = (503, b"no host is up")
    assert wrong(daemon_checks.front(config)) == [f"fail front at {config.socket}: /_ping answers 503: no host is up"]
    served["/_ping"] = (200, b"OK")
    assert "/info answers 404" in wrong(daemon_checks.front(config))[0]
    served["/info"] = (200, b'{"Name":"h (qnet, 3 hosts)","NCPU":6}')
    assert told(daemon_checks.front(config)) == [f"ok front at {config.socket} answers as h (qnet, 3 hosts), 6 CPUs"]


GOOD = {  # as the package has it: the target alone is enabled
    "LoadState": "loaded",
    "ActiveState": "active",
    "UnitFileState": "static",
    "NRestarts": "0",
    "Before": "docker.service x",
    "WantedBy": "x qnet.target",
}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "ok unit qnet-network.service is active, and starts at boot"),
        ({"ActiveState": "failed", "Result": "exit-code"}, "fail unit qnet-network.service has failed (exit-code)"),
        ({"ActiveState": "inactive"}, "fail unit qnet-network.service is to start at boot and is inactive"),
        (
            {"ActiveState": "inactive", "TriggeredBy": "qnet-network.socket"},
            "ok unit qnet-network.service is inactive, and starts at boot",
        ),
        ({"WantedBy": "x"}, "warn unit qnet-network.service does not start at boot"),
        ({"NRestarts": "4"}, "warn unit qnet-network.service was restarted 4 times by systemd"),
        (
            {"Before": "x", "TriggeredBy": "qnet-network.socket"},
            "warn unit qnet-network.service is not ordered before docker.service",
        ),
        (
            {"Id": "qnet-network.socket", "UnitFileState": "disabled"},
            "ok unit qnet-network.socket is active, and starts at boot",
        ),
        (
            {"Id": "qnet-network.socket", "Before": "sockets.target"},
            "warn unit qnet-network.socket is not ordered before docker.service",
        ),
        ({"target": "disabled"}, "warn unit qnet-network.service does not start at boot"),
        (
            {"target": "disabled", "ActiveState": "inactive"},
            "ok unit qnet-network.service is inactive, and does not start at boot",
        ),
        ({"Before": "shutdown.target"}, "warn unit qnet-network.service is not ordered before docker.service"),
    ],
)
def test_units(fields: Mapping[str, str], says: str) -> None:
    target = fields.get("target", "enabled")
    unit = {"Id": "qnet-network.service", **GOOD, **{name: text for name, text in fields.items() if name != "target"}}

    def show(properties: Sequence[str], units: Sequence[str]) -> str:
        assert set(unit) <= set(properties)
        assert unit["Id"] in units
        away = "Id=sharedfs.service\nLoadState=not-found\nActiveState=inactive"
        first = "\n".join(f"{name}={value}" for name, value in unit.items())
        return f"{first}\n\n{away}\n\nId=qnet.target\nLoadState=loaded\nActiveState=active\nUnitFileState={target}\n"

    found, _ = daemon_checks.units(show)
    assert f"{found.level} {found.what}".startswith(says)
    assert bool(found.todo) == (found.level != "ok")


def test_a_host_without_systemd() -> None:
    assert told(daemon_checks.units(lambda *_: "")) == ["ok systemd does not run here: units are not used"]
