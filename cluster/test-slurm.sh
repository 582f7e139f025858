#!/usr/bin/env bash
# A real SLURM on one host, for tests: several virtual nodes, GPUs included, up in about a second. Needs root, no systemd.
#
#   cluster/test-slurm.sh install            # SLURM and munge with apt-get, if they are missing
#   cluster/test-slurm.sh start  STATE_DIR   # returns when every node takes jobs; brings back drained nodes if it is up
#   . STATE_DIR/env.sh                       # sets SLURM_CONF: sbatch, squeue and the others now mean this cluster
#   cluster/test-slurm.sh status STATE_DIR
#   cluster/test-slurm.sh stop   STATE_DIR   # cancels its jobs, ends its daemons and whatever its jobs left running
#
# Configuration, key, sockets, ports and logs are the cluster's own, in STATE_DIR: nothing under /etc or /run is touched,
# and several clusters run side by side. Daemons listen on loopback only.
#
# Partitions: cpu (default), gpu, short (at most 5 minutes), whole (jobs have whole nodes), restricted (admits no job). Of
# accounts there is one, beam.
# CPUs and memory are bookkeeping: SLURM refuses and queues by them, nothing holds a job to them.
set -euo pipefail

# What may be chosen from outside
CPU_NODES=${SLURM_TEST_CPU_NODES:-2}       # nodes cpu1, cpu2, ... of the partition cpu
GPU_NODES=${SLURM_TEST_GPU_NODES:-1}       # nodes gpu1, gpu2, ... of the partition gpu
GPUS=${SLURM_TEST_GPUS:-1}                 # GPUs of each GPU node, all of them /dev/null
CPUS=${SLURM_TEST_CPUS:-4}                 # CPUs of each node, whatever the host has
MEM=${SLURM_TEST_MEM_MB:-8000}             # memory of each node in MB, whatever the host has
PORT=${SLURM_TEST_PORT:-}                  # slurmctld's port, nodes take the next ones; not given: the first free range
FIRST_PORT=16817                           # where the search for a free range begins

usage() { echo "usage: $0 install | start STATE_DIR | stop STATE_DIR | status STATE_DIR" >&2; exit 2; }
fail() { echo "$0: $*" >&2; exit 1; }

as_root() { [ "$(id -u)" = 0 ] || fail "must run as root (SLURM's daemons start jobs as other users): use sudo, or a container"; }

whole_number() { # whole_number NAME VALUE MINIMUM
  [[ $2 =~ ^[0-9]{1,6}$ ]] && [ "$2" -ge "$3" ] || fail "$1=$2: must be a whole number, at least $3"
}

missing() { # the first program that is not installed, or nothing
  local name
  for name in slurmctld slurmd sbatch munged; do
    if ! command -v "$name" > /dev/null; then echo "$name"; return; fi
  done
}

install_packages() {
  if [ -z "$(missing)" ]; then return; fi
  as_root
  command -v apt-get > /dev/null || fail "$(missing) is missing and there is no apt-get: install SLURM and munge by other means"
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurm-wlm munge
  [ -z "$(missing)" ] || fail "$(missing) is still missing after the installation of slurm-wlm and munge"
}

# --- the daemons ------------------------------------------------------------------------------------------------------

alive() { # alive NAME: is the process in NAME.pid one of this cluster?
  local pid
  pid=$(cat "$DIR/run/$1.pid" 2> /dev/null) || return 1
  [ -n "$pid" ] && grep -sqaF -- "$DIR/" "/proc/$pid/cmdline"
}

all_alive() {
  local node
  alive munged && alive slurmctld || return 1
  for node in "${NODES[@]}"; do alive "slurmd-$node" || return 1; done
}

end() { # end NAME: TERM, and KILL after 5 s
  local pid
  if alive "$1"; then
    pid=$(cat "$DIR/run/$1.pid")
    kill "$pid" 2> /dev/null || true
    for _ in $(seq 50); do alive "$1" || break; sleep 0.1; done
    if alive "$1"; then kill -9 "$pid" 2> /dev/null || true; fi
  fi
  rm -f "$DIR/run/$1.pid"
}

unready() { # the nodes that cannot take jobs now, one a line
  local states node
  states=$(timeout 5 sinfo -h -N -o '%T %N' 2> /dev/null) || states=
  for node in "${NODES[@]}"; do
    grep -qxE "(idle|allocated|mixed|completing) $node" <<< "$states" || echo "$node"
  done
}

wait_until_ready() { # at most 30 s
  for _ in $(seq 300); do [ -z "$(unready)" ] && return 0; sleep 0.1; done
  return 1
}

