#!/usr/bin/env bash
# The studies of docs/search_results.md, docs/orders.md and docs/policies.md on the shipped Fashion-MNIST models. Run again, it goes on;
# results go to search/results. What is there already is not made again: move those of a study away to make them anew.
#     bash search/evidence.sh outputs/evidence
# Fashion-MNIST's IDX files are looked for where Debian puts them; FASHION_MNIST names another folder.
# Names of studies after that do only those: bash search/evidence.sh outputs/evidence found samplers
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:?folder of the studies}
shift
mkdir -p "$work"
cards=model_cards results=search/results data=${FASHION_MNIST:-/usr/share/datasets/fashion-mnist}
first=$cards/fashion-mnist-classifier second=$cards/fashion-mnist-second-classifier
judge=(--reference $first/fashion-mnist-test.npz --feature-extractor $first
    --second-reference $second/fashion-mnist-test.npz --second-feature-extractor $second)
common=("${judge[@]}" --dtype bfloat16 --output $results)
uvit=(--remasking-temperature 2 --guidance-scale 1)  # where its searches begin; ENAT's begin at its own heuristic

# As many commands at a time as there are cores, each with one thread: small models make half as many images again so. What fails
# does not end the others, but the script in the end; a script that is stopped stops all that a command has begun.
cores=$(env -u OMP_NUM_THREADS nproc) begun=() of_study=0 failed=0  # of_study: how many had begun before the study
set -m  # every command is a group of processes
side_by_side() {
    while (($(jobs -rp | wc -l) >= cores)); do wait -n || true; done
    OMP_NUM_THREADS=1 "$@" &
    begun+=($!)
}
all_done() {  # that the study has begun: a later study need not wait for an earlier one's
    for command in "${begun[@]:of_study}"; do wait "$command" || failed=1; done
    begun=("${begun[@]:0:of_study}")
}
trap 'for group in $(jobs -rp); do kill -- -$group; done' EXIT
trap 'exit 143' TERM INT

# An experiment, the name of its results, model and T. Each has a journal of its own: those of confirmations hold features.
experiment() { side_by_side experiment_here "$@"; }
experiment_here() {
    name=$2-$3-fashion-mnist-T$4
    python search/experiments.py "$1" $cards/"$3"-fashion-mnist --num-inference-steps "$4" "${common[@]}" \
        --floor $results/floor.json --storage "$work/$name.journal" --study-name "$name" "${@:5}"
}
baseline() { [ ! -f "$results/baseline-$1-fashion-mnist-T$2.json" ] || echo --baseline "$results/baseline-$1-fashion-mnist-T$2.json"; }

# The hand-made strategies, tuned by a grid whose ends are not the best, the best of three confirmed; and the floor, by the second
# classifier too. Grids that results hold are not made again.
heuristics() {
    [ -f $results/second-floor.json ] ||
        floor --feature-extractor $second --reference $second/fashion-mnist-test.npz --output $results/second-floor.json
    [ -f $results/floor.json ] || {  # which experiments read
        floor --feature-extractor $first --reference $first/fashion-mnist-test.npz --output $results/floor.json
        all_done
    }
    for steps in 4 8 16; do
        # Wider for 16 steps, where the best lies on the edge of what is enough for less.
        [ $steps = 16 ] && lambdas=(45) ks=(1) enat_lambdas=(8) || lambdas=() ks=() enat_lambdas=()
        heuristic autonat $steps --lambdas 2 4.5 7 10 15 20 30 "${lambdas[@]}" --ks "${ks[@]}" 2 3 4 6
        heuristic enat $steps --taus 1 2 4 6 --lambdas 1 2 4 "${enat_lambdas[@]}" --ks 0.75 1.5 2.5 4
    done
    all_done
}
heuristic() {
    [ -f "$results/baseline-$1-fashion-mnist-T$2.json" ] ||
        experiment baseline baseline "$1" "$2" --num-images 1000 --confirm-top 3 "${@:3}"
}

floor() {
    side_by_side python -m diffusers_autonat.cli evaluate $cards/autonat-fashion-mnist --reconstruct "$data:test" --num-images 5000 \
        --metrics fid,class "$@"
}

# What a search finds, with three seeds of noise, labels and sampler: for 4 steps from the heuristic, for more from the best that is then
# known for 4.
found() {
    for steps in 4 8 16; do
        for model in autonat enat; do
            start=(--start $results/found-$model-fashion-mnist-T4-strategy.json)
            [ $steps != 4 ] || start=()
            [ $steps$model != 4autonat ] || start=("${uvit[@]}")
            [ $steps = 16 ] && trials=26 || trials=42
            # shellcheck disable=SC2207
            more=($(baseline "$model" $steps))
            [ $steps$model != 16autonat ] || more=(--dtype float32)  # on a processor without bfloat16; a baseline in it does not fit
            experiment samplers found $model $steps "${start[@]}" --num-images 1024 --samplers population --num-trials $trials \
                --repetitions 3 "${more[@]}"
        done
        [ $steps != 4 ] || all_done
    done
}

