"""What Prometheus is told: by each daemon of each host, and of containers that have metrics of their own."""

from __future__ import annotations

import json
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e import kit
from tests.e2e.placement.fleet import Fleet
from tests.lab import certificates
from tests.lab.commands import wait_for
from tests.lab.host import Host

PORTS = {"network": 9470, "volume": 9471, "agent": 9472, "scheduler": 9473, "gateway": 9474}
SD = """
scrape_configs:
  - job_name: containers
    http_sd_configs:
      - url: https://{address}:7444/v1/targets
        tls_config: {{ca_file: {folder}/ca.pem, cert_file: {cert}, key_file: {key}}}
"""


def scraped(host: Host, daemon: str) -> dict[tuple[str, ...], float]:
    """Values by name and labels' values in the order of the labels' names, as Prometheus gets them on the host."""
    text = host.exec("curl", "-sS", "-m", "5", f"http://127.0.0.1:{PORTS[daemon]}/metrics").stdout
    families = text_string_to_metric_families(text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_every_daemon_tells_of_itself(fleet: Fleet) -> None:
    for host in fleet.hosts:
        for daemon in PORTS:
            found = scraped(host, daemon)
            assert found["qnet_etcd_up",] == 1, (host.name, daemon)
            assert [key for key in found if key[0] == "qnet_build_info"], (host.name, daemon)
            assert sum(value for key, value in found.items() if key[0] == "qnet_etcd_call_seconds_count") > 0
    bricks = ("qnet_volume_pool_bricks_up", "main")  # which one host looks for, every 30 s
    wait_for("the bricks", lambda: scraped(fleet.hosts[0], "volume").get(bricks, 0) > 0, 60, 1)
    told = scraped(fleet.hosts[0], "volume")
    assert told["qnet_volume_pool_bricks", "main"] == told[bricks]
    told = scraped(fleet.hosts[0], "scheduler")
    assert [told["qnet_hosts", state] for state in ("ready", "drain", "down")] == [3, 0, 0]
    assert told["qnet_scheduler_ready",] == 1


def test_values_move_with_a_container(fleet: Fleet) -> None:
    pool, on_host1 = (kit.SUBNET, "default"), ("--constraint", "host==host1")
    fleet.run("first", *on_host1)
    used = ("qnet_pool_used_addresses", *pool)
    wait_for("the host to follow the pool", lambda: used in scraped(fleet.hosts[0], "network"), 10)
    first = ("qnet_containers", "host1", "running")
    wait_for("the first to be told as running", lambda: scraped(fleet.hosts[0], "scheduler").get(first) == 1, 30)
    daemons = ("network", "agent", "scheduler", "gateway")
    before = {daemon: scraped(fleet.hosts[0], daemon) for daemon in daemons}
    fleet.run("second", *on_host1)

    def moved(daemon: str, *key: str) -> float:
        return scraped(fleet.hosts[0], daemon)[key] - before[daemon].get(key, 0)

    wait_for("the containers that run", lambda: moved("scheduler", "qnet_containers", "host1", "running") == 1, 10)
    assert moved("scheduler", "qnet_scheduler_placements_total", "default") == 1
    assert moved("network", *used) == 1
    assert moved("network", "qnet_pool_free_addresses", *pool) == -1
    assert moved("network", "qnet_network_endpoints", "web", "default") == 1
    assert moved("network", "qnet_ipam_allocations_total", "default") == 1
    assert moved("network", "qnet_pool_conflicts", *pool) == 0
    assert moved("agent", "qnet_agent_events_total", "container") >= 2
    assert moved("agent", "qnet_agent_reports_total", "containers") >= 1
    assert moved("scheduler", "qnet_etcd_batch_transactions_count") >= 1
    assert scraped(fleet.hosts[0], "agent")["qnet_agent_engine_up",] == 1
    fleet.hosts[0].exec("docker", "-H", "unix:///run/qnet/docker.sock", "exec", "second", "echo", "hello")
    assert moved("gateway", "qnet_gateway_stream_bytes_total", "received") >= len("hello\n")
    assert fleet.refused("run", "-m", "9999g", "busybox")
    assert moved("scheduler", "qnet_scheduler_refusals_total", "Exhausted") == 1


def test_an_engine_and_a_host_that_die_are_told(fleet: Fleet) -> None:
    fleet.hosts[1].engine.kill()
    fleet.hosts[2].agent.stop()

    def told() -> dict[tuple[str, ...], float]:
        return scraped(fleet.hosts[0], "scheduler")

    wait_for("the engine to be missed", lambda: told().get(("qnet_host_trouble", "host2", "the engine")) == 1, 30)
    assert scraped(fleet.hosts[1], "agent")["qnet_agent_engine_up",] == 0
    wait_for("the host to be down", lambda: told()["qnet_host_up", "host3"] == 0, 15)
    assert told()["qnet_hosts", "down"] == 1


def test_etcd_that_dies_and_comes_back_is_told(fleet: Fleet) -> None:
    host = fleet.hosts[0]
    assert host.etcd is not None
    host.etcd.kill()

    def all_say(up: int) -> bool:
        return all(scraped(host, daemon)["qnet_etcd_up",] == up for daemon in PORTS)

    wait_for("all daemons to miss etcd", lambda: all_say(0), 30)
    host.etcd.start()
    wait_for("all daemons to have it again", lambda: all_say(1), 30)
    assert scraped(host, "network")["qnet_etcd_watch_breaks_total",] >= 1


def test_containers_with_metrics_are_found_while_they_run(fleet: Fleet) -> None:
    labels = ("--label", "qnet.metrics.port=9100", "--label", "qnet.metrics.path=/m")
    ran = fleet.run("measured", *labels)
    fleet.run("plain")

    def targets(on: int = 0) -> list[dict[str, Any]]:
        status, found = fleet.api("GET", "/v1/targets", on=on)
        assert status == 200
        return list(found)

    entry = {
        "targets": [f"{ran['addresses']['web'][0]}:9100"],
        "labels": {
            "container": "measured",
            "host": ran["host"],
            "tenant": "default",
            "network": "web",
            "__metrics_path__": "/m",
            "__scheme__": "http",
        },
    }
    for number in range(3):
        wait_for("the target", lambda on=number: targets(on) == [entry], 30)
    assert discovered(fleet, "operator", "ann") == entry["targets"]
    assert discovered(fleet, "tenant", "shop") == []
    host = fleet.host(ran["host"])
    host.docker("stop", "-t", "0", "measured")
    wait_for("the target to go", lambda: targets() == [], 30)
    host.docker("start", "measured")
    wait_for("the target to come back", lambda: targets() == [entry], 30)
    assert "a port, 1 to 65535" in fleet.refused("run", "--label", "qnet.metrics.port=http", "busybox")


def discovered(fleet: Fleet, role: str, name: str) -> list[str]:
    """What Prometheus makes of the answer to a certificate."""
    layout, host = fleet.lab.layout, fleet.hosts[0]
    cert, key = certificates.make(layout, role, name)
    folder = certificates.folder(layout)
    file = folder / "prometheus.yml"
    file.write_text(SD.format(address=host.address, folder=folder, cert=cert, key=key))
    told = host.exec("promtool", "check", "service-discovery", "--timeout=2s", str(file), "containers").stdout
    return [one["labels"]["__address__"] for one in json.loads(told)]
