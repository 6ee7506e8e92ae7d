"""What the lab has for what the pages name, what is there before a command is typed, and what is not typed here."""

from __future__ import annotations

import re

PAGES = (
    *("README.md", "networks.md", "volumes.md", "placement.md", "front.md", "failures.md", "monitoring.md"),
    "commands.md",
)
GUIDES = ("install.md", "upgrade.md", "security.md", "backup.md")  # tests/package types what they say of a host

# What is not typed, why, and what does run it.
PACKAGE = "needs systemd: tests/package/test_install.py"
JOURNAL = "needs systemd's journal: tests/package/test_guides.py"
VLAN = "needs 802.1q: tests/vm/test_vlan.py"
BUILD = "runs tests, this one too, or a lab of its own: tests/unit/test_pages.py"
SOURCE = "needs pip's index: packaging/debian/environment.sh"
ELSEWHERE = {
    "apt install etcd-server ./qnet_*.deb": PACKAGE,
    "qnet init --address 10.0.0.11 --parent eth1": PACKAGE,
    "qnet init --parent eth1 --address 10.0.0.11": PACKAGE,
    "qnet invite host2 --address 10.0.0.12 --parent eth1": PACKAGE,
    "qnet invite NAME --address ADDRESS": PACKAGE,
    "systemctl enable --now qnet.target docker": PACKAGE,
    "systemctl status 'qnet*' sharedfs docker": JOURNAL,
    "journalctl -p warning -u qnet-network -e": JOURNAL,
    "journalctl -t qnet-scheduler -t qnet-gateway -t qnet-network -t qnet-agent --grep 4f1c09d2a7b35e68": JOURNAL,
    **{
        f"docker network create -d qnet --ipam-driver qnet -o tenant={name} --ipam-opt tenant={name} {rest}": VLAN
        for name, rest in (
            ("shop", "-o parent=eth1 --subnet 10.100.1.0/24 shop"),
            ("lab", "-o parent=eth1 --subnet 10.100.1.0/24 lab"),
            ("shop", "--subnet 10.100.1.0/24 web"),
        )
    },
    **{
        f"make {target}": BUILD
        for target in ["demo", "demo-down", "test", "test-matrix", "test-quick", "test-vm", "bench"]
    },
    "python3 -m venv /opt/qnet": SOURCE,
    "/opt/qnet/bin/pip install --no-deps --require-hashes -r packaging/runtime.lock": SOURCE,
    "/opt/qnet/bin/pip install --no-deps .": SOURCE,
}

UPPER = "10.77.0.0/24 --ip-range 10.77.0.128/25"
# The lab's words for those of the pages; every one of the first that are there, then the next.
WORDS = {
    "docker run -v data:/data IMAGE": "docker run --rm -v data:/data alpine df -h /data",
    "qnet image pull --on 'rack==r1' IMAGE": "qnet image pull --on 'rack==r1' 127.0.0.1:5000/busybox",
    "docker logs -f a": "timeout --foreground 1 docker logs -f a || test $? = 124",
    "docker exec -it a sh": "docker exec -it a sh -c 'test -t 0'",
    "IMAGE": "alpine",
    "gl1,gl2,gl3": "10.99.0.11,10.99.0.12,10.99.0.13",
    "https://10.0.0.11": "http://10.99.0.11",
    "REVISION": "$(etcdctl endpoint status -w json | grep -o '\"revision\":[0-9]*' | cut -d: -f2)",
    "forget NAME": "forget host2",
    "create … -o mode=bridge": "create -d qnet --ipam-driver qnet --subnet 10.77.0.0/24 -o mode=bridge",
    "qnet.ingress=1gbit …": "qnet.ingress=1gbit -d --name db alpine",
    "run --cpus 2 -m 4g": "run --cpus 2 -m 4000g",
    "inspect 5f1ca3a3a3a3": "inspect $(docker network inspect -f '{{.Id}}' web)",
    "resize data 1G": "resize data 30M",
    # else "any free address" may be one of those that the page asks for later
    "10.77.0.0/24 --gateway 10.77.0.1 -o parent=eth1 web": f"{UPPER} --gateway 10.77.0.1 -o parent=eth1 web",
    "-d qnet --subnet 10.77.0.0/24 web": f"-d qnet --subnet {UPPER} web",
}
ENDLESS = ("qnet top",)
TELLING = ("qnet doctor", "curl --unix-socket")  # may be asked again: what they tell becomes true, or slow, by itself

