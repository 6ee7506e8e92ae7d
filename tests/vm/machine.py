"""One virtual machine: QEMU without KVM, and commands in it by ssh."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.lab.commands import CommandError, Result, run, wait_for
from tests.lab.model import LabError
from tests.vm import image, rootfs
from tests.vm.segment import Segment, daemon

BOOT_WITHIN = 180  # seconds until ssh answers: 10 to 20 on a machine with nothing else to do
# one processor: of several emulated ones a second loses its timer now and then while it starts, and the boot hangs
_KERNEL = "console=ttyS0 net.ifnames=0 mitigations=off nokaslr audit=0 apparmor=0 quiet"
_SSH = (
    "BatchMode=yes",
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    "LogLevel=ERROR",
    "ConnectTimeout=5",
    "ServerAliveInterval=15",
    "KexAlgorithms=curve25519-sha256",
    "ControlMaster=auto",
    "ControlPersist=yes",
)


class Machine:
    """A machine with a disk of its own, which outlives `power_off`, over the common image."""

    def __init__(self, folder: Path, segment: Segment, index: int) -> None:
        self.index = index
        self.name = f"host{index}"
        self.address = rootfs.address(index)
        self._folder = folder / self.name
        self._segment = segment
        self._process: subprocess.Popen[bytes] | None = None

    def power_on(self) -> None:
        """Starts QEMU, from the main thread; `wait` waits for the machine."""
        self._folder.mkdir(parents=True, exist_ok=True)
        disk = self._folder / "disk.qcow2"
        if not disk.exists():
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", image.IMAGE / image.DISK, "-F", "raw", disk])
        with (self._folder / "qemu.log").open("ab") as log:
            self._process = daemon(self._segment.inside(self._argv(disk)), log, log)

    def wait(self) -> None:
        """Returns when the machine takes commands. Raises LabError with the end of its console if it does not."""
        try:
            wait_for(f"boot of {self.name}", self._answers, BOOT_WITHIN, 0.5)
        except LabError as late:
            raise LabError(f"{late}; {self._last_words()}") from late

    def power_off(self) -> None:
        """A power cut; nothing happens if it is off. QEMU's own copy of the disk is in order after SIGTERM."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(timeout=30)
            self._process = None
        with contextlib.suppress(LabError):
            run(self._ssh(["-O", "exit"]), check=False, timeout=10)

    def exec(self, *argv: str, check: bool = True, timeout: float = 180, stdin: str | None = None) -> Result:
        """Runs a command in the machine as root. Raises CommandError, a LabError, after `timeout` seconds and, with
        `check`, for an exit status other than 0 (255: ssh's own)."""
        return run([*self._ssh(), shlex.join(argv)], check=check, timeout=timeout, stdin=stdin)

    def unpack(self, source: Path, names: Sequence[str], target: str) -> None:
        """Copies folders into the machine."""
        extract = shlex.join(["tar", "-x", "--no-same-owner", "-C", target])
        self._pipe(shlex.join(["tar", "-c", "-C", str(source), *names]), extract)

    def feed(self, file: Path, *argv: str) -> None:
        """Runs a command in the machine with a file of this one as its input."""
        self._pipe(shlex.join(["cat", str(file)]), shlex.join(argv))

    def _pipe(self, producer: str, command: str) -> None:
        line = f"{producer} | {shlex.join([*self._ssh(), command])}"
        run(["bash", "-o", "pipefail", "-c", line], timeout=180)

    def _ssh(self, options: Sequence[str] = ()) -> list[str]:
        words = [word for option in _SSH for word in ("-o", option)]
        path = ["-i", str(image.IMAGE / image.KEY), "-o", f"ControlPath={self._folder / 'ssh'}"]
        return self._segment.inside(["ssh", "-F", "none", *words, *path, *options, f"root@{self.address}"])

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise LabError(f"{self.name} does not run: {self._last_words()}")
        try:
            return self.exec("true", check=False, timeout=30).returncode == 0
        except CommandError:
            return False

    def _last_words(self) -> str:
        logs = (self._folder / name for name in ("qemu.log", "console.log"))
        return " ".join(" ".join(log.read_text(errors="replace")[-1000:].split()) for log in logs if log.exists())

    def _argv(self, disk: Path) -> list[str]:
        names = f"systemd.hostname={self.name} systemd.machine_id={self.index:032x}"
        links = [
            word
            for number, tap in enumerate(self._segment.ports(self.index))
            for word in (
                "-netdev",
                f"tap,id=n{number},ifname={tap},script=no,downscript=no",
                "-device",
                f"virtio-net-pci,netdev=n{number},mac={rootfs.mac(self.index, number)},romfile=",
            )
        ]
        return [
            "qemu-system-x86_64",
            *(
                "-name",
                self.name,
                "-M",
                "pc",
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "Nehalem",
                "-smp",
                "1",
                "-m",
                "2048",
            ),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-kernel", str(image.IMAGE / image.KERNEL), "-initrd", str(image.IMAGE / image.INITRD)),
            *("-append", f"{_KERNEL} {names}"),
            *(
                "-drive",
                f"file={disk},format=qcow2,if=none,id=disk,cache=unsafe",
                "-device",
                "virtio-blk-pci,drive=disk",
            ),
            *("-serial", f"file:{self._folder / 'console.log'}"),
            *links,
        ]
