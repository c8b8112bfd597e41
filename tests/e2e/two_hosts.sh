# Two hosts of one process each: two network namespaces and the wire between them. Run it by `unshare -rn bash`.
# Usage: two_hosts.sh PYTHON COMMAND...    (COMMAND: what torchrun starts on each)
# Prints at the end how many bytes the first host has sent over the wire.
set -eu
python=$1
shift
unshare -n sleep 600 &
other=$!
trap 'kill $other' EXIT
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
there="nsenter -t $other -n"
ip link add wire0 type veth peer name wire1 netns $other
ip addr add 10.77.0.1/24 dev wire0
ip link set wire0 up
ip link set lo up
$there ip addr add 10.77.0.2/24 dev wire1
$there ip link set wire1 up
$there ip link set lo up
run="$python -m torch.distributed.run --nnodes 2 --nproc-per-node 1 --master-addr 10.77.0.1 --master-port 29517"
GLOO_SOCKET_IFNAME=wire1 $there $run --node-rank 1 "$@" &
second=$!
GLOO_SOCKET_IFNAME=wire0 $run --node-rank 0 "$@"
wait $second
awk '$1 == "wire0:" { print "sent over the wire:", $10 }' /proc/net/dev
