"""How much of the fleet a tenant may have. Its addresses and volumes are counted where they are made."""

from __future__ import annotations

from qnet.errors import Exhausted
from qnet.schema import TenantRecord
from scheduler.feasible import GIB
from scheduler.model import Load, Request


def limited(tenant: TenantRecord | None) -> bool:
    """Whether a tenant has limits of CPUs, memory or containers."""
    return tenant is not None and bool(tenant.max_cpus or tenant.max_memory or tenant.max_containers)


def check(tenant: TenantRecord, taken: Load, request: Request) -> None:
    """Whether a tenant may have one more.

    Args:
        taken: what its running containers take; `running` counts all.

    Raises:
        Exhausted: what it has, what it may have; or it does not say how much it wants of what is limited.
    """
    for what, has, asks, may, unit in (
        ("containers", taken.running, 1, tenant.max_containers, 1.0),
        ("CPUs", taken.cpus, request.cpus, tenant.max_cpus, 1000.0),
        ("GiB of memory", taken.memory, request.memory, tenant.max_memory, float(GIB)),
    ):
        if not may:
            continue
        if not asks:
            raise Exhausted(f"tenant {tenant.name} has a limit of {what}: say how many the container takes")
        if has + asks > may:
            raise Exhausted(
                f"tenant {tenant.name} has {has / unit:.3g} of the {may / unit:.3g} {what} that it may have: "
                f"{asks / unit:.3g} more do not fit"
            )
