"""Every call of the engine's API, 1.41 and 1.48, and what the front does with it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.lab.model import ENGINES

# method and path as the API's documentation has them; what the front does; with what it is asked here, if not with the
# path as it is; which status both answer, and which in 1.48 if that is another one. {c} a container that runs, {x} one
# to be removed, {n} a bridge network with {c} on it, {v} a volume, {i} an image's second name, {e} an exec of {c}, {a}
# the architecture.
API = """
GET /containers/json | aggregated | ?all=1 | 200
POST /containers/create | placed | ?name=made-{p} {"Image":"busybox","HostConfig":{"NetworkMode":"none"}} | 201
GET /containers/{id}/json | owner | {c} | 200
GET /containers/{id}/top | owner | {c} | 200
GET /containers/{id}/logs | owner | {c}?stdout=1 | 200
GET /containers/{id}/changes | owner | {c} | 200
GET /containers/{id}/export | owner | {c} | 200
GET /containers/{id}/stats | owner | {c}?stream=0 | 200
POST /containers/{id}/resize | owner | {c}?h=10&w=10 | 200
POST /containers/{id}/start | owner | {c} | 304
POST /containers/{id}/stop | owner | {x}?t=0 | 304
POST /containers/{id}/restart | owner | {c}?t=0 | 204
POST /containers/{id}/kill | owner | {x} | 409
POST /containers/{id}/update | owner | {c} {"CpuShares":200} | 200
POST /containers/{id}/rename | owner | {x}?name=renamed-{p} | 204
POST /containers/{id}/pause | owner | {c} | 204
POST /containers/{id}/unpause | owner | {c} | 204
POST /containers/{id}/attach | owner | {x}?logs=1&stdout=1 | 200
GET /containers/{id}/attach/ws | owner | {c} | 400
POST /containers/{id}/wait | owner | {x} | 200
DELETE /containers/{id} | owner | {x} | 204
HEAD /containers/{id}/archive | owner | {c}?path=/etc | 200
GET /containers/{id}/archive | owner | {c}?path=/bin/true | 200
PUT /containers/{id}/archive | owner | {c}?path=/nowhere | 404
POST /containers/prune | fanned out | ?filters={"label":["no=such"]} | 200
POST /containers/{id}/exec | owner | {c} {"Cmd":["true"]} | 201
POST /exec/{id}/start | owner | {e} {"Detach":true} | 200
POST /exec/{id}/resize | owner | {e}?h=10&w=10 | 500
GET /exec/{id}/json | owner | {e} | 200
POST /commit | owner | ?container={c}&repo=commit-{p} | 201
GET /images/json | aggregated | | 200
POST /build | one host | | 500
POST /build/prune | fanned out | ?filters={"id":["none"]} | 200
POST /build/cancel | one host | ?id=none | 200
POST /images/create | fanned out | ?fromImage=nosuch.invalid/x&tag=1 | 500
GET /images/{name}/json | owner | {i} | 200
GET /images/{name}/history | owner | {i} | 200
POST /images/{name}/push | owner | nosuch.invalid/{i}?tag=1 | 400 200
POST /images/{name}/tag | fanned out | busybox?repo=tag-{p}&tag=2 | 201
DELETE /images/{name} | fanned out | tag-{p}:2 | 200
GET /images/search | one host | ?term=x | 500
POST /images/prune | fanned out | ?filters={"label":["no=such"]} | 200
POST /auth | one host | {"username":"a","password":"b","serveraddress":"nosuch.invalid"} | 500
GET /info | aggregated | | 200
GET /version | one host | | 200
GET /_ping | served | | 200
HEAD /_ping | served | | 200
GET /events | aggregated | ?since=1&until=2 | 200
GET /system/df | aggregated | | 200
GET /images/{name}/get | owner | {i} | 200
GET /images/get | owner | ?names={i} | 200
POST /images/load | fanned out | | 200
GET /networks | aggregated | | 200
GET /networks/{id} | aggregated | {n} | 200
DELETE /networks/{id} | fanned out | {n} | 403
POST /networks/create | fanned out | {"Name":"net2-{p}","Driver":"bridge","CheckDuplicate":true} | 201
POST /networks/{id}/connect | owner | {n} {"Container":"{c}"} | 403
POST /networks/{id}/disconnect | owner | {n} {"Container":"{x}"} | 200
POST /networks/prune | fanned out | ?filters={"label":["no=such"]} | 200
GET /volumes | aggregated | | 200
POST /volumes/create | one host | {"Name":"vol2-{p}"} | 201
GET /volumes/{name} | owner | {v} | 200
DELETE /volumes/{name} | owner | vol2-{p} | 204
PUT /volumes/{name} | refused | {v} | 501
POST /volumes/prune | fanned out | ?filters={"label":["no=such"]} | 200
GET /distribution/{name}/json | one host | nosuch.invalid/x | 500
POST /session | one host | | 400
POST /grpc | one host | | 500
GET /swarm | refused | | 501
POST /swarm/init | refused | | 501
POST /swarm/join | refused | | 501
POST /swarm/leave | refused | | 501
POST /swarm/update | refused | | 501
GET /swarm/unlockkey | refused | | 501
POST /swarm/unlock | refused | | 501
GET /nodes | refused | | 501
GET /nodes/{id} | refused | x | 501
DELETE /nodes/{id} | refused | x | 501
POST /nodes/{id}/update | refused | x | 501
GET /services | refused | | 501
POST /services/create | refused | | 501
GET /services/{id} | refused | x | 501
DELETE /services/{id} | refused | x | 501
POST /services/{id}/update | refused | x | 501
GET /services/{id}/logs | refused | x | 501
GET /tasks | refused | | 501
GET /tasks/{id} | refused | x | 501
GET /tasks/{id}/logs | refused | x | 501
GET /secrets | refused | | 501
POST /secrets/create | refused | | 501
GET /secrets/{id} | refused | x | 501
DELETE /secrets/{id} | refused | x | 501
POST /secrets/{id}/update | refused | x | 501
GET /configs | refused | | 501
POST /configs/create | refused | | 501
GET /configs/{id} | refused | x | 501
DELETE /configs/{id} | refused | x | 501
POST /configs/{id}/update | refused | x | 501
GET /plugins | refused | | 501
GET /plugins/privileges | refused | | 501
POST /plugins/pull | refused | | 501
GET /plugins/{name}/json | refused | x | 404
DELETE /plugins/{name} | refused | x | 501
POST /plugins/{name}/enable | refused | x | 501
POST /plugins/{name}/disable | refused | x | 501
POST /plugins/{name}/upgrade | refused | x | 501
POST /plugins/create | refused | | 501
POST /plugins/{name}/push | refused | x | 501
POST /plugins/{name}/set | refused | x | 501
GET /containers/{id}/checkpoints | refused | {c} | 501
POST /containers/{id}/checkpoints | refused | {c} | 501
DELETE /containers/{id}/checkpoints/{checkpoint} | refused | {c} | 501
"""
# No call is new in 1.48 but the refused one of cluster volumes; this is what is new to ask of the others.
LATER_API = """
GET /containers/{id}/stats | owner | {c}?stream=0&one-shot=1 | 200
GET /images/json | aggregated | ?manifests=1&shared-size=1 | 200
GET /images/{name}/json | owner | {i}?manifests=1 | 200
GET /images/{name}/history | owner | {i}?platform={"os":"linux","architecture":"{a}"} | 200
GET /images/{name}/get | owner | {i}?platform={"os":"linux","architecture":"{a}"} | 200
POST /images/{name}/push | owner | nosuch.invalid/{i}?platform={"os":"linux","architecture":"{a}"} | 404
POST /images/load | fanned out | ?quiet=1&platform={"os":"linux","architecture":"{a}"} | 200
GET /system/df | aggregated | ?type=container&type=volume | 200
POST /volumes/prune | fanned out | ?filters={"all":["1"],"label":["no=such"]} | 200
POST /networks/{id}/connect | owner | {n} {"Container":"{x}","EndpointConfig":{"GwPriority":1}} | 200
"""


@dataclass(frozen=True)
class Row:
    """A call: as documented, what the front does, what is asked, with which body, and the status; that in 1.48."""

    method: str
    path: str
    way: str
    asked: str
    body: str
    status: int
    later: int

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    def answered(self, version: str) -> int:
        """Which status is right."""
        return self.later if version == LATEST else self.status


def rows(text: str) -> list[Row]:
    """A table."""
    found = []
    for line in text.strip().splitlines():
        call, way, asked, status = (part.strip() for part in f"{line} ".split("|"))
        method, path = call.split()
        asked, _, body = f" {asked}".partition(' {"')
        statuses = [int(word) for word in status.split()]
        found.append(Row(method, path, way, asked.strip(), f'{{"{body}' if body else "", statuses[0], statuses[-1]))
    return found


LATEST = "1.48"
VERSIONS = dict(zip(ENGINES, ("1.41", "1.45", LATEST), strict=True))
ROWS, LATER = rows(API), rows(LATER_API)
