#!/usr/bin/env bash
# Trains the shipped Fashion-MNIST models: perceptual network, tokenizer, tokens, U-ViT, ENAT, judges. Run again, it resumes.
#     bash training/fashion_mnist.sh /usr/share/datasets/fashion-mnist outputs/fashion-mnist
# Then `python model_cards/make_cards.py outputs/fashion-mnist --data ...` writes the shipped folders.
set -euo pipefail
root=$(dirname "$0")/..
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}  # else a launcher gives a process one thread
data=${1:?folder of the Fashion-MNIST IDX files}
out=${2:?output folder}
launch=(accelerate launch --num_machines 1 --num_processes 1 --mixed_precision no --dynamo_backend no)

# The perceptual network is not the judge: other width, depth, input size and seed, and the judge never takes part in training.
[ -f "$out/perceptual/config.json" ] || "${launch[@]}" "$root/training/train_classifier.py" --train_data_dir "$data" --random_flip \
    --num_train_epochs 3 --input_size 28 --hidden_sizes 64 96 --depths 1 1 --seed 1 --output_dir "$out/perceptual"

# No attention in the tokenizer: with it, black background serves as a notepad, which makes tokens hard to predict. Twice the
# codes once the first ones are placed: they go where reconstruction is worst.
tokenizer=(--train_data_dir "$data" --resolution 28 --perceptual_model "$out/perceptual" --l2_weight 1.0
    --discriminator_hidden_size 32 --lr_warmup_steps 50 --adam_beta1 0.8 --adam_beta2 0.95 --revive_steps 100
    --train_batch_size 32 --validation_steps 250 --checkpointing_steps 250 --resume_from_checkpoint latest)
[ -f "$out/vqgan-256/vqvae/config.json" ] || "${launch[@]}" "$root/training/train_vqgan.py" "${tokenizer[@]}" --num_channels 1 \
    --block_out_channels 32 64 64 --layers_per_block 1 --norm_num_groups 8 --codebook_size 256 --codebook_dim 16 \
    --adversarial_weight 0.6 --adversarial_start 800 --learning_rate 1.5e-3 --max_train_steps 4000 --output_dir "$out/vqgan-256"
[ -f "$out/vqgan-512/vqvae/config.json" ] || "${launch[@]}" "$root/training/train_vqgan.py" "${tokenizer[@]}" \
    --pretrained_model_name_or_path "$out/vqgan-256/vqvae" --codebook_size 512 \
    --adversarial_weight 0.6 --adversarial_start 100 --learning_rate 1e-3 --max_train_steps 1500 --output_dir "$out/vqgan-512"
[ -f "$out/vqgan-long/vqvae/config.json" ] || "${launch[@]}" "$root/training/train_vqgan.py" "${tokenizer[@]}" \
    --pretrained_model_name_or_path "$out/vqgan-512/vqvae" --perceptual_weight 2 --adversarial_weight 0.6 \
    --adversarial_start 100 --learning_rate 1e-3 --max_train_steps 2000 --seed 3 --output_dir "$out/vqgan-long"
[ -f "$out/vqgan/vqvae/config.json" ] || "${launch[@]}" "$root/training/train_vqgan.py" "${tokenizer[@]}" \
    --pretrained_model_name_or_path "$out/vqgan-long/vqvae" --perceptual_weight 3 --adversarial_weight 0.4 \
    --adversarial_start 100 --learning_rate 7e-4 --max_train_steps 1600 --seed 4 --output_dir "$out/vqgan"

# No flips: in this set every shoe points to the left.
python "$root/training/tokenize_images.py" --train_data_dir "$data" --resolution 28 --no_flips --vqvae "$out/vqgan/vqvae" \
    --output_dir "$out/tokens"

# Twice 1,024,000 images, the second time from where the first has ended: a cosine that begins anew gains more than a longer
# one. No label smoothing: at sampling temperature 1 it would put a tenth of all drawn tokens anywhere in the codebook.
train=(accelerate launch --num_machines 1 --num_processes 1 --mixed_precision "${PRECISION:-bf16}" --dynamo_backend no
    "$root/training/train_autonat.py" --train_data_dir "$out/tokens" --vqvae "$out/vqgan/vqvae" --dropout 0 --label_smoothing 0 --use_ema
    --ema_decay 0.9995 --train_batch_size 256 --max_train_steps 4000 --lr_scheduler cosine --lr_warmup_steps 100 --adam_beta1 0.9
    --adam_beta2 0.98 --validation_steps 1000 --checkpointing_steps 150 --checkpoints_total_limit 2 --resume_from_checkpoint latest)
autonat=(--hidden_size 192 --num_layers 7 --num_attention_heads 6 --remasking_temperature 2 --guidance_scale 2 --learning_rate 2.5e-3)
enat=(--transformer enat --hidden_size 160 --num_layers 4 --num_decoder_layers 2 --num_attention_heads 5 --learning_rate 2e-3)
for model in autonat enat; do
    [ $model = autonat ] && first=("${autonat[@]}") || first=("${enat[@]}")
    again=(--pretrained_model_name_or_path "$out/$model-first/pipeline" --seed 1)
    [ $model = autonat ] && again+=(--remasking_temperature 2 --guidance_scale 2 --learning_rate 2e-3) || again+=(--learning_rate 1.6e-3)
    [ -f "$out/$model-first/pipeline/README.md" ] || "${train[@]}" "${first[@]}" --output_dir "$out/$model-first"
    [ -f "$out/$model/pipeline/README.md" ] || "${train[@]}" "${again[@]}" --output_dir "$out/$model"
done

[ -f "$out/judge/config.json" ] || "${launch[@]}" "$root/training/train_classifier.py" --train_data_dir "$data" --output_dir "$out/judge"
[ -f "$out/second-judge/config.json" ] || "${launch[@]}" "$root/training/train_classifier.py" --train_data_dir "$data" \
    --hidden_sizes 64 96 --depths 1 2 --num_train_epochs 4 --seed 7 --output_dir "$out/second-judge"
python "$root/benchmarks/heuristic_grid.py" "$out/autonat/pipeline" --judge "$out/judge" --data "$data" --output "$out/grid.json" \
    --num-images 500 --remasking-temperatures 4.5 2 --guidance-scales 1 2
python "$root/benchmarks/heuristic_grid.py" "$out/enat/pipeline" --judge "$out/judge" --data "$data" --output "$out/enat-grid.json" \
    --heuristic enat --num-images 500 --sampling-temperatures 1 2 4.5 --remasking-temperatures 1 2 --guidance-scales 1 2.5
