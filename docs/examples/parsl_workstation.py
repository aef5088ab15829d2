"""Parsl on one machine: lesff predict INPUT -o OUT --executor parsl:parsl_workstation.py."""

import os

from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

WORKERS = int(os.environ.get("PARSL_WORKERS", os.cpu_count() or 1))

config = Config(
    executors=[
        HighThroughputExecutor(
            label="workstation",
            address="127.0.0.1",
            max_workers_per_node=WORKERS,
            # one core for each worker
            cpu_affinity="block",
            provider=LocalProvider(
                init_blocks=1, max_blocks=1, worker_init="export OMP_NUM_THREADS=1"
            ),
        )
    ],
    retries=1,
    run_dir=os.environ.get("PARSL_RUN_DIR", "parsl_runs"),
)
