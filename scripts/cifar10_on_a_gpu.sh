#!/bin/sh
# The whole CIFAR-10 story on one GPU, in one command: a GHN meta-trained for an hour, 5,000 candidates ranked by its
# emitted weights, the five best trained at 20 cells and 36 channels for 200 epochs. The aim is 94 % test accuracy or more.
#
#     sh scripts/cifar10_on_a_gpu.sh [DATA_DIR]
#
# It needs CIFAR-10 (hypernas data get cifar10) and writes to mlruns/ in the current folder.
set -eu
data_dir=${1:-}
set -- --space cifar_cells --data cifar10 --device cuda
[ -z "$data_dir" ] || set -- "$@" --data-dir "$data_dir"
ghn=mlruns/cifar_cells-cifar10-gpu.safetensors
[ -f "$ghn" ] || hypernas pretrain "$@" --minutes "${MINUTES:-60}" --meta-batch 8 --out "$ghn"
hypernas search "$@" --ghn "$ghn" --candidates 5000 --top 5 --cells 20 --width 36 --epochs "${EPOCHS:-200}"
