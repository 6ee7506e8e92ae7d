"""Whatever comes over the plugin's socket: a JSON error, in time, and nothing changes."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import kit
from tests.lab.cluster import Lab
from tests.lab.host import Host

pytestmark = pytest.mark.slow

DEADLINE = 5.0
LONGEST = 5000  # characters of an error
ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
POOL = "default/10.77.0.0/24"
ITEM = {
    "AddressSpace": "qnet",
    "Pool": "10.99.9.0/24",
    "Gateway": "10.99.9.1/24",
    "AuxAddresses": {"a": "10.99.9.2/24"},
}
ENDPOINT = {"NetworkID": ID, "EndpointID": OTHER}

CALLS: dict[str, dict[str, Any]] = {
    "IpamDriver.RequestPool": {
        "AddressSpace": "qnet", "Pool": "10.99.9.0/24", "SubPool": "10.99.9.0/25",
        "Options": {"tenant": "a"}, "V6": False,
    },
    "IpamDriver.ReleasePool": {"PoolID": POOL},
    "IpamDriver.RequestAddress": {"PoolID": POOL, "Address": "10.77.0.77", "Options": {"RequestAddressType": "x"}},
    "IpamDriver.ReleaseAddress": {"PoolID": POOL, "Address": "10.77.0.50"},
    "NetworkDriver.GwAllocCheck": {"Options": {"com.docker.network.internal": True}},
    "NetworkDriver.CreateNetwork": {"NetworkID": ID, "Options": {}, "IPv4Data": [ITEM], "IPv6Data": []},
    "NetworkDriver.DeleteNetwork": {"NetworkID": ID},
    "NetworkDriver.CreateEndpoint": {
        "NetworkID": ID, "EndpointID": OTHER, "Options": {},
        "Interface": {"Address": "10.77.0.77/24", "AddressIPv6": "", "MacAddress": ""},
    },
    "NetworkDriver.DeleteEndpoint": ENDPOINT,
    "NetworkDriver.EndpointOperInfo": ENDPOINT,
    "NetworkDriver.Join": {**ENDPOINT, "SandboxKey": "/run/docker/netns/x", "Options": {}},
    "NetworkDriver.Leave": ENDPOINT,
}  # fmt: skip
WITHOUT_ARGUMENTS = (
    *("Plugin.Activate", "IpamDriver.GetCapabilities", "IpamDriver.GetDefaultAddressSpaces"),
    *("NetworkDriver.GetCapabilities", "NetworkDriver.ProgramExternalConnectivity"),
    *("NetworkDriver.RevokeExternalConnectivity", "NetworkDriver.DiscoverNew", "NetworkDriver.DiscoverDelete"),
    *("NetworkDriver.AllocateNetwork", "NetworkDriver.FreeNetwork"),
)
IDS = ("NetworkID", "EndpointID")
OPTIONAL_NULL = {"Options", "IPv4Data", "IPv6Data", "Interface", "AuxAddresses"}
HOSTILE = (
    *(
        "../../../etc/passwd",
        "..",
        "/",
        "a/b",
        "a\nb",
        "\n",
        "a\0b",
        "\0",
        "ä",
        "\u202e",
        "x" * 65536,
        "%2e%2e%2f",
        "*",
    ),
    *("-", " ", "${x}", "'; rm -rf /", "\ufffd", "٣٣٣", "0X7F", "default/../10.77.0.0/24", "?range=", "//"),
)
DEEP = 100_000


def exchange(host: Host, raw: bytes, half_closed: bool = False) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, read one answer: status, headers, body."""
    deadline = time.monotonic() + DEADLINE
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(str(host.plugin_socket))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(raw)  # refused before all was sent, the answer is there all the same
        if half_closed:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while not _complete(received):
            assert time.monotonic() < deadline, f"no answer in {DEADLINE} s, only {received[:200]!r}"
            part = connection.recv(1 << 16)
            if not part:
                break
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    return int(lines[0].split()[1]), headers, body


def _complete(received: bytes) -> bool:
    head, end, body = received.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if end and line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return False