# Samplers at equal images, and in as many passes as the population takes; then finite differences with more than three times as many,
# the released method with more than ten times: only whole updates are made, and a value at a bound saves a probe.
samplers() {
    for steps in 8 4; do side_by_side samplers_at $steps; done  # the longer one first
}
samplers_at() {
    compare=("${uvit[@]}" --num-images 512)
    experiment_here samplers samplers autonat "$1" "${compare[@]}" --num-trials 33 --within-passes population \
        --samplers population finite-difference released tpe cmaes gp
    rows='json.load(open(sys.argv[1]))["rows"]'
    passes=$(python -c "import json, sys; print(max(row['passes'] for row in $rows if row['sampler'] == 'population'))" \
        "$results/samplers-autonat-fashion-mnist-T$1.json")
    experiment_here samplers samplers-tenfold autonat "$1" "${compare[@]}" --within-passes "$passes" --samplers released --num-trials 345
    experiment_here samplers samplers-thrice autonat "$1" "${compare[@]}" --within-passes "$passes" --samplers finite-difference \
        --num-trials 129
}

# How certain a gain is, by N.
noise() {
    side_by_side python benchmarks/search_noise.py $cards/autonat-fashion-mnist --num-inference-steps 4 --judge $first \
        --reference $first/fashion-mnist-test.npz --remasking-temperature 2 --guidance-scale 1 --dtype bfloat16 \
        --output $results/noise-autonat-fashion-mnist-T4.json
}

# What trials of finite differences share.
sharing() {
    side_by_side python benchmarks/search_sharing.py $cards/autonat-fashion-mnist --judge $first --reference $first/fashion-mnist-test.npz \
        --remasking-temperature 2 --guidance-scale 1 --dtype bfloat16
}

# Each schedule left at the heuristic, and each searched alone (Table 6e).
schedules() {
    experiment free free autonat 4 "${uvit[@]}" --num-images 1024 --num-trials 42 --sampler population
}

# Orders of revealing tokens, each with its own schedules searched; of those that lead at T = 8 a second seed.
orders() {
    for steps in 4 8 16; do
        experiment orders orders autonat $steps "${uvit[@]}" --num-images 1024 --num-trials 22
        experiment orders orders enat $steps --num-images 1024 --num-trials 22
    done
    again=(--num-images 1024 --num-trials 22 --seed 1000 --orders confidence dilated ReMDM)
    experiment orders orders-again autonat 8 "${uvit[@]}" "${again[@]}"
    experiment orders orders-again enat 8 "${again[@]}"
}

# Policies that look at each image, of two seeds, against the stored strategy: on fresh noise, by both classifiers.
policies() {
    floor --num-images 10000 "${judge[@]}" --metrics fid,fid_error,class --output $results/floor-10000.json
    for steps in 4 8; do
        for seed in 0 1; do side_by_side policy $steps $seed; done
    done
    all_done
    for steps in 4 8; do
        side_by_side measure $steps $cards/autonat-fashion-mnist strategy
        for seed in 0 1; do side_by_side measure $steps "$work/policy-T$steps-seed$seed/pipeline" policy-seed$seed; done
        side_by_side python benchmarks/policy_parts.py $cards/autonat-fashion-mnist --policy "$work/policy-T$steps-seed0/pipeline/policy" \
            --judge $first --reference $first/fashion-mnist-test.npz --second-judge $second \
            --second-reference $second/fashion-mnist-test.npz --dtype bfloat16 --output $results/policy-fashion-mnist-T$steps/parts.json
    done
}
policy() {
    out=$work/policy-T$1-seed$2 result=$results/policy-fashion-mnist-T$1
    [ -f "$out/pipeline/README.md" ] || python training/train_policy.py --pretrained_model_name_or_path $cards/autonat-fashion-mnist \
        --num_inference_steps "$1" --reference $first/fashion-mnist-test.npz --feature_extractor $first \
        --second_reference $second/fashion-mnist-test.npz --second_feature_extractor $second --dtype bfloat16 --action_smooth 0 \
        --policy_hidden_size 64 --policy_conv_channels 32 --policy_mlp_channels 128 64 --images_per_update 1024 --train_batch_size 256 \
        --learning_rate 5e-4 --critic_learning_rate 1e-3 --min_action_std 0.25 --max_train_steps 150 --num_validation_images 2000 \
        --checkpointing_steps 5 --seed "$2" --resume_from_checkpoint latest --output_dir "$out"
    mkdir -p "$result"
    for file in "$out"/{history,validation}.jsonl; do
        [ ! -f "$file" ] || cp "$file" "$result/$(basename "$file" .jsonl)-seed$2.jsonl"
    done
}
measure() {  # T, pipeline, name; so many images that a difference of 5 % is twice its error
    python -m diffusers_autonat.cli evaluate "$2" --num-inference-steps "$1" --num-images 50000 --seed 2000003 --dtype bfloat16 \
        "${judge[@]}" --metrics fid,fid_error,class --resume --output "$results/policy-fashion-mnist-T$1/$3.json"
}

