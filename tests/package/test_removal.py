"""The end: what the guide says of it, and nothing is left."""

from __future__ import annotations

from plugins.cli.daemon_checks import DAEMONS
from tests.guides import steps
from tests.package.site import Site

LOOK = (
    "find / -xdev \\( -path /proc -o -path /sys -o -path /root -o -path /var/log/journal -o -path /var/lib/dpkg "
    "-o -path /var/cache -o -path /srv -o -path /var/log/apt -o -path /var/log/dpkg.log -o -path /var/lib/docker "
    "-o -path /var/lib/containerd -o -path /usr/share/doc -o -path /var/lib/glusterd -o -path /var/log/glusterfs "
    "-o -path /var/backups -o -path /etc/default \\) -prune -o \\( -iname '*qnet*' -o -name '*sharedfs*' \\) -print"
)


def test_nothing_is_left_after_removal_and_purge(site: Site) -> None:
    first, second = site.machines
    for step in steps("install.md"):
        if step.heading == "Remove":
            site.type(step)
    for unit in DAEMONS:
        assert second.active(unit) == "inactive"
    assert second.sh("ls /etc/qnet/qnet.toml").stdout  # settings stay until they are purged
    second.sh("DEBIAN_FRONTEND=noninteractive apt-get purge -y qnet", timeout=120)
    assert second.sh(LOOK).stdout == ""
    assert second.sh("getent passwd qnet", check=False).stdout == ""
    assert second.sh("ls /run/docker/plugins; pgrep -f '[/]opt/qnet'", check=False).stdout == ""
    assert second.sh("systemctl list-units --all --no-legend 'qnet*' 'sharedfs*'").stdout == ""
    assert second.sh("cat /root/kept").stdout == "kept\n"
    assert "host2" not in first.sh("qnet host ls").stdout
    first.sh("systemctl stop qnet.target")
    first.sh("DEBIAN_FRONTEND=noninteractive apt-get purge -y qnet", timeout=120)
    assert first.sh(LOOK).stdout == ""
    assert (
        first.sh("grep ^ETCD_ /etc/default/etcd; systemctl show -P DropInPaths etcd", check=False).stdout.strip() == ""
    )