# What is done before a command is typed, as a page's reader would have, by the page's other words.
NET = "docker network create -d qnet --ipam-driver qnet --subnet 10.77.0.0/24 --gateway 10.77.0.1"
EMPTY = "docker ps -aq | xargs -r docker rm -f; docker network prune -f"
GONE = "qnet ps -aq | xargs -r qnet rm -f; qnet network rm web"
NAMED = "until qnet address ls --container db | grep db; do sleep 0.5; done"  # the engine tells that after the start
HELD = "docker volume create -d sharedfs -o size=10G data"
UNTRASHED = "etcdctl --endpoints 10.99.0.11:2379 del --prefix /qnet/v1/volume-trash/"  # what other tests have left
CHAIN = "iptables -N DOCKER-USER"
BEFORE = {
    "networks.md": {
        f"{NET} -o host_access=true web": EMPTY,
        f"{NET.replace('--gateway', '--ip-range 10.77.0.128/25 --gateway')} web": EMPTY,
        "docker network create -d qnet --ipam-driver qnet --ipv6": EMPTY,
        "qnet tenant create shop --vlan 100 --supernet 10.100.0.0/16": "qnet tenant rm shop --yes",
        "qnet tenant create lab --vni auto": f"{EMPTY}; qnet tenant rm lab --yes",
        f"{NET} -o mode=bridge -o nat=true web": f"{EMPTY}; sysctl -w net.ipv4.ip_forward=1",
        "iptables -I DOCKER-USER -i qu-+": CHAIN,
        "docker network create … -o mode=bridge": EMPTY,
        "docker network connect": "docker network disconnect web db",
        "qnet endpoint limit db": NAMED,
        f"{NET} -o parent=eth1 -o arp_probe=true web": EMPTY,
    },
    "volumes.md": {
        "qnet volume pool add": f"{UNTRASHED}; qnet volume pool rm main --yes",
        "iptables -I DOCKER-USER -i qv-+": CHAIN,
    },
    "placement.md": {
        "qnet run --network web --ip auto -v data:/data": HELD,
        "qnet run --cpus 2 -m 4g": "qnet host drain host3",
        "qnet run --dry-run": "qnet host ready host3",
    },
    "front.md": {"docker run --rm -it": HELD},
    "failures.md": {
        "curl -si": "qnet network create --subnet 10.77.0.0/24 web; qnet run --network web --name web1 alpine",
    },
    "monitoring.md": {"qnet run": "qnet network create --subnet 10.77.0.0/24 web"},
    "commands.md": {
        "qnet config check": r"""cp /etc/qnet/qnet.toml good.toml
            printf '\n%.0s' 1 2 3 4 5 6 7 8 9 10 >/etc/qnet/qnet.toml
            printf '[etcd]\ntimeout = 9\n[ipam]\nrst = 5\n' >>/etc/qnet/qnet.toml""",
        "qnet config show": r"""printf '[etcd]\nendpoints = ["10.0.0.11:2379"]\n' >/etc/qnet/qnet.toml
            export QNET_ETCD_USER=qnet""",
        "qnet tenant create shop": "cp good.toml /etc/qnet/qnet.toml; unset QNET_ETCD_USER",
        "qnet tenant rm shop": """qnet tenant set shop --vlan none --vni auto
            docker network create -d qnet --ipam-driver qnet -o mode=vxlan -o tenant=shop --ipam-opt tenant=shop \
                --subnet 10.100.1.0/24 web
            docker run -d --network web alpine; docker run -d --network web alpine""",
        "qnet pool ls": f"""{EMPTY}; qnet tenant create blue --untagged; qnet pool create fd00:77::/64
            qnet pool create 10.0.0.0/8 --tenant blue --gateway 10.0.0.1
            qnet network create --subnet {UPPER} --gateway 10.77.0.1 -o parent=eth1 web
            qnet run --network web --constraint host==host1 --name web1 --ip 10.77.0.50 alpine
            qnet run --network web --constraint host==host2 --name db --ip 10.77.0.60 alpine
            qnet run --network web --constraint host==host2 --name web2 alpine
            docker -H unix:///run/qnet/docker.sock stop -t 0 db""",
        "qnet pool create 10.0.0.0/8": "qnet pool rm 10.0.0.0/8 --tenant blue --yes",
        "qnet address inspect": """qnet address reserve 10.77.0.9
            QNET_IPAM_REST=30 qnet address release 10.77.0.9 --yes""",
        "qnet endpoint limit db": f"""{GONE}; {NET.replace("10.77.0.0/24", UPPER)} -o mode=bridge web
            docker run -d --network web --name db alpine; qnet run --network web --name web1 --ip 10.77.0.50 alpine
            {NAMED}""",
        "qnet volume ls": f"""{EMPTY}; {HELD}; docker volume create -d sharedfs -o size=1G old; docker volume rm old
            qnet run -v data:/data --constraint host==host2 --name web alpine
            qnet run -v data:/data --constraint host==host3 --name batch alpine
            until qnet volume ls | grep ' up '; do sleep 1; done
            docker run --rm -v data:/data alpine dd if=/dev/zero of=/data/big bs=1M count=50
            until qnet volume ls | grep ' 5[0-9].*M '; do sleep 1; done""",
        "qnet host ls": """qnet ps -aq | xargs -r qnet rm -f; qnet network create --subnet 10.77.0.0/24 web
            qnet run --network web --constraint host==host2 alpine""",
    },
}
AFTER = """cp good.toml /etc/qnet/qnet.toml; sysctl -w net.ipv4.ip_forward=0
    iptables -F DOCKER-USER; iptables -X DOCKER-USER; nft delete table inet mine
    qnet address ls --kind reservation | sed 1d | tr -s ' ' | cut -d' ' -f2 | xargs -rn1 qnet address release --yes
    qnet pool rm fd00:77::/64 --yes; qnet pool rm 10.0.0.0/8 --tenant blue --yes"""
