# Scripts that must write the same straight on an engine and through the front: `## NAME`, then commands.
# $P begins every name that a script gives; what is left over is removed afterwards.

## run
docker run --rm --network none busybox echo hi
docker run --rm --network none busybox sh -c 'exit 42'

## run with stdin
printf 'a\nb\n' | docker run -i --rm --network none busybox wc -l

## run with both outputs
docker run --rm --network none busybox sh -c 'echo out; echo err >&2' 2>$P.err
cat $P.err; rm $P.err

## run with a bad command
docker run --rm --network none --name $P-x busybox /nothing

## run with a tty
script -qec 'docker run --rm -it --network none busybox tty' /dev/null | tr -d '\r' | sed 's/\^@//'

## create, start, attach
docker create -i --network none --name $P-a busybox cat
echo x | docker start -ai $P-a

## name taken
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
docker create --network none --name $P-a busybox

## bad name
docker create --name '$%' --network none busybox

## no such image
docker create --network none --pull never nosuch:1

## no such container
docker start nosuch
docker rm nosuch
docker logs nosuch
docker exec nosuch true
docker inspect nosuch
docker stop nosuch
docker cp nosuch:/x -
docker wait nosuch
docker kill nosuch

## logs
docker run -d --network none --name $P-a busybox sh -c 'echo 1; sleep 0.2; echo 2 >&2; sleep 0.2; echo 3' >/dev/null; docker wait $P-a >/dev/null
docker logs $P-a 2>/dev/null; docker logs $P-a 2>&1 >/dev/null
docker logs --tail 1 $P-a 2>/dev/null
docker logs -f $P-a 2>/dev/null
docker logs -t --since 1h $P-a 2>/dev/null | wc -l

## logs that follow
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
docker rm -f $P-a >/dev/null
docker run -d --network none --name $P-a busybox sh -c 'for i in 1 2 3; do echo $i; sleep 0.1; done' >/dev/null; docker logs -f $P-a

## exec
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
docker exec $P-a sh -c 'echo o; echo e >&2; exit 5' 2>/dev/null
echo rc $?
docker exec $P-a sh -c 'echo o; echo e >&2' 2>&1 >/dev/null
echo i | docker exec -i $P-a cat
docker exec -d $P-a touch /made
for i in $(seq 150); do docker exec $P-a test -e /made && break; sleep 0.2; done
docker exec $P-a ls /made
docker exec $P-a /nothing
docker exec -w /nowhere $P-a true
docker exec -e A=b -u 1000 $P-a sh -c 'echo $A; id -u'

## exec with a tty
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
script -qec 'docker exec -it $P-a tty' /dev/null | tr -d '\r' | sed 's/\^@//'

## wait
docker run -d --network none --name $P-a busybox sh -c 'sleep 0.3; exit 9' >/dev/null
docker wait $P-a
docker wait $P-a

## stop and start
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
docker stop -t 0 $P-a
docker start $P-a
docker restart -t 0 $P-a
docker inspect -f '{{.State.Status}} {{.RestartCount}}' $P-a
docker kill -s KILL $P-a
docker start $P-a nosuch

## kill
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
docker kill $P-a
docker kill $P-a
docker kill -s NOSIG $P-a

## pause
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
docker pause $P-a
docker pause $P-a
docker exec $P-a true
docker unpause $P-a
docker unpause $P-a

## cp
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
echo content > $P-f
docker cp $P-f $P-a:/tmp/f
docker exec $P-a cat /tmp/f
docker cp $P-a:/tmp/f - | tar xO
docker cp $P-a:/nothing .
docker cp $P-f $P-a:/no/where
docker cp $P-f nosuch:/x
tar cf - $P-f | docker cp - $P-a:/srv
docker cp - $P-a:/nowhere </dev/null
rm $P-f

## top and stats
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
docker top $P-a -o comm
docker stats --no-stream --format '{{.Name}} {{.PIDs}}' $P-a
docker top nosuch

## update
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
docker update --memory 64m --memory-swap 64m --cpus 0.5 $P-a
docker inspect -f '{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}' $P-a
docker update --cpus 999 $P-a
docker update --memory 1 $P-a

