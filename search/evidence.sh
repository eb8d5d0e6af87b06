#!/usr/bin/env bash
# The studies of docs/search.md, docs/orders.md and docs/policies.md on the shipped Fashion-MNIST models. Run again, it goes on;
# results go to search/results.
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
common=("${judge[@]}" --dtype bfloat16 --storage "$work/studies.journal" --output $results)
uvit=(--remasking-temperature 2 --guidance-scale 1)  # where its searches begin; ENAT's begin at its own heuristic

# As many commands at a time as there are cores, each with one thread: small models make half as many images again so.
side_by_side() {
    while (($(jobs -rp | wc -l) >= $(nproc))); do wait -n; done
    OMP_NUM_THREADS=1 "$@" &
}
all_done() { while [ -n "$(jobs -p)" ]; do wait -n; done; }
trap '[ -z "$(jobs -p)" ] || kill $(jobs -p)' EXIT

# An experiment, the name of its results, model and T.
experiment() {
    side_by_side python search/experiments.py "$1" $cards/"$3"-fashion-mnist --num-inference-steps "$4" "${common[@]}" \
        --floor $results/floor.json --study-name "$2-$3-fashion-mnist-T$4" "${@:5}"
}

# The hand-made strategies of 16 steps, tuned by a grid (those of 4 and 8 are the cards').
heuristics() {
    experiment baseline baseline autonat 16 --num-images 1000 --lambdas 2 4.5 7 10 --ks 1 2 3 4 --confirm-top 1
    experiment baseline baseline enat 16 --num-images 1000 --taus 2 4 6 --lambdas 0.5 1 2 --ks 1.5 2.5 3.5 --confirm-top 1
}

# What a search finds, with three seeds of noise, labels and sampler.
found() {
    for steps in 4 8 16; do
        for model in autonat enat; do
            [ $model = autonat ] && start=("${uvit[@]}") || start=()
            [ $steps = 16 ] && trials=26 || trials=42
            experiment samplers found $model $steps "${start[@]}" --num-images 1024 --samplers population --num-trials $trials \
                --repetitions 3 --confirm-top 2
        done
    done
}

# Samplers at equal images; finite differences with three times as many, the released method with ten times.
samplers() {
    for steps in 4 8; do
        compare=("${uvit[@]}" --num-images 512 --confirm-top 1)
        experiment samplers samplers-tenfold autonat $steps "${compare[@]}" --samplers released --num-trials 320
        experiment samplers samplers-thrice autonat $steps "${compare[@]}" --samplers finite-difference --num-trials 96
        experiment samplers samplers autonat $steps "${compare[@]}" --num-trials 32 \
            --samplers population finite-difference released tpe cmaes gp
    done
}

# Each schedule left at the heuristic, and each searched alone (Table 6e).
schedules() {
    experiment free free autonat 4 "${uvit[@]}" --num-images 1024 --num-trials 42 --sampler population --confirm-top 2
}

# Orders of revealing tokens, each with its own schedules searched.
orders() {
    for steps in 4 8 16; do
        experiment orders orders autonat $steps "${uvit[@]}" --num-images 1024 --num-trials 22 --confirm-top 1
    done
}

# A policy that looks at each image, against the stored strategy: on fresh noise, by both classifiers.
policies() {
    for steps in 4 8; do side_by_side policy $steps; done
}
policy() {
    out=$work/policy-T$1 result=$results/policy-fashion-mnist-T$1
    [ -f "$out/pipeline/README.md" ] || python training/train_policy.py --pretrained_model_name_or_path $cards/autonat-fashion-mnist \
        --num_inference_steps "$1" --reference $first/fashion-mnist-test.npz --feature_extractor $first \
        --second_reference $second/fashion-mnist-test.npz --second_feature_extractor $second --dtype bfloat16 --action_smooth 0 \
        --policy_hidden_size 64 --policy_conv_channels 32 --policy_mlp_channels 128 64 --images_per_update 1024 --train_batch_size 256 \
        --learning_rate 5e-4 --critic_learning_rate 1e-3 --min_action_std 0.25 --max_train_steps 150 --num_validation_images 2000 \
        --checkpointing_steps 5 --resume_from_checkpoint latest --output_dir "$out"
    python training/plot_policy.py "$out/pipeline" --output_dir "$result"
    [ ! -d "$result" ] || cp "$out/history.jsonl" "$out/validation.jsonl" "$result/"
    for by in $first $second; do
        for of in $cards/autonat-fashion-mnist "$out/pipeline"; do
            [ "$of" = "$out/pipeline" ] && name=policy || name=strategy
            python -m diffusers_autonat.cli evaluate "$of" --num-inference-steps "$1" --num-images 10000 --seed 2000003 --dtype bfloat16 \
                --feature-extractor $by --reference $by/fashion-mnist-test.npz --metrics fid,fid_error,class --resume \
                --output "$result/$name-by-$(basename $by).json"
        done
    done
}

