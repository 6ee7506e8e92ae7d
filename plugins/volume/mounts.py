"""Gluster's clients on this host: mount, look whether they answer, unmount. Each outlives the plugin that made it."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from pathlib import Path
from typing import NamedTuple

from qnet.commands import run
from qnet.errors import Unavailable

KIND, CLIENT = "fuse.glusterfs", "glusterfs"
MOUNTINFO = Path("/proc/self/mountinfo")
PROCESSES = Path("/proc")
SYSTEMD = Path("/run/systemd/system")
TIMEOUT = 30.0  # seconds for a mount
PROBE = 3.0  # seconds for a client to answer
REACH, PAUSE = 8.0, 0.2  # seconds for a new one to find its bricks, and between looks


class Mounts:
    """See `plugins.volume.ports.Mounts`; `root` is where this plugin's targets lie."""

    def __init__(self, root: Path, logs: Path) -> None:
        self._root = root
        self._logs = logs
        self._probes = ThreadPoolExecutor(8, "probe")

    def mount(self, source: Collection[str], volume: str, path: str, target: Path, namespace: str = "") -> None:
        """Mount `volume/path`, asking these servers for it, by a client in that network namespace, see glusterfs(8):
        mount(8) has a shell script prepare its arguments, for a third of the time. A dead one is replaced.

        Raises:
            Unavailable: it could not be mounted; nothing is.
        """
        if self.lives(target):
            return
        if target in self.all():
            self.unmount(target)
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [CLIENT, f"--log-file={self._logs / target.name}.log", "--log-level=WARNING", "--process-name=fuse"]
        command += [f"--volfile-server={server}" for server in source]
        command += [f"--volfile-id=/{volume}", *([f"--subdir-mount={path}"] if path else []), str(target)]
        # with systemd, in a scope of its own: the end of the plugin's service would be the end of its clients
        scope = ["systemd-run", "--scope", "--quiet", "--collect", "--"] if SYSTEMD.exists() else []
        what = f"mount {volume}{path}"
        run([*scope, *command], what, namespace=namespace, timeout=TIMEOUT)
        # the command answers 0 with nothing mounted where a directory is missing or the server refuses
        if not self._reaches(target):
            self.unmount(target)
            raise Unavailable(f"cannot {what}: no server of {', '.join(source)} has it for this host; see {self._logs}")

    def unmount(self, target: Path) -> None:
        """Unmount, at once where nobody uses it, else when the last one ends. Raises Unavailable."""
        while target in self.all():
            run(["umount", "-l", str(target)], f"unmount {target}")
        if target.is_dir():
            target.rmdir()

    def lives(self, target: Path) -> bool:
        """Whether it is mounted and its client lives; all processes are looked at only where it does not answer."""
        return target in self.all() and (self._answers(target) or target in self.clients())

    def clients(self) -> Collection[Path]:
        """The targets whose clients live: each has a process, in this mount namespace. A mount that answers nothing
        may only lack servers; a dead client's answers with the same error."""
        own = (PROCESSES / "self/ns/mnt").stat().st_ino
        return {target for process in PROCESSES.glob("[0-9]*") if (target := _target(process, own)) is not None}

    def _reaches(self, target: Path) -> bool:
        """Whether a new client answers soon: when a server begins, it takes a while until all know its bricks."""
        deadline = time.monotonic() + REACH
        while target in self.all():
            if self._answers(target):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(PAUSE)
        return False

    def _answers(self, path: Path) -> bool:
        try:
            self._probes.submit(os.statvfs, path).result(PROBE)
        except (OSError, Late):
            return False
        return True

    def all(self) -> Mapping[Path, str]:
        """The targets that are mounted, with their device numbers."""
        return {Path(one.point): one.device for one in _mounted(MOUNTINFO) if self._ours(one)}

    def users(self, device: str) -> Collection[int]:
        """Processes of other mount namespaces that have the device: containers, and who copies out of them. Not those
        that lose it when we unmount it, as services have whose view of the file system is systemd's."""
        own = (PROCESSES / "self/ns/mnt").stat().st_ino
        seen, found = {own}, []
        for process in PROCESSES.iterdir():
            try:
                inode = (process / "ns/mnt").stat().st_ino if process.name.isdigit() else own
                if inode in seen:
                    continue
                seen.add(inode)
                if any(one.device == device and not one.follows for one in _mounted(process / "mountinfo")):
                    found.append(int(process.name))
            except OSError:
                continue  # it has ended
        return found

    def sees(self, process: int, device: str) -> bool:
        """True for a process that has ended, too."""
        try:
            return any(one.device == device for one in _mounted(PROCESSES / str(process) / "mountinfo"))
        except OSError:
            return True

    def _ours(self, one: Mounted) -> bool:
        return one.kind == KIND and Path(one.point).is_relative_to(self._root)


def _target(process: Path, namespace: int) -> Path | None:
    """What a process has mounted, if it is a client in that mount namespace."""
    try:
        words = (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        if Path(os.fsdecode(words[0])).name != CLIENT or (process / "ns/mnt").stat().st_ino != namespace:
            return None
    except OSError:
        return None  # it has ended
    return Path(os.fsdecode(words[-1]))


class Mounted(NamedTuple):
    """A line of a mountinfo, see proc(5). `follows`: what another namespace unmounts there goes here, too."""

    device: str
    point: str
    kind: str
    follows: bool


def _mounted(file: Path) -> list[Mounted]:
    found = []
    for line in file.read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        follows = any(field.startswith("master:") for field in fields[6:])
        found.append(Mounted(fields[2], fields[4], right.split()[0], follows))
    return found