def request(path: str, body: bytes, *headers: str, verb: str = "POST", version: str = "1.1") -> bytes:
    """An engine's request: it sends no Content-Type."""
    lines = [f"{verb} /{path} HTTP/{version}", "Host: plugin", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def must_be_refused(host: Host, what: str, raw: bytes) -> str:
    """The answer is an error in JSON, under both names; returns its text."""
    began = time.monotonic()
    status, headers, body = exchange(host, raw)
    assert time.monotonic() - began < DEADLINE, what
    assert 400 <= status < 600, f"{what}: {status} {body[:300]!r}"
    assert "json" in headers["content-type"], f"{what}: {headers} {body[:300]!r}"
    answer = json.loads(body)
    assert answer["Err"] == answer["Error"] != "", f"{what}: {body[:300]!r}"
    assert "internal error" not in answer["Err"], f"{what}: {body[:300]!r}"
    return str(answer["Err"])


def everything(lab: Lab, host: Host) -> dict[str, Any]:
    """What bad input could change: the store, links, files, the plugin's process."""
    return {
        "store": {key: record.value for key, record in kit.records(lab, "/").items() if "/resting/" not in key},
        "links": sorted(kit.links(host)),
        "files": {str(path): path.read_bytes() for path in kit.files(host)},
        "plugin": host.plugin.pid,
        "routes": host.exec("ip", "route").stdout,
    }


@pytest.fixture
def host(lab: Lab, hosts: list[Host]) -> Iterator[Host]:
    """The first host, with a network and a container, which must be as they were when the test ends."""
    host = hosts[0]
    kit.network(host)
    kit.run(host, "aa", "--ip", "10.77.0.50")
    kit.named(lab, "10.77.0.50", "aa")
    kit.networks_named(lab)
    before = everything(lab, host)
    yield host
    after = everything(lab, host)
    assert after == before
    assert exchange(host, request("Plugin.Activate", b""))[0] == 200
    assert kit.pings(host, "aa", "10.77.0.50")


def test_empty_and_truncated_bodies(host: Host) -> None:
    for path, body in CALLS.items():
        whole = json.dumps(body).encode()
        for cut in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 1):
            must_be_refused(host, f"{path} cut at {cut}", request(path, whole[:cut]))
        for text in (
            b" \n ",
            b"null",
            b"[]",
            b'""',
            b"0",
            b"true",
            b"{",
            b"}",
            b"{}{}",
            b"\xff\xfe",
            b"\0",
            b"NaN",
            whole + b"x",
        ):
            must_be_refused(host, f"{path} {text[:20]!r}", request(path, text))
        if path != "NetworkDriver.GwAllocCheck":
            must_be_refused(host, f"{path} no fields", request(path, b"{}"))


def _wrong(value: Any) -> Iterator[Any]:
    """Values of other types than this one's."""
    others = (0, -1.5, 1e400, True, None, [], [1], {}, {"a": {"b": [{}]}}, "text")
    for other in others:
        if type(other) is not type(value):
            yield other


