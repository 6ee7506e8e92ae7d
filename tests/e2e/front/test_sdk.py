"""What the docker SDK does with one engine, it does with the front, by its socket and by TLS: results and errors."""

from __future__ import annotations

import gc
import io
import re
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import docker
import pytest
from docker.errors import APIError, BuildError, ContainerError
from docker.utils import socket as streams

from plugins.network.packets import inside
from tests.e2e.front import sides
from tests.e2e.front.sides import Side
from tests.e2e.placement.fleet import Fleet
from tests.lab.host import Host
from tests.lab.namespaces import NETNS

pytestmark = [pytest.mark.slow, pytest.mark.engines]

Said: TypeAlias = Iterator[object]
PATIENCE = 60
SLEEP = ["sleep", "1d"]


@dataclass(frozen=True)
class Sdk:
    """A client of one side. `p` begins all names that it gives."""

    client: Any
    p: str

    def box(self, name: str = "a", command: object = SLEEP, **options: Any) -> Any:
        """A container that runs."""
        wanted = {"network": "none", "stop_signal": "KILL", "detach": True, "name": f"{self.p}-{name}", **options}
        return self.client.containers.run("busybox", command, **wanted)


def refused(call: Callable[..., object], *words: object, **options: object) -> tuple[object, ...]:
    """What the SDK makes of an error."""
    try:
        found = call(*words, **options)
    except APIError as error:
        return type(error).__name__, error.status_code, error.explanation
    except ContainerError as error:
        return type(error).__name__, error.exit_status, error.stderr
    except BuildError as error:
        return type(error).__name__, error.msg
    raise AssertionError(f"it was done: {found!r}")


def status(call: Callable[..., object], *words: object, **options: object) -> tuple[object, ...]:
    """The same without the message."""
    return refused(call, *words, **options)[:2]


def run(sdk: Sdk) -> Said:
    runs = sdk.client.containers.run
    yield runs("busybox", "echo hi", network="none", remove=True)
    yield runs(
        "busybox", ["sh", "-c", "echo o; sleep 0.2; echo e >&2"], network="none", remove=True, stdout=True, stderr=True
    )
    yield refused(runs, "busybox", ["sh", "-c", "echo e >&2; exit 3"], network="none", remove=True)
    yield list(runs("busybox", ["sh", "-c", "echo 1; echo 2"], network="none", remove=True, stream=True))
    yield status(runs, "busybox", "/nothing", network="none", name=f"{sdk.p}-x")
    yield refused(sdk.client.containers.create, "nosuch:1", network="none")
    yield status(runs, "nosuch.invalid/x:1", network="none")
    yield refused(sdk.client.containers.create, "busybox", name="$%", network="none")
    sdk.box()
    yield refused(sdk.client.containers.create, "busybox", name=f"{sdk.p}-a", network="none")


def a_network_that_is_not_there(sdk: Sdk) -> Said:
    yield status(sdk.client.containers.run, "busybox", network=f"{sdk.p}-none", name=f"{sdk.p}-a")


def life(sdk: Sdk) -> Said:
    box = sdk.client.containers.create("busybox", SLEEP, name=f"{sdk.p}-a", network="none", stop_signal="KILL")
    yield box.status, box.name
    for what in ("start", "pause", "unpause", "restart", "kill"):
        getattr(box, what)()
        if what == "kill":
            box.wait(timeout=PATIENCE)
        box.reload()
        yield what, box.status
    yield refused(box.kill), refused(box.pause), status(box.exec_run, "true")
    box.start()
    yield refused(box.remove), refused(box.unpause)
    yield box.update(mem_limit="64m", memswap_limit="64m", cpu_shares=300)
    yield refused(box.update, mem_limit="1m")
    box.reload()
    yield box.attrs["HostConfig"]["Memory"], box.attrs["HostConfig"]["CpuShares"], sorted(box.attrs)
    box.rename(f"{sdk.p}-b")
    yield sdk.client.containers.get(f"{sdk.p}-b").id == box.id
    yield refused(sdk.client.containers.get, f"{sdk.p}-a")
    box.stop(timeout=0)
    yield box.wait(timeout=PATIENCE)
    box.remove(v=True)
    yield [refused(call) for call in (box.reload, box.start, box.stop, box.logs, box.top, box.wait)]


