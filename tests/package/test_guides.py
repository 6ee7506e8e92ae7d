"""What the other guides say, typed on the fleet of the first; its containers notice nothing."""

from __future__ import annotations

import re

import pytest

from plugins.cli.daemon_checks import DAEMONS
from tests.guides import steps
from tests.lab.commands import wait_for
from tests.package.site import Site, settle


@pytest.mark.parametrize("page", ["upgrade.md", "security.md", "backup.md"])
def test_every_command_of_a_guide_works(site: Site, page: str) -> None:
    typed = [step for step in steps(page) if step.host]
    assert len(typed) > 3
    with (
        site.container(site.first, "one", "busybox", "sleep", "1d") as one,
        site.container(site.second, "two", "busybox", "sleep", "1d") as two,
    ):
        said = [(step, site.type(step).stdout) for step in typed]
        for step, told in said:
            assert re.findall(r"^fail .*", told, re.MULTILINE) == [], step
        for machine in site.machines:
            for unit in DAEMONS:
                settle(machine, unit, "active")
        site.wait_ready()
        site.first.docker("exec", "one", "ping", "-c", "2", "-w", "10", two)
        listed = site.first.sh("qnet address ls --subnet 10.77.0.0/24").stdout
        assert f"{one} " in listed
        assert f"{two} " in listed
        with site.container(site.first, "three", "busybox", "sleep", "1d") as three:
            assert three not in (one, two)


def test_what_the_page_of_failures_asks_of_systemd(site: Site) -> None:
    asked = [step.command for step in steps("failures.md") if step.command.startswith(("systemctl", "journalctl"))]
    status, warnings, search = asked
    told = site.first.sh(status).stdout
    assert [unit for unit in DAEMONS if f"{unit}.service - " not in told] == []
    site.first.sh(warnings)
    site.wait_ready()
    refused = site.first.sh("qnet run --network web --memory 900g busybox", check=False).stderr
    (request,) = re.findall(r"\(request ([0-9a-f]{16})\)", refused)
    found = re.sub(r"[0-9a-f]{16}", request, search)
    wait_for("the request's lines", lambda: request in site.first.sh(found, check=False).stdout, 20, 0.5)
