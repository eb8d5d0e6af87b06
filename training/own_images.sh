#!/usr/bin/env bash
# From images in a folder for each class to a pipeline with a searched strategy: the commands of docs/own_images.md. Run again, it resumes.
#     bash training/own_images.sh IMAGES outputs/own-images
# RESOLUTION=64 pixels; CODES=512 of the tokenizer; PRECISION=no where the machine has no bfloat16; STEPS=8 of the strategy.
set -euo pipefail
root=$(dirname "$0")/..
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}  # else a launcher gives a process one thread
images=${1:?folder with one sub-folder of images for each class}
out=${2:?output folder}
launch=(accelerate launch --num_machines 1 --num_processes 1 --dynamo_backend no --mixed_precision)
data=(--train_data_dir "$images" --resolution "${RESOLUTION:-64}")
resume=(--checkpointing_steps 200 --resume_from_checkpoint latest)
[ "${PRECISION:-bf16}" = bf16 ] && dtype=bfloat16 || dtype=float32  # of the search

# What tells the tokenizer which errors are seen is not the judge: other width, depth and seed.
[ -f "$out/perceptual/config.json" ] || "${launch[@]}" no "$root/training/train_classifier.py" "${data[@]}" --hidden_sizes 64 96 128 \
    --depths 1 1 1 --num_train_epochs 20 --seed 1 --output_dir "$out/perceptual"
[ -f "$out/vqgan/vqvae/config.json" ] || "${launch[@]}" "${PRECISION:-bf16}" "$root/training/train_vqgan.py" --preset tiny \
    "${data[@]}" --perceptual_model "$out/perceptual" --codebook_size "${CODES:-512}" "${resume[@]}" --output_dir "$out/vqgan"
python "$root/training/tokenize_images.py" "${data[@]}" --vqvae "$out/vqgan/vqvae" --output_dir "$out/tokens"
[ -f "$out/autonat/pipeline/README.md" ] || "${launch[@]}" "${PRECISION:-bf16}" "$root/training/train_autonat.py" --preset tiny \
    "${resume[@]}" --train_data_dir "$out/tokens" --vqvae "$out/vqgan/vqvae" --output_dir "$out/autonat"

[ -f "$out/judge/config.json" ] || "${launch[@]}" no "$root/training/train_classifier.py" "${data[@]}" --output_dir "$out/judge"
[ -f "$out/reference.npz" ] || python -m diffusers_autonat.cli reference "$images" --resolution "${RESOLUTION:-64}" \
    --feature-extractor "$out/judge" --output "$out/reference.npz"
python "$root/search/search_generation.py" "$out/autonat/pipeline" --num-inference-steps "${STEPS:-8}" \
    --feature-extractor "$out/judge" --reference "$out/reference.npz" --dtype $dtype --sampler population --num-images 512 \
    --num-trials 32 --confirm-top 2 --confirm-images 2000 --write-to-pipeline --output "$out/search"
