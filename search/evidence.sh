#!/usr/bin/env bash
# The studies of docs/search.md on the shipped Fashion-MNIST models. Run again, it goes on; results go to search/results.
#     bash search/evidence.sh outputs/evidence
# Fashion-MNIST's IDX files are looked for where Debian puts them; FASHION_MNIST names another folder.
# Names of studies after that do only those: bash search/evidence.sh outputs/evidence found samplers
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:?folder of the studies}
shift
mkdir -p "$work"
cards=model_cards results=search/results data=${FASHION_MNIST:-/usr/share/datasets/fashion-mnist}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}  # else a launcher gives a process one thread
judge=(--reference $cards/fashion-mnist-classifier/fashion-mnist-test.npz --feature-extractor $cards/fashion-mnist-classifier)
common=("${judge[@]}" --dtype bfloat16 --storage "$work/studies.journal" --output $results --floor $results/floor.json)
experiment="python search/experiments.py"
uvit="--remasking-temperature 2 --guidance-scale 1"  # where its searches begin; ENAT's begin at its own heuristic

# What a search finds, with three seeds of noise, labels and sampler.
found() {
    for steps in 4 8 16; do
        for model in autonat enat; do
            [ $model = autonat ] && start=$uvit || start=
            $experiment samplers $cards/$model-fashion-mnist --num-inference-steps $steps "${common[@]}" $start --num-images 1024 \
                --samplers population --num-trials 42 --repetitions 3 --confirm-top 2 --study-name found-$model-T$steps
        done
    done
}

# Samplers at equal images; finite differences with three times as many, the released method with ten times.
samplers() {
    for steps in 4 8; do
        compare=($experiment samplers $cards/autonat-fashion-mnist --num-inference-steps $steps "${common[@]}" $uvit --num-images 512
            --confirm-top 1)
        "${compare[@]}" --samplers population finite-difference tpe cmaes gp --num-trials 32 --study-name samplers-T$steps
        "${compare[@]}" --samplers finite-difference --num-trials 96 --study-name samplers-T$steps-thrice
        "${compare[@]}" --samplers released --num-trials 320 --study-name samplers-T$steps-tenfold
    done
}

# Each schedule left at the heuristic, and each searched alone (Table 6e).
schedules() {
    $experiment free $cards/autonat-fashion-mnist --num-inference-steps 4 "${common[@]}" $uvit --num-images 1024 --num-trials 42 \
        --sampler population --confirm-top 2 --study-name free-T4
}

# Strategies that were found for the shipped U-ViT, in one of twice its width, against those searched there (Table 6d).
transfer() {
    vqvae=$cards/autonat-fashion-mnist/vqvae tokens=$work/tokens wide=$work/wide
    [ -f "$wide/pipeline/README.md" ] || {
        python training/tokenize_images.py --train_data_dir "$data" --resolution 28 --no_flips --vqvae $vqvae --output_dir "$tokens"
        accelerate launch --num_machines 1 --num_processes 1 --mixed_precision bf16 --dynamo_backend no training/train_autonat.py \
            --train_data_dir "$tokens" --vqvae $vqvae --hidden_size 384 --num_layers 7 --num_attention_heads 6 --dropout 0 \
            --label_smoothing 0 --use_ema --ema_decay 0.9995 --train_batch_size 256 --max_train_steps 2668 --learning_rate 1.5e-3 \
            --lr_scheduler cosine --lr_warmup_steps 100 --adam_beta1 0.9 --adam_beta2 0.98 --remasking_temperature 2 \
            --guidance_scale 2 --validation_steps 1000 --checkpointing_steps 100 --checkpoints_total_limit 2 \
            --resume_from_checkpoint latest --output_dir "$wide"
    }
    # What the pipeline has stored is confirmed beside the start and what is found.
    mkdir -p "$wide/pipeline/scheduler"
    cp $cards/autonat-fashion-mnist/scheduler/*.json "$wide/pipeline/scheduler/"
    for steps in 4 8; do
        python search/search_generation.py "$wide/pipeline" --num-inference-steps $steps "${judge[@]}" --dtype bfloat16 $uvit --num-images 1024 \
            --sampler population --num-trials 42 --confirm-top 2 --storage "$work/transfer.journal" \
            --output $results/wide-fashion-mnist-T$steps
    done
}

for study in ${*:-found samplers schedules transfer}; do "$study"; done
