"""Which kinds of links this host's kernel has, tried out where no link of the host can be touched.

The trial runs in a process and network namespace of its own; both are gone when it ends, whatever happens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from qnet.errors import Unavailable

PARENT, PEER, TRIAL = "qt-parent", "qt-peer", "qt-trial"
KINDS: Mapping[str, Mapping[str, object]] = {
    "macvlan": {"macvlan_mode": "bridge"},
    "vlan": {"vlan_id": 2},
    "ipvlan": {"ipvlan_mode": 0},
    "vxlan": {"vxlan_id": 2},
    "ifb": {},
}
ALONE = ("vxlan", "ifb")  # they stand on no link
NAMESPACE = Path("/proc/self/ns/net")


def probe(timeout: float) -> Mapping[str, str]:
    """Why each of `KINDS` cannot be made on this host; empty for those that can.

    Raises:
        Unavailable: it could not be tried: no root, no answer in `timeout` seconds.
    """
    command = ["unshare", "--net", "--", sys.executable, "-m", __name__, str(NAMESPACE.readlink())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
        return {str(kind): str(reason) for kind, reason in json.loads(done.stdout).items()}
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"status {error.returncode}"]
        raise Unavailable(f"cannot try kinds of links: {lines[-1]}") from error
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"cannot try kinds of links: {error}") from error


def _trial(outside: str) -> Mapping[str, str]:
    """Make one link of each kind, on a veth or alone. Only in a namespace that is not the host's, `outside`."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    if str(NAMESPACE.readlink()) == outside:
        raise SystemExit("the namespace of the trial is the host's own")
    found = {}
    with IPRoute() as netlink:
        netlink.link("add", ifname=PARENT, kind="veth", peer=PEER)
        parent = netlink.link_lookup(ifname=PARENT)[0]
        for kind, options in KINDS.items():
            below = {} if kind in ALONE else {"link": parent}
            try:
                netlink.link("add", ifname=TRIAL, kind=kind, **below, **options)
                netlink.link("del", index=netlink.link_lookup(ifname=TRIAL)[0])
                found[kind] = ""
            except NetlinkError as error:
                found[kind] = os.strerror(error.code)
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_trial(sys.argv[1])))
