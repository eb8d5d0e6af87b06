#!/usr/bin/env bash
# Trains the shipped Fashion-MNIST model: perceptual network, tokenizer, tokens, transformer, judge. Run again, it resumes.
#     bash training/fashion_mnist.sh /usr/share/datasets/fashion-mnist outputs/fashion-mnist
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?folder of the Fashion-MNIST IDX files}
out=${2:?output folder}
launch="accelerate launch --num_machines 1 --num_processes 1 --mixed_precision no --dynamo_backend no"

# The perceptual network is not the judge: other width, depth and seed, and the judge never takes part in training.
[ -f "$out/perceptual/config.json" ] || $launch training/train_classifier.py --train_data_dir "$data" --random_flip \
    --num_train_epochs 3 --input_size 28 --hidden_sizes 64 96 --depths 1 1 --seed 1 --output_dir "$out/perceptual"

[ -f "$out/vqgan/vqvae/config.json" ] || $launch training/train_vqgan.py --train_data_dir "$data" --random_flip \
    --resolution 28 --num_channels 1 --block_out_channels 32 64 64 --layers_per_block 1 --norm_num_groups 8 \
    --mid_block_attention --codebook_size 512 --codebook_dim 16 --perceptual_model "$out/perceptual" --l2_weight 1.0 \
    --adversarial_weight 0.3 --adversarial_start 1000 --discriminator_hidden_size 32 --learning_rate 1.5e-3 \
    --lr_warmup_steps 50 --adam_beta1 0.8 --adam_beta2 0.95 --revive_steps 100 --train_batch_size 32 \
    --max_train_steps 2400 --validation_steps 250 --checkpointing_steps 250 --resume_from_checkpoint latest \
    --output_dir "$out/vqgan"

# No flips: in this set every shoe points to the left.
python training/tokenize_images.py --train_data_dir "$data" --vqvae "$out/vqgan/vqvae" --resolution 28 --no_flips \
    --output_dir "$out/tokens"

# No label smoothing: at sampling temperature 1 it would put a tenth of all drawn tokens anywhere in the codebook.
$launch training/train_autonat.py --train_data_dir "$out/tokens" --vqvae "$out/vqgan/vqvae" \
    --hidden_size 192 --num_layers 7 --num_attention_heads 6 --dropout 0 --label_smoothing 0 --use_ema --ema_decay 0.999 \
    --train_batch_size 64 --max_train_steps 2400 --learning_rate 1.2e-3 --lr_scheduler cosine --lr_warmup_steps 100 \
    --adam_beta1 0.9 --adam_beta2 0.98 --remasking_temperature 4.5 --guidance_scale 2 --validation_steps 400 \
    --checkpointing_steps 200 --checkpoints_total_limit 2 --resume_from_checkpoint latest --output_dir "$out/autonat"

[ -f "$out/judge/config.json" ] || $launch training/train_classifier.py --train_data_dir "$data" \
    --num_train_epochs 6 --output_dir "$out/judge"

# What is shipped: half the bytes, and the same images but for a token in forty.
python -c "
import sys, torch
from diffusers_autonat import AutoNATPipeline
AutoNATPipeline.from_pretrained(sys.argv[1], dtype=torch.float16).save_pretrained(sys.argv[2])
" "$out/autonat/pipeline" "$out/release"
python benchmarks/heuristic_grid.py "$out/release" --judge "$out/judge" --data "$data" --output "$out/evaluation.json"
