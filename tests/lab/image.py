"""Images made on the spot, there is no registry: busybox, and the same with iperf3 for the benchmarks."""

from __future__ import annotations

import fcntl
import io
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.lab.commands import run
from tests.lab.model import BUILD, LabError

BUSYBOX = Path("/bin/busybox")
IPERF3 = Path("/usr/bin/iperf3")
NAMES = ("busybox", "bench")
_CHANGES = ("ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 'CMD ["sh"]')
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
_FOLDERS = {"bin": 0o755, "etc": 0o755, "root": 0o700, "tmp": 0o1777, "var/run": 0o755, "var/www": 0o755}


def tarball(name: str) -> Path:
    """The image as a tar file below build/, made on first use and again after an update of its programs."""
    if name not in NAMES:
        raise LabError(f"no image {name!r}: there are {', '.join(NAMES)}")
    sources = [BUSYBOX, *([IPERF3] if name == "bench" else [])]
    for source in sources:
        if not source.exists():
            raise LabError(f"{source} is missing: run packaging/bootstrap.sh")
    path = BUILD / "images" / f"{name}.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        newest = max(source.stat().st_mtime for source in [*sources, Path(__file__)])
        if not path.exists() or path.stat().st_mtime < newest:
            fresh = path.with_suffix(".new")
            with tarfile.open(fresh, "w") as tar:
                _fill(tar, _libraries(IPERF3) if name == "bench" else [])
            fresh.rename(path)
    return path


def _fill(tar: tarfile.TarFile, programs: Iterable[Path]) -> None:
    for folder, mode in _FOLDERS.items():
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        tar.addfile(entry)
    for name, text in _FILES.items():
        entry = tarfile.TarInfo(name)
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text.encode()))
    _copy(tar, BUSYBOX, "bin/busybox")
    for applet in run([BUSYBOX, "--list"]).stdout.split():
        if applet != "busybox":
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "/bin/busybox"
            tar.addfile(entry)
    for program in programs:
        _copy(tar, program, str(program).lstrip("/"))


def _copy(tar: tarfile.TarFile, source: Path, name: str) -> None:
    content = source.read_bytes()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o755
    tar.addfile(entry, io.BytesIO(content))


def _libraries(program: Path) -> list[Path]:
    """A program and the shared libraries it is linked with."""
    linked = re.findall(r"(/\S+) \(0x", run(["ldd", program]).stdout)
    return [program, *(Path(path) for path in linked)]


def import_args(name: str) -> list[str]:
    """Arguments of `docker` that bring an image into an engine."""
    changes = [part for change in _CHANGES for part in ("--change", change)]
    return ["import", *changes, str(tarball(name)), f"{name}:latest"]