def logs(sdk: Sdk) -> Said:
    box = sdk.box(command=["sh", "-c", "echo 1; sleep 0.2; echo 2 >&2; sleep 0.2; echo 3; exit 4"])
    yield b"".join(box.logs(stream=True, follow=True))
    yield box.wait(timeout=PATIENCE)
    yield box.logs(), box.logs(stdout=False), box.logs(tail=1), len(box.logs(timestamps=True).splitlines())


def execs(sdk: Sdk) -> Said:
    box = sdk.box()
    yield box.exec_run(later("echo o; echo e >&2; exit 5"), demux=True)
    yield b"".join(box.exec_run(later("echo 1; echo 2"), stream=True).output)
    yield box.exec_run(later("echo $A; id -u; pwd"), environment={"A": "b"}, user="1000", workdir="/tmp")
    yield box.exec_run("/nothing").exit_code
    api = sdk.client.api
    number = api.exec_create(box.id, ["head", "-n", "2"], stdin=True)["Id"]
    yield typed(api.exec_start(number, socket=True), b"one\ntwo\n")
    told = api.exec_inspect(number)
    yield told["ExitCode"], told["Running"], sorted(told)
    yield refused(api.exec_inspect, "0" * 64)


def later(script: str) -> list[str]:
    """The SDK loses what comes together with the head of an answer (docker-py reads below its own buffer)."""
    return ["sh", "-c", f"sleep 0.3; {script}"]


def attached(sdk: Sdk) -> Said:
    box = sdk.client.containers.create(
        "busybox", ["head", "-n", "1"], name=f"{sdk.p}-a", network="none", stdin_open=True
    )
    sock = box.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    box.start()
    yield typed(sock, b"line\n")
    yield box.wait(timeout=PATIENCE)


def typed(sock: Any, data: bytes) -> bytes:
    """What comes back of what is sent there, until the end."""
    with closing(sock), closing(sock._response):
        getattr(sock, "_sock", sock).sendall(data)
        return b"".join(text for _, text in streams.frames_iter(sock, tty=False))


def files(sdk: Sdk) -> Said:
    box = sdk.box()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("file")
        entry.size = 7
        tar.addfile(entry, io.BytesIO(b"content"))
    yield box.put_archive("/tmp", packed.getvalue()), box.exec_run(later("cat /tmp/file")).output
    bits, about = box.get_archive("/tmp/file")
    with tarfile.open(fileobj=io.BytesIO(b"".join(bits))) as tar:
        yield tar.getnames(), about["name"], about["size"]
    yield status(box.get_archive, "/none"), refused(box.put_archive, "/no/where", packed.getvalue())
    with tarfile.open(fileobj=io.BytesIO(b"".join(box.export()))) as tar:
        yield "tmp/file" in tar.getnames()
    yield {one["Path"] for one in box.diff()}


def figures(sdk: Sdk) -> Said:
    box = sdk.box()
    top = box.top(ps_args="-o pid,comm")
    yield top["Titles"], [process[1] for process in top["Processes"]]
    told = box.stats(stream=False)
    yield told["name"], told["pids_stats"]["current"], sorted(told)
    yield sorted(next(iter(box.stats(stream=True, decode=True)))) == sorted(told)


def lists(sdk: Sdk) -> Said:
    lister = sdk.client.containers.list
    sdk.box("a", labels={"of": sdk.p})
    sdk.box("b", labels={"of": sdk.p}).stop(timeout=0)
    names = {"name": sdk.p}
    yield [one.name for one in lister(filters=names)], sorted(one.name for one in lister(all=True, filters=names))
    yield [one.name for one in lister(filters={"label": f"of={sdk.p}"})]
    yield [one.name for one in lister(all=True, filters={"status": "exited", **names})]
    yield sorted(lister(filters=names)[0].labels.keys() - {"qnet.host", "qnet.claim", "qnet.tenant", "qnet.name"})
    yield refused(lister, filters={"nosuch": "1"})
    gone = sdk.client.containers.prune(filters={"label": f"of={sdk.p}"})
    yield len(gone["ContainersDeleted"]), sorted(gone)
    yield [one.name for one in lister(all=True, filters=names)]