## rename
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
docker rename $P-a $P-b
docker ps --filter name=$P --format '{{.Names}}'
docker rename $P-b $P-b
docker run -d --network none --name $P-c busybox sleep 1d >/dev/null
docker rename $P-b $P-c
docker rename nosuch $P-d

## commit, export, diff
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
docker exec $P-a touch /new
docker diff $P-a
docker export $P-a | tar t | grep -c new
docker commit -m words -a me -c 'CMD echo committed' $P-a $P-i:1
docker run --rm --network none $P-i:1
docker history -q $P-i:1 | wc -l
docker rmi $P-i:1
docker commit nosuch

## ps
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
docker ps --filter name=$P
docker stop -t 0 $P-a >/dev/null
docker ps --filter name=$P
docker ps -a --filter name=$P --format '{{.Names}} {{.Status}}'
for n in "^$P-a$" "^/$P-a$" "/$P-a" "^$P-$" "^/$P$" "$P-a$" "^[a-z0-9]*-a$" "($P"; do docker ps -a --filter "name=$n" --format '{{.Names}}'; done
docker ps -n 1 --filter "name=^$P-a$" --format '{{.Names}}'
docker ps -a --filter name=$P --filter exited=137 -q
docker ps -aq --no-trunc --filter name=$P
docker ps --filter nosuch=1
docker ps --format json --filter nosuch=1

## ps before and since
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
sleep 1.1
docker run -d --network none --name $P-b busybox sleep 1d >/dev/null
sleep 1.1;docker run -d --network none --name $P-c busybox sleep 1d >/dev/null
docker ps --filter name=$P --filter since=$P-a --filter before=$P-c --format '{{.Names}}'
docker ps -n 2 --filter name=$P --format '{{.Names}}'
docker ps -l --format '{{.Names}}'
docker ps --filter since=nosuch

## healthcheck
docker run -d --network none --name $P-a --health-cmd 'test -e /ok' --health-interval 0.2s --health-retries 1 busybox sleep 1d >/dev/null
for i in $(seq 150); do docker inspect -f '{{.State.Health.Status}}' $P-a | grep -q '^unhealthy' && break; sleep 0.2; done
docker inspect -f '{{.State.Health.Status}}' $P-a
docker exec $P-a touch /ok
for i in $(seq 150); do docker inspect -f '{{.State.Health.Status}}' $P-a | grep -q '^healthy' && break; sleep 0.2; done
docker inspect -f '{{.State.Health.Status}}' $P-a
docker ps --filter name=$P --filter health=healthy -q

## rm
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
docker rm $P-a
docker rm -f $P-a
docker rm $P-a
docker rm -f $P-a

## prune
docker run --network none --label of=$P --name $P-a busybox true
docker container prune -f --filter label=of=$P
docker ps -aq --filter name=$P
docker container prune -f --filter no=1

## images
docker tag busybox $P-t:1
docker images $P-t
docker images -q $P-t
docker images --filter reference=$P-t:1
docker images --filter nosuch=1
docker image inspect -f '{{.RepoTags}}' $P-t:1 | tr ' ' '\n' | grep $P
docker rmi $P-t:1
docker rmi $P-t:1
docker image inspect nosuch
docker tag nosuch a:b
docker tag busybox 'A B'

## history
docker history --format '{{.CreatedBy}} {{.Size}}' busybox
docker history nosuch

## save and load
docker tag busybox $P-t:1
docker save $P-t:1 -o $P.tar
docker rmi $P-t:1
docker load -q -i $P.tar | tail -1 | sed 's/^host.: //'
docker run --rm --network none $P-t:1 echo loaded
docker rmi $P-t:1
rm $P.tar
docker save nosuch | wc -c

## import
mkdir -p $P-d; echo x > $P-d/x; tar cf - -C $P-d . | docker import - $P-t:1 >/dev/null; echo $?
docker images $P-t --format '{{.Tag}}' | sort -u
docker image inspect $P-t:1 --format '{{.Os}} {{len .RootFS.Layers}}'
docker rmi -f $P-t:1 >/dev/null; echo $?; rm -r $P-d; docker images $P-t

