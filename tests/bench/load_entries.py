"""Not a load: hears from the kernel when VXLAN links of its host get to know MAC addresses and who has an address."""

from __future__ import annotations

import socket
import struct
import threading
import time
from typing import Any

RTMGRP_NEIGH = 0x4
RTM_NEWNEIGH = 28
NDA_DST, NDA_LLADDR = 1, 2
SO_RCVBUFFORCE = 33
KINDS = {socket.AF_INET: "address", socket.AF_INET6: "address", 7: "mac"}  # 7: AF_BRIDGE


class Entries:
    """Orders: `take` what was heard since."""

    def __init__(self, **_: Any) -> None:
        self._heard: dict[str, dict[str, float]] = {}
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        self._socket.bind((0, RTMGRP_NEIGH))
        threading.Thread(target=self._listen, daemon=True).start()

    def order(self, do: str, **_: Any) -> dict[str, Any]:
        """`take`: for each MAC address when its forwarding entry (`mac`) and neighbour (`address`) were there first, in
        monotonic seconds."""
        found, self._heard = self._heard, {}
        return found

    def _listen(self) -> None:
        while True:
            data = self._socket.recv(1 << 16)
            at = time.monotonic()
            while len(data) >= 16:
                length, kind = struct.unpack_from("=IH", data)
                if kind == RTM_NEWNEIGH:
                    self._hear(data[16:length], at)
                data = data[(length + 3) & ~3 :]

    def _hear(self, message: bytes, at: float) -> None:
        """A forwarding entry counts if it leads to another host: the bridge's own have no address."""
        what, found, rest = KINDS.get(message[0]), {}, message[12:]
        while len(rest) >= 4:
            length, kind = struct.unpack_from("=HH", rest)
            found[kind] = rest[4:length]
            rest = rest[(length + 3) & ~3 :]
        if what and NDA_DST in found and NDA_LLADDR in found:
            self._heard.setdefault(found[NDA_LLADDR].hex(":"), {}).setdefault(what, at)
