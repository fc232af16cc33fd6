#!/bin/sh
# A Slurm cluster of two nodes with accounting, for tests: everything listens on loopback and keeps its files in $1.
#   cluster.sh start FOLDER    installs what is missing (Debian or Ubuntu, as root) and returns when both nodes are idle
#   cluster.sh node FOLDER N   starts slurmd of node N (again)
#   cluster.sh stop FOLDER
# Exit status 3: it cannot be installed here.
set -eu
action=$1 folder=$2
export SLURM_CONF="$folder/slurm.conf"

installed() {
    for program in slurmctld slurmd slurmdbd munged mariadbd srun; do
        command -v "$program" >/dev/null || return 1
    done
}

install() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "Slurm is not installed, and only root can install it, on Debian or Ubuntu" >&2
        exit 3
    fi
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -q && apt-get install -q -y slurm-wlm slurmdbd munge mariadb-server; } >"$folder/apt.log" 2>&1 || {
        echo "Slurm cannot be installed: $(tail -n 1 "$folder/apt.log")" >&2
        exit 3
    }
}

# Wait up to a minute until a command succeeds.
until_true() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -gt 240 ]; then
            echo "cluster.sh: waited in vain for: $*" >&2
            exit 1
        fi
        sleep 0.25
    done
}

idle() {
    [ "$(sinfo -h -o '%T %D')" = "idle 2" ]
}

start_munge() {
    # One that runs already serves.
    if munge -n >/dev/null 2>&1; then return; fi
    mkdir -p /run/munge && chown munge: /run/munge
    su -s /bin/sh munge -c /usr/sbin/munged
    until_true munge -n
    cp /run/munge/munged.pid "$folder/munged.pid"
}

start_database() {
    # Whatever folder for temporary files this session has, the database may not be able to use it.
    mkdir -p "$folder/database/temporary" && chown -R mysql: "$folder/database"
    export TMPDIR="$folder/database/temporary"
    mariadb-install-db --no-defaults --user=mysql --datadir="$folder/database/data" --skip-test-db >"$folder/mariadb.log"
    mariadbd --no-defaults --user=mysql --datadir="$folder/database/data" --socket="$folder/database/socket" \
        --pid-file="$folder/database/pid" --bind-address=127.0.0.1 --port=17406 --innodb-buffer-pool-size=64M \
        >>"$folder/mariadb.log" 2>&1 &
    until_true mariadb --no-defaults --socket="$folder/database/socket" -e "select 1"
    cp "$folder/database/pid" "$folder/mariadbd.pid"
    for host in localhost 127.0.0.1; do
        mariadb --no-defaults --socket="$folder/database/socket" -e \
            "create user slurm@'$host' identified by 'slurm'; grant all on slurm.* to slurm@'$host'"
    done
}

configure() {
    cat >"$folder/slurmdbd.conf" <<END
AuthType=auth/munge
DbdHost=localhost
DbdPort=17419
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=17406
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
LogFile=$folder/slurmdbd.log
PidFile=$folder/slurmdbd.pid
END
    chmod 600 "$folder/slurmdbd.conf"
    cat >"$SLURM_CONF" <<END
ClusterName=tests
SlurmctldHost=localhost
SlurmctldPort=17400
SlurmUser=root
AuthType=auth/munge
# A requeued job waits until its old credential has expired.
AuthInfo=cred_expire=30
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=17419
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
ReturnToService=2
JobRequeue=1
KillWait=2
MinJobAge=60
SlurmdTimeout=10
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17401 CPUs=1 RealMemory=6000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17402 CPUs=1 RealMemory=6000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
END
}

case $action in
start)
    mkdir -p "$folder/state" && chmod 711 "$folder"
    installed || install
    start_munge
    start_database
    configure
    unset TMPDIR
    slurmdbd
    until_true sacctmgr -n show cluster
    sacctmgr -i add cluster tests >/dev/null 2>&1 || true
    slurmctld
    slurmd -N n1
    slurmd -N n2
    until_true idle
    ;;
node)
    slurmd -N "$3"
    ;;
stop)
    scontrol shutdown >/dev/null 2>&1 || true
    sleep 1
    for pid in "$folder"/*.pid; do
        [ -f "$pid" ] && kill "$(cat "$pid")" 2>/dev/null || true
    done
    ;;
*)
    echo "usage: cluster.sh start|stop FOLDER, cluster.sh node FOLDER NAME" >&2
    exit 2
    ;;
esac
