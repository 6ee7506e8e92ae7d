"""`docker compose` files with qnet networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e import kit
from tests.lab.cluster import Lab
from tests.lab.commands import Result
from tests.lab.commands import run as command
from tests.lab.engine import UNPACKED, client_argv, client_env
from tests.lab.host import Host

pytestmark = [pytest.mark.slow, pytest.mark.engines]

PLUGINS = UNPACKED / "cli-plugins/usr/libexec/docker/cli-plugins"
FILE = """
name: shop
services:
  database:
    image: busybox
    command: sleep 1d
    stop_signal: KILL
    networks:
      web:
        ipv4_address: 10.77.0.60
        aliases: [db]
  front:
    image: busybox
    command: sleep 1d
    stop_signal: KILL
    networks: [web, back]
networks:
  web:
    driver: qnet
    driver_opts: {parent: PARENT, mode: MODE, mtu: "1400"}
    ipam:
      driver: qnet
      config: [{subnet: 10.77.0.0/24, ip_range: 10.77.0.128/25, gateway: 10.77.0.1}]
  back:
    driver: qnet
    driver_opts: {mode: MODE}
    internal: true
    ipam: {driver: qnet}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration of the docker command that knows compose. Fails, and says why, if compose is not here."""
    if not (PLUGINS / "docker-compose").exists():
        pytest.fail("docker compose is not here: run `packaging/bootstrap.sh engines`", pytrace=False)
    (tmp_path / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": [str(PLUGINS)]}))
    (tmp_path / "compose.yaml").write_text(FILE.replace("PARENT", kit.CREATE.parent).replace("MODE", kit.CREATE.mode))
    return tmp_path


def compose(config: Path, host: Host, *args: str) -> Result:
    """`docker compose` with the file, on a host."""
    argv = client_argv(host.node, ["compose", "-f", str(config / "compose.yaml"), *args])
    return command(argv, timeout=120, env={**client_env(), "DOCKER_CONFIG": str(config)})


def test_up_stop_start_and_down(config: Path, lab: Lab, hosts: list[Host]) -> None:
    host, other = hosts[:2]
    compose(config, host, "up", "-d")
    assert kit.address(host, "shop-database-1", "shop_web") == "10.77.0.60"
    assert kit.pings(host, "shop-front-1", "db")
    assert kit.pings(host, "shop-front-1", "database")
    assert "mtu 1400" in host.docker("exec", "shop-database-1", "ip", "link", "show", "eth0").stdout
    kit.network(other)
    assert kit.pings(other, "aa", "10.77.0.60") if kit.run(other, "aa") else False
    compose(config, host, "stop")
    assert "taken: held for container shop-database-1 on host1" in kit.refused(
        other, *kit.run_args("late", "--ip", "10.77.0.60")
    )
    compose(config, host, "start")
    assert kit.address(host, "shop-database-1", "shop_web") == "10.77.0.60"
    compose(config, host, "up", "-d", "--force-recreate")
    assert kit.address(host, "shop-database-1", "shop_web") == "10.77.0.60"
    compose(config, host, "down")
    kit.remove_all(other)
    kit.no_leaks(lab)
