"""What a tenant that is not trusted may ask of a host: a row for each field that engines know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from qnet.errors import InvalidRequest
from scheduler import policy

NOTHING: tuple[Any, ...] = (None, "", 0, False, [], {}, [""], {"a": None})
JSON_FILE = {"Type": "json-file", "Config": {}}
BIND = {"Name": "local", "Options": {"type": "none", "o": "bind", "device": "/"}}

# field, what is refused, what is allowed; what says nothing is always left out
HOST_CONFIG: Mapping[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    # power over the host
    "Privileged": ((True, 1, "yes"), ()),
    "CapAdd": ((["NET_ADMIN"], ["ALL"]), ()),
    "Capabilities": ((["CAP_SYS_ADMIN"],), ()),
    "SecurityOpt": ((["seccomp=unconfined"], ["apparmor=unconfined"], ["systempaths=unconfined"]), ()),
    "MaskedPaths": ((["/proc/kcore"],), ()),
    "ReadonlyPaths": ((["/proc/bus"],), ()),
    "Sysctls": (({"kernel.msgmax": "1"}, {"net.ipv4.ip_forward": "1"}), ()),
    "Runtime": (("runc", "kata"), ()),
    "Devices": (([{"PathOnHost": "/dev/kmsg"}],), ()),
    "DeviceCgroupRules": ((["a *:* rwm"],), ()),
    "DeviceRequests": (([{"Driver": "nvidia", "Count": -1}], [{"Capabilities": [["gpu"]]}]), ()),
    "OomScoreAdj": ((-1000, 1), ()),
    "OomKillDisable": ((True,), ()),
    # namespaces of the host, or of others
    "PidMode": (("host", "container:x"), ()),
    "UTSMode": (("host",), ()),
    "UsernsMode": (("host",), ()),
    "CgroupnsMode": (("host",), ("private",)),
    "IpcMode": (("host", "shareable", "container:x"), ("private", "none")),
    "CgroupParent": (("/", "system.slice"), ()),
    "Cgroup": (("container:x",), ()),
    "VolumesFrom": ((["other"],), ()),
    "Links": ((["other:alias"],), ()),
    # what goes out of the container by the host
    "LogConfig": (({"Type": "syslog", "Config": {}}, {"Type": "json-file", "Config": {"env": "A"}}), (JSON_FILE,)),
    "ContainerIDFile": (("/etc/passwd",), ()),
    "VolumeDriver": (("local",), ()),
    "PublishAllPorts": ((True,), ()),
    "Annotations": (({"a": "b"},), ()),
    # limits that placement does not count
    "BlkioWeight": ((10,), ()),
    "BlkioWeightDevice": (([{"Path": "/dev/sda", "Weight": 10}],), ()),
    "BlkioDeviceReadBps": (([{"Path": "/dev/sda", "Rate": 10}],), ()),
    "BlkioDeviceReadIOps": (([{"Path": "/dev/sda", "Rate": 10}],), ()),
    "BlkioDeviceWriteBps": (([{"Path": "/dev/sda", "Rate": 10}],), ()),
    "BlkioDeviceWriteIOps": (([{"Path": "/dev/sda", "Rate": 10}],), ()),
    "CpusetCpus": (("0",), ()),
    "CpusetMems": (("0",), ()),
    "CpuRealtimePeriod": ((1,), ()),
    "CpuRealtimeRuntime": ((1,), ()),
    "CpuCount": ((1,), ()),
    "CpuPercent": ((1,), ()),
    "IOMaximumBandwidth": ((1,), ()),
    "IOMaximumIOps": ((1,), ()),
    "KernelMemory": ((1,), ()),
    "KernelMemoryTCP": ((1,), ()),
    "DiskQuota": ((1,), ()),
    "StorageOpt": (({"size": "1G"},), ()),
    "Isolation": (("hyperv", "process"), ("default",)),
    # limits that it counts
    **dict.fromkeys(policy.POSITIVE, ((-1, True, "1", 1.5), (1, 1 << 40))),
    "PidsLimit": ((), (100, -1)),
    "RestartPolicy": ((), ({"Name": "always", "MaximumRetryCount": 0},)),
    # the container's own
    "PortBindings": ((), ({"80/tcp": [{"HostPort": "80"}]},)),
    "Binds": ((), (["data:/d"],)),  # placement looks at them
    "Mounts": (
        (
            [{"Type": "volume", "Target": "/d", "BindOptions": {"Propagation": "shared"}}],
            [{"Type": "volume", "Target": "/d", "type": "bind"}],
            [{"Type": "volume", "Target": "/d", "ClusterOptions": {"a": 1}}],
            [{"Type": "volume", "Target": "/d", "VolumeOptions": {"DriverConfig": BIND}}],
            [{"Type": "tmpfs", "Target": "/d", "TmpfsOptions": {"Options": [["exec"]]}}],
            ["/:/h"],
            {"Type": "bind"},
        ),
        (
            [{"Type": "volume", "Source": "data", "Target": "/d", "ReadOnly": True, "Consistency": "cached"}],
            [{"Type": "volume", "Target": "/d", "VolumeOptions": {"NoCopy": True, "Labels": {}, "Subpath": "s"}}],
            [{"Type": "tmpfs", "Target": "/d", "TmpfsOptions": {"SizeBytes": 1, "Mode": 448}}],
        ),
    ),
    "NetworkMode": ((), ("web",)),  # placement looks at it
    "AutoRemove": ((), (True,)),
    "Dns": ((), (["10.0.0.1"],)),
    "DnsOptions": ((), (["ndots:1"],)),
    "DnsSearch": ((), (["example.org"],)),
    "ExtraHosts": ((), (["a:10.0.0.1"],)),
    "ReadonlyRootfs": ((), (True,)),
    "Tmpfs": ((), ({"/tmp": "size=1m"},)),
    "Init": ((), (True,)),
    "CapDrop": ((), (["ALL"],)),
    "Ulimits": (
        (
            [{"Name": "rtprio", "Soft": 99, "Hard": 99}],
            [{"Name": "memlock", "Soft": -1, "Hard": -1}],
            [{"Name": "core", "name": "rtprio", "Soft": 1}],
            ["nofile=1"],
            {"Name": "core"},
        ),
        ([{"Name": "nofile", "Soft": 1, "Hard": 2}], [{"Name": "nproc", "Hard": 2}], [{"Name": "core", "Soft": 0}]),
    ),
    "ConsoleSize": ((), ([24, 80],)),
    "MemorySwappiness": ((), (60,)),
    "GroupAdd": ((), (["27"],)),
}  # fmt: skip
REFUSED = [(name, value) for name, (refused, _) in HOST_CONFIG.items() for value in refused]
ALLOWED = [(name, value) for name, (_, allowed) in HOST_CONFIG.items() for value in allowed]


def test_every_field_that_the_policy_knows_has_a_row() -> None:
    assert not (policy.ALLOWED | policy.DEFAULTS.keys()) - HOST_CONFIG.keys()
    assert all(allowed for name, (_, allowed) in HOST_CONFIG.items() if name in policy.ALLOWED | policy.DEFAULTS.keys())
    assert all(refused for name, (refused, _) in HOST_CONFIG.items() if name not in policy.ALLOWED)
    assert not any(
        allowed for name, (_, allowed) in HOST_CONFIG.items() if name not in policy.ALLOWED | policy.DEFAULTS.keys()
    )


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_what_gives_power_is_refused(name: str, value: Any) -> None:
    for body in ({"HostConfig": {name: value}}, {"HostConfig": {name: value, "NetworkMode": "web"}}):
        with pytest.raises(InvalidRequest):
            policy.container(body)


@pytest.mark.parametrize(("name", "value"), ALLOWED)
def test_what_is_the_containers_own_is_allowed(name: str, value: Any) -> None:
    assert policy.container({"HostConfig": {name: value}})["HostConfig"] == {name: value}


@pytest.mark.parametrize("name", HOST_CONFIG)
def test_an_engine_is_told_nothing_of_what_was_not_asked_for(name: str) -> None:
    """An empty list unmasks all paths; only fields that are allowed are told, with whatever they say."""
    for value in NOTHING if name not in policy.ALLOWED else ():
        assert policy.host_config({name: value}) == {}


@pytest.mark.parametrize(("name", "value"), [*REFUSED, *ALLOWED])
def test_no_other_spelling_is_read(name: str, value: Any) -> None:
    for spelled in (name.lower(), name.upper(), f"{name} ", name.replace("s", "\u017f")):
        if spelled != name:
            with pytest.raises(InvalidRequest):
                policy.host_config({spelled: value})


CONFIG: Mapping[str, Any] = {
    "Hostname": "a", "Domainname": "b", "User": "1", "AttachStdin": True, "AttachStdout": True, "AttachStderr": True,
    "ExposedPorts": {"80/tcp": {}}, "Tty": True, "OpenStdin": True, "StdinOnce": True, "Env": ["A=1"], "Cmd": ["true"],
    "Healthcheck": {"Test": ["CMD", "true"]}, "ArgsEscaped": True, "Image": "busybox", "Volumes": {"/d": {}},
    "WorkingDir": "/", "Entrypoint": ["sh"], "NetworkDisabled": True, "Labels": {"a": "b"}, "StopSignal": "SIGINT",
    "StopTimeout": 1, "Shell": ["sh"], "OnBuild": ["RUN true"], "HostConfig": {"Init": True},
    "NetworkingConfig": {"EndpointsConfig": {"web": {"Aliases": ["a"], "IPAMConfig": {"IPv4Address": "10.0.0.2"}}}},
}  # fmt: skip
Check = Callable[[Mapping[str, Any]], Mapping[str, Any]]
TABLES: tuple[tuple[Check, Mapping[str, Any], Mapping[str, Any]], ...] = (
    (policy.container, CONFIG, {"MacAddress": "02:00:00:00:00:01", "Runtime": "x", "hostconfig": {"Privileged": True}}),
    (
        policy.limits,
        {**dict.fromkeys(policy.LIMITS - {"RestartPolicy"}, 1), "RestartPolicy": {"Name": "no"}},
        {"CpusetCpus": "0", "Devices": ["/dev/sda"], "BlkioWeight": 1, "CpuRealtimeRuntime": 1, "OomKillDisable": True},
    ),
    (
        policy.exec_config,
        {**dict.fromkeys(policy.EXEC - {"Cmd"}, "1"), "Cmd": ["id"]},
        {"Privileged": True, "privileged": True, "Container": "other", "SecurityOpt": ["x"]},
    ),
    (
        policy.endpoint,
        {"Aliases": ["a"], "IPAMConfig": {"IPv4Address": "10.0.0.2", "IPv6Address": "fd00::2"}},
        {"DriverOpts": {"a": "b"}, "MacAddress": "02:00:00:00:00:01", "Links": ["a:b"], "NetworkID": "x",
         "IPAMConfig": {"LinkLocalIPs": ["169.254.1.1"]}, "GwPriority": 1},
    ),
)  # fmt: skip


@pytest.mark.parametrize(("check", "allowed", "refused"), TABLES)
def test_what_else_is_asked_of_engines(check: Check, allowed: Mapping[str, Any], refused: Mapping[str, Any]) -> None:
    for name, value in allowed.items():
        assert check({name: value})[name] == value
    assert {name: check(allowed)[name] for name in allowed} == allowed
    for name, value in refused.items():
        with pytest.raises(InvalidRequest, match="trusted tenants"):
            check({**allowed, name: value})


def test_every_other_field_that_the_policy_knows_has_a_row() -> None:
    known = (policy.CONFIG, policy.LIMITS, policy.EXEC, policy.ENDPOINT)
    assert [set(allowed) for _, allowed, _ in TABLES] == [set(one) for one in known]


@pytest.mark.parametrize(
    "body",
    [
        {"HostConfig": [1]}, {"HostConfig": "x"}, {"NetworkingConfig": [1]},
        {"NetworkingConfig": {"EndpointsConfig": "x"}},
        {"NetworkingConfig": {"EndpointsConfig": {"web": [1]}}}, {"NetworkingConfig": {"Other": 1}},
        {"NetworkingConfig": {"EndpointsConfig": {"web": {"IPAMConfig": "x"}}}},
        {"HostConfig": {"Mounts": [{"Type": "volume", "VolumeOptions": "x"}]}},
    ],
)  # fmt: skip
def test_what_is_no_object_is_refused(body: Mapping[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        policy.container(body)
