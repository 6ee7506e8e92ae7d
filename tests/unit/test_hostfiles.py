"""Files of a host: who may read them, what stays in the settings, and that a failure brings back what was there."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from plugins.cli import hostfiles
from plugins.cli.hostfiles import Place, put
from qnet import settings
from qnet.authority import Authority
from qnet.errors import InvalidRequest

SHIPPED = """# qnet
[host]
# name = ""      # unique

[etcd]
# endpoints = ["127.0.0.1:2379"]
timeout = 2.5  # mine
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path / "etc/qnet/qnet.toml")
    made.settings.parent.mkdir(parents=True)
    made.settings.write_text(SHIPPED)
    return made


def content(top: Path) -> dict[str, tuple[int, bytes]]:
    return {str(one): (one.stat().st_mode, one.read_bytes()) for one in top.rglob("*") if one.is_file()}


def test_settings_are_set_and_all_else_stays(place: Place) -> None:
    with ExitStack() as undo:
        place.put_settings(undo, {"host": {"name": "host1"}, "etcd": {"endpoints": ("10.0.0.1:2379",)}})
        undo.pop_all()
    loaded = settings.load(place.settings, {})
    assert (loaded.host.name, loaded.etcd.endpoints, loaded.etcd.timeout) == ("host1", ("10.0.0.1:2379",), 2.5)
    assert loaded.agent.key == str(place.tls / "host.key")
    for line in SHIPPED.splitlines():
        assert line in place.settings.read_text().splitlines()


@pytest.mark.parametrize(("text", "said"), [("[host", "is not TOML"), ("host = 5", "host is no section")])
def test_settings_that_cannot_be_changed_are_left_alone(place: Place, text: str, said: str) -> None:
    place.settings.write_text(text)
    with pytest.raises(InvalidRequest, match=said), ExitStack() as undo:
        place.put_settings(undo, {"host": {"name": "host1"}})
    assert place.settings.read_text() == text


def test_settings_that_are_wrong_afterwards_come_back(place: Place) -> None:
    before = content(place.settings.parent)
    with pytest.raises(InvalidRequest, match=r"host\.name is"), ExitStack() as undo:
        place.put_settings(undo, {"host": {"name": "Host_1"}})
    assert content(place.settings.parent) == before


def test_a_failure_brings_back_files_modes_and_folders(place: Place) -> None:
    place.settings.chmod(0o640)
    before = content(place.settings.parent)
    with ExitStack() as undo:
        put(undo, place.settings, b"[host]\n")
        put(undo, place.tls / "ca.pem", b"x")
        assert content(place.settings.parent) != before
    assert content(place.settings.parent) == before
    assert not place.tls.exists()


def test_keys_of_daemons_are_for_their_group_and_others_for_root(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Authority.create("x").issue("host", "host1")
    with ExitStack() as undo:
        place.put_pair(undo, "alone", pair, shared=True)
        monkeypatch.setattr(hostfiles, "_gid", lambda: 12345)
        place.put_pair(undo, "host", pair, shared=True)
        place.put_pair(undo, "client", pair, shared=False)
        undo.pop_all()
    seen = {name: (place.tls / f"{name}.key").stat() for name in ("alone", "host", "client")}
    found = {name: (stat.S_IMODE(one.st_mode), one.st_gid) for name, one in seen.items()}
    assert found == {"alone": (0o600, os.getgid()), "host": (0o640, 12345), "client": (0o600, os.getgid())}
    assert stat.S_IMODE((place.tls / "host.pem").stat().st_mode) == 0o644


def test_a_strict_umask_hides_no_certificate(place: Place) -> None:
    before = os.umask(0o077)
    try:
        with ExitStack() as undo:
            put(undo, place.tls / "ca.pem", b"x")
            undo.pop_all()
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.tls.stat().st_mode) == 0o755
    assert stat.S_IMODE((place.tls / "ca.pem").stat().st_mode) == 0o644
