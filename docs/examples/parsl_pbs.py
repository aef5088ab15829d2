"""Parsl on PBS Pro: jobs of two nodes are asked for as they are needed, workers on all cores.

Start it on a login node, in a terminal that stays (tmux): `lesff predict molecules.smi -o
out.parquet --executor parsl:parsl_pbs.py --on-error skip`. Set queue, account, cores and the line
that makes lesff available; nodes and login node need the same file system and lesff.
"""

from parsl.addresses import address_by_hostname
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.launchers import MpiExecLauncher
from parsl.providers import PBSProProvider

CORES = 64

config = Config(
    executors=[
        HighThroughputExecutor(
            label="pbs",
            address=address_by_hostname(),
            max_workers_per_node=CORES,
            cpu_affinity="block",
            provider=PBSProProvider(
                queue="workq",
                account="MYACCOUNT",
                nodes_per_block=2,
                cpus_per_node=CORES,
                init_blocks=1,
                min_blocks=0,
                max_blocks=4,
                walltime="04:00:00",
                launcher=MpiExecLauncher(bind_cmd="--cpu-bind", overrides="--ppn 1 --depth 64"),
                worker_init="source $HOME/lesff/bin/activate; export OMP_NUM_THREADS=1",
            ),
        )
    ],
    retries=2,
)