## pull and push
docker pull nosuch.invalid/x:1
docker tag busybox nosuch.invalid/$P:1
docker push -q nosuch.invalid/$P:1
docker rmi nosuch.invalid/$P:1
docker push nosuch
docker pull 'a b'
docker search --limit 1 x
docker login -u a -p b nosuch.invalid

## image prune
docker image prune -f --filter label=of=$P

## build
mkdir -p $P-d
printf 'FROM busybox\nARG A\nRUN echo $A > /made\nCMD cat /made\n' > $P-d/Dockerfile
DOCKER_BUILDKIT=0 docker build -q --network none --build-arg A=classic -t $P-b:1 $P-d 2>/dev/null
docker run --rm --network none $P-b:1
DOCKER_BUILDKIT=1 docker build -q --network none --build-arg A=kit -t $P-b:2 $P-d
docker run --rm --network none $P-b:2
docker rmi $P-b:1 $P-b:2 | wc -l
printf 'FROM busybox\nRUN false\n' > $P-d/Dockerfile
DOCKER_BUILDKIT=0 docker build -q --network none $P-d 2>&1 | grep -v DEPR | tail -1
printf 'NOSUCH\n' > $P-d/Dockerfile
DOCKER_BUILDKIT=0 docker build -q $P-d 2>&1 | tail -1
rm -r $P-d
docker builder prune -f --filter id=nosuch

## networks
docker network create -d bridge --label of=$P $P-n
docker network ls --filter name=$P
docker network inspect -f '{{.Name}} {{.Driver}} {{len .Containers}}' $P-n
docker network create -d bridge $P-n
docker run -d --network $P-n --name $P-a busybox sleep 1d >/dev/null
docker network rm $P-n
docker network inspect -f '{{len .Containers}}' $P-n
docker network disconnect $P-n $P-a
docker network connect $P-n $P-a
docker network connect $P-n $P-a
docker network connect nosuch $P-a
docker network connect $P-n nosuch
docker rm -f $P-a
docker network rm $P-n
docker network rm $P-n
docker network inspect nosuch
docker network rm host
docker network create -d nosuch $P-m
docker network create $P-m --subnet 1.2.3.4/99

## network prune
docker network create -d bridge --label of=$P $P-n >/dev/null
docker network prune -f --filter label=of=$P
docker network ls -q --filter name=$P
docker network prune -f --filter nosuch=1

## a network of qnet
docker run -d --network web --name $P-a busybox sleep 1d >/dev/null
docker exec $P-a ip -4 addr show eth0 | grep -c inet
docker network inspect -f '{{range .Containers}}{{.Name}} {{end}}' web
docker network disconnect web $P-a
docker exec $P-a ip link show eth0
docker network connect web $P-a
docker exec $P-a ip -4 addr show eth0 | grep -c inet
docker network rm web >/dev/null 2>&1
echo $?
docker run --rm --network web --ip 10.99.99.99 busybox true 2>/dev/null
echo $?
docker run --rm --network nosuch busybox true 2>/dev/null
echo $?

## sharing a network
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
docker run --rm --network container:$P-a busybox ip link show lo | grep -c LOOPBACK
docker run --rm --network container:nosuch busybox true >/dev/null 2>&1; echo $?
docker run --rm --volumes-from nosuch --network none busybox true

## volumes
docker volume create --label of=$P $P-v
docker volume ls --filter name=$P
docker volume inspect -f '{{.Name}} {{.Driver}} {{.Scope}}' $P-v
docker run --rm --network none -v $P-v:/v busybox sh -c 'echo kept > /v/f'
docker run --rm --network none -v $P-v:/v busybox cat /v/f
docker run -d --network none -v $P-v:/v --name $P-a busybox sleep 1d >/dev/null
docker volume rm $P-v
docker rm -f $P-a
docker volume rm $P-v
docker volume rm $P-v
docker volume inspect nosuch
docker volume create -d nosuch $P-w
docker volume create '/bad'
docker volume ls -q --filter nosuch=1

