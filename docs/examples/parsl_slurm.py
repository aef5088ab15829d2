"""Parsl on SLURM: jobs of four nodes are asked for as they are needed, workers on all cores.

Start it on a login node, in a terminal that stays (tmux): `lesff predict molecules.smi -o
out.parquet --executor parsl:parsl_slurm.py --on-error skip`. Set partition, account, cores and the
line that makes lesff available; nodes and login node need the same file system and lesff.
"""

from parsl.addresses import address_by_hostname
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SrunLauncher
from parsl.providers import SlurmProvider

CORES = 64

config = Config(
    executors=[
        HighThroughputExecutor(
            label="slurm",
            address=address_by_hostname(),
            max_workers_per_node=CORES,
            cpu_affinity="block",
            provider=SlurmProvider(
                partition="standard",
                account="MYACCOUNT",
                nodes_per_block=4,
                cores_per_node=CORES,
                init_blocks=1,
                min_blocks=0,
                max_blocks=4,
                walltime="04:00:00",
                exclusive=True,
                launcher=SrunLauncher(),
                worker_init="source $HOME/lesff/bin/activate; export OMP_NUM_THREADS=1",
            ),
        )
    ],
    retries=2,
)
