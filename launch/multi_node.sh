#!/usr/bin/env bash
# One run on several machines. Start this on every machine; the first machine has rank 0:
#
#   bash launch/multi_node.sh MACHINES MACHINE_RANK FIRST_MACHINE CONFIG [section.option=value ...]
#
#   on node-a:  bash launch/multi_node.sh 2 0 node-a configs/mnist.yaml
#   on node-b:  bash launch/multi_node.sh 2 1 node-a configs/mnist.yaml
#
# PROCESSES_PER_MACHINE (default: the number of GPUs, or 1 if there are none) and PORT (default 29500) may be set.
# The ports are neither encrypted nor authenticated: use a network that you trust. To save and stop, press Ctrl-C on
# the first machine or send SIGTERM to this script's process group; to resume, start it on all machines again.
set -euo pipefail
if [ $# -lt 4 ]; then
  sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
machines=$1 machine_rank=$2 first_machine=$3
shift 3
cd "$(dirname "$0")/.."

# torch knows which GPUs it can use: not those that are hidden from this process, nor parts of one twice.
gpus=$(python -c 'from pipeline.ranks.devices import gpu_count; print(gpu_count())')
per_machine=${PROCESSES_PER_MACHINE:-$((gpus > 0 ? gpus : 1))}
if [ "$gpus" -eq 0 ]; then
  export ACCELERATE_USE_CPU=1
fi
# Seconds for a save before the launcher kills its ranks; torch 2.13 and newer read this variable.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}

exec accelerate launch --config_file launch/accelerate/many_nodes.yaml \
  --num_machines "$machines" --num_processes "$((machines * per_machine))" \
  --machine_rank "$machine_rank" --main_process_ip "$first_machine" --main_process_port "${PORT:-29500}" \
  -m pipeline.train "$@"
