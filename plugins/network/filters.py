"""The host's packet filter: the only user of nft. One table is qnet's, nothing else is touched."""

from __future__ import annotations

import subprocess

import msgspec

from plugins.network import rules
from plugins.network.plan import Guard
from plugins.network.rules import Senders
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

    def underlay(self, senders: Senders, before: Senders | None = None) -> None:
        """Take the packets of VNIs from these hosts only. `before`: whose rules are in force, if that is known.

        Raises:
            Unsupported, Unavailable
        """
        self._nft(rules.underlay(senders, before), "guard the underlay")

    def chains(self) -> frozenset[str]:
        """The devices whose rules are in force, or would be if the device were there."""
        try:
            done = subprocess.run(
                ["nft", "-j", "list", "chains", "netdev"], capture_output=True, text=True, timeout=TIMEOUT, check=True
            )
        except FileNotFoundError:
            return frozenset()
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"cannot list the packet filter's chains: {error}") from error
        listed = msgspec.json.decode(done.stdout)["nftables"]
        chains = (entry["chain"] for entry in listed if "chain" in entry)
        return frozenset(chain["name"] for chain in chains if chain["table"] == rules.TABLE)

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
