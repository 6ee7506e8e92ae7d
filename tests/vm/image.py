"""The virtual machines' disk and kernel, in build/vm/image: Debian 12 with its cloud kernel, which has 802.1q.

Built once; anything that the recipe is made of rebuilds it. A build that breaks off leaves no image, only image.new,
which the next build removes.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import struct
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.lab.commands import run
from tests.lab.model import BUILD, PROJECT, LabError
from tests.vm import rootfs

HERE = BUILD / "vm"
IMAGE = HERE / "image"
DISK, KERNEL, INITRD, KEY = "root.ext4", "vmlinux", "initrd.gz", "id"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DEBIAN = "bookworm"


def build() -> Path:
    """The folder of the image, which is built if it is not there or its recipe has changed. Raises LabError."""
    HERE.mkdir(parents=True, exist_ok=True)
    with open(HERE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        recipe = _recipe()
        stamp = IMAGE / "recipe"
        if not stamp.exists() or stamp.read_text() != recipe:
            fresh = HERE / "image.new"
            run(["rm", "-rf", "--one-file-system", fresh, IMAGE], timeout=120)
            fresh.mkdir()
            _build(fresh)
            (fresh / "recipe").write_text(recipe)
            fresh.rename(IMAGE)
    return IMAGE


def _recipe() -> str:
    parts = [Path(__file__), Path(rootfs.__file__), PROJECT / "requirements.lock"]
    return hashlib.sha256(b"\0".join(part.read_bytes() for part in parts)).hexdigest()


def _build(target: Path) -> None:
    root, kernel = target / "rootfs", target / "kernel"
    _say("Debian's packages")
    install(root, rootfs.PACKAGES.split())
    _say("kernel, qnet's dependencies, disk")
    version = _unpack_kernel(kernel)
    (root / "lib/modules").mkdir(exist_ok=True)
    shutil.move(kernel / "lib/modules" / version, root / "lib/modules" / version)
    run(["chroot", root, "depmod", version], timeout=60)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "qnet-vm", "-f", target / KEY])
    _configure(root, (target / f"{KEY}.pub").read_text())
    _uncompress(kernel / f"boot/vmlinuz-{version}", target / KERNEL)
    _make_initrd(root, version, target / INITRD)
    # mke2fs fills the file system without mounting it
    filesystem = ["-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0"]
    run(["mke2fs", "-q", *filesystem, "-d", root, target / DISK, "4G"], timeout=300)
    run(["rm", "-rf", "--one-file-system", root, kernel], timeout=120)


def _say(what: str) -> None:
    print(f"virtual machines' image: {what}", file=sys.stderr, flush=True)


def install(root: Path, packages: Sequence[str], leave_out: Sequence[str] = ("man", "doc", "locale")) -> None:
    """Debian 12 with these packages, from where the machine's own apt has it, without these folders of /usr/share."""
    wanted = ("Created-By: Packages", "Origin: Debian")
    listed = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", *wanted]).stdout
    lines = [line for line in listed.splitlines() if line.split()[1].partition("-")[0] == DEBIAN]
    if not lines:
        raise LabError(f"apt knows no sources of Debian {DEBIAN}: add them and run apt-get update")
    without = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in leave_out]
    options = ["--quiet", "--mode=root", "--variant=minbase", '--aptopt=APT::Install-Recommends "false"', *without]
    sources = [f"deb [signed-by={KEYRING}] {line}" for line in lines]
    include = f"--include={','.join(packages)}"
    run(["mmdebstrap", *options, include, DEBIAN, root, *sources], timeout=900)


def _unpack_kernel(target: Path) -> str:
    """Unpacks the cloud kernel, without what its installation would start, and returns its version."""
    depends = run(["apt-cache", "depends", "linux-image-cloud-amd64"]).stdout.split()
    package = next((word for word in depends if word.startswith("linux-image-6")), None)
    if package is None:
        raise LabError("apt knows no linux-image-cloud-amd64: run apt-get update")
    with tempfile.TemporaryDirectory() as folder:
        download = 'cd "$1" && apt-get -q -o APT::Sandbox::User=root download "$2"'
        run(["sh", "-c", download, "sh", folder, package], timeout=300)
        (deb,) = Path(folder).glob("*.deb")
        run(["dpkg-deb", "-x", deb, target], timeout=120)
    return package.removeprefix("linux-image-")


def _configure(root: Path, public_key: str) -> None:
    for name, (mode, text) in rootfs.files().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    ssh = root / "root/.ssh"
    ssh.mkdir(mode=0o700, parents=True, exist_ok=True)
    (ssh / "authorized_keys").write_text(public_key)
    run(["systemctl", f"--root={root}", "--quiet", "disable", *rootfs.DISABLED])
    run(["systemctl", f"--root={root}", "--quiet", "mask", *rootfs.MASKED.split()])
    run(["systemctl", f"--root={root}", "--quiet", "enable", "systemd-networkd", "ssh"])
    run(["systemctl", f"--root={root}", "--quiet", "set-default", "multi-user.target"])
    (packages,) = (PROJECT / ".venv/lib").glob("python3.*/site-packages")
    shutil.copytree(packages, root / "opt/qnet/packages")
    (root / "opt/qnet/code").mkdir()


def _uncompress(source: Path, target: Path) -> None:
    """The ELF file inside a bzImage (Linux, Documentation/arch/x86/boot.rst): QEMU starts it directly, where an
    emulated processor would unpack it for many seconds."""
    image = source.read_bytes()
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    begin = (sectors + 1) * 512 + offset
    packed = target.with_suffix(".lz4")
    packed.write_bytes(image[begin : begin + length - 4])  # its size in the clear stands behind it
    run(["lz4", "-q", "-d", "-f", packed, target])
    packed.unlink()


def _make_initrd(root: Path, version: str, target: Path) -> None:
    """A tiny initramfs: the disk's driver is a module."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        for name in ("bin", "dev", "root", "modules"):
            (top / name).mkdir()
        shutil.copy2(root / "bin/busybox", top / "bin/busybox")
        (top / "bin/sh").symlink_to("busybox")
        shown = run(["chroot", root, "modprobe", "-S", version, "--show-depends", *("-a", *rootfs.INIT_MODULES)]).stdout
        modules = dict.fromkeys(line.split()[1] for line in shown.splitlines() if line.startswith("insmod"))
        for number, module in enumerate(modules):
            shutil.copy2(root / module.lstrip("/"), top / f"modules/{number:02}-{Path(module).name}")
        (top / "init").write_text(rootfs.INIT)
        (top / "init").chmod(0o755)
        pack = 'cd "$1" && find . | cpio -o -H newc --quiet | gzip >"$2"'
        run(["bash", "-o", "pipefail", "-c", pack, "bash", folder, target])


if __name__ == "__main__":
    print(build())
