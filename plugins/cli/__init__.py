"""The command `qnet`: what an operator sees, and does, of the cluster's pools, addresses, networks and hosts."""

from plugins.cli.app import main

__all__ = ["main"]
