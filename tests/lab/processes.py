"""Processes of the lab: started detached, told from later ones with the same pid, found by namespace."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.commands import run, wait_for

# The shell goes away at once, so that init inherits the process and reaps it; setsid makes it lead a group.
_DETACH = 'log=$1; shift; setsid "$@" </dev/null >>"$log" 2>&1 & echo $!'


@dataclass(frozen=True, slots=True)
class Process:
    """One process; `started` (clock ticks after boot) tells it from another that gets its pid later."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The running process with this pid; None if there is none or if it waits to be reaped. One whose first
        thread is a zombie runs while others are left, for they have its sockets (etcd, killed under load: 11 of 40)."""
        fields = _stat(pid)
        if fields is None or (fields[0] in "ZX" and int(fields[17]) <= 1):
            return None
        return cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def signal(self, number: int, group: bool = False) -> None:
        """Sends a signal to it, or to its process group; nothing happens if it is gone."""
        if self.alive:
            try:
                (os.killpg if group else os.kill)(self.pid, number)
            except ProcessLookupError:
                return

    @staticmethod
    def words(pid: int) -> str:
        """The command line of whatever has a pid now; nothing if nothing has it, or if it waits to be reaped."""
        try:
            return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        except OSError:
            return ""

    def wait(self, timeout: float, what: str = "") -> None:
        """Returns when it has ended. Raises LabError after `timeout` seconds."""
        wait_for(f"end of {what or 'process'} {self.pid}", lambda: not self.alive, timeout, 0.02)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third, the state, on (proc(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def spawn(argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Process | None:
    """Starts a daemon that outlives its starter, its output appended to `log`. None if it ended at once."""
    log.parent.mkdir(parents=True, exist_ok=True)
    started = run(["/bin/sh", "-c", _DETACH, "sh", str(log), *argv], env=env)
    return Process.of(int(started.stdout))


@dataclass(frozen=True, slots=True)
class PidFile:
    """Remembers one process over the lives of several commands."""

    path: Path

    def write(self, process: Process) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(f"{process.pid} {process.started}\n")

    def read(self) -> Process | None:
        """The process, if it still runs."""
        try:
            pid, started = self.path.read_text().split()
        except (OSError, ValueError):
            return None
        process = Process(int(pid), int(started))
        return process if process.alive else None

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)


def _pids() -> Iterator[int]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            yield int(entry.name)


def namespace(pid: int, kind: str) -> int | None:
    """The inode of a process's namespace (`net`, `mnt`); None if the process is gone."""
    try:
        return Path(f"/proc/{pid}/ns/{kind}").stat().st_ino
    except OSError:
        return None


def find(disks: Iterable[Path], netns: Iterable[str]) -> list[Process]:
    """All processes that have one of the directories among their mounts (hosts have, and their containers) or
    live in one of the named network namespaces. Processes of the machine's own namespaces never count."""
    marks = [f"{disk}/" for disk in disks]
    nets = {inode for name in netns if (inode := _inode(Path("/run/netns") / name)) is not None}
    own_mnt, own_net = namespace(os.getpid(), "mnt"), namespace(os.getpid(), "net")
    verdicts: dict[int, bool] = {}
    found = []
    for pid in _pids():
        mnt, net = namespace(pid, "mnt"), namespace(pid, "net")
        if mnt is None or pid == os.getpid():
            continue
        if mnt not in verdicts:
            verdicts[mnt] = mnt != own_mnt and _mounts_mention(pid, marks)
        if verdicts[mnt] or (net in nets and net != own_net):
            process = Process.of(pid)
            if process:
                found.append(process)
    return found


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _mounts_mention(pid: int, marks: Sequence[str]) -> bool:
    try:
        mounts = Path(f"/proc/{pid}/mountinfo").read_text()
    except OSError:
        return False
    return any(mark in mounts for mark in marks)


def kill_all(disks: Sequence[Path], netns: Sequence[str], timeout: float = 20) -> int:
    """Kills (-9) all that `find` finds, and what they start meanwhile. Returns how many there were."""
    seen: set[Process] = set()

    def none_left() -> bool:
        found = find(disks, netns)
        seen.update(found)
        for process in found:
            process.signal(signal.SIGKILL)
        return not found

    wait_for(f"end of the processes of {', '.join(netns) or 'the lab'}", none_left, timeout, 0.02)
    return len(seen)
