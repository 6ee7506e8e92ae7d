"""`qnet support-dump`: everything is in it that a developer needs, and none of the secrets that were put in its way."""

from __future__ import annotations

import json
import re
import stat
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from plugins.cli import dump, dump_parts, redaction
from plugins.cli.app import cli
from plugins.cli.session import Session
from qnet import commands, schema, settings
from qnet.errors import InvalidRequest, Unavailable
from qnet.settings import Settings
from tests.store.memory import MemoryStore

SECRET = "s3cr3t-hunter2"
PEM = f"-----BEGIN EC PRIVATE KEY-----\n{SECRET}\n{SECRET}\n-----END EC PRIVATE KEY-----\n"
CONTAINER = {
    "Id": "c" * 64,
    "Name": "/web1",
    "Path": f"/bin/{SECRET}",
    "Args": [f"--password={SECRET}", SECRET],
    "State": {"Status": "exited", "Pid": 7, "Error": f"exec: {SECRET}: not found", "Health": {"Log": [SECRET]}},
    "Config": {
        "Image": "busybox",
        "Env": [f"DB_PASSWORD={SECRET}", f"X={SECRET}"],
        "Cmd": [SECRET],
        "Entrypoint": [SECRET],
        "Labels": {"qnet.group": "web", "deploy.key": SECRET},
        "Healthcheck": {"Test": ["CMD", SECRET]},
    },
    "HostConfig": {
        "Memory": 5,
        "LogConfig": {"Config": {"splunk-token": SECRET}},
        "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]},
        "Binds": [f"/{SECRET}:/x"],
        "Sysctls": {"a": SECRET},
    },
    "NetworkSettings": {
        "Networks": {"web": {"IPAddress": "10.77.0.9", "DriverOpts": {"k": SECRET}, "Aliases": [SECRET]}}
    },
    "Mounts": [{"Type": "bind", "Source": f"/{SECRET}", "Destination": "/x"}],
}
ENGINE = {
    "/info": {"ServerVersion": "28.5.1", "NCPU": 2, "HttpProxy": f"http://u:{SECRET}@proxy", "Labels": [f"k={SECRET}"],
              "RegistryConfig": {"Auth": SECRET}, "Plugins": {"Network": ["qnet"], "Log": [SECRET]}},
    "/version": {"Version": "28.5.1", "ApiVersion": "1.51", "MinAPIVersion": "1.24"},
    "/networks": [{"Id": "a" * 64, "Name": "web", "Driver": "qnet",
                   "Options": {"parent": "eth1", "key": SECRET}, "Labels": {"l": SECRET},
                   "IPAM": {"Driver": "qnet", "Config": [{"Subnet": "10.77.0.0/24"}], "Options": {"k": SECRET}}}],
    "/containers/json": [{"Id": "c" * 64, "Names": ["/web1"], "State": "exited", "Command": SECRET,
                         "NetworkSettings": {"Networks": {}}}],
    f"/containers/{'c' * 64}/json": CONTAINER,
    "/metrics": f"up 1\n# token={SECRET}\n",
}  # fmt: skip
RECORDS = {
    "placement/containers/web1": {"name": "web1", "host": "host1", "labels": {"qnet.group": "g", "k": SECRET}},
    "placement/networks/web": {"name": "web", "options": {"parent": "eth1", "k": SECRET}, "labels": {"k": SECRET}},
    "hosts/host1": {"name": "host1", "identity": SECRET},
    "joining/new": {"whatever": SECRET},
    "contents/default/10.77.0.0-24/address/10.77.0.9": {"kind": "held", "note": f"password: {SECRET}"},
}