TENANTS = "qnet tenant ls | sed '1d; /^default /d' | cut -d' ' -f1 | xargs -rn1 qnet tenant rm --yes"

REFUSED = ("qnet: ", "Error response from daemon: ", "/etc/qnet/qnet.toml line ")
_SHAPES = (
    (r"\x1b\[[\d;?]*[A-Za-z]", ""),
    (r"\d{4}-\d\d-\d\d(T[\d:]+(\+00:00|Z)|T\d+Z)?|\d{8}T\d{6}Z", "TIME"),
    (r"\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b", "MAC"),
    (r"\b[0-9a-f]{12,64}\b", "ID"),
    (r"\b(address|lack)(?:es|s)?\b", r"\1"),
    (r"\d[\d.,]*(e\d+)?[kKMGT]?\b|\d+", "N"),
    (r"([\w-]+(?: \(N\))?)(?:, \1)+", r"\1"),
    (r"\s+", " "),
)


def shape(line: str) -> str:
    """A line of an answer without what may differ: numbers, identifiers, times, how many there are of the same."""
    for pattern, instead in _SHAPES:
        line = re.sub(pattern, instead, line)
    return line.strip()


def before(page: str, command: str) -> str:
    """What is done before a command of a page."""
    return next((done for start, done in BEFORE.get(page, {}).items() if command.startswith(start)), "")


def words(command: str) -> str:
    """A command in the lab's words."""
    for theirs, ours in WORDS.items():
        command = command.replace(theirs, ours)
    return f"timeout --foreground -s INT 3 {command} || test $? = 124" if command in ENDLESS else command