tokenize() {
    python training/tokenize_images.py --train_data_dir "$data" --resolution 28 --no_flips --vqvae $cards/autonat-fashion-mnist/vqvae \
        --output_dir "$work/tokens"
}

# p(r): eight small models, each of 307,200 images (Tables 2 and 6a), then with the six Betas p(r) and the generation strategy in
# one search and in turn (Tables 6b and 6c), with about as many images to choose by. Several workers train and measure together.
training() {
    tokenize
    candidates=("${common[@]}" --storage "$work/training.journal" "${uvit[@]}" --num-inference-steps 4 --resolution 28
        --start-alpha 8 --start-beta 3 --alphas 4 8 16 --betas 1 3 --candidates "$work/candidates" --num-images 1024)
    recipe=(--train_data_dir "$work/tokens" --vqvae $cards/autonat-fashion-mnist/vqvae --hidden_size 96 --num_layers 5
        --num_attention_heads 3 --dropout 0 --label_smoothing 0 --train_batch_size 128 --max_train_steps 2400 --lr_scheduler cosine
        --lr_warmup_steps 100 --learning_rate 2e-3 --adam_beta2 0.98 --use_ema --ema_decay 0.998 --mixed_precision bf16
        --checkpointing_steps 300 --checkpoints_total_limit 1)
    for _ in $(seq "$cores"); do
        side_by_side python search/experiments.py training "${candidates[@]}" -- "${recipe[@]}"
    done
    all_done
    side_by_side python search/experiments.py concurrent "${candidates[@]}" --num-trials 92 --confirm-top 8 -- "${recipe[@]}"
    for sampler in tpe population; do  # with the sampler of the one search, and with the best one
        side_by_side python search/search_alternating.py "${candidates[@]}" --study-name alternating-$sampler --sampler $sampler \
            --output $results/alternating-$sampler --num-trials 42 --rounds 2 --epsilon 0 --confirm-top 1 -- "${recipe[@]}"
    done
}

# Strategies that were found for the shipped U-ViT, in one of twice its width, against those searched there (Table 6d).
transfer() {
    of_study=0 all_done  # its training takes all cores
    vqvae=$cards/autonat-fashion-mnist/vqvae wide=$work/wide
    [ -f "$wide/pipeline/README.md" ] || {
        tokenize
        OMP_NUM_THREADS=$cores accelerate launch --num_machines 1 --num_processes 1 --mixed_precision bf16 --dynamo_backend no \
            training/train_autonat.py --train_data_dir "$work/tokens" --vqvae $vqvae --hidden_size 384 --num_layers 7 \
            --num_attention_heads 6 --dropout 0 --label_smoothing 0 --use_ema --ema_decay 0.9995 --train_batch_size 256 \
            --max_train_steps 2668 --learning_rate 1.5e-3 --lr_scheduler cosine --lr_warmup_steps 100 --adam_beta1 0.9 \
            --adam_beta2 0.98 --remasking_temperature 2 --guidance_scale 2 --validation_steps 1000 --checkpointing_steps 100 \
            --checkpoints_total_limit 2 --resume_from_checkpoint latest --output_dir "$wide"
    }
    # What the pipeline has stored is confirmed beside the start and what is found.
    mkdir -p "$wide/pipeline/scheduler"
    cp $cards/autonat-fashion-mnist/scheduler/*.json "$wide/pipeline/scheduler/"
    side_by_side python search/search_generation.py "$wide/pipeline" --num-inference-steps 4 "${judge[@]}" --dtype bfloat16 \
        "${uvit[@]}" --num-images 1024 --sampler population --num-trials 42 --confirm-top 2 --storage "$work/transfer-T4.journal" \
        --output $results/wide-fashion-mnist-T4
}

for study in ${*:-heuristics found samplers noise sharing schedules orders policies training transfer}; do
    of_study=${#begun[@]}
    "$study"
done
of_study=0
all_done
exit $failed
