"""`qnet top`: what the containers of this host send and get now."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import click

from plugins.cli import unixhttp
from plugins.cli.output import json_option, show_json, show_table
from plugins.cli.session import Session, pass_session
from qnet.engine import Engine
from qnet.errors import Unavailable
from qnet.rates import show_rate

TRAFFIC, LIMIT = "qnet_endpoint_traffic_bytes_total", "qnet_endpoint_limit_bits"
PATIENCE = 10.0
COLUMNS = ("CONTAINER", "NETWORK", "TENANT", "SENT", "EXTERNAL", "RECEIVED", "EXTERNAL", "EGRESS", "INGRESS")
UNITS = (("G", 10**9), ("M", 10**6), ("k", 10**3))

# an endpoint's id, network and tenant, then direction and scope
Sample = dict[tuple[str, ...], float]


@click.command()
@click.option("--once", is_flag=True, help="Print one table and end.")
@click.option(
    "--interval", type=click.FloatRange(0.2, 60), default=2.0, show_default=True, help="Seconds between looks."
)
@json_option
@pass_session
def top(session: Session, once: bool, interval: float, as_json: bool) -> None:
    """Show the traffic of this host's containers, in bits per second, most first, and their limits.

    Only networks whose traffic the host sees (not macvlan). --json prints once, with bits per second and all bytes.
    """
    before, began = _sample(session), time.monotonic()
    while True:
        time.sleep(interval)
        now, ended = _sample(session), time.monotonic()
        rows = _rows(before, now, ended - began, _names(session))
        before, began = now, ended
        if as_json:
            show_json(rows)
            return
        if not once:
            click.clear()
        show_table(COLUMNS, (tuple(_cells(row)) for row in rows))
        if once:
            return


def _sample(session: Session) -> Sample:
    """All samples of endpoints that the plugin tells. Raises Unavailable."""
    from prometheus_client.parser import text_string_to_metric_families

    text = unixhttp.read(session.settings.network.socket, "/metrics", PATIENCE)
    found: Sample = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in (TRAFFIC, LIMIT):
                labels = sample.labels
                key = (labels["endpoint"], labels["network"], labels["tenant"], labels["direction"])
                found[*key, labels.get("scope", "limit")] = sample.value
    return found


def _names(session: Session) -> dict[str, str]:
    """The containers' names, by the short ids of their endpoints; none if the engine does not answer."""
    config = session.settings.docker
    try:
        containers = Engine(config.socket, config.timeout).containers()
    except Unavailable:
        return {}
    return {end.endpoint[:12]: one.name for one in containers for end in one.endpoints if end.endpoint}


def _rows(before: Sample, now: Sample, seconds: float, names: dict[str, str]) -> list[dict[str, Any]]:
    """A row for each endpoint, the busiest first."""
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


def _both(row: dict[str, Any], direction: str) -> int:
    return int(row.get(f"{direction}_internal", 0)) + int(row.get(f"{direction}_external", 0))


def _cells(row: dict[str, Any]) -> Iterator[str]:
    yield from (row["container"] or row["endpoint"], row["network"], row["tenant"])
    for direction in ("sent", "received"):
        yield from (_human(_both(row, direction)), _human(int(row.get(f"{direction}_external", 0))))
    for direction in ("sent", "received"):
        limit = row.get(f"{direction}_limit", 0)
        yield show_rate(limit) if limit else ""


def _human(bits: int) -> str:
    unit, size = next(((unit, size) for unit, size in UNITS if bits >= size), ("", 1))
    return f"{bits / size:.1f}{unit}" if unit else str(bits)
