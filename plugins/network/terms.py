"""What an endpoint's traffic is held to, and as what it is counted: who may say so, and who comes first. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from qnet.errors import InvalidRequest
from qnet.rates import parse_rate
from qnet.schema import LimitRecord, TenantRecord

EGRESS, INGRESS = "egress", "ingress"
ENDPOINT_OPTIONS = {f"qnet.{name}": name for name in (EGRESS, INGRESS)}


class Limits(msgspec.Struct, frozen=True):
    """Limits as one level asks for them, in bits per second: what a container sends, what it gets.

    0: none, whatever a lower level says; None: that level's.
    """

    egress: int | None = None
    ingress: int | None = None

    def __bool__(self) -> bool:
        return self != Limits()


class Terms(msgspec.Struct, frozen=True):
    """The limits in force, in bits per second (0: none), and the subnets whose traffic counts as internal."""

    egress: int = 0
    ingress: int = 0
    internal: tuple[str, ...] = ()


def network_limits(given: Mapping[str, str]) -> Limits:
    """The limits among a network's `-o` options. Raises InvalidRequest."""
    return Limits(**{name: parse_rate(given[name], f"-o {name}") for name in (EGRESS, INGRESS) if name in given})


def endpoint_limits(options: Mapping[str, Any]) -> Limits:
    """The limits among an endpoint's options.

    Raises:
        InvalidRequest: one is no rate, or an option is neither a limit nor the engine's own.
    """
    found = {}
    for option, value in options.items():
        if option.startswith("com.docker."):
            continue
        if option not in ENDPOINT_OPTIONS:
            there_are = ", ".join(ENDPOINT_OPTIONS)
            raise InvalidRequest(f"--driver-opt {option[:64]}: no such option; there are: {there_are}")
        if not isinstance(value, str):
            raise InvalidRequest(f"--driver-opt {option}: its value is no text")
        found[ENDPOINT_OPTIONS[option]] = parse_rate(value, f"--driver-opt {option}")
    return Limits(**found)


def refuse(mode: str, able: Iterable[str]) -> InvalidRequest:
    """Why the networks of a mode have no limits."""
    return InvalidRequest(
        f"networks of mode {mode} have no limits: the host keeps no device that their containers' traffic passes; "
        f"leave egress and ingress out, or make the network with -o mode={' or '.join(able)}"
    )


def settle(
    record: LimitRecord | None, endpoint: Limits, network: Limits, tenant: TenantRecord, subnets: Iterable[str]
) -> Terms:
    """What is in force: what was said of the endpoint last, at its start, of its network, of its tenant."""
    levels = (*((record,) if record else ()), endpoint, network, tenant)

    def first(name: str) -> int:
        said = (getattr(level, name) for level in levels)
        return next((rate for rate in said if rate is not None), 0)

    return Terms(first(EGRESS), first(INGRESS), (*subnets, *tenant.supernets))
