"""Settings: defaults, file, environment, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from qnet import settings
from qnet.errors import InvalidRequest


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
        ("[etcd]\ntimout = 1", r"unknown field `timout`.*it may have: endpoints, ca, cert"),
        ("[ectd]\ntimeout = 1", r"unknown field `ectd`.*it may have: host, etcd, docker"),
        ('[etcd]\ntimeout = "fast"', r"Expected `float`, got `str` - at `\$\.etcd\.timeout`"),
        ("[etcd]\ntimeout = 60", r"etcd\.timeout is 60.*allowed: 0\.1 to 4\.5"),
        ("[etcd]\nendpoints = []", r"etcd\.endpoints is empty"),
        ('[host]\nname = "Host_1"', r"host\.name 'Host_1' is no host name"),
        ('[log]\nlevel = "loud"', r"Invalid enum value 'loud'"),
        ('[ipam.supernets]\ndefault = ["10.0.0.1/8"]', r"ipam\.supernets\.default.*host bits"),
        ("[ipam\n", r"is not TOML"),
        ('[network.parents]\ntrunk = "bond0/x"', r"network\.parents: trunk = 'bond0/x': a name of lower-case letters"),
        ('[network.parents]\ntrunk = ""', r"network\.parents: trunk = ''"),
        ('[network.parents]\n"../x" = "bond0"', r"network\.parents: \.\./x = 'bond0'"),
        ("[network.parents]\ntrunk = 1", r"Expected `str`, got `int`"),
    ],
)
def test_wrong_settings_are_explained(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        settings.load(write(tmp_path, text), {})


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"none\.toml cannot be read: No such file"):
        settings.load(tmp_path / "none.toml", {})


def test_wrong_environment_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="QNET_ETCD_TIMEOUT"):
        settings.load(write(tmp_path, ""), {"QNET_ETCD_TIMEOUT": "soon"})
