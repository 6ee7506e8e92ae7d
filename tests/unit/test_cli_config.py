"""`qnet config`: what it tells of files, where values come from, and the file that is shipped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from plugins.cli.app import cli
from qnet import settings
from qnet.settings import Host, Settings

SHIPPED = Path(__file__).parents[2] / "packaging/qnet.toml"


def qnet(*words: str) -> Result:
    return CliRunner().invoke(cli, words, env={"QNET_ETCD_USER": "eve"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "qnet.toml"


def test_a_good_file_is_fine(file: Path) -> None:
    file.write_text('[host]\nname = "h1"\n')
    for words in (("config", "check", str(file)), ("--config", str(file), "config", "check")):
        result = qnet(*words)
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"{file} is fine\n", "")


def test_without_a_file_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "DEFAULT_FILE", tmp_path / "none.toml")
    result = qnet("config", "check")
    assert result.stdout == f"there is no {tmp_path}/none.toml; what is in the environment is fine\n"


def test_all_mistakes_are_told(file: Path) -> None:
    file.write_text("[etcd]\ntimeout = 9\n[ipam]\nrest = 0\n")
    for words in (("config", "check", str(file)), ("--config", str(file), "config", "check")):
        result = qnet(*words)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.splitlines() == [
            f"{file} line 2: etcd.timeout is 9: allowed are 0.1 to 4.5",
            f"{file} line 4: ipam.rest is 0: allowed are whole numbers from 1 to 86400",
        ]
    missing = qnet("config", "check", str(file) + "x")
    assert (missing.exit_code, missing.stderr) == (
        1,
        f"qnet: settings file {file}x cannot be read: No such file or directory\n",
    )


def test_files_that_are_not_there_and_open_keys_are_warned_of(file: Path, tmp_path: Path) -> None:
    ca, key, kept = tmp_path / "ca.pem", tmp_path / "key.pem", tmp_path / "kept.pem"
    for one, mode in ((key, 0o604), (kept, 0o640)):
        one.touch()
        one.chmod(mode)
    file.write_text(f'[etcd]\nca = "{ca}"\nkey = "{key}"\ncert = "{key}"\npassword_file = "{kept}"\n')
    result = qnet("config", "check", str(file))
    assert (result.exit_code, result.stdout) == (0, f"{file} is fine\n")
    assert result.stderr.splitlines() == [
        f'warning: {file} line 2: etcd.ca is "{ca}": no such file or directory',
        f'warning: {file} line 3: etcd.key is "{key}": everybody can read it: chmod o= {key}',
    ]


def test_show_says_where_values_come_from(file: Path) -> None:
    file.write_text('[host]\nname = "h1"\n[etcd]\nendpoints = ["h2:2379"]\n')
    result = qnet("--config", str(file), "config", "show")
    lines = [re.split(r" {2,}", line) for line in result.stdout.splitlines()]
    assert lines[0] == ["OPTION", "VALUE", "FROM"]
    assert ["etcd.endpoints", '["h2:2379"]', f"{file} line 4"] in lines
    assert ["etcd.user", '"eve"', "QNET_ETCD_USER"] in lines
    assert ["etcd.timeout", "4.0", "default"] in lines
    rows = json.loads(qnet("--config", str(file), "config", "show", "--json").stdout)
    assert [row["option"] for row in rows] == [option.path for option in settings.options()]
    assert {"option": "etcd.endpoints", "value": ["h2:2379"], "from": f"{file} line 4"} in rows


def test_show_refuses_wrong_settings(file: Path) -> None:
    file.write_text("[etcd]\ntimeout = 9\n")
    result = qnet("--config", str(file), "config", "show")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"qnet: settings: {file} line 2: etcd.timeout is 9")


def test_the_default_file_is_the_one_that_is_shipped() -> None:
    assert qnet("config", "default").stdout == SHIPPED.read_text(), "qnet config default > packaging/qnet.toml"


def test_the_default_file_has_every_option_with_its_default(file: Path) -> None:
    file.write_text(re.sub(r"^#(?=\w+ = )", "", SHIPPED.read_text(), flags=re.MULTILINE))
    named = {"QNET_HOST_NAME": "h1"}
    assert settings.read(file, named).sources.keys() == {option.path for option in settings.options()}
    for one in (file, SHIPPED):
        assert settings.load(one, named) == Settings(host=Host(name="h1"))
    assert list(settings.read(SHIPPED, named).sources) == ["host.name"]
