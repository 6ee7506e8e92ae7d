"""What the virtual machines' disk holds besides Debian's packages: files, and units that only cost time there."""

from __future__ import annotations

PACKAGES = """
    systemd systemd-sysv dbus udev kmod iproute2 iputils-ping procps python3 docker.io crun etcd-server openssh-server
    nftables tcpdump busybox-static curl ca-certificates
"""
ETCD = "10.99.0.11:2379"  # the first host has it
HOSTS = range(1, 10)

_NETWORK = "[Match]\nMACAddress={mac}\n[Network]\nAddress={address}/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
_TRUNK = "[Match]\nName=eth1\n[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
_COMMAND = """#!/bin/sh
export PYTHONPATH=/opt/qnet/code:/opt/qnet/packages
exec /usr/bin/python3 -c 'import sys; from {module} import main; sys.argv[0] = "{name}"; sys.exit(main())' "$@"
"""
# crun: Debian's runc is written in Go, whose start alone takes a second here, several times for each container
_DOCKER = """{
  "bridge": "none", "iptables": false, "storage-driver": "overlay2",
  "default-runtime": "crun", "runtimes": {"crun": {"path": "/usr/bin/crun"}}
}
"""
_PLUGIN = """[Unit]
Description=Docker's network and IPAM plugin of qnet
Before=docker.service
[Service]
ExecStart=/usr/local/bin/qnet-network
"""
INIT = """#!/bin/sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod $module; done
while [ ! -b /dev/vda ]; do $b usleep 20000; done
$b mount -t ext4 -o noatime /dev/vda /root
$b mount --move /dev /root/dev
exec $b switch_root /root /sbin/init
"""
INIT_MODULES = ("virtio_pci", "virtio_blk")

# Started by the tests, or of no use without a console, a clock's drift, updates and a real disk: each costs seconds
# where every instruction is emulated.
DISABLED = ("docker.service", "docker.socket", "containerd.service", "etcd.service", "systemd-timesyncd.service")
MASKED = """
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
    getty@tty1.service ldconfig.service modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service
    modprobe@efi_pstore.service modprobe@fuse.service modprobe@loop.service serial-getty@ttyS0.service
    systemd-binfmt.service systemd-firstboot.service systemd-hwdb-update.service
    systemd-journal-catalog-update.service systemd-logind.service systemd-machine-id-commit.service
    systemd-networkd-wait-online.service systemd-pstore.service systemd-sysusers.service systemd-update-done.service
"""


def mac(index: int, interface: int) -> str:
    """The MAC address of a machine's eth<interface>."""
    return f"02:77:{interface:02x}:00:00:{index:02x}"


def address(index: int) -> str:
    """A machine's address on eth0."""
    return f"10.99.0.{10 + index}"


def files() -> dict[str, tuple[int, str]]:
    """The files, with their modes, by path. One disk serves all machines: the MAC address tells which one it is."""
    plain = {
        "etc/fstab": "",
        "etc/machine-id": "",
        "etc/hosts": "127.0.0.1 localhost\n",
        "etc/default/etcd": f'ETCD_LISTEN_CLIENT_URLS="http://0.0.0.0:2379"\nETCD_ADVERTISE_CLIENT_URLS="http://{ETCD}"\n',
        "etc/docker/daemon.json": _DOCKER,
        "etc/systemd/network/20-eth1.network": _TRUNK,
        "etc/systemd/system/qnet-network.service": _PLUGIN,
    }
    for index in HOSTS:
        text = _NETWORK.format(mac=mac(index, 0), address=address(index))
        plain[f"etc/systemd/network/10-host{index}.network"] = text
    commands = {
        "usr/local/bin/qnet": _COMMAND.format(name="qnet", module="plugins.cli"),
        "usr/local/bin/qnet-network": _COMMAND.format(name="qnet-network", module="plugins.main"),
    }
    return {name: (0o644, text) for name, text in plain.items()} | {name: (0o755, t) for name, t in commands.items()}
