#!/bin/sh
# Every measurement of docs/hypernetworks.md, three seeds each: about nine hours of one CPU core, the ablation seven of them.
# Each goes on where it was. DEVICE=cuda runs the ablation on a GPU.
#
#     sh scripts/measure_family.sh DATA TRUTH OUT
#
# DATA: folder of CIFAR-10 and Fashion-MNIST. TRUTH: CSV of NAS-Bench-201 cells and their accuracies. OUT: folder of results.
set -eu
data=$1 truth=$2 out=$3
mkdir -p "$out/checkpoints"
export OMP_NUM_THREADS=1
here=$(dirname "$0")
run() {
  script=$1
  shift
  python "$here/$script" "$@"
  python "$here/$script" "$@" --table >"$out/$script.md"
}
run family_ablation.py --data-dir "$data" --truth "$truth" --checkpoints "$out/checkpoints" --out "$out/ablation.jsonl" \
  --device "${DEVICE:-cpu}"
run measure_efficiency.py --data-dir "$data" --out "$out/efficiency.jsonl" --seeds 0 1 2 --steps 200
run measure_tasks.py --data-dir "$data" --out "$out/tasks.jsonl" --seeds 0 1 2 --steps 200
for seed in 0 1 2; do
  run measure_uncertainty.py --data cifar10 --data-dir "$data" --truth "$truth" --out "$out/uncertainty.jsonl" --steps 600 \
    --seeds $seed
  run measure_few_shot.py --data fashion_mnist --data-dir "$data" --out "$out/few.jsonl" --steps 900 --seeds $seed
done
python "$here/measure_dynamic.py" "$out"/checkpoints/default-*.safetensors "$out"/checkpoints/decoder-*.safetensors \
  --data-dir "$data" --out "$out/dynamic.jsonl"
python "$here/stability_table.py" >"$out/stability.md"