def images(sdk: Sdk) -> Said:
    having = sdk.client.images
    one = having.get("busybox")
    name = f"{sdk.p}-t"
    yield one.tag(name, "1"), [found.tags.count(f"{name}:1") for found in having.list(name)]
    yield [len(having.get(f"{name}:1").history()), sorted(one.attrs)]
    saved = b"".join(having.get(f"{name}:1").save(named=f"{name}:1"))
    having.remove(f"{name}:1")
    yield refused(having.get, f"{name}:1"), refused(having.remove, f"{name}:1"), refused(one.tag, "A B")
    yield {tag for found in having.load(saved) for tag in found.tags if name in tag}
    yield sdk.client.containers.run(f"{name}:1", "echo loaded", network="none", remove=True)
    having.remove(f"{name}:1")
    box = sdk.box()
    yield box.exec_run("touch /new").exit_code
    yield [tag for tag in box.commit(f"{sdk.p}-c", "1", message="words", author="me").tags if name[:-1] in tag]
    yield sdk.client.containers.run(f"{sdk.p}-c:1", "ls /new", network="none", remove=True)
    having.remove(f"{sdk.p}-c:1")
    yield status(having.pull, "nosuch.invalid/x", "1"), status(having.get_registry_data, "nosuch.invalid/x")
    yield sorted(having.prune(filters={"label": "no=such"})), refused(having.prune, filters={"nosuch": "1"})
    yield status(sdk.client.login, "a", "b", registry="nosuch.invalid")


def builds(sdk: Sdk) -> Said:
    def build(step: str) -> Any:
        file = io.BytesIO(f"FROM busybox\nARG A\nRUN {step}\nCMD cat /made\n".encode())
        args = {"buildargs": {"A": "sdk"}, "network_mode": "none", "rm": True, "forcerm": True, "nocache": True}
        return sdk.client.images.build(fileobj=file, tag=f"{sdk.p}-b:1", **args)

    image, told = build("echo $A > /made")
    yield [tag for tag in image.tags if sdk.p in tag], [one["stream"].strip() for one in told if "stream" in one]
    yield sdk.client.containers.run(f"{sdk.p}-b:1", network="none", remove=True)
    sdk.client.images.remove(f"{sdk.p}-b:1")
    yield refused(build, "exit 7"), status(sdk.client.images.build, fileobj=io.BytesIO(b"NOSUCH\n"))


def networks(sdk: Sdk) -> Said:
    having = sdk.client.networks
    made = having.create(f"{sdk.p}-n", driver="bridge", labels={"of": sdk.p}, check_duplicate=True)
    yield made.name, [one.name for one in having.list(names=[f"{sdk.p}-n"])], having.get(made.id).name
    yield refused(having.create, f"{sdk.p}-n", driver="bridge", check_duplicate=True)
    box = sdk.box(network=f"{sdk.p}-n")
    made.reload()
    yield [one.name for one in made.containers], status(made.remove)
    made.disconnect(box)
    made.connect(box, aliases=["alias"])
    box.reload()
    yield sorted(box.attrs["NetworkSettings"]["Networks"]), refused(made.connect, f"{sdk.p}-none")
    box.remove(force=True)
    made.remove()
    yield (
        refused(made.reload),
        refused(having.get, f"{sdk.p}-none"),
    )
    having.create(f"{sdk.p}-n", driver="bridge", labels={"of": sdk.p})
    yield having.prune(filters={"label": f"of={sdk.p}"})


def a_network_of_qnet(sdk: Sdk) -> Said:
    web = sdk.client.networks.get("web")
    box = sdk.box(network="web")
    yield web.name, web.attrs["Driver"], sdk.client.networks.get(web.id).name
    yield len(box.attrs["NetworkSettings"]["Networks"]), box.exec_run("ip link show eth0").exit_code
    web.disconnect(box)
    yield box.exec_run("ip link show eth0").exit_code
    web.connect(box)
    yield box.exec_run("ip link show eth0").exit_code
    web.reload()
    yield [one.name for one in web.containers if one.name.startswith(sdk.p)]