def _with_wrong_types(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in body.items():
        for other in _wrong(value):
            if other is None and name in OPTIONAL_NULL:
                continue
            yield f"{name}={other!r}", {**body, name: other}
        if isinstance(value, dict):
            for what, inner in _with_wrong_types(value):
                yield f"{name}.{what}", {**body, name: inner}
        if isinstance(value, list) and value:
            for what, inner in _with_wrong_types(value[0]):
                yield f"{name}[].{what}", {**body, name: [inner]}


def test_wrong_types(host: Host) -> None:
    tried = 0
    for path, body in CALLS.items():
        for what, wrong in _with_wrong_types(body):
            if path.endswith("GwAllocCheck") and "internal" in what:
                continue
            tried += 1
            must_be_refused(host, f"{path} {what}", request(path, json.dumps(wrong).encode()))
    assert tried > 200


def test_huge_bodies(host: Host) -> None:
    for path, body in CALLS.items():
        text = json.dumps({**body, "Filler": "x" * (2 << 20)}).encode()
        assert "large" in must_be_refused(host, path, request(path, text)) or len(text) > 0
        for deep in (
            b"[" * DEEP,
            b'{"a":' * DEEP,
            b'{"Options":' + b"[" * DEEP,
            b'{"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
        ):
            must_be_refused(host, f"{path} nested deep", request(path, deep))
    for path in WITHOUT_ARGUMENTS:
        must_be_refused(host, path, request(path, b"x" * (2 << 20)))


def test_hostile_texts(host: Host) -> None:
    for path, body in CALLS.items():
        if path == "NetworkDriver.GwAllocCheck":
            continue
        for name, hostile in itertools.product((key for key in body if isinstance(body[key], str)), HOSTILE):
            if name in ("SandboxKey", "AddressSpace") or (name in IDS and hostile == "0X7F"):
                continue  # text of any kind that is not used, and what could be an id
            said = must_be_refused(host, f"{path} {name}", request(path, json.dumps({**body, name: hostile}).encode()))
            assert len(said) < LONGEST, f"{path} {name}: the answer repeats {len(said)} characters"
    for path, options in (
        ("IpamDriver.RequestPool", [{text: "x"} for text in HOSTILE] + [{"tenant": text} for text in HOSTILE]),
        ("IpamDriver.RequestPool", [{"exclude": text} for text in HOSTILE if text.strip()]),
    ):
        for given in options:
            body = {**CALLS[path], "Options": given}
            said = must_be_refused(host, f"{path} {given}"[:100], request(path, json.dumps(body).encode()))
            assert len(said) < LONGEST, f"{path}: the answer repeats {len(said)} characters"
    body = CALLS["NetworkDriver.CreateNetwork"]
    options = ("parent", "mode", "macvlan_mode", "mtu", "host_access", "spoof_check", "tenant", "../x")
    for option, text in itertools.product(options, HOSTILE):
        generic = {"com.docker.network.generic": {"mode": kit.CREATE.mode, option: text}}
        said = must_be_refused(
            host, option, request("NetworkDriver.CreateNetwork", json.dumps({**body, "Options": generic}).encode())
        )
        assert len(said) < LONGEST, f"{option}: the answer repeats {len(said)} characters"


def test_pools_that_qnet_never_named(host: Host) -> None:
    for pool in (
        "", "default", "default/", "/10.77.0.0/24", "default/10.77.0.0", "default/10.77.0.1/24", "default/10.77.0.0/33",
        "default/10.77.0.0/24?range=fd00::/64", "default/10.77.0.0/24?exclude=x", "default/10.99.0.0/24",
        "default/10.77.0.0/24?range=10.77.0.0/25&range=10.77.0.0/25&exclude=10.77.0.1", "blue/10.77.0.0/24",
        "default/fd00::/64", "default/::/0", "default/0.0.0.0/0",
    ):  # fmt: skip
        body = {"PoolID": pool, "Address": ""}
        must_be_refused(host, pool, request("IpamDriver.RequestAddress", json.dumps(body).encode()))
        gateway = {**body, "Options": {"RequestAddressType": "com.docker.network.gateway"}}
        if not pool.startswith("default/10.77.0.0/24"):
            must_be_refused(host, pool, request("IpamDriver.RequestAddress", json.dumps(gateway).encode()))


def test_calls_for_what_does_not_exist(host: Host) -> None:
    for path in ("CreateEndpoint", "EndpointOperInfo", "Join"):
        said = must_be_refused(
            host, path, request(f"NetworkDriver.{path}", json.dumps(CALLS[f"NetworkDriver.{path}"]).encode())
        )
        assert "is not known to qnet on this host" in said
    for path in ("DeleteNetwork", "DeleteEndpoint", "Leave"):
        status, _, body = exchange(
            host, request(f"NetworkDriver.{path}", json.dumps(CALLS[f"NetworkDriver.{path}"]).encode())
        )
        assert (status, json.loads(body)) == (200, {})
    created = CALLS["NetworkDriver.CreateNetwork"]
    said = must_be_refused(host, "no pool", request("NetworkDriver.CreateNetwork", json.dumps(created).encode()))
    assert "pool 10.99.9.0/24 was not requested" in said


def test_other_ways_of_http(host: Host) -> None:
    body = json.dumps(CALLS["NetworkDriver.Join"]).encode()
    for verb in ("GET", "PUT", "DELETE", "PATCH"):
        must_be_refused(host, verb, request("NetworkDriver.Join", body, verb=verb))
    for path in (
        "",
        "NetworkDriver.Nothing",
        "../etc/passwd",
        "static/x",
        "IpamDriver.RequestPool/",
        "%00",
        "VolumeDriver.Create",
    ):
        must_be_refused(host, path, request(path, body))
    must_be_refused(host, "HTTP/1.0", request("NetworkDriver.Join", body, version="1.0"))
    must_be_refused(
        host, "form", request("NetworkDriver.Join", body, "Content-Type: application/x-www-form-urlencoded")
    )
    must_be_refused(
        host, "multipart", request("NetworkDriver.Join", body, "Content-Type: multipart/form-data; boundary=x")
    )
    head = b"POST /NetworkDriver.Join HTTP/1.1\r\nHost: plugin\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked = b"".join(b"%x\r\n%s\r\n" % (1, body[at : at + 1]) for at in range(len(body))) + b"0\r\n\r\n"
    assert "is not known to qnet" in must_be_refused(host, "chunked", head + chunked)
    huge = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    must_be_refused(host, "chunked, 3 MB", head + huge * 3 + b"0\r\n\r\n")
    status, _, answer = exchange(host, request("Plugin.Activate", b"", version="1.0"))
    assert (status, json.loads(answer)) == (200, {"Implements": ["NetworkDriver", "IpamDriver"]})
    for path in WITHOUT_ARGUMENTS:
        for text in (b"", b"{}", b"nonsense", b"[" * 1000):
            status, _, answer = exchange(host, request(path, text))
            assert status == 200
            json.loads(answer)


def test_requests_that_are_no_http(host: Host) -> None:
    for raw in (
        b"\r\n\r\n", b"nonsense\r\n\r\n", b"POST\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n", b"\0" * 100 + b"\r\n\r\n",
        b"POST /Plugin.Activate HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /Plugin.Activate HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /Plugin.Activate HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /x HTTP/1.1\r\n" + b"".join(b"H%d: v\r\n" % n for n in range(500)) + b"\r\n",
    ):  # fmt: skip
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(DEADLINE)
            connection.connect(str(host.plugin_socket))
            try:
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(1 << 16)
            except ConnectionError:
                answer = b""
            assert not answer or answer.startswith(b"HTTP/1.1 4"), (raw[:60], answer[:300])


def test_half_sent_requests(host: Host) -> None:
    whole = request("IpamDriver.ReleaseAddress", json.dumps(CALLS["IpamDriver.ReleaseAddress"]).encode())
    for cut in (1, 10, whole.index(b"\r\n\r\n"), whole.index(b"\r\n\r\n") + 4, len(whole) - 1):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(host.plugin_socket))
            connection.sendall(whole[:cut])
    # some that stay open, as from an engine that hangs: others are served meanwhile
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    try:
        for connection in waiting:
            connection.connect(str(host.plugin_socket))
            connection.sendall(whole[:-1])
        began = time.monotonic()
        assert exchange(host, request("Plugin.Activate", b""))[0] == 200
        assert time.monotonic() - began < DEADLINE
    finally:
        for connection in waiting:
            connection.close()


def test_a_pool_that_no_network_has_is_given_back(lab: Lab, hosts: list[Host]) -> None:
    """The engine died between RequestPool and the rest of `network create`, say."""
    kit.tenants(hosts[0], "a")
    body = json.dumps(CALLS["IpamDriver.RequestPool"]).encode()
    status, _, _ = exchange(hosts[0], request("IpamDriver.RequestPool", body))
    assert status == 200
    kit.no_leaks(lab)
