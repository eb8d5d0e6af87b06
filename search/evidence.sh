#!/usr/bin/env bash
# The studies of docs/search.md on the shipped Fashion-MNIST models. Run again, it goes on; results go to search/results.
#     bash search/evidence.sh outputs/evidence
# Names of studies after that do only those: bash search/evidence.sh outputs/evidence found samplers
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:?folder of the studies}
shift
mkdir -p "$work"
cards=model_cards results=search/results
judge="--reference $cards/fashion-mnist-classifier/fashion-mnist-test.npz --feature-extractor $cards/fashion-mnist-classifier"
common="$judge --dtype bfloat16 --storage $work/studies.journal --output $results --floor $results/floor.json"
experiment="python search/experiments.py"
uvit="--remasking-temperature 2 --guidance-scale 1"  # where its searches begin; ENAT's begin at its own heuristic

# What a search finds, with three seeds of noise, labels and sampler.
found() {
    for steps in 4 8 16; do
        for model in autonat enat; do
            [ $model = autonat ] && start=$uvit || start=
            $experiment samplers $cards/$model-fashion-mnist --num-inference-steps $steps $common $start --num-images 1024 \
                --samplers population --num-trials 42 --repetitions 3 --confirm-top 2 --study-name found-$model-T$steps
        done
    done
}

# Samplers at equal images; finite differences with three times as many, the released method with ten times.
samplers() {
    for steps in 4 8; do
        compare="$experiment samplers $cards/autonat-fashion-mnist --num-inference-steps $steps $common $uvit --num-images 512 --confirm-top 1"
        $compare --samplers population finite-difference tpe cmaes gp --num-trials 32 --study-name samplers-T$steps
        $compare --samplers finite-difference --num-trials 96 --study-name samplers-T$steps-thrice
        $compare --samplers released --num-trials 320 --study-name samplers-T$steps-tenfold
    done
}

# Each schedule left at the heuristic, and each searched alone (Table 6e).
schedules() {
    $experiment free $cards/autonat-fashion-mnist --num-inference-steps 4 $common $uvit --num-images 1024 --num-trials 42 \
        --sampler population --confirm-top 2 --study-name free-T4
}

for study in ${*:-found samplers schedules}; do "$study"; done
