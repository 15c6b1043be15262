"""The configuration of a SLURM that lives in one folder and on loopback alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Ports(NamedTuple):
    """Ports of loopback, all different."""

    controller: int
    nodes: tuple[int, ...]


def write_config(
    folder: Path,
    host: str,
    names: Sequence[str],
    ports: Ports,
    *,
    cpus: int,
    gpus: int,
    largest_array: int,
    cluster: str,
) -> Path:
    """Write slurm.conf and gres.conf; returns the former.

    Args:
        folder: of everything. host: this machine's name. names: of the nodes, which share this machine.
        cpus, gpus: each node's, by its word alone. largest_array: MaxArraySize. cluster: its name.
    """
    settings = folder / "etc"
    settings.mkdir()
    lines = [f"NodeName={name} Name=gpu Type=fake File={folder}/gpu[0-{gpus - 1}]" for name in names]
    (settings / "gres.conf").write_text("\n".join(lines) + "\n")
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=8000"
        f" Gres=gpu:fake:{gpus} State=UNKNOWN"
        for name, port in zip(names, ports.nodes, strict=True)
    ]
    text = _TEXT.format(
        folder=folder,
        cluster=cluster,
        host=host,
        port=ports.controller,
        largest_array=largest_array,
        nodes="\n".join(nodes),
        names=",".join(names),
    )
    path = settings / "slurm.conf"
    path.write_text(text)
    return path


# cred_expire is also how long a requeued job has to wait before it starts again: two minutes if nothing is said, 5 s at
# least. One that is let go earlier, by scontrol, may be refused by its node: "Job credential revoked".
# NoInAddrAny and NoCtldInAddrAny: every listener takes the address that its node's name has, which is loopback.
# SchedulerParameters: look for work every second, which a large cluster would not stand.
# PreemptParameters with preempt_send_user_signal would break every client of SLURM 22.05.
_TEXT = """\
ClusterName={cluster}
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={port}
SlurmctldPidFile={folder}/pid/slurmctld.pid
SlurmdPidFile={folder}/pid/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=100000,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=20
MinJobAge=600
MaxArraySize={largest_array}
SlurmdTimeout=10
DefMemPerCPU=500
SlurmdParameters=config_overrides
GresTypes=gpu
{nodes}
PartitionName=low  Nodes={names} Default=YES MaxTime=INFINITE State=UP PriorityTier=1  PreemptMode=REQUEUE GraceTime=0
PartitionName=high Nodes={names} Default=NO  MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