job_processes() { # pids of what runs in this cluster's jobs, and of the slurmstepds that look after them
  local environment pid
  for environment in $(grep -slzxF "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ || true); do
    pid=${environment//[^0-9]/}
    if grep -sqz '^SLURM_JOB_ID=' "$environment" || grep -sqa '^slurmstepd: ' "/proc/$pid/cmdline"; then echo "$pid"; fi
  done
}

stop() {
  local file
  if alive slurmctld; then
    timeout 10 squeue -h -o %A 2> /dev/null | sort -u | xargs -r timeout 10 scancel 2> /dev/null || true
    for _ in $(seq 100); do [ -z "$(timeout 5 squeue -h 2> /dev/null)" ] && break; sleep 0.1; done
  fi
  for file in "$DIR"/run/slurmd-*.pid; do [ -e "$file" ] && end "$(basename "$file" .pid)"; done
  end slurmctld
  end munged
  # Daemons that died before left their jobs running. Twice: a process may have started another one meanwhile.
  for _ in 1 2; do job_processes | xargs -r kill -9 2> /dev/null || true; done
}

# --- ports ------------------------------------------------------------------------------------------------------------

in_use() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

busy_port() { # busy_port FIRST: the first port in use of the range, or nothing
  local port
  for ((port = $1; port <= $1 + ${#NODES[@]}; port++)); do
    if in_use "$port"; then echo "$port"; return; fi
  done
}

choose_port() {
  local busy
  if [ -n "$PORT" ]; then
    busy=$(busy_port "$PORT")
    [ -z "$busy" ] || fail "SLURM_TEST_PORT=$PORT: port $busy is in use; give another one, or none to have a free range chosen"
    return
  fi
  PORT=$FIRST_PORT
  while busy=$(busy_port "$PORT"); [ -n "$busy" ]; do
    PORT=$((busy + 1))
    [ "$PORT" -lt 30000 ] || fail "no free range of $((1 + ${#NODES[@]})) ports from $FIRST_PORT to 30000"
  done
}

# --- configuration ----------------------------------------------------------------------------------------------------

write_slurm_conf() {
  local host node port=$PORT gres
  host=$(uname -n)
  host=${host%%.*}
  cat << CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$PORT
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/munge.socket
CredType=cred/munge
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd-%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$DIR/log/jobcomp.txt
JobSubmitPlugins=lua
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=2,sched_interval=2
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=30
KillWait=5
MinJobAge=600
GresTypes=gpu
CONF
  for node in "${NODES[@]}"; do
    port=$((port + 1))
    gres=
    if [[ $node == gpu* ]]; then gres=" Gres=gpu:$GPUS"; fi
    echo "NodeName=$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$port CPUs=$CPUS RealMemory=$MEM State=UNKNOWN$gres"
  done
  echo "PartitionName=cpu Nodes=cpu[1-$CPU_NODES] LLN=YES Default=YES MaxTime=INFINITE DefaultTime=01:00:00 State=UP"
  echo "PartitionName=short Nodes=cpu[1-$CPU_NODES] LLN=YES MaxTime=00:05:00 State=UP"
  echo "PartitionName=whole Nodes=cpu[1-$CPU_NODES] OverSubscribe=EXCLUSIVE MaxTime=INFINITE DefaultTime=01:00:00 State=UP"
  # Without slurmdbd no job's account is known to SLURM, so the list keeps every job pending here.
  echo "PartitionName=restricted Nodes=cpu[1-$CPU_NODES] AllowAccounts=beam State=UP"
  if [ "$GPU_NODES" -gt 0 ]; then
    echo "PartitionName=gpu Nodes=gpu[1-$GPU_NODES] MaxTime=INFINITE DefaultTime=01:00:00 State=UP"
  fi
}

write_gres_conf() {
  # A GPU that is only a count is dropped by SLURM 22.05 ("count reported lower than configured"): it wants a device file.
  # Without the cgroup plugin that file is looked at, never opened.
  local node i
  for node in "${NODES[@]}"; do
    if [[ $node != gpu* ]]; then continue; fi
    for ((i = 0; i < GPUS; i++)); do ln -sfn /dev/null "$DIR/dev/$node-$i"; done
    echo "NodeName=$node Name=gpu File=$DIR/dev/$node-[0-$((GPUS - 1))]"
  done
}

write_job_submit() {
  # Stands in for slurmdbd, the database that knows a site's accounts: sbatch fails with the same words.
  cat << 'LUA'
function slurm_job_submit(job, partitions, uid)
   if job.account ~= nil and job.account ~= "beam" then
      return slurm.ESLURM_INVALID_ACCOUNT
   end
   return slurm.SUCCESS
end

function slurm_job_modify(job, record, partitions, uid)
   return slurm.SUCCESS
end
LUA
}

configure() {
  local node
  rm -rf "$DIR/state" "$DIR/spool"
  install -d -m 755 "$DIR" "$DIR"/{run,log,state,spool,dev}
  install -d -m 755 -o munge -g munge "$DIR/munge"
  setpriv --reuid=munge --regid=munge --clear-groups test -w "$DIR/munge" \
    || fail "$DIR: the user munge cannot enter it; take a folder whose parents are open to all, such as one in /tmp"
  if [ ! -s "$DIR/munge/munge.key" ]; then
    (umask 077; head -c 1024 /dev/urandom > "$DIR/munge/munge.key")
    chown munge:munge "$DIR/munge/munge.key"
  fi
  for node in "${NODES[@]}"; do mkdir "$DIR/spool/$node"; done
  write_slurm_conf > "$DIR/slurm.conf"
  write_gres_conf > "$DIR/gres.conf"
  write_job_submit > "$DIR/job_submit.lua"
  # slurmd loads a cgroup plugin even where nothing uses it, and its autodetection fails where /sys/fs/cgroup is missing
  # or is v2 without systemd. v1 does nothing until it is asked to.
  printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' > "$DIR/cgroup.conf"
  echo "export SLURM_CONF='$SLURM_CONF'" > "$DIR/env.sh"
}

# --- start ------------------------------------------------------------------------------------------------------------

start_daemons() { # none of them inherits the lock (descriptor 9)
  local node
  setpriv --reuid=munge --regid=munge --clear-groups munged --socket="$DIR/munge/munge.socket" \
    --key-file="$DIR/munge/munge.key" --pid-file="$DIR/munge/munged.pid" --log-file="$DIR/munge/munged.log" \
    --seed-file="$DIR/munge/munged.seed" --num-threads=2 9<&- || return 1
  ln -sf ../munge/munged.pid "$DIR/run/munged.pid"
  slurmctld -f "$SLURM_CONF" -c 9<&- || return 1
  for node in "${NODES[@]}"; do slurmd -f "$SLURM_CONF" -N "$node" -c 9<&- || return 1; done
}

bring_back() { # drained or downed nodes and closed partitions of a running cluster
  local node partition
  for node in $(unready); do scontrol update NodeName="$node" State=RESUME 2> /dev/null || true; done
  for partition in $(sinfo -h -o '%R %a' | awk '$2 != "up" {print $1}'); do
    scontrol update PartitionName="$partition" State=UP
  done
}

start() {
  local file
  if all_alive; then
    bring_back
    if wait_until_ready; then return; fi
  fi
  stop # what is left of a half-dead cluster in this folder
  choose_port
  configure
  if ! start_daemons || ! wait_until_ready; then
    timeout 5 sinfo -N -l >&2 || true
    for file in "$DIR"/log/*.log "$DIR"/munge/*.log; do
      if [ -e "$file" ]; then echo "== $file" >&2; tail -n 5 "$file" >&2; fi
    done
    stop
    fail "SLURM did not come up; the ends of its logs are above, the logs in $DIR/log"
  fi
}

check_before_start() {
  as_root
  [ -z "$(missing)" ] || fail "$(missing) is not installed; '$0 install' installs SLURM and munge with apt-get"
  whole_number SLURM_TEST_CPU_NODES "$CPU_NODES" 1
  whole_number SLURM_TEST_GPU_NODES "$GPU_NODES" 0
  whole_number SLURM_TEST_GPUS "$GPUS" 1
  whole_number SLURM_TEST_CPUS "$CPUS" 1
  whole_number SLURM_TEST_MEM_MB "$MEM" 1
  [ -z "$PORT" ] || whole_number SLURM_TEST_PORT "$PORT" 1024
  [[ $DIR =~ ^[A-Za-z0-9_./-]+$ ]] || fail "STATE_DIR $DIR: only letters, digits and _ . / - can stand in a slurm.conf"
  [ ${#DIR} -le 60 ] || fail "STATE_DIR $DIR: at most 60 characters, as the paths of unix sockets end at 108"
}

# --- command line -----------------------------------------------------------------------------------------------------

PATH=$PATH:/usr/sbin:/sbin # where the daemons are, and a user's su or sudo may not look
mode=${1:-}
if [ "$mode" = install ]; then
  [ $# -eq 1 ] || usage
  install_packages
  exit
fi

[ $# -eq 2 ] && [ -n "$2" ] || usage
DIR=$(realpath -m -- "$2")
export SLURM_CONF=$DIR/slurm.conf
NODES=()
for ((i = 1; i <= CPU_NODES; i++)); do NODES+=("cpu$i"); done
for ((i = 1; i <= GPU_NODES; i++)); do NODES+=("gpu$i"); done

case $mode in
  start)
    check_before_start
    # One start at a time on this host, or two clusters may choose the same ports.
    { flock 9; start; } 9< "$(command -v slurmctld)"
    sinfo -N -o '%N %P %T %c %m %G'
    ;;
  stop)
    as_root
    if [ -d "$DIR/run" ]; then stop; fi
    ;;
  status)
    alive slurmctld || fail "no SLURM runs in $DIR"
    sinfo -N -l
    squeue -l
    ;;
  *) usage ;;
esac
