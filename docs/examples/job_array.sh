#!/bin/bash
# SLURM job array: every task does its share of the chunks, the last one writes the output.
# sbatch job_array.sh; a task that was killed goes on when the array is submitted again.
#SBATCH --array=1-64
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --time=02:00:00
source "$HOME/lesff/bin/activate"
export OMP_NUM_THREADS=1
lesff predict molecules.smi -o out.parquet --on-error skip \
  --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
