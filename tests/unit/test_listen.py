"""Where daemons listen, and who may use their sockets."""

from __future__ import annotations

import grp
import os
import stat
from pathlib import Path

import pytest

from qnet.errors import InvalidRequest
from qnet.listen import share


def test_a_group_may_use_a_socket(tmp_path: Path) -> None:
    socket = tmp_path / "socket"
    socket.touch(0o600)
    group = grp.getgrgid(os.getgid()).gr_name
    share(socket, "gateway.group", group)
    assert stat.S_IMODE(socket.stat().st_mode) == 0o660
    assert socket.stat().st_gid == os.getgid()


def test_a_group_that_is_not_there_is_named_with_what_to_type(tmp_path: Path) -> None:
    socket = tmp_path / "socket"
    socket.touch(0o600)
    with pytest.raises(
        InvalidRequest, match=r"scheduler\.group is 'nobodies': there is no such group: groupadd nobodies"
    ):
        share(socket, "scheduler.group", "nobodies")
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600


def test_a_group_of_others_is_named_with_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = tmp_path / "socket"
    socket.touch(0o600)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr("qnet.listen.shutil.chown", refused)
    with pytest.raises(InvalidRequest, match="is not in it: usermod -aG root "):
        share(socket, "gateway.group", "root")
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
