"""The host's packet filter. The tables called qnet are qnet's, nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from plugins.network import nat_rules, rules
from plugins.network.plan import Guard
from plugins.network.rules import Senders
from qnet import commands, nft
from qnet.errors import Unsupported


class Filters:
    """Operations on the chains of the network namespace that the process is in."""

    def apply(self, wanted: Guard) -> None:
        """Put an endpoint's rules into force, all at once. Raises Unsupported, Unavailable."""
        self.load(rules.script(wanted), f"guard {wanted.device}")

    def remove(self, device: str) -> None:
        """Take the rules of a device away; that there are none is no error. Raises Unsupported, Unavailable."""
        self.load(rules.removal(device), f"stop guarding {device}")

    def shield(self, bridge: str) -> None:
        """Keep the host itself off a segment that it bridges. Raises Unsupported, Unavailable."""
        self.load(rules.shield(bridge), f"keep the host off {bridge}")

    def underlay(self, senders: Senders, before: Senders | None = None) -> None:
        """Take the packets of VNIs from these hosts only. `before`: whose rules are in force, if that is known.

        Raises:
            Unsupported, Unavailable
        """
        self.load(rules.underlay(senders, before), "guard the underlay")

    def chains(self) -> frozenset[str]:
        """The chains that are in force, or would be if their devices were there."""
        return frozenset(chain["name"] for chain in _listed("chain") if _table(chain) == f"netdev {rules.TABLE}")

    def counters(self) -> Mapping[str, tuple[int, int]]:
        """What every counter has, in packets and bytes."""
        ours = (each for each in _listed("counter") if _table(each) == f"netdev {rules.TABLE}")
        return {counter["name"]: (counter["packets"], counter["bytes"]) for counter in ours}

    def load(self, script: str, what: str, namespace: str = "") -> None:
        """Do what a script says, in a network namespace if one is named. Raises Unsupported, Unavailable."""
        if namespace:
            commands.run(["nft", "-f", "-"], what, script, namespace)
        else:
            nft.run(script, what)

    def fences(self) -> frozenset[str]:
        """The names of the chains that belong to all gateways. Raises Unavailable."""
        tables = (nat_rules.TABLE, nat_rules.WIRE)
        return frozenset(chain["name"] for chain in _listed("chain") if _table(chain) in tables)


def _table(thing: dict[str, Any]) -> str:
    return f"{thing['family']} {thing['table']}"


def _listed(kind: str) -> Iterable[dict[str, Any]]:
    """The chains or counters of this host as nft lists them; none where it is not installed. Raises Unavailable."""
    try:
        listed = nft.run(f"list {kind}s", f"list the packet filter's {kind}s", as_json=True)
    except Unsupported:
        return ()
    return [entry[kind] for entry in msgspec.json.decode(listed)["nftables"] if kind in entry]
