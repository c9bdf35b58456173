#!/bin/sh
# The general GHN on a GPU: meta-train on deepnets, going on from the one in the package, then measure its splits,
# ResNet-50 and fine-tuning. Takes MINUTES of meta-training (default 240) and needs CIFAR-10 (hypernas data get cifar10).
#
#   sh scripts/deepnets_on_a_gpu.sh [MINUTES]
set -eu
cd "$(dirname "$0")/.."
minutes=${1:-240}
python=${PYTHON:-.venv/bin/python}
out=${OUT:-deepnets-gpu.safetensors}

"$python" -m hypernas.cli.main pretrain --space deepnets --data cifar10 --device cuda --minutes "$minutes" \
  --meta-batch 16 --images 64 --from hypernas/checkpoints/deepnets-cifar10.safetensors --out "$out"
"$python" scripts/evaluate_splits.py --data cifar10 --networks 500 --device cuda --ghn "$out"
"$python" scripts/finetuning_curves.py --data cifar10 --width 64 --side 32 --steps 3515 --every 100 --device cuda --ghn "$out" \
  --plot finetuning-gpu.png
