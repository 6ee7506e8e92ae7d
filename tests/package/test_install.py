"""The guide, and what it has made of two bare machines."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from plugins.cli.daemon_checks import DAEMONS
from tests.lab.commands import run, wait_for
from tests.lab.model import PROJECT
from tests.package.site import FRONT, Site, built

SCORES = re.compile(r"^\| `([a-z-]+)\.service` \| ([0-9.]+) \|", re.MULTILINE)


def test_every_command_of_the_guide_does_what_it_says(site: Site) -> None:
    said = {step.command: done.stdout for step, done in site.said}
    hosts = said["qnet host ls"]
    assert re.search(r"host1 +ready", hosts)
    assert re.search(r"host2 +ready", hosts)
    assert re.search(r"\ba +.*host[12]", said["qnet ps"])
    df = next(out for command, out in said.items() if "df -h /data" in command)
    assert "10.0G" in df
    told = "".join(done.stdout for step, done in site.said if step.command == "qnet doctor")
    assert "ok   unit qnet-network.socket is active, and starts at boot" in told
    assert re.findall(r"^(?:fail|warn +unit) .*", told, re.MULTILINE) == []


@pytest.mark.parametrize("unit", DAEMONS)
def test_every_service_runs_and_says_what_it_does(site: Site, unit: str) -> None:
    for machine in site.machines:
        shown = machine.shown(unit, "ActiveState", "SubState", "NRestarts")
        assert (shown["ActiveState"], shown["SubState"], shown["NRestarts"]) == ("active", "running", "0")
        wait_for("its word", lambda one=machine: one.shown(unit, "StatusText")["StatusText"] == "serving", 30, 0.5)


@pytest.mark.parametrize("unit", ["qnet-agent", "qnet-scheduler", "qnet-gateway"])
def test_what_needs_no_root_has_none(site: Site, unit: str) -> None:
    pid = site.first.shown(unit, "MainPID")["MainPID"]
    status = site.first.sh(f"cat /proc/{pid}/status").stdout
    account = site.first.sh("id -u qnet").stdout.strip()
    assert re.search(rf"^Uid:\t{account}\t{account}\t", status, re.MULTILINE)
    assert re.search(r"^CapEff:\t0{16}$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)


def test_systemd_finds_nothing_wrong_with_the_units(site: Site) -> None:
    found = site.first.sh(
        "systemd-analyze verify /lib/systemd/system/{qnet,sharedfs}* 2>&1 || true".replace("{qnet,sharedfs}*", "qnet*"),
        check=False,
    )
    assert found.stdout == ""
    found = site.first.sh("systemd-analyze verify /lib/systemd/system/sharedfs* 2>&1", check=False)
    assert found.stdout == ""


def test_units_are_no_more_exposed_than_the_documentation_records(site: Site) -> None:
    recorded = {unit: float(score) for unit, score in SCORES.findall((PROJECT / "docs/security.md").read_text())}
    assert sorted(recorded) == sorted(DAEMONS)
    for unit, score in recorded.items():
        told = site.first.sh(f"systemd-analyze security --no-pager {unit}.service | tail -n 1", check=False).stdout
        assert float(re.search(r"([0-9.]+) [A-Z]+", told)[1]) <= score, told  # type: ignore[index]


def test_nothing_listens_to_strangers(site: Site) -> None:
    """Beyond loopback: etcd and the agent, which ask for certificates."""
    told = site.first.sh("ss -Htlnp | grep -E 'qnet|sharedfs|etcd'").stdout
    outside = {line.split()[3] for line in told.splitlines() if not line.split()[3].startswith(("127.", "[::1]"))}
    ports = {address.rpartition(":")[2] for address in outside}
    assert ports == {"2379", "7443"}
    for port in sorted(ports):
        refused = site.second.sh(f"curl -sk --max-time 5 https://10.99.0.11:{port}/version", check=False)
        assert refused.returncode != 0
        assert refused.stdout == ""


def test_etcd_is_started_again_whatever_ended_it(site: Site) -> None:
    def process() -> str:
        return site.first.sh("systemctl show -P MainPID etcd").stdout.strip()

    before = process()
    site.first.sh("systemctl kill etcd")  # it ends without an error
    wait_for("another etcd", lambda: process() not in (before, "0"), 15)
    wait_for("its answer", lambda: "ok" in site.first.sh("qnet doctor | grep 'answers a read'", check=False).stdout, 30)


def test_no_secret_is_in_the_list_of_processes(site: Site) -> None:
    for machine in site.machines:
        listed = machine.sh("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'").stdout
        assert "qnet1." not in listed
        assert "PRIVATE KEY" not in listed


def test_shells_complete_and_manuals_open(site: Site) -> None:
    asked = "COMP_WORDS='qnet vol' COMP_CWORD=1 _QNET_COMPLETE=bash_complete qnet"
    assert "volume" in site.first.sh(asked).stdout
    for file in (
        "bash-completion/completions/qnet",
        "zsh/vendor-completions/_qnet",
        "fish/vendor_completions.d/qnet.fish",
    ):
        assert "_QNET_COMPLETE" in (site.first.files / "usr/share" / file).read_text()
    assert "qnet" in site.first.sh("man -P cat qnet-network").stdout
    assert "join" in site.first.sh("man -P cat qnet-join").stdout


def test_the_package_says_what_is_in_it(site: Site) -> None:
    listed = json.loads((site.first.files / "usr/share/doc/qnet/sbom.json").read_text())
    named = {(part["name"].lower().replace("_", "-"), part["version"]) for part in listed["components"]}
    pinned = re.findall(r"^([a-z0-9.-]+)==([^ ]+)", (PROJECT / "packaging/runtime.lock").read_text(), re.MULTILINE)
    assert named >= {(name.lower(), version) for name, version in pinned}
    assert str(PROJECT) not in json.dumps(listed)


def test_the_package_can_be_built_again_the_same(package: Path, tmp_path: Path) -> None:
    again = built(tmp_path / "elsewhere")
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(package.read_bytes()).digest()


def test_lintian_finds_no_error(package: Path) -> None:
    told = run(["lintian", "--tag-display-limit", "0", "--fail-on", "none", package], timeout=300).stdout
    assert [line for line in told.splitlines() if line.startswith("E:")] == []


def test_the_three_commands_of_the_readme(site: Site) -> None:
    """`docker network create`, `docker run --ip auto` and `docker volume create`, in the words of the README."""
    first, second = site.machines
    first.sh(f"{FRONT} network create -d qnet --subnet 10.78.0.0/24 readme")
    second.docker("volume", "create", "-d", "sharedfs", "-o", "size=1G", "readme")
    run_ = f"{FRONT} run -d --network readme --ip auto -v readme:/data --name readme busybox sleep 1d"
    first.sh(run_, timeout=90)
    before = second.sh(f"{FRONT} inspect -f '{{{{.NetworkSettings.Networks.readme.IPAddress}}}}' readme").stdout
    first.sh(f"{FRONT} exec readme sh -c 'echo kept >/data/file'; {FRONT} rm -f readme")
    second.sh(run_, timeout=90)
    after = first.sh(f"{FRONT} inspect -f '{{{{.NetworkSettings.Networks.readme.IPAddress}}}}' readme").stdout
    assert before == after != ""
    assert first.sh(f"{FRONT} exec readme cat /data/file").stdout == "kept\n"
    first.sh(f"{FRONT} rm -f readme; {FRONT} volume rm readme; {FRONT} network rm readme")
