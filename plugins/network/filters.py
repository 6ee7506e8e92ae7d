"""The host's packet filter: the only user of nft. One table is qnet's, nothing else is touched."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

import msgspec

from plugins.network import rules
from plugins.network.plan import Guard
from qnet.errors import Unavailable, Unsupported

TIMEOUT = 5.0


class Filters:
    """Operations on the chains of the network namespace that the process is in."""

    def apply(self, wanted: Guard) -> None:
        """Put an endpoint's rules into force, all at once. Raises Unsupported, Unavailable."""
        self._nft(rules.script(wanted), f"guard {wanted.device}")

    def remove(self, device: str) -> None:
        """Take the rules of a device away; that there are none is no error. Raises Unsupported, Unavailable."""
        self._nft(rules.removal(device), f"stop guarding {device}")

    def shield(self, bridge: str) -> None:
        """Keep the host itself off a segment that it bridges. Raises Unsupported, Unavailable."""
        self._nft(rules.shield(bridge), f"keep the host off {bridge}")

    def chains(self) -> frozenset[str]:
        """The chains that are in force, or would be if their devices were there."""
        return frozenset(chain["name"] for chain in self._list("chain", "chains", "netdev"))

    def counters(self) -> Mapping[str, tuple[int, int]]:
        """What every counter has, in packets and bytes."""
        listed = self._list("counter", "counters", "netdev")
        return {counter["name"]: (counter["packets"], counter["bytes"]) for counter in listed}

    @staticmethod
    def _list(kind: str, *what: str) -> list[dict[str, Any]]:
        """Things of our table. Raises Unavailable."""
        try:
            command = ["nft", "-j", "list", *what]
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
        except FileNotFoundError:
            return []
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"cannot list the packet filter's {kind}s: {error}") from error
        listed = (entry[kind] for entry in msgspec.json.decode(done.stdout)["nftables"] if kind in entry)
        return [thing for thing in listed if thing["table"] == rules.TABLE]

    @staticmethod
    def _nft(script: str, what: str) -> None:
        try:
            command = ["nft", "-f", "-"]
            subprocess.run(command, input=script, capture_output=True, text=True, timeout=TIMEOUT, check=True)
        except FileNotFoundError as error:
            raise Unsupported(f"cannot {what}: nft is not installed: apt install nftables") from error
        except subprocess.CalledProcessError as error:
            said = error.stderr.strip().splitlines() or [f"status {error.returncode}"]
            raise Unavailable(f"cannot {what}: nft: {said[0]}") from error
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"cannot {what}: {error}") from error
