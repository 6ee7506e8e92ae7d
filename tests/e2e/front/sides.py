"""The same docker commands straight on an engine and through the front, and what of their output must be the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import certificates
from tests.lab.cluster import Lab
from tests.lab.engine import UNPACKED, client, client_env
from tests.lab.host import Host

PLUGINS = UNPACKED / "cli-plugins/usr/libexec/docker/cli-plugins"
DEBIANS = "/usr/bin/docker"
PATIENCE = 120
CHANGING = (
    # docker 20.10 writes it of some starts that fail, straight too (1 of 60)
    (r'time="[^"]*" level=error msg="error waiting for container: context canceled"\n', ""),
    (r"sha256:[0-9a-f]{64}|\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b", "ID"),
    (r"\b(?:qnet\.(?:host|tenant|claim|name|group|network)=[^,\s]*,?)", ""),
    (r"(?:Less than a|About an?|\d+) (?:second|minute|hour)s?(?: ago)?", "AGO"),
    (r"\d{4}-\d\d-\d\d[T ][\d:.]+(?:Z| \+0000 UTC)?", "TIME"),
    (r"\b(?:10\.77\.\d+\.\d+|172\.\d+\.\d+\.\d+)(?:/\d+)?\b", "IP"),
    (r"\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b", "MAC"),
    (r"\bcannot kill\b", "Cannot kill"),
    (r" +", " "),
)


def clients() -> list[str]:
    """The docker commands that are here: the first on PATH, and Debian's."""
    found = [client(), DEBIANS] if Path(DEBIANS).exists() else [client()]
    return list({str(Path(one).resolve()): one for one in found}.values())


def configuration(folder: Path) -> Path:
    """A folder with a configuration of the docker command that has compose and buildx. Fails if they are not here."""
    for plugin in ("docker-compose", "docker-buildx"):
        if not (PLUGINS / plugin).exists():
            pytest.fail(f"{plugin} is not here: run `packaging/bootstrap.sh engines`", pytrace=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": [str(PLUGINS)]}))
    return folder


@dataclass(frozen=True)
class Said:
    """What a command wrote, and how it ended."""

    status: int
    out: bytes
    err: str


@dataclass(frozen=True)
class Side:
    """Where commands go: `address` as in DOCKER_HOST. `prefix` begins the names that a script gives, as `$P`."""

    address: str
    prefix: str
    cli: str
    config: Path
    environment: tuple[tuple[str, str], ...] = ()
    inside: Host | None = None

    def variables(self) -> dict[str, str]:
        own = {
            "DOCKER_HOST": self.address,
            "P": self.prefix,
            "DOCKER_CONFIG": str(self.config),
            **dict(self.environment),
        }
        return {**client_env(), **own, "PATH": f"{self.config}/bin:{os.environ['PATH']}"}

    def argv(self, *words: str) -> list[str]:
        return self.inside.namespaces.argv(words, str(self.config)) if self.inside else list(words)

    def sh(self, script: str, stdin: bytes = b"", timeout: float = PATIENCE) -> Said:
        """Run a script in which `docker` is this side's command."""
        folder = self.config / "bin"
        folder.mkdir(exist_ok=True)
        link = folder / "docker"
        if not link.is_symlink() or link.readlink() != Path(self.cli):
            link.unlink(missing_ok=True)
            link.symlink_to(self.cli)
        done = subprocess.run(
            self.argv("sh", "-c", script),
            input=stdin,
            capture_output=True,
            env=self.variables(),
            cwd=self.config,
            timeout=timeout,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

    def docker(self, *words: str, stdin: bytes = b"", timeout: float = PATIENCE) -> Said:
        done = subprocess.run(
            self.argv(self.cli, *words),
            input=stdin,
            capture_output=True,
            env=self.variables(),
            timeout=timeout,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

    def ok(self, *words: str, stdin: bytes = b"", timeout: float = PATIENCE) -> str:
        """The output of a command that must go well."""
        said = self.docker(*words, stdin=stdin, timeout=timeout)
        assert said.status == 0, (words, said)
        return said.out.decode(errors="replace").strip()

    def popen(self, *words: str, **options: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.argv(self.cli, *words), env=self.variables(), **options)  # type: ignore[call-overload,no-any-return]


def front(host: Host, config: Path, cli: str = "", prefix: str = "f") -> Side:
    """The front of a host, by its socket."""
    return Side(f"unix://{host.gateway.socket}", prefix, cli or client(), config)


def straight(host: Host, config: Path, cli: str = "", prefix: str = "s") -> Side:
    """A host's engine itself."""
    return Side(f"unix://{host.docker_socket}", prefix, cli or client(), config)


def remote(host: Host, at: Host, who: Path, config: Path, cli: str = "", prefix: str = "r") -> Side:
    """The front of a host, by TCP from another one, with the certificates in a folder."""
    secured = (("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", str(who)))
    return Side(f"tcp://{host.address}:2376", prefix, cli or client(), config, secured, at)


def certificates_for(lab: Lab, folder: Path, role: str, name: str) -> Path:
    """A folder as the docker command wants one, with a certificate of the lab's authority."""
    folder.mkdir(parents=True, exist_ok=True)
    cert, key = certificates.make(lab.layout, role, name)
    for source, target in (
        (cert, "cert.pem"),
        (key, "key.pem"),
        (certificates.folder(lab.layout) / "ca.pem", "ca.pem"),
    ):
        shutil.copy(source, folder / target)
    return folder


def same(text: bytes | str, side: Side, hosts: Mapping[str, str] | None = None) -> str:
    """Output without what may differ: ids, times, addresses, the names' beginnings, what qnet adds."""
    found = text.decode(errors="replace") if isinstance(text, bytes) else text
    found = re.sub(rf"\b{side.prefix}\b", "P", found)
    for pattern, instead in CHANGING:
        found = re.sub(pattern, instead, found)
    return "\n".join(line.rstrip() for line in found.splitlines())
