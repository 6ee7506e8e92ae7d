"""Every command of the pages, typed at a terminal of the first host: it ends as the page says, and answers so."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import guides
from tests.e2e import kit
from tests.e2e.front import sides
from tests.e2e.placement import pages
from tests.e2e.placement.fleet import Fleet
from tests.guides import Step
from tests.lab.cluster import Lab
from tests.lab.commands import wait_for
from tests.lab.engine import client
from tests.lab.image import tarball
from tests.lab.model import PROJECT

pytestmark = pytest.mark.slow
LOST, PULLED = "host2", "127.0.0.1:5000/busybox"
DOCKER = "application/vnd.docker"
MANIFEST = f"{DOCKER}.distribution.manifest.v2+json"
SERVE = f"""import functools, http.server as web, sys
web.SimpleHTTPRequestHandler.extensions_map[""] = "{MANIFEST}"
files = functools.partial(web.SimpleHTTPRequestHandler, directory=sys.argv[1])
web.ThreadingHTTPServer(("127.0.0.1", 5000), files).serve_forever()"""
TERMINAL = "import os, pty; raise SystemExit(os.waitstatus_to_exitcode(pty.spawn(['bash', 'typed'])))"
TYPED = """stty cols 300 -echo
set -eo pipefail
[ ! -e variables ] || . ./variables
trap 'status=$?; export -p >variables; exit $status' EXIT
{}
"""


@dataclass(frozen=True)
class Desk:
    """A terminal of the first host, in a folder of its own; what is exported stays."""

    fleet: Fleet
    folder: Path

    def type(self, script: str) -> tuple[int, str]:
        """The exit status of what is typed, and what the terminal shows."""
        (self.folder / "typed").write_text(TYPED.format(script))
        path = f"{PROJECT}/.venv/bin:{Path(client()).parent}:{os.environ['PATH']}"
        env = {"PATH": path, "DOCKER_CONFIG": str(sides.configuration(self.folder / "docker"))}
        done = self.fleet.hosts[0].exec(
            "python3",
            "-c",
            TERMINAL,
            env=env,
            cwd=self.folder,
            stdin="y\n" if " forget " in script else "exit\n",
            check=False,
            timeout=120,
        )
        return done.returncode, done.stdout.replace("\r", "")

    def prepare(self, script: str) -> None:
        """What a page takes for granted."""
        status, said = self.type(script)
        assert status == 0, (script, said)

    def lose_a_host(self) -> None:
        """As the pages say before one is forgotten."""
        lost = self.fleet.host(LOST)
        if lost.namespaces.holder:
            lost.kill()
            asked = ("GET", f"/v1/hosts/{LOST}")
            wait_for(f"{LOST} to be down", lambda: self.fleet.api(*asked)[1]["state"] == "down", 20)

    def follow(self, page: str, step: Step) -> None:
        """Type a command of a page. Raises AssertionError: it does not do what the page says."""
        forgets = " forget " in step.command
        if not (forgets or self.fleet.host(LOST).namespaces.holder):
            self.fleet.restore()
        if early := pages.before(page, step.command):
            self.prepare(early)
        if forgets:
            self.lose_a_host()
        for left in range(5 if step.command.startswith(pages.TELLING) else 1, 0, -1):
            wrong = self.mismatch(step, *self.type(pages.words(step.command)))
            if not wrong:
                return
            assert left > 1, wrong
            time.sleep(1)

    @staticmethod
    def mismatch(step: Step, status: int, said: str) -> str:
        """What of an answer is not as the page says; nothing if all is."""
        if status != int(any(line.startswith(pages.REFUSED) for line in step.shown)):
            return f"{step.command}: exit status {status}:\n{said}"
        answered = {pages.shape(line) for line in said.splitlines()}
        missing = [line for line in step.shown if line != "…" and pages.shape(line) not in answered]
        return f"{step.command}: not answered: {missing}; but:\n{said}" if missing else ""


def registry(folder: Path) -> Path:
    """What a registry would serve: the image busybox, as files."""
    layer, blobs = tarball("busybox").read_bytes(), folder / "v2/busybox/blobs"
    blobs.mkdir(parents=True)
    (folder / "v2/busybox/manifests").mkdir()

    def blob(kind: str, content: bytes) -> dict[str, str | int]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        (blobs / digest).write_bytes(content)
        return {"mediaType": f"{DOCKER}.{kind}", "size": len(content), "digest": digest}

    layers = [blob("image.rootfs.diff.tar.gzip", layer)]
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [layers[0]["digest"]]}}
    made = {"config": blob("container.image.v1+json", json.dumps(config).encode()), "layers": layers}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, **made}).encode()
    for name in ("latest", f"sha256:{hashlib.sha256(manifest).hexdigest()}"):
        (folder / "v2/busybox/manifests" / name).write_bytes(manifest)
    return folder


@pytest.fixture
def desk(placed: Lab, tmp_path: Path) -> Iterator[Desk]:
    """Where the pages are typed, with the compose file that they show."""
    desk = Desk(Fleet(placed), tmp_path)
    files = str(registry(tmp_path))
    served = [host.popen("python3", "-c", SERVE, files, stderr=subprocess.DEVNULL) for host in placed.hosts]
    for host in placed.hosts:
        host.docker("import", "--change", 'CMD ["sleep", "1d"]', str(tarball("busybox")), "alpine")
        host.docker("tag", "alpine", "postgres")
    shown = guides.BLOCK.findall(guides.path("networks.md").read_text())
    (tmp_path / "compose.yaml").write_text(next(text for language, text in shown if language == "yaml"))
    (tmp_path / "Dockerfile").write_text("FROM alpine\nENV PAGE=1\n")
    desk.prepare("cp /etc/qnet/qnet.toml good.toml")
    yield desk
    for server in served:
        server.kill()
        server.wait()
    desk.type("unset DOCKER_HOST; set +e\n" + pages.AFTER)
    desk.fleet.restore()
    kit.at_once(kit.remove_all, placed.hosts)
    desk.fleet.sweep()
    for host in placed.hosts:
        host.docker("rmi", "-f", "alpine", "postgres", PULLED, check=False)
    desk.prepare(pages.TENANTS)


@pytest.mark.parametrize("page", pages.PAGES)
def test_every_command_of_a_page_does_what_it_says(desk: Desk, page: str) -> None:
    for step in guides.steps(page):
        if step.command not in pages.ELSEWHERE:
            desk.follow(page, step)
