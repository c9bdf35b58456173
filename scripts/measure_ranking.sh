#!/bin/sh
# Repeats docs/ranking.md: sh scripts/measure_ranking.sh TRUTH_FOLDER DATA_FOLDER [OUT_FOLDER]
# TRUTH_FOLDER holds {nasbench201,nasbench101,darts,macro}_cifar10_dev.csv, each with a column architecture and one of
# accuracies; DATA_FOLDER holds CIFAR-10 as `hypernas data` lays it out.
set -eu
truth=$1
data=$2
out=${3:-ranking-measured}
mkdir -p "$out"
run() { echo "\$ $*"; "$@"; }

python scripts/split_truth.py "$truth/nasbench201_cifar10_dev.csv" --space nasbench201 --part choose > "$out/choose.csv"
python scripts/split_truth.py "$truth/nasbench201_cifar10_dev.csv" --space nasbench201 --part report > "$out/report.csv"
run hypernas rank --space nasbench201 --all --data cifar10 --data-dir "$data" --out "$out/scores.csv"
run hypernas bench --scores "$out/scores.csv" --truth "$out/report.csv" --space nasbench201 --worth-epochs \
    --plot "$out/nasbench201.png"
run hypernas bench --scores "$out/scores.csv" --truth "$out/report.csv" --space nasbench201 --column ghn_score
run python scripts/calibrate_curve.py --scores "$out/scores.csv" --truth "$out/report.csv" --space nasbench201

# the best fusion without anything emitted: chosen on the other half
cut -d, -f1 "$truth/nasbench201_cifar10_dev.csv" > "$out/cells.csv"
free=jacov,jacov_stem,synflow,naswot,trainability,expressivity,log_params,log_flops
run hypernas rank --space nasbench201 --architectures "$out/cells.csv" --data cifar10 --data-dir "$data" \
    --signals $free --out "$out/free.csv"
run python scripts/best_fusion.py --scores "$out/free.csv" --choose "$out/choose.csv" --report "$out/report.csv" \
    --against "$out/scores.csv"

for space in nasbench101 darts macro; do
    table=$truth/${space}_cifar10_dev.csv
    run hypernas rank --space $space --architectures "$table" --data cifar10 --data-dir "$data" --out "$out/$space.csv"
    run hypernas bench --scores "$out/$space.csv" --truth "$table"
done
