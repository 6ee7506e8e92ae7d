"""`qnet init`, `invite`, `join`, `cert` and `backup` with a real etcd that lets in hosts of the cluster, by TLS."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from plugins.cli.etcd_here import UNIT
from qnet import invitation
from qnet.authority import STORE_CLIENT, Authority

QNET = str(Path(sys.executable).with_name("qnet"))
ADDRESS = "10.99.9.1"
ENDPOINT = f"{ADDRESS}:2379"
MARK = "/qnet/v1/hosts/host9"


class Site:
    """A network namespace with an etcd, and folders that stand for hosts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.netns = f"qnet-site-{os.getpid()}"
        self.defaults = folder / "etcd.default"
        self._etcd: subprocess.Popen[bytes] | None = None

    def config(self, host: str) -> Path:
        """The settings file of a host; as the package leaves it."""
        file = self.folder / host / "qnet.toml"
        if not file.exists():
            file.parent.mkdir(parents=True)
            state = f'state_dir = "{file.parent}/state"'
            file.write_text(f'[host]\n# name = ""  # unique\n{state}\n[docker]\nsocket = "{file.parent}/none"\n')
        return file

    def tls(self, host: str) -> Path:
        return self.config(host).parent / "tls"

    def run(self, *words: str, text: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        argv = ["ip", "netns", "exec", self.netns, *words]
        return subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=60, check=False, cwd=cwd or self.folder
        )

    def qnet(self, host: str, *words: str, text: str = "") -> str:
        done = self.run(QNET, "--config", str(self.config(host)), *words, text=text)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, host: str, *words: str, text: str = "") -> str:
        """What is said; nothing of the host's has changed."""
        before = self.files(host)
        done = self.run(QNET, "--config", str(self.config(host)), *words, text=text)
        assert done.returncode == 1, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert self.files(host) == before
        return done.stderr

    def files(self, host: str) -> dict[str, bytes]:
        top = self.config(host).parent
        return {str(one.relative_to(top)): one.read_bytes() if one.is_file() else b"" for one in top.rglob("*")}

    def invitation(self, name: str, *words: str) -> str:
        line = self.qnet("host1", "invite", name, "--address", "10.99.9.2", *words)
        echo, token, *pipe = shlex.split(line)
        assert (echo, pipe) == ("echo", ["|", "qnet", "join"])
        return token

    def etcdctl(self, *words: str, files: tuple[Path, Path, Path] | None = None) -> subprocess.CompletedProcess[str]:
        """As a client with an authority, a certificate and a key; host1's unless said otherwise."""
        own = self.tls("host1")
        ca, cert, key = files or (own / "ca.pem", own / "host.pem", own / "host.key")
        tls = ("--cacert", str(ca), "--cert", str(cert), "--key", str(key), "--command-timeout=3s", "--dial-timeout=2s")
        return self.run("env", "ETCDCTL_API=3", "etcdctl", f"--endpoints=https://{ENDPOINT}", *tls, *words)

    def start(self) -> None:
        """etcd as Debian's unit starts it: with what is in its defaults file."""
        lines = self.defaults.read_text().splitlines()
        options = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        own = {name: value.strip('"') for name, value in options.items()}
        argv = ["ip", "netns", "exec", self.netns, "etcd", "--log-level=error", f"--data-dir={self.folder}/data"]
        self._etcd = subprocess.Popen(argv, env=os.environ | own, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while self.etcdctl("endpoint", "health").returncode:
            assert time.monotonic() < deadline, "etcd does not start"
            time.sleep(0.1)

    def stop(self) -> None:
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait()
            self._etcd = None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A cluster of host1, made by `qnet init`, whose etcd runs."""
    made = Site(tmp_path_factory.mktemp("site"))
    subprocess.run(["ip", "netns", "add", made.netns], check=True)
    try:
        subprocess.run(["ip", "-n", made.netns, "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "-n", made.netns, "address", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)
        words = ("--name", "host1", "--address", ADDRESS, "--parent", "eth1", "--tls-names", "one.example")
        made.qnet("host1", "init", *words, "--no-start", "--etcd-defaults", str(made.defaults))
        made.start()
        yield made
    finally:
        made.stop()
        subprocess.run(["ip", "netns", "delete", made.netns], check=True)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_init_writes_settings_that_work_and_keeps_what_was_there(site: Site) -> None:
    assert json.loads(site.qnet("host1", "pool", "ls", "--json")) == []
    text = site.config("host1").read_text()
    assert '# name = ""  # unique' in text
    assert f'address = "{ADDRESS}:7443"' in text
    assert 'parent = "eth1"' in text
    private = ("ca.key", "client.key")
    assert {mode(site.tls("host1") / name) for name in private} == {0o600}
    assert {mode(site.tls("host1") / name) for name in ("host.key", "scheduler.key")} <= {0o600, 0o640}


def test_init_twice_is_refused(site: Site) -> None:
    said = site.refused("host1", "init", "--name", "other")
    assert "part of a cluster already" in said


def test_init_that_cannot_start_etcd_leaves_nothing(site: Site) -> None:
    tools = site.folder / "bin"
    tools.mkdir()
    lines = (
        "#!/bin/sh",
        f'echo "$@" >>{site.folder}/asked',
        '[ "$1" = daemon-reload ] && exit',
        "echo no unit etcd >&2; exit 1",
    )
    (tools / "systemctl").write_text("\n".join(lines))
    (tools / "systemctl").chmod(0o755)
    before, defaults = site.files("failed"), site.folder / "etcd.failed"
    defaults.write_text("# as Debian has it\n")
    path = f"PATH={tools}:{os.environ['PATH']}"
    words = ("init", "--name", "failed", "--address", ADDRESS, "--etcd-defaults", str(defaults))
    done = site.run("env", path, QNET, "--config", str(site.config("failed")), *words)
    assert (done.returncode, "cannot have etcd started at boot: systemctl: no unit etcd" in done.stderr) == (1, True)
    assert site.files("failed") == before
    assert defaults.read_text() == "# as Debian has it\n"
    assert not UNIT.exists()
    assert (site.folder / "asked").read_text().splitlines() == ["daemon-reload", "enable etcd", "disable --now etcd"]


def test_an_etcd_that_others_have_set_up_is_left_alone(site: Site) -> None:
    defaults = site.folder / "etcd.theirs"
    defaults.write_text("ETCD_NAME=theirs\n")
    words = ("init", "--name", "failed", "--address", ADDRESS, "--no-start", "--etcd-defaults", str(defaults))
    assert "set up already" in site.refused("failed", *words)
    assert defaults.read_text() == "ETCD_NAME=theirs\n"


def test_etcd_lets_in_hosts_and_nobody_else(site: Site) -> None:
    own = site.tls("host1")
    assert site.etcdctl("get", "x").returncode == 0
    folder = site.folder / "ann"
    site.qnet("host1", "cert", "operator", "ann", "--dir", str(folder))
    site.etcdctl("put", "/qnet/v1/tenants/shop", '{"name":"shop","since":""}')
    site.qnet("host1", "cert", "tenant", "shop", "--dir", str(site.folder / "shop"))
    for where in (folder, site.folder / "shop"):
        assert site.etcdctl("get", "x", files=(where / "ca.pem", where / "cert.pem", where / "key.pem")).returncode
    assert site.etcdctl("get", "x", files=(own / "ca.pem", own / "scheduler.pem", own / "scheduler.key")).returncode
    assert site.etcdctl("get", "x", files=(own / "ca.pem", own / "host.pem", own / "client.key")).returncode
    for url in (f"http://{ENDPOINT}", "http://127.0.0.1:2379"):
        words = ("ETCDCTL_API=3", "etcdctl", f"--endpoints={url}", "--command-timeout=2s", "get", "x")
        assert site.run("env", *words).returncode
    assert "there already" in site.refused("host1", "cert", "operator", "ann", "--dir", str(folder))
    assert "does not exist" in site.refused("host1", "cert", "tenant", "nobody")
    site.etcdctl("del", "/qnet/v1/tenants/shop")


def test_another_host_joins_by_one_line_and_again_by_the_same(site: Site) -> None:
    token = site.invitation("host2", "--parent", "eth7")
    assert len(token) < 4000
    told = site.qnet("host2", "join", text=token + "\n")
    assert told.startswith("host2 is part of the cluster")
    assert {one.name for one in site.tls("host2").iterdir()} == {
        "ca.pem",
        *("host.pem", "host.key", "scheduler.pem", "scheduler.key"),
    }
    assert json.loads(site.qnet("host2", "pool", "ls", "--json")) == []
    assert 'parent = "eth7"' in site.config("host2").read_text()
    before = site.files("host2")
    site.qnet("host2", "join", text=token)
    assert site.files("host2") == before
    other = site.invitation("host3")
    said = site.refused("host2", "join", text=other)
    assert "this host is host2 of this cluster already" in said
    assert "--force to make it host3" in said
    site.qnet("host2", "join", "--force", text=other)
    assert "has the authority of a cluster" in site.refused("host1", "join", "--force", text=other)
    assert 'name = "host3"' in site.config("host2").read_text()


def test_an_authority_that_etcd_does_not_know(site: Site) -> None:
    words = ("--name", "host1", "--address", ADDRESS, "--no-start", "--etcd-defaults", str(site.folder / "etcd.other"))
    site.qnet("elsewhere", "init", *words)
    assert "etcd is unreachable" in site.refused("elsewhere", "invite", "host4", "--address", "10.99.9.4")
    theirs = Authority.load(site.tls("elsewhere"))
    pairs = {role: theirs.issue(role, "host4", ("host4", STORE_CLIENT)).der for role in ("host", "scheduler")}
    ca = theirs.pair.cert.public_bytes(Encoding.DER)
    made = msgspec.structs.replace(invitation.read(site.invitation("host4")), ca=ca, **pairs)
    assert "etcd is unreachable" in site.refused("host4", "join", text=made.line())
    assert not site.tls("host4").exists()


@pytest.mark.parametrize("spoil", ["cut", "changed", "empty"])
def test_a_line_that_arrives_damaged_leaves_nothing(site: Site, spoil: str) -> None:
    token = site.invitation("host5")
    spoilt = {"cut": token[:-40], "changed": token[:99] + ("a" if token[99] != "a" else "b") + token[100:], "empty": ""}
    said = site.refused("host5", "join", text=spoilt[spoil])
    assert "copy the whole line" in said or "paste the whole line" in said


def test_an_invitation_for_a_name_that_is_taken_is_refused(site: Site) -> None:
    site.etcdctl("put", MARK, '{"name":"host9","identity":"x","since":""}')
    said = site.refused("host1", "invite", "host9", "--address", "10.99.9.9")
    assert "host host9 is in the cluster" in said
    site.etcdctl("del", MARK)
    assert "on which qnet init was typed" in site.refused("host2", "invite", "host9", "--address", "10.99.9.9")
    assert "no host name" in site.refused("host1", "invite", "Host_9", "--address", "10.99.9.9")
    assert "reach this one" in site.refused("host1", "invite", "host9", "--address", "127.0.0.1")


def test_certificates_are_renewed_and_still_work(site: Site) -> None:
    before = json.loads(site.qnet("host1", "cert", "ls", "--json"))
    site.qnet("host1", "cert", "renew", "--days", "900")
    after = json.loads(site.qnet("host1", "cert", "ls", "--json"))
    ended = {one["name"] + one["role"]: one["days"] for one in before if one["role"] != "authority"}
    assert {one["name"] + one["role"] for one in after if one["days"] == 899} == set(ended)
    assert set(ended.values()) == {729}
    assert site.qnet("host1", "pool", "ls", "--json").strip() == "[]"
    line = site.qnet("host1", "cert", "renew", "host6", "--address", "10.99.9.6")
    site.qnet("host6", "join", text=shlex.split(line)[1])
    again = site.qnet("host1", "cert", "renew", "host6", "--address", "10.99.9.6", "--days", "100")
    site.qnet("host6", "join", text=shlex.split(again)[1])
    found = json.loads(site.qnet("host6", "cert", "ls", "--json"))
    assert {one["days"] for one in found if one["role"] != "authority"} == {99}


def test_a_cluster_on_the_etcd_of_others(site: Site) -> None:
    own = site.tls("host1")
    theirs = (
        "--etcd-ca",
        str(own / "ca.pem"),
        "--etcd-cert",
        str(own / "host.pem"),
        "--etcd-key",
        str(own / "host.key"),
    )
    words = ("init", "--name", "alone", "--address", ADDRESS, "--etcd", ENDPOINT)
    wrong = site.folder / "elsewhere/tls/ca.pem"
    assert "etcd is unreachable" in site.refused("alone", *words, "--etcd-ca", str(wrong), *theirs[2:])
    assert "etcd is unreachable" in site.refused("alone", *words)
    assert "HOST:PORT" in site.refused("alone", *words[:-1], "https://x:1")
    assert "--etcd-cert needs" in site.refused("alone", *words, *theirs[:4])
    site.qnet("alone", *words, *theirs)
    assert not (site.config("alone").parent / "etcd").exists()
    assert json.loads(site.qnet("alone", "pool", "ls", "--json")) == []
    line = site.qnet("alone", "invite", "beta", "--address", "10.99.9.7")
    site.qnet("beta", "join", text=shlex.split(line)[1])
    assert str(own / "host.key") in site.config("beta").read_text()


def test_a_backup_comes_back_by_tls(site: Site) -> None:
    site.qnet("host1", "pool", "create", "10.77.0.0/24")
    site.qnet("host1", "address", "reserve", "10.77.0.9")
    file = str(site.folder / "backup")
    site.qnet("host1", "backup", file)
    assert "add --force" in site.refused("host1", "backup", file)
    site.etcdctl("del", "--prefix", "/qnet/")
    said = site.refused("host1", "restore", file)
    assert "host1: docker engine at unix:" in said
    assert site.qnet("host1", "pool", "ls", "--json").strip() == "[]"
    site.qnet("host1", "restore", file, "--without", "host1")
    assert json.loads(site.qnet("host1", "pool", "ls", "--json"))[0]["reserved"] == 1
    site.etcdctl("del", "--prefix", "/qnet/")


def test_join_without_an_etcd_that_answers_leaves_nothing(site: Site) -> None:
    token = site.invitation("host8")
    site.stop()
    try:
        assert "etcd is unreachable" in site.refused("host8", "join", text=token)
        assert not site.tls("host8").exists()
    finally:
        site.start()
    site.qnet("host8", "join", text=token)
