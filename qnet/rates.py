"""Rates of traffic as tc(8) writes them. Pure."""

from __future__ import annotations

import re
from decimal import Decimal

from qnet.errors import InvalidRequest

NONE = "none"
LEAST, MOST = 64_000, 32_000_000_000  # a full frame takes a fifth of a second; the kernel's numbers end at 34 gbit
UNITS = {"bit": 1} | {
    prefix + end: base**power for end, base in (("bit", 1000), ("ibit", 1024)) for power, prefix in enumerate("kmgt", 1)
}
RATE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([a-z]+)")


def parse_rate(text: str, what: str) -> int:
    """A rate in bits per second; 0 for `none`.

    Args:
        what: the option that it was given to, for the error.

    Raises:
        InvalidRequest: it is no rate, or not within what can be shaped.
    """
    if text.lower() == NONE:
        return 0
    found = RATE.fullmatch(text.lower())
    rate = int(Decimal(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else 0
    if not LEAST <= rate <= MOST:
        raise InvalidRequest(
            f"{what}={text[:32]}: a rate from {show_rate(LEAST)} to {show_rate(MOST)}, such as 100mbit (kbit, mbit, "
            f"gbit; 1 kbit is 1000 bit, 1 kibit 1024), or none"
        )
    return rate


def show_rate(rate: int) -> str:
    """A rate in the largest unit that leaves it whole; `none` for 0."""
    unit = max((unit for unit in ("bit", "kbit", "mbit", "gbit") if rate % UNITS[unit] == 0), key=UNITS.__getitem__)
    return f"{rate // UNITS[unit]}{unit}" if rate else NONE
