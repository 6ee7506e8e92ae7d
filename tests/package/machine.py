"""A Debian 12 with systemd as its process 1, in a container of systemd-nspawn: for units, sockets, reboots.

Its network is a host's of the lab (tests.lab.fabric): a namespace with eth0, eth1 and an address. What it writes is
kept over its reboots, and gone when it is removed.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.lab.commands import Result, run, wait_for
from tests.lab.model import LabError, Node
from tests.lab.namespaces import NETNS
from tests.lab.processes import Process

BOOT, HALT = 180.0, 180.0  # seconds
CGROUPS = (Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified"))
POWER_OFF = signal.SIGRTMIN + 4
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C"}
KEPT = ("docker", "containerd")  # below /var/lib: no overlay on an overlay
CALLS = "@mount @keyring bpf perf_event_open"


class Machine:
    """See the module."""

    def __init__(self, node: Node, root: Path) -> None:
        self.node = node
        self._root = root
        self._disk = node.disk / "machine"
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def files(self) -> Path:
        """Its file system as seen from here, with what the image has."""
        return self._disk / "merged"

    def boot(self) -> None:
        """Start it. Raises LabError: it does not come up."""
        for folder in ("upper", "work", "merged", *KEPT):
            (self._disk / folder).mkdir(parents=True, exist_ok=True)
        options = f"lowerdir={self._root},upperdir={self._disk / 'upper'},workdir={self._disk / 'work'}"
        run(["mount", "-t", "overlay", "-o", options, "overlay", self.files])
        self._spawn()

    def _spawn(self) -> None:
        groups = [group / self._group for group in CGROUPS if group.is_dir()]
        for group in groups:
            group.mkdir(exist_ok=True)
        binds = [f"--bind={self._disk / name}:/var/lib/{name}" for name in KEPT]
        argv = [
            *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", f"--directory={self.files}"),
            *(f"--machine={self._group}", f"--hostname={self.name}", "--link-journal=no", "--console=pipe"),
            *(f"--network-namespace-path={NETNS / self.node.netns}", "--capability=all", "--bind=/dev/fuse"),
            *(f"--system-call-filter={CALLS}", "--resolv-conf=off", "--timezone=off", *binds),
        ]
        enter = "".join(f"echo $$ >{shlex.quote(str(group / 'cgroup.procs'))}; " for group in groups)
        with open(self.node.disk / "console.log", "ab") as log:
            self._supervisor = subprocess.Popen(
                ["sh", "-c", f'{enter}exec "$@"', "sh", *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                start_new_session=True,
            )
        self._wait_up()

    def _wait_up(self) -> None:
        def up() -> bool:
            if self._supervisor is None or self._supervisor.poll() is not None:
                raise LabError(f"{self.name} did not boot: see {self.node.disk / 'console.log'}")
            with suppress(LabError):
                return self.sh("systemctl is-system-running || true", timeout=5).stdout.strip() in (
                    "running",
                    "degraded",
                )
            return False

        wait_for(f"boot of {self.name}", up, BOOT, 0.1)

    def reboot(self) -> None:
        """As an operator does: services are stopped in order, and started anew."""
        first = self._leader()
        self.sh("systemctl reboot --no-wall || true")
        wait_for(f"halt of {self.name}", lambda: not first.alive, HALT, 0.1)
        assert self._supervisor is not None
        self._supervisor.wait(HALT)  # systemd-nspawn that keeps its unit leaves the start to whoever watches over it
        self._spawn()

    def remove(self) -> None:
        """Power it off and delete its disk."""
        if self._supervisor is not None and self._supervisor.poll() is None:
            with suppress(LabError):
                leader = self._leader()
                leader.signal(POWER_OFF)
                with suppress(LabError):
                    leader.wait(HALT, self.name)
            self._supervisor.terminate()
            try:
                self._supervisor.wait(10)
            except subprocess.TimeoutExpired:
                self._supervisor.kill()
                self._supervisor.wait(10)
        for mounted in [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()][::-1]:
            if Path(mounted).is_relative_to(self._disk):
                run(["umount", "--lazy", mounted], check=False)
        run(["rm", "-rf", "--one-file-system", self._disk], timeout=120)
        for group in CGROUPS:
            for folder in sorted((group / self._group).glob("**/"), reverse=True):
                with suppress(OSError):
                    folder.rmdir()

    def sh(self, command: str, *, check: bool = True, timeout: float = 60, stdin: str | None = None) -> Result:
        """Run a shell command in it, as root. Raises CommandError."""
        return run([*self._enter(), "sh", "-c", command], check=check, timeout=timeout, stdin=stdin)

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a shell command in it; who starts it ends it."""
        pipe = subprocess.PIPE
        argv = [*self._enter(), "sh", "-c", command]
        return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def docker(self, *words: str, check: bool = True, timeout: float = 60) -> Result:
        """The docker command, on its engine."""
        return self.sh(shlex.join(("docker", *words)), check=check, timeout=timeout)

    def active(self, unit: str) -> str:
        """What systemd says of a unit: active, inactive, failed, activating."""
        return self.sh(f"systemctl is-active {unit}", check=False).stdout.strip()

    def shown(self, unit: str, *properties: str) -> Mapping[str, str]:
        """Properties of a unit."""
        text = self.sh(f"systemctl show {unit} --property={','.join(properties)}").stdout
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def journal(self, unit: str, lines: int = 200) -> str:
        """What a unit has logged of late."""
        return self.sh(f"journalctl --no-pager --output=cat --unit={unit} --lines={lines}").stdout

    @property
    def _group(self) -> str:
        return f"{self.node.netns}-m"

    def _enter(self) -> list[str]:
        leader = self._leader()
        variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        into = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wdns=/")
        return ["nsenter", "--target", str(leader.pid), *into, "env", "--ignore-environment", *variables]

    def _leader(self) -> Process:
        """Its process 1. Raises LabError."""
        if self._supervisor is not None:
            children = Path(f"/proc/{self._supervisor.pid}/task/{self._supervisor.pid}/children")
            for _ in range(50):
                for pid in children.read_text().split():
                    found = Process.of(int(pid))
                    name = Path(f"/proc/{pid}/comm")
                    if found is not None and name.exists() and name.read_text().strip() == "systemd":
                        return found
                time.sleep(0.1)
        raise LabError(f"{self.name} does not run")
