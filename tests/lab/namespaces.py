"""The namespaces of a lab host: network (named), mount and UTS (kept by a holder process)."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.lab.commands import Result, run
from tests.lab.model import LabError, Node
from tests.lab.processes import PidFile, Process

NETNS = Path("/run/netns")

# Runs as the first process of the new mount and UTS namespaces and becomes their holder.
# - rslave: what the machine unmounts goes here, too; nothing that is mounted here shows on the machine.
# - Other hosts' namespaces and /run, which this namespace has copies of, would live on here after their end.
# - /etc, /var/lib and /var/log are overlays: the host writes what it likes, the machine's own stay untouched.
# - Directories that must not show the machine's content (/etc/docker has the engine's id) are bound over it.
_HOLDER = r"""
set -eu
name=$1 run=$2 disk=$3 lab=$4
mount --make-rslave /
while read -r _ _ _ _ point _; do
    case $point in
        "$run") ;;
        /run/*|"$lab"/*) printf '%s\n' "$point" ;;
    esac
done </proc/self/mountinfo | sort -r | while read -r point; do umount -l "$point" 2>/dev/null || true; done
for top in etc var/lib var/log; do
    mkdir -p "$disk/upper/$top" "$disk/work/$top"
    mount -t overlay overlay -o "lowerdir=/$top,upperdir=$disk/upper/$top,workdir=$disk/work/$top" "/$top"
done
for private in etc/docker etc/qnet var/lib/qnet var/lib/docker; do
    mkdir -p "$disk/private/$private" "/$private"
    mount --bind "$disk/private/$private" "/$private"
done
mount --bind "$run" /run
mkdir -p /run/lock /run/docker
hostname "$name"
echo "$name" >/etc/hostname
echo ready
exec sleep infinity >/dev/null 2>&1
"""


def add_netns(name: str) -> None:
    """Makes a named network namespace with its loopback up."""
    run(["ip", "netns", "add", name])
    run(["ip", "-n", name, "link", "set", "lo", "up"])


def delete_netns(name: str) -> None:
    """Deletes a named network namespace, and with it its links; nothing happens if it is gone."""
    if (NETNS / name).exists():
        run(["ip", "netns", "delete", name])


def forget_netns_folder() -> None:
    """Removes /run/netns, which `ip netns add` has mounted, if no namespace is named there any more."""
    if NETNS.is_mount():
        run(["umount", str(NETNS)], check=False)  # fails, as it should, over a namespace in use
    with suppress(OSError):
        NETNS.rmdir()


def set_sysctls(netns: str, values: dict[str, str]) -> None:
    """Writes sysctls below /proc/sys/net of a network namespace."""
    settings = [f"net.{key}={value}" for key, value in values.items()]
    run(["nsenter", f"--net={NETNS / netns}", "sysctl", "-q", "-w", *settings])


def mount_run(node: Node) -> None:
    """A fresh tmpfs for the host's /run, mounted outside: its sockets can be reached from the machine."""
    node.run.mkdir(parents=True, exist_ok=True)
    unmount_run(node)
    run(["mount", "-t", "tmpfs", "-o", "mode=755", f"{node.netns}-run", str(node.run)])


def unmount_run(node: Node) -> None:
    """Unmounts the host's /run, whatever still uses it."""
    while node.run.is_mount():
        run(["umount", "-l", str(node.run)])


class Namespaces:
    """The mount and UTS namespace of one host, and how to get into all three."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._pidfile = PidFile(node.dir / "holder.pid")

    @property
    def holder(self) -> Process | None:
        return self._pidfile.read()

    def create(self) -> None:
        """Makes them; the network namespace exists already."""
        with ExitStack() as undo:
            mount_run(self.node)
            undo.callback(unmount_run, self.node)
            self._pidfile.write(self._start_holder())
            undo.pop_all()

    def _start_holder(self) -> Process:
        node = self.node
        argv = ["setsid", "nsenter", f"--net={NETNS / node.netns}", "unshare", "--mount", "--uts"]
        argv += ["--propagation", "unchanged", "/bin/sh", "-c", _HOLDER, f"{node.netns}-holder"]
        argv += [node.name, str(node.run), str(node.disk), str(node.layout.dir)]
        # The intermediate shell ends at once: init, not this process, is to reap the holder.
        outer = ["/bin/sh", "-c", '"$@" & echo $!', "sh", *argv]
        with subprocess.Popen(
            outer, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as shell:
            assert shell.stdout is not None
            lines = [shell.stdout.readline().strip()]
            while lines[-1] not in ("", "ready"):
                lines.append(shell.stdout.readline().strip())
        numbers = [line for line in lines if line.isdigit()]
        process = Process.of(int(numbers[0])) if numbers and "ready" in lines else None
        if process is None:
            raise LabError(f"{node.name}: no namespaces: {' '.join(filter(None, lines))}")
        return process

    def argv(self, command: Sequence[str], cwd: str | None = None) -> list[str]:
        """The command line that runs `command` inside the host."""
        holder = self.holder
        if holder is None:
            raise LabError(f"{self.node.name} is down (start it with `start {self.node.name}`)")
        where = [] if cwd is None else [f"--wdns={cwd}"]
        return ["nsenter", f"--target={holder.pid}", "--mount", "--net", "--uts", *where, "--", *command]

    def run(self, command: Sequence[str], *, check: bool = True, timeout: float = 30) -> Result:
        """Runs a command inside the host."""
        return run(self.argv(command), check=check, timeout=timeout)
