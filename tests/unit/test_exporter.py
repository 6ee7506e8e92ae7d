"""The metrics' own server: who may read, and what does not stop a daemon."""

from __future__ import annotations

import socket
import ssl
import time
import urllib.request
from http.client import RemoteDisconnected
from pathlib import Path

import pytest

from qnet import exporter
from qnet.settings import Agent, Metrics, Settings
from tests.lab import certificates
from tests.lab.commands import wait_for
from tests.lab.model import Layout


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def fetch(url: str, context: ssl.SSLContext | None = None) -> str:
    """What is served there, soon at least."""
    deadline = time.monotonic() + 5
    while True:
        try:
            with urllib.request.urlopen(url, timeout=3, context=context) as answer:
                return str(answer.read().decode())
        except OSError as error:
            if "refused" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_loopback_is_served_plainly(host: str) -> None:
    listen = f"{host}:{free_port()}"
    exporter.start(Settings(metrics=Metrics(agent=listen)), "agent")
    told = fetch(f"http://{listen}/metrics")
    assert 'qnet_build_info{version="' in told
    assert "qnet_etcd_up" in told


def test_a_client_that_says_nothing_holds_nobody_up() -> None:
    port = free_port()
    exporter.start(Settings(metrics=Metrics(agent=f"127.0.0.1:{port}")), "agent")
    fetch(f"http://127.0.0.1:{port}/metrics")
    with socket.create_connection(("127.0.0.1", port)):
        assert "qnet_etcd_up" in fetch(f"http://127.0.0.1:{port}/metrics")


def test_clients_that_say_nothing_take_so_many_places_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "CONNECTIONS", 3)
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    exporter.start(Settings(metrics=Metrics(agent=f"127.0.0.1:{port}")), "agent")
    for _ in range(5):
        fetch(url)
    silent: list[socket.socket] = []

    def full() -> bool:
        silent.append(socket.create_connection(("127.0.0.1", port)))
        return attempt(url) == ""

    wait_for("no place", full, 10)
    for one in silent:
        one.close()
    wait_for("a place", lambda: "qnet_etcd_up" in attempt(url), 10)


def attempt(url: str) -> str:
    """What is served there, nothing if the connection was closed."""
    try:
        return fetch(url)
    except OSError:
        return ""


def test_a_port_that_is_taken_is_told_and_taken_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exporter, "AGAIN", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        exporter.start(Settings(metrics=Metrics(agent=listen)), "agent")
        time.sleep(0.3)
    assert "qnet_etcd_up" in fetch(f"http://{listen}/metrics")
    told = [one.message for one in caplog.records if f"no metrics at {listen}" in one.message]
    assert len(told) == 1
    assert "Address already in use" in told[0]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    folder = tmp_path_factory.mktemp("authority")
    layout = Layout(folder, folder, "x")
    certificates.make_authority(layout)
    return layout


def client(authority: Layout, role: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates.folder(authority) / "ca.pem"))
    if role:
        context.load_cert_chain(*certificates.make(authority, role, "ann"))
    return context


def test_elsewhere_certificates_of_operators_are_let_in_only(
    authority: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    cert, key = certificates.make(authority, "host", "host1", ["127.0.0.1"])
    own = Agent(ca=str(certificates.folder(authority) / "ca.pem"), cert=str(cert), key=str(key))
    port = free_port()
    exporter.start(Settings(agent=own, metrics=Metrics(volume=f"0.0.0.0:{port}")), "volume")
    url = f"https://127.0.0.1:{port}/metrics"
    assert "qnet_etcd_up" in fetch(url, client(authority, "operator"))
    with socket.create_connection(("127.0.0.1", port)):  # one that never shakes hands
        assert "qnet_etcd_up" in fetch(url, client(authority, "operator"))
    for wrong in ("", "tenant", "host"):
        with pytest.raises((OSError, RemoteDisconnected)):
            fetch(url, client(authority, wrong))
    with pytest.raises((OSError, RemoteDisconnected)):
        fetch(f"http://127.0.0.1:{port}/metrics")
    said = "metrics are for certificates of operators"
    wait_for("both refusals in the log", lambda: caplog.text.count(said) >= 2, 10)  # another thread writes them
    assert caplog.text.count(said) == 2


def test_without_certificates_nothing_is_served_elsewhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    own = Agent(ca=str(tmp_path / "ca.pem"))
    exporter.start(Settings(agent=own, metrics=Metrics(agent=f"0.0.0.0:{port}")), "agent")
    time.sleep(0.2)
    assert f"ca {tmp_path}/ca.pem is not there" in caplog.text
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=1)
