"""How much of the fleet a tenant may have. Its addresses and volumes are counted where they are made."""

from __future__ import annotations

from qnet.errors import Exhausted
from qnet.schema import TenantRecord
from scheduler.feasible import GIB
from scheduler.model import Load, Machine, Policy, Request


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
    for what, asks, may in (("CPUs", request.cpus, tenant.max_cpus), ("memory", request.memory, tenant.max_memory)):
        if may and not asks:
            raise Exhausted(f"tenant {tenant.name} has a limit of {what}: say how many the container takes")
    check_more(tenant, taken, 1, request.cpus, request.memory)


def check_more(tenant: TenantRecord, taken: Load, containers: int, cpus: int, memory: int) -> None:
    """Whether a tenant may take so much more. Raises Exhausted."""
    for what, has, asks, may, unit in (
        ("containers", taken.running, containers, tenant.max_containers, 1.0),
        ("CPUs", taken.cpus, cpus, tenant.max_cpus, 1000.0),
        ("GiB of memory", taken.memory, memory, tenant.max_memory, float(GIB)),
    ):
        if may and asks > 0 and has + asks > may:
            raise Exhausted(
                f"tenant {tenant.name} has {has / unit:.3g} of the {may / unit:.3g} {what} that it may have: "
                f"{asks / unit:.3g} more do not fit"
            )


def check_room(machine: Machine, load: Load, policy: Policy, cpus: int, memory: int) -> None:
    """Whether a host may promise so much more. Raises Exhausted."""
    for what, left, asks, unit in (
        ("CPUs", machine.cpus * policy.overcommit_cpus - load.cpus, cpus, 1000.0),
        ("GiB of memory", machine.memory * policy.overcommit_memory - load.memory, memory, float(GIB)),
    ):
        if asks > 0 and asks > left:
            raise Exhausted(
                f"host {machine.name} has {max(0.0, left) / unit:.3g} {what} left: {asks / unit:.3g} more do not fit"
            )
