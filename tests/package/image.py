"""What the package is installed on: Debian 12 with systemd and what qnet depends on, in build/package/root."""

from __future__ import annotations

import fcntl
import hashlib
from pathlib import Path

from tests.lab.commands import run
from tests.lab.model import BUILD
from tests.vm.image import install

HERE = BUILD / "package"
ROOT = HERE / "root"
PACKAGES = """
    systemd systemd-sysv dbus udev kmod iproute2 iputils-ping procps passwd python3 docker.io etcd-server etcd-client
    glusterfs-server libnftables1 nftables busybox-static curl ca-certificates apt man-db fish zsh bash-completion
"""
DISABLED = ("docker.service", "docker.socket", "containerd.service", "etcd.service", "glusterd.service")
MASKED = ("systemd-networkd-wait-online.service", "man-db.timer", "apt-daily.timer", "apt-daily-upgrade.timer")


def build() -> Path:
    """The folder of the root file system, built if it is not there or its recipe has changed. Raises LabError."""
    HERE.mkdir(parents=True, exist_ok=True)
    with open(HERE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        stamp = HERE / "recipe"
        if not stamp.exists() or stamp.read_text() != recipe:
            stamp.unlink(missing_ok=True)
            run(["rm", "-rf", "--one-file-system", ROOT], timeout=120)
            install(ROOT, PACKAGES.split(), leave_out=["locale"])
            run(["systemctl", f"--root={ROOT}", "--quiet", "disable", *DISABLED])
            run(["systemctl", f"--root={ROOT}", "--quiet", "mask", *MASKED])
            (ROOT / "etc/docker").mkdir(exist_ok=True)
            (ROOT / "etc/docker/daemon.json").write_text('{"bridge": "none", "iptables": false}\n')
            (ROOT / "etc/hostname").unlink(missing_ok=True)
            stamp.write_text(recipe)
    return ROOT