class Handler(BaseHTTPRequestHandler):
    """An engine, and every daemon with metrics."""

    def do_GET(self) -> None:
        found: Any = ENGINE.get(re.sub(r"^/v[\d.]+", "", self.path.partition("?")[0]))
        body = (found if isinstance(found, str) else json.dumps(found)).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A host with a secret in each place that is looked at, and in those that are not."""
    state, run, tls = tmp_path / "lib", tmp_path / "run", tmp_path / "tls"
    for folder in (state / "networks", state / "mounts", run / "endpoints", tls):
        folder.mkdir(parents=True)
    (state / "networks/n1.json").write_text(json.dumps({"id": "n1", "parent": "eth1", "options": {"k": SECRET}}))
    (state / "mounts/data.json").write_text(SECRET)
    (run / "endpoints/e1.json").write_text(json.dumps({"id": "e1", "mac": "02:00:00:00:00:01"}))
    (state / "releases.journal").write_text(f"token = {SECRET}\n")
    (state / "identity").write_text(SECRET)
    for name in ("password", "host.key", "scheduler.key", "client.key"):
        (tls / name).write_text(PEM)
        (tls / name).chmod(0o600)
    server = ThreadingUnixStreamServer(str(tmp_path / "s.sock"), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    store = MemoryStore()
    for key, record in RECORDS.items():
        store.put(schema.ROOT + key, json.dumps(record).encode())
    store.put(f"{schema.ROOT}placement/images/x/shop", b"made")
    own, keys = str(tmp_path / "s.sock"), {"cert": str(tls / "none.pem"), "ca": str(tls / "ca.pem")}
    config = Settings(
        host=settings.Host(name="host1", state_dir=str(state), run_dir=str(run)),
        etcd=settings.Etcd(user="root", password_file=str(tls / "password")),
        docker=settings.Docker(socket=own, timeout=3),
        network=settings.Network(socket=own),
        volume=settings.Volume(socket=own, root=str(state / "mounts")),
        agent=settings.Agent(labels={"rack": SECRET}, key=str(tls / "host.key"), **keys),
        scheduler=settings.Scheduler(socket=own, key=str(tls / "scheduler.key"), **keys),
        gateway=settings.Gateway(socket=own),
        client=settings.Client(url=f"https://ann:{SECRET}@q:7444", key=str(tls / "client.key"), **keys),
    )

    def ran(command: Sequence[str], what: str, **_: object) -> str:
        if command[0] == "tc":
            raise Unavailable(f"cannot {what}: password={SECRET}")
        return f"{command[0]} says authorization: Bearer {SECRET}, https://u:{SECRET}@h and\n{PEM}the end of {what}\n"

    monkeypatch.setattr(commands, "run", ran)
    monkeypatch.setattr(dump_parts, "LISTED", (str(tls),))
    yield Session(
        load=lambda _: config,
        connect=lambda _: nullcontext(store),
        features=lambda _: {},
        links=dict,
        sysctl=lambda _: "1",
        units=lambda properties, units: "Id=qnet-network.service\nLoadState=loaded\nActiveState=active\n",
        today=lambda: datetime(2026, 6, 1, 12, 30, tzinfo=UTC),
    )
    server.shutdown()
    thread.join()
    server.server_close()
    store.close()


def unpacked(file: Path) -> dict[str, str]:
    with tarfile.open(file) as archive:
        found = {}
        for entry in archive:
            content = archive.extractfile(entry)
            assert content is not None
            found[entry.name.partition("/")[2]] = content.read().decode()
        return found


def dumped(session: Session, *words: str) -> Result:
    result = CliRunner().invoke(cli, ["support-dump", *words], obj=session)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_no_secret_is_in_it_and_all_else_is(host: Session, tmp_path: Path) -> None:
    file = tmp_path / "dump.tar.gz"
    result = dumped(host, str(file))
    assert result.exit_code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = unpacked(file)
    assert [name for name, text in found.items() if SECRET in text] == []
    assert SECRET not in result.output
    for part, word in {
        "doctor.txt": "this host is host1",
        "settings.json": '"password_file"',
        "versions.json": '"engine": "28.5.1"',
        "units.txt": "qnet-network.service",
        "store.jsonl": "/qnet/v1/joining/new",
        "engine/info.json": '"NCPU": 2',
        "engine/networks.json": "10.77.0.0/24",
        "engine/containers.json": '"10.77.0.9"',
        "files/networks.json": '"parent": "eth1"',
        "files/endpoints.json": "02:00:00:00:00:01",
        "files/listing.txt": "host.key",
        "network/links.txt": "the end of write network/links.txt",
        "journal/qnet-agent.txt": "the end of read the journal",
        "metrics/qnet-gateway.txt": "up 1",
        "missing.txt": "network/queues.txt: cannot write network/queues.txt: password=***",
    }.items():
        assert word in found[part], part
        assert part in result.output or part == "missing.txt"
    containers = json.loads(found["engine/containers.json"])["containers"][0]
    assert containers["Labels"] == {"qnet.group": "web", "deploy.key": "***"}
    assert containers["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}
    records = {one["key"]: one["value"] for one in map(json.loads, found["store.jsonl"].splitlines())}
    assert records["/qnet/v1/placement/containers/web1"]["labels"] == {"qnet.group": "g", "k": "***"}
    assert records["/qnet/v1/placement/images/x/shop"] == "made"


def test_a_file_that_is_there_is_not_overwritten(host: Session, tmp_path: Path) -> None:
    file = tmp_path / "dump.tar.gz"
    file.write_text("mine")
    result = dumped(host, str(file))
    assert result.exit_code == 1
    assert "file exists" in result.output
    assert file.read_text() == "mine"


def test_it_has_a_name_of_its_own(host: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dumped(host).output.endswith("written: qnet-host1-20260601T123000Z.tar.gz\n")
    assert (tmp_path / "qnet-host1-20260601T123000Z.tar.gz").exists()


def test_wrong_settings_keep_nothing_else_away(host: Session, tmp_path: Path) -> None:
    def load(_: Path | None) -> Settings:
        raise InvalidRequest("settings: etcd.timeout is 9")

    host.load = load
    assert dumped(host, str(tmp_path / "d.tar.gz")).exit_code == 0
    found = unpacked(tmp_path / "d.tar.gz")
    assert "settings.json: settings: etcd.timeout is 9" in found["missing.txt"]
    assert "etcd.timeout is 9" in found["doctor.txt"]
    assert "network/links.txt" in found


def test_a_part_that_hangs_is_left_behind() -> None:
    release = threading.Event()

    def hangs() -> str:
        release.wait(10)
        return ""

    found = dump._collected({"a": lambda: "text", "b": hangs}, 0.2)
    release.set()
    assert found == {"a": b"text", "b": "not done in time"}


WORDS = st.text(max_size=5)
VALUES = st.recursive(WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3))


@given(VALUES)
def test_of_what_is_not_named_nothing_is_picked(value: Any) -> None:
    """Whatever an engine puts into a field, or beside it, only what the table names comes through."""
    allowed: Mapping[str, redaction.Allowed] = {"a": True, "b": {"*": {"c": True}}}
    hostile = {"x": SECRET, "y": [{"a": SECRET}], "a": {"a": SECRET}, "b": {"n": {"d": SECRET, "c": value}}, "c": value}
    found = redaction.picked(hostile, allowed)
    assert SECRET not in json.dumps(found)
    assert set(found) == {"a", "b"}
    assert found["b"]["n"].keys() == {"c"}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a password_file = /etc/x", "a password_file = /etc/x"),
        ('"password": "x \\" y", "b": 1', '"password": "***", "b": 1'),
        ("my_secret_key='x y' z", "my_secret_key='***' z"),
        ('tokens_total{host="a"} 3', 'tokens_total{host="a"} 3'),
        ("X-Registry-Auth: abc=", "X-Registry-Auth: ***"),
        ("GET /x?token=abc&y=1", "GET /x?token=***&y=1"),
        ("https://u:p@h/x", "https://***@h/x"),
        ("request 4f1c09d2a7b35e68 took 3 s", "request 4f1c09d2a7b35e68 took 3 s"),
    ],
)
def test_what_looks_like_a_secret_goes(text: str, left: str) -> None:
    assert redaction.scrubbed(text) == left


@pytest.mark.parametrize("listen", ["192.0.2.1:9472", ""])
def test_no_host_is_asked_beyond_loopback(host: Session, listen: str) -> None:
    config = msgspec.structs.replace(host.settings, metrics=settings.Metrics(agent=listen))
    with pytest.raises(Unavailable, match="is not on loopback"):
        dump_parts.parts(host, config, 1)["metrics/qnet-agent.txt"]()
