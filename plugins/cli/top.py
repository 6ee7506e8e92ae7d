"""`qnet top`: what the containers of this host send and get now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import click

from plugins.cli.output import json_option
from plugins.cli.session import Session, pass_session
from plugins.cli.watching import Row, Sample, follow, human, interval_option, once_option, samples
from qnet.engine import Engine
from qnet.errors import Unavailable
from qnet.rates import show_rate

TRAFFIC, LIMIT = "qnet_endpoint_traffic_bytes_total", "qnet_endpoint_limit_bits"
COLUMNS = ("CONTAINER", "NETWORK", "TENANT", "SENT", "EXTERNAL", "RECEIVED", "EXTERNAL", "EGRESS", "INGRESS")


@click.command()
@once_option
@interval_option
@json_option
@pass_session
def top(session: Session, once: bool, interval: float, as_json: bool) -> None:
    """Show the traffic of this host's containers, the busiest first.

    In bits per second, with the limits in force. Only networks whose traffic the host sees (not macvlan). --json prints
    once, with all bytes too.
    """

    def rows(before: Sample, now: Sample, seconds: float) -> list[Row]:
        return _rows(before, now, seconds, _names(session))

    follow(lambda: _sample(session), rows, COLUMNS, _cells, once=once, interval=interval, as_json=as_json)


def _sample(session: Session) -> Sample:
    found: Sample = {}
    for _, labels, value in samples(session.settings.network.socket, (TRAFFIC, LIMIT)):
        key = (labels["endpoint"], labels["network"], labels["tenant"], labels["direction"])
        found[*key, labels.get("scope", "limit")] = value
    return found


def _names(session: Session) -> dict[str, str]:
    """The containers' names, by the short ids of their endpoints; none if the engine does not answer."""
    config = session.settings.docker
    try:
        containers = Engine(config.socket, config.timeout).containers()
    except Unavailable:
        return {}
    return {end.endpoint[:12]: one.name for one in containers for end in one.endpoints if end.endpoint}


def _rows(before: Sample, now: Sample, seconds: float, names: dict[str, str]) -> list[Row]:
    """A row for each endpoint, the busiest first; keys are its id, network and tenant, then direction and scope."""
    parts: defaultdict[tuple[str, ...], dict[str, Any]] = defaultdict(dict)
    for (endpoint, network, tenant, direction, scope), value in now.items():
        row = parts[endpoint, network, tenant]
        if scope == "limit":
            row[f"{direction}_limit"] = round(value)
            continue
        was = before.get((endpoint, network, tenant, direction, scope), value)
        row[f"{direction}_{scope}"] = round(max(value - was, 0) * 8 / seconds)
        row[f"{direction}_{scope}_bytes"] = round(value)
    rows = [
        {"container": names.get(key[0], ""), "endpoint": key[0], "network": key[1], "tenant": key[2]} | row
        for key, row in parts.items()
    ]
    return sorted(rows, key=lambda row: (-sum(_both(row, way) for way in ("sent", "received")), row["endpoint"]))


def _both(row: Row, direction: str) -> int:
    return int(row.get(f"{direction}_internal", 0)) + int(row.get(f"{direction}_external", 0))


def _cells(row: Row) -> Iterator[str]:
    yield from (row["container"] or row["endpoint"], row["network"], row["tenant"])
    for direction in ("sent", "received"):
        yield from (human(_both(row, direction)), human(int(row.get(f"{direction}_external", 0))))
    for direction in ("sent", "received"):
        limit = row.get(f"{direction}_limit", 0)
        yield show_rate(limit) if limit else ""