## volume prune
docker volume create --label of=$P $P-v >/dev/null
docker volume prune -f --filter label=of=$P >/dev/null
docker volume prune -f --filter nosuch=1
docker volume rm $P-v >/dev/null 2>&1
docker volume ls -q --filter name=$P

## anonymous volumes
docker run -d --network none -v /v --name $P-a busybox sleep 1d >/dev/null
docker inspect -f '{{len .Mounts}}' $P-a
docker rm -fv $P-a

## events
docker events --since $(date +%s) --filter container=$P-a --format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}}' > $P.events & events=$!
docker run --rm --network none --name $P-a busybox true
for i in $(seq 200); do grep -q destroy $P.events && break; sleep 0.1; done
kill $events; wait $events
cat $P.events
rm $P.events
docker events --until $(($(date +%s) + 1)) --filter container=$P-none
docker events --since 1s --until 0s --filter container=$P-none --filter nosuch=1

## info and version
docker info --format '{{.OSType}} {{.ServerVersion}} {{.Swarm.LocalNodeState}} {{.Driver}}'
docker version --format '{{.Server.Version}} {{.Server.APIVersion}} {{.Server.MinAPIVersion}}'

## df
docker run -d --network none --name $P-a busybox sleep 1d >/dev/null
docker system df --format '{{.Type}}'
docker system df -v | grep -c $P-a

## port taken
docker run -d --network $P-n -p 8089:80 --name $P-a busybox sleep 1d 2>&1 | grep -c 'network $P-n'

## a file of environment and labels
docker run --rm --network none -e A=1 -l x=y --hostname h --user 7 -w /tmp --tmpfs /t --read-only --cap-drop ALL --ulimit nofile=99 busybox sh -c 'echo $A; hostname; id -u; pwd; ulimit -n'

## restart policy
docker run -d --restart on-failure:2 --network none --name $P-a busybox false >/dev/null
for i in $(seq 150); do docker inspect -f '{{.RestartCount}} {{.State.Status}}' $P-a | grep -q '2 exited' && break; sleep 0.2; done
docker inspect -f '{{.RestartCount}} {{.State.Status}}' $P-a

## auto removal
docker run -d --rm --network none --name $P-a busybox true >/dev/null
for i in $(seq 150); do [ -z "$(docker ps -aq --filter name=$P)" ] && break; sleep 0.2; done
docker ps -aq --filter name=$P
docker run --rm --network none --name $P-a busybox echo again

## init and stop signal
docker run -d --init --stop-signal KILL --network none --name $P-a busybox sleep 1d >/dev/null
docker stop $P-a
docker inspect -f '{{.State.ExitCode}}' $P-a