tokenize() {
    python training/tokenize_images.py --train_data_dir "$data" --resolution 28 --no_flips --vqvae $cards/autonat-fashion-mnist/vqvae \
        --output_dir "$work/tokens"
}

# p(r): eight small models, each of 307,200 images (Tables 2 and 6a), then with the six Betas p(r) and the generation strategy in
# one search and in turn (Tables 6b and 6c). Several workers train and measure together.
training() {
    tokenize
    candidates=("${common[@]}" "${uvit[@]}" --num-inference-steps 4 --resolution 28 --start-alpha 8 --start-beta 3 --alphas 4 8 16
        --betas 1 3 --candidates "$work/candidates" --num-images 1024 --confirm-top 1)
    recipe=(--train_data_dir "$work/tokens" --vqvae $cards/autonat-fashion-mnist/vqvae --hidden_size 96 --num_layers 5
        --num_attention_heads 3 --dropout 0 --label_smoothing 0 --train_batch_size 128 --max_train_steps 2400 --lr_scheduler cosine
        --lr_warmup_steps 100 --learning_rate 2e-3 --adam_beta2 0.98 --use_ema --ema_decay 0.998 --mixed_precision bf16
        --checkpointing_steps 300 --checkpoints_total_limit 1)
    for _ in $(seq "$(nproc)"); do
        side_by_side python search/experiments.py training "${candidates[@]}" -- "${recipe[@]}"
    done
    all_done
    side_by_side python search/experiments.py concurrent "${candidates[@]}" --num-trials 84 -- "${recipe[@]}"
    side_by_side python search/search_alternating.py "${candidates[@]}" --study-name alternating --output $results/alternating \
        --sampler population --num-trials 42 --rounds 2 --epsilon 0 -- "${recipe[@]}"
}

# Strategies that were found for the shipped U-ViT, in one of twice its width, against those searched there (Table 6d).
transfer() {
    all_done
    vqvae=$cards/autonat-fashion-mnist/vqvae wide=$work/wide
    [ -f "$wide/pipeline/README.md" ] || {
        tokenize
        OMP_NUM_THREADS=$(nproc) accelerate launch --num_machines 1 --num_processes 1 --mixed_precision bf16 --dynamo_backend no \
            training/train_autonat.py --train_data_dir "$work/tokens" --vqvae $vqvae --hidden_size 384 --num_layers 7 \
            --num_attention_heads 6 --dropout 0 --label_smoothing 0 --use_ema --ema_decay 0.9995 --train_batch_size 256 \
            --max_train_steps 2668 --learning_rate 1.5e-3 --lr_scheduler cosine --lr_warmup_steps 100 --adam_beta1 0.9 \
            --adam_beta2 0.98 --remasking_temperature 2 --guidance_scale 2 --validation_steps 1000 --checkpointing_steps 100 \
            --checkpoints_total_limit 2 --resume_from_checkpoint latest --output_dir "$wide"
    }
    # What the pipeline has stored is confirmed beside the start and what is found.
    mkdir -p "$wide/pipeline/scheduler"
    cp $cards/autonat-fashion-mnist/scheduler/*.json "$wide/pipeline/scheduler/"
    for steps in 4 8; do
        side_by_side python search/search_generation.py "$wide/pipeline" --num-inference-steps $steps "${judge[@]}" --dtype bfloat16 \
            "${uvit[@]}" --num-images 1024 --sampler population --num-trials 42 --confirm-top 2 --storage "$work/transfer.journal" \
            --output $results/wide-fashion-mnist-T$steps
    done
}

for study in ${*:-heuristics found samplers schedules orders policies training transfer}; do "$study"; done
all_done
