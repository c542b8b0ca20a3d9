#!/usr/bin/env bash
# A SLURM cluster of one node on loopback, for tests: as root on Debian, without systemd, cgroups and accounting.
#   slurm_one_node.sh start DIR    installs SLURM where it is missing (77: it cannot); then SLURM_CONF=DIR/slurm.conf
#   slurm_one_node.sh stop DIR     ends what start began, by the ids in its files
# Two CPUs whatever the machine has. Partition main is preempted by partition high, with a signal and time to react.
set -euo pipefail
action=${1:?start or stop}
dir=$(mkdir -p "${2:?folder}" && cd "$2" && pwd)
export SLURM_CONF="$dir/slurm.conf"

end_by_file() { # PIDFILE: end the process, wait for it
  [ -f "$1" ] || return 0
  local pid
  pid=$(cat "$1")
  kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.2; done
  kill -9 "$pid" 2>/dev/null || true
}

if [ "$action" = stop ]; then
  scancel --quiet --state=PENDING --user=root 2>/dev/null || true
  scancel --quiet --signal=KILL --full --user=root 2>/dev/null || true
  scancel --quiet --user=root 2>/dev/null || true
  for _ in $(seq 50); do [ -n "$(squeue --noheader 2>/dev/null)" ] || break; sleep 0.2; done
  end_by_file "$dir/slurmd.pid"
  end_by_file "$dir/slurmctld.pid"
  [ -f "$dir/started_munge" ] && end_by_file /run/munge/munged.pid
  exit 0
fi

for program in slurmctld slurmd munged; do
  command -v "$program" >/dev/null && continue
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -q && apt-get install -y -q --no-install-recommends slurm-wlm munge; } >&2 || exit 77
done
install -d -o munge -g munge -m 0755 /run/munge
if ! munge -n </dev/null 2>/dev/null | unmunge >/dev/null 2>&1; then
  runuser -u munge -- "$(command -v munged)"
  touch "$dir/started_munge"
fi

host=$(hostname -s)
mkdir -p "$dir"/{state,spool,log}
cat >"$dir/slurm.conf" <<CONF
ClusterName=onenode
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${SLURM_ONE_NODE_PORT:-16817}
SlurmdPort=$((${SLURM_ONE_NODE_PORT:-16817} + 1))
SlurmUser=root
AuthType=auth/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
MpiDefault=none
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=3
MinJobAge=300
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=8
PartitionName=high Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
# Daemons keep nothing of the caller's open: a test that reads our output would wait for them.
slurmctld </dev/null >"$dir/log/slurmctld.out" 2>&1
slurmd </dev/null >"$dir/log/slurmd.out" 2>&1
for _ in $(seq 150); do
  [ "$(sinfo --noheader --partition=main --format=%T 2>/dev/null)" = idle ] && exit 0
  sleep 0.2
done
echo "the node did not come up; see $dir/log" >&2
exit 1