## raw errors
for p in /v1.41/nosuch /v1.41/containers/nosuch/json /v9.99/info /v1.41/images/nosuch/json /v1.41/networks/nosuch /v1.41/volumes/nosuch '/v1.41/containers/json?filters=x' /v1.41/exec/nosuch/json; do curl -s --unix-socket ${DOCKER_HOST#unix://} -o /dev/stdout -w ' %{http_code} %{content_type}\n' http://x$p; done

## headers
curl -sI --unix-socket ${DOCKER_HOST#unix://} http://x/_ping | grep -v ^Date | sort
curl -si --unix-socket ${DOCKER_HOST#unix://} http://x/v1.41/version | head -8 | grep -v -e ^Date -e ^Content-Length | sort

## compose
printf 'services:\n  one: {image: busybox, command: sh -c "echo up; sleep 1d", stop_signal: KILL, networks: [web]}\n  two: {image: busybox, command: sleep 1d, stop_signal: KILL, networks: [web], depends_on: [one], volumes: [own:/own]}\nnetworks: {web: {external: true}}\nvolumes: {own: {}}\n' > $P.yaml
compose() { docker compose -p $P -f $P.yaml "$@"; }
listed() { compose ps "$@" --format '{{.Name}} {{.Service}} {{.State}}' | sort; }
compose config --services | sort
compose up -d 2>/dev/null; echo $?
listed
for i in $(seq 150); do compose logs one | grep -q up && break; sleep 0.2; done
compose logs --no-log-prefix one
compose exec -T two sh -c 'ls -d /own; exit 3'; echo $?
compose exec -T two sh -c 'echo e >&2' 2>&1 >/dev/null
compose run --rm -T one sh -c 'echo run; exit 4' 2>/dev/null; echo $?
echo content > $P-f; compose cp $P-f two:/own/f 2>/dev/null; compose exec -T two cat /own/f
compose restart -t 0 two 2>/dev/null; echo $?
compose pause one 2>/dev/null; listed; compose unpause one 2>/dev/null
compose stop -t 0 two 2>/dev/null; listed -a
compose start two 2>/dev/null; compose exec -T two cat /own/f
compose up -d --scale one=2 2>/dev/null; listed
compose up -d --force-recreate -t 0 two 2>/dev/null; compose exec -T two cat /own/f
compose kill one 2>/dev/null; listed -a
compose rm -fs two 2>/dev/null; listed -a
compose ls -a --filter name=$P -q
compose down -t 0 2>/dev/null; echo $?; listed -a
docker volume ls -q --filter name=${P}_ | wc -l
compose down -v 2>/dev/null; docker volume ls -q --filter name=${P}_
rm $P.yaml $P-f

## compose with a network and an image of its own
mkdir $P-d; printf 'FROM busybox\nRUN echo made > /made\nCMD sleep 1d\n' > $P-d/Dockerfile
printf 'services:\n  one: {build: {context: %s, network: none}, image: "%s-i:1", stop_signal: KILL}\n  two: {image: busybox, command: sleep 1d, stop_signal: KILL, networks: {default: {aliases: [other]}}}\n' $P-d $P > $P.yaml
compose() { docker compose -p $P -f $P.yaml "$@"; }
for kit in 0 1; do DOCKER_BUILDKIT=$kit compose build -q one >/dev/null 2>&1; echo $?; done
compose up -d 2>/dev/null; echo $?
compose exec -T one cat /made
compose exec -T one ping -c 1 -W 5 other | grep -c '1 packets received'
docker network inspect -f '{{.Driver}} {{len .Containers}}' ${P}_default
compose down -t 0 2>/dev/null; echo $?
docker network ls -q --filter name=${P}_
docker rmi $P-i:1 >/dev/null; rm -r $P-d $P.yaml

## compose, what goes wrong
compose() { printf "services:\n  one: {network_mode: none, stop_signal: KILL, $1}\n$2" > $P.yaml; shift 2; docker compose -p $P -f $P.yaml "$@"; }
last() { tail -1 | sed 's/.*Error/Error/'; }
compose 'image: "nosuch.invalid/x:1"' '' up -d >/dev/null 2>&1; echo $?
compose 'image: busybox, command: /nothing' '' up -d >/dev/null 2>&1; echo $?
compose 'image: busybox, command: sleep 1d, healthcheck: {test: "false", interval: 0.2s, retries: 1}' '' up -d --wait >/dev/null 2>&1; echo $?
compose 'image: busybox, command: sleep 1d' '' exec -T two true
compose 'image: busybox, command: sleep 1d' '' down -t 0 >/dev/null 2>&1; echo $?
compose 'image: busybox, command: sleep 1d' '' exec -T one true
compose 'image: busybox, command: sh -c "exit 6"' '' up --exit-code-from one >/dev/null 2>&1; echo $?
compose 'image: busybox, command: sleep 1d' '' down -t 0 >/dev/null 2>&1
compose 'image: busybox, command: sleep 1d, volumes: ["v:/v"]' 'volumes: {v: {external: true, name: nosuch}}\n' up -d 2>&1 | last
compose 'image: busybox, command: sleep 1d, container_name: taken' '' create >/dev/null 2>&1; echo $?
docker create --name $P-t --network none busybox >/dev/null
compose "image: busybox, command: sleep 1d, container_name: $P-t" '' up -d 2>&1 | last
compose 'image: busybox, command: sleep 1d' '' down -t 0 >/dev/null 2>&1
printf 'services: {one: {image: busybox, networks: [out]}}\nnetworks: {out: {external: true, name: nosuch}}\n' > $P.yaml
docker compose -p $P -f $P.yaml up -d 2>&1 | last
rm $P.yaml
