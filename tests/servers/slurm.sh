#!/usr/bin/env bash
# A Slurm of one node on loopback (Debian: apt-get install slurm-wlm munge), with all its files in one folder.
#   slurm.sh ROOT CTLD_PORT NODE_PORT    serve until TERM; `ready` on stdout when jobs can be submitted
# Clients need SLURM_CONF=ROOT/slurm.conf. As root, or as the user whose jobs it runs.
set -euo pipefail
root=$1
export SLURM_CONF=$root/slurm.conf
mkdir -p "$root/state" "$root/spool"
chmod 700 "$root"
head -c 1024 /dev/urandom >"$root/munge.key"
chmod 400 "$root/munge.key"
cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$2
SlurmdPort=$3
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$root/munge.socket
CredType=cred/munge
SlurmctldPidFile=$root/slurmctld.pid
SlurmdPidFile=$root/slurmd.pid
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
KillWait=2
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END

# slurmd waits long for jobs whose end it can no longer report: they end first, then all go at once.
finish() {
  timeout 5 scancel --partition main || true
  for _ in {1..50}; do [ -n "$(timeout 5 squeue -h)" ] && sleep 0.1; done
  jobs -p | xargs -r kill -9
  wait
}
trap finish EXIT
trap 'exit 0' TERM INT
munged --foreground --force --key-file="$root/munge.key" --socket="$root/munge.socket" --pid-file="$root/munged.pid" \
  --log-file="$root/munged.log" --seed-file="$root/munge.seed" >"$root/munged.out" 2>&1 &
until [ -S "$root/munge.socket" ]; do sleep 0.1; done
slurmctld -D -i >"$root/slurmctld.log" 2>&1 &
slurmd -D -N localhost >"$root/slurmd.log" 2>&1 &
until [ "$(sinfo -h -o %t 2>/dev/null)" = idle ]; do
  [ "$(jobs -pr | wc -l)" = 3 ] || exec tail -n 20 "$root"/*.log
  sleep 0.1
done
echo ready
wait