def volumes(sdk: Sdk) -> Said:
    having = sdk.client.volumes
    made = having.create(f"{sdk.p}-v", labels={"of": sdk.p})
    yield made.name, made.attrs["Driver"], made.attrs["Scope"], having.get(made.name).name
    yield [one.name for one in having.list(filters={"name": f"{sdk.p}-v"})]
    mounts = {f"{sdk.p}-v": {"bind": "/v", "mode": "rw"}}
    yield sdk.box("w", "sh -c 'echo kept > /v/f'", volumes=mounts).wait(timeout=PATIENCE)
    box = sdk.box(volumes=mounts)
    yield box.exec_run(later("cat /v/f")), [one["Destination"] for one in box.attrs["Mounts"]], refused(made.remove)
    box.remove(force=True)
    sdk.client.containers.get(f"{sdk.p}-w").remove()
    made.remove()
    yield refused(made.reload), refused(made.remove)
    yield status(having.create, "/bad"), sorted(having.prune(filters={"label": "no=such"}))


def events(sdk: Sdk) -> Said:
    since = int(time.time())
    name = f"{sdk.p}-a"
    with closing(sdk.client.events(since=since, filters={"container": name}, decode=True)) as told:
        sdk.box().remove(force=True)
        found = []
        for one in told:
            found.append((one["Type"], one["Action"], one["Actor"]["Attributes"]["name"]))
            if one["Action"] == "destroy":
                break
    yield found
    until = int(time.time()) + 1
    again = sdk.client.events(since=since, until=until, filters={"container": name}, decode=True)
    yield [one["Action"] for one in again]


def the_whole(sdk: Sdk) -> Said:
    client = sdk.client
    yield client.ping(), sorted(client.version()), client.version()["ApiVersion"], sorted(client.info())
    sdk.box()
    used = client.df()
    yield sorted(used), [one["Names"] for one in used["Containers"] if f"/{sdk.p}-a" in one["Names"]]
    yield client.api.api_version, client.api.base_url.partition(":")[0] != ""


CASES: tuple[Callable[[Sdk], Said], ...] = (
    *(run, life, logs, execs, attached, files, figures, lists, images, builds, networks, a_network_of_qnet, volumes),
    *(events, the_whole, a_network_that_is_not_there),
)


@pytest.fixture(scope="module")
def fleet(kept_fleet: Fleet) -> Fleet:
    """One for all tests."""
    return kept_fleet


@pytest.fixture(scope="module")
def certificates(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An operator's."""
    return sides.certificates_for(fleet.lab, tmp_path_factory.mktemp("tls"), "operator", "ops")


def plain(told: object, side: Side) -> str:
    """Without what may differ."""
    return re.sub(r"qnet\.\w+", "", sides.same(repr(told), side))


def told(side: Side, at: Host, case: Callable[[Sdk], Said], tls: Any = False) -> list[str]:
    """What a case says on a side, for a client on a host."""
    with inside(str(NETNS / at.node.netns)), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the SDK leaves its streams' sockets to the collector
        client = docker.DockerClient(side.address, timeout=PATIENCE, tls=tls)
        try:
            return [plain(one, side) for one in case(Sdk(client, side.prefix))]
        finally:
            for box in client.containers.list(all=True, filters={"name": f"{side.prefix}-"}):
                box.remove(force=True, v=True)
            client.close()
            gc.collect()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_same_as_straight(
    fleet: Fleet, config: Path, certificates: Path, case: Callable[[Sdk], Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each case gives the same straight on an engine, through the front by its socket, and by TLS."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # requests prefers them to what it is told
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    host, last, number = fleet.hosts[0], fleet.hosts[-1], CASES.index(case)
    expected = told(sides.straight(host, config, prefix=f"s{number}"), host, case)
    assert told(sides.front(host, config, prefix=f"f{number}"), host, case) == expected
    pair = tuple(str(certificates / file) for file in ("cert.pem", "key.pem"))
    tls = docker.tls.TLSConfig(client_cert=pair, ca_cert=str(certificates / "ca.pem"), verify=True)
    assert told(sides.remote(host, last, certificates, config, prefix=f"r{number}"), last, case, tls) == expected
