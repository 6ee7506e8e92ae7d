"""What repair does with addresses of placed containers: their record is given back by placement alone."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from plugins.ipam.compare import Engine, Observed, Place, compare
from qnet.schema import AddressRecord

PLACE = Place("default", ip_network("10.77.0.0/24"), ip_address("10.77.0.9"))
GRACE = 5.0


def done(kind: str, placement: str, host: str = "h1") -> list[str]:
    """What repair of host h1, whose engine has nothing, does in two looks."""
    record = AddressRecord(kind=kind, host=host, since="", claim="c", asked=True, container="a1", placement=placement)  # type: ignore[arg-type]
    records, sightings, found = {PLACE: Observed(record, 1)}, {}, []
    for now in (0.0, GRACE):
        verdict = compare("h1", records, Engine(), sightings, now, GRACE)
        found += [action.do for action in verdict.actions]
        sightings = dict(verdict.sightings)
    return found


@pytest.mark.parametrize(
    ("kind", "placement", "actions"),
    [
        ("held", "", ["release", "release"]),  # its container is gone
        ("held", "claim", []),  # its container is not there yet, or placement gives it back
        ("endpoint", "", ["release"]),
        ("endpoint", "claim", ["hold"]),
    ],
)
def test_what_is_placed_is_not_given_back(kind: str, placement: str, actions: list[str]) -> None:
    assert done(kind, placement) == actions


def test_what_is_held_for_a_name_is_no_hosts_business() -> None:
    assert done("held", "", host="") == []
