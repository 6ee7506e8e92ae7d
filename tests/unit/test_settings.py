"""Settings: defaults, file, environment, and what is said of wrong ones."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from qnet import settings
from qnet.errors import InvalidRequest
from scheduler.model import Policy


def write(folder: Path, text: str) -> Path:
    file = folder / "qnet.toml"
    file.write_text(text)
    return file


def test_defaults_hold(tmp_path: Path) -> None:
    loaded = settings.load(write(tmp_path, '[host]\nname = "h1"\n'), {})
    assert loaded.etcd.endpoints == ("127.0.0.1:2379",)
    assert loaded.ipam.rest == 60
    assert loaded.host.name == "h1"


def test_environment_overrides_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, '[host]\nname = "h1"\n[etcd]\ntimeout = 1.5\n')
    changed = {"QNET_ETCD_TIMEOUT": "2.5", "QNET_HOST_NAME": "h2", "QNET_ETCD_ENDPOINTS": '["a:1", "b:2"]'}
    loaded = settings.load(file, changed)
    assert (loaded.etcd.timeout, loaded.host.name, loaded.etcd.endpoints) == (2.5, "h2", ("a:1", "b:2"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[etcd]\n\ntimout = 1", "line 3: etcd.timout: no such option; there are: timeout, endpoints, ca, cert, key"),
        ("\n[ectd]\ntimeout = 1", "line 2: ectd: no such section; there are: etcd, host, docker, network"),
        ("ectd.timeout = 1", "line 1: ectd: no such section; there are: etcd, host"),
        ("etcd = 3", "line 1: etcd is 3: allowed are sections, as in [etcd]"),
        ('[etcd]\ntimeout = "fast"', 'line 2: etcd.timeout is "fast": allowed are 0.1 to 4.5'),
        ("[log]\n[etcd]\ntimeout = 9", "line 3: etcd.timeout is 9: allowed are 0.1 to 4.5"),
        ("[etcd]\ntimeout = nan", "line 2: etcd.timeout is NaN: allowed are 0.1 to 4.5"),
        ("etcd.user = 'a'\netcd.timeout = 9", "line 2: etcd.timeout is 9: allowed are 0.1 to 4.5"),
        ("[log]\n[ etcd ]\n'timeout' = 9", "line 3: etcd.timeout is 9"),
        ("\netcd = {timeout = 9}", "line 2: etcd.timeout is 9"),
        ("[ipam]\nrest = 2.5", "line 2: ipam.rest is 2.5: allowed are whole numbers from 1 to 86400"),
        ("[etcd]\nendpoints = []", "line 2: etcd.endpoints is []: allowed are lists of HOST:PORT, at least one"),
        (
            '[etcd]\nendpoints = ["h1"]',
            'line 2: etcd.endpoints is ["h1"]: allowed are lists of HOST:PORT, at least one',
        ),
        (
            '[host]\nname = "Host_1"',
            'line 2: host.name is "Host_1": allowed are lower-case letters, digits and -, up to 63',
        ),
        ('[log]\nlevel = "loud"', 'line 2: log.level is "loud": allowed are debug, info, warning, error'),
        (
            '[ipam.supernets]\nblue = ["10.0.0.0/8"]\ndefault = ["10.0.0.1/8"]',
            'line 3: ipam.supernets.default is ["10.0.0.1/8"]: 10.0.0.1/8 has host bits set: allowed are tables',
        ),
        (
            '[network.parents]\na = "b"\ntrunk = "bond0/x"',
            'line 3: network.parents.trunk is "bond0/x": allowed are tables of',
        ),
        ('[network.parents]\ntrunk = ""', 'network.parents.trunk is "": allowed are tables of NAME = LINK'),
        ('[network.parents]\n"../x" = "bond0"', 'line 2: network.parents.../x is "bond0": allowed are tables of NAME'),
        ("[network.parents]\ntrunk = 1", "line 2: network.parents.trunk is 1: allowed"),
        ("[network]\nparents = 1", "line 2: network.parents is 1: allowed"),
        (
            "[scheduler.weights]\nroom = 1\nrom = 1",
            "line 3: scheduler.weights.rom is 1: allowed are tables of room, now, hours, image, failures, wishes",
        ),
        ("[scheduler]\nweights = {room = -1}", "line 2: scheduler.weights.room is -1: allowed"),
        ('[metrics]\nagent = "9472"', 'line 2: metrics.agent is "9472": allowed are HOST:PORT, or empty'),
        ('[agent]\nlisten = ""', 'line 2: agent.listen is "": allowed are HOST:PORT'),
    ],
)
def test_wrong_settings_are_explained(tmp_path: Path, text: str, says: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(InvalidRequest) as refused:
        settings.load(file, {})
    assert str(refused.value).startswith(f"settings: {file} line ")
    assert says in str(refused.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, "[etcd]\ntimeout = 9\n[ipam]\nrest = 0\n")
    assert settings.read(file, {"QNET_LOG_LEVEL": "loud", "QNET_HOST_NAME": "h1"}).mistakes == [
        f"{file} line 2: etcd.timeout is 9: allowed are 0.1 to 4.5",
        f"{file} line 4: ipam.rest is 0: allowed are whole numbers from 1 to 86400",
        'QNET_LOG_LEVEL: log.level is "loud": allowed are debug, info, warning, error',
    ]


def test_what_is_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"qnet\.toml is not TOML: .*line 1"):
        settings.load(write(tmp_path, "[ipam\n"), {})


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"none\.toml cannot be read: No such file"):
        settings.load(tmp_path / "none.toml", {})


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("QNET_ETCD_TIMEOUT", "soon", 'QNET_ETCD_TIMEOUT: etcd.timeout is "soon": allowed are 0.1 to 4.5'),
        ("QNET_ETCD_TIMOUT", "1", "QNET_ETCD_TIMOUT: etcd.timout: no such option; there are: timeout, endpoints"),
        ("QNET_ECTD_TIMEOUT", "1", "QNET_ECTD_TIMEOUT: ectd: no such section; there are: etcd, host"),
        ("QNET_", "1", "QNET_: : no such section; there are: host"),
        ("QNET_SCHEDULER_WEIGHTS", "{rom = 1}", "QNET_SCHEDULER_WEIGHTS: scheduler.weights.rom is 1"),
    ],
)
def test_wrong_environment_is_named(tmp_path: Path, variable: str, value: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^settings: {re.escape(says)}"):
        settings.load(write(tmp_path, ""), {variable: value})


def test_variables_of_others_are_none_of_ours(tmp_path: Path) -> None:
    others = {"QNET_LAB_DIR": "/run/lab", "QNET_DOCKER_CLI": "docker", "_QNET_COMPLETE": "x", "PATH": ""}
    assert settings.load(write(tmp_path, '[host]\nname = "h1"'), others).host.name == "h1"


def test_a_host_without_a_name_has_the_machine_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, "")
    monkeypatch.setattr(socket, "gethostname", lambda: "H7.example.org")
    assert settings.load(file, {}).host.name == "h7"
    for name in ("Host_1", ""):
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        with pytest.raises(InvalidRequest, match=r"the machine's host name: host\.name is .*allowed are lower-case"):
            settings.load(file, {})


def test_where_options_come_from(tmp_path: Path) -> None:
    file = write(tmp_path, '[host]\nname = "h1"\n[etcd]\ntimeout = 1.5\nuser = "x"\n')
    found = settings.read(file, {"QNET_ETCD_USER": "y"}).sources
    assert found == {"host.name": f"{file} line 2", "etcd.timeout": f"{file} line 4", "etcd.user": "QNET_ETCD_USER"}


def test_changes_tell_what_needs_a_restart(tmp_path: Path) -> None:
    old = settings.load(write(tmp_path, '[host]\nname = "h1"\n'), {})
    new = settings.load(write(tmp_path, '[host]\nname = "h1"\n[log]\nlevel = "debug"\n[etcd]\ntimeout = 2\n'), {})
    assert settings.changes(old, old) == ()
    assert settings.changes(old, new) == (
        settings.Change("etcd.timeout", 4.0, 2.0, restart=True),
        settings.Change("log.level", "info", "debug", restart=False),
    )


def test_every_default_is_allowed_and_every_option_described() -> None:
    for option in settings.options():
        assert list(option.mistakes(msgspec.to_builtins(option.default))) == [], option.path
        assert option.meaning.endswith("."), option.path


def test_weights_left_out_are_those_described() -> None:
    meaning = next(option.meaning for option in settings.options() if option.path == "scheduler.weights")
    for weight in get_args(settings.Weight):
        assert f"{weight} {getattr(Policy(), weight):g}" in meaning
