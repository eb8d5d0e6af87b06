#!/usr/bin/env python
r"""What the loop of `train_autonat.py` costs beside its model: images/s of the script over those of a bare loop.

    python benchmarks/training_overhead.py --tokens outputs/tokens --vqvae outputs/vqgan/vqvae --model S --dtype bfloat16 \
        --output benchmarks/results/training_overhead.json

The bare loop repeats forward, backward and optimiser step on one batch that is already there: no data, masks, dropped
labels, EMA, clipping, schedule or logs. Both take turns, so that a busy machine slows both.
"""

import argparse
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import in_turn, made_with, median_and_spread, seconds

from diffusers_autonat import UViTTransformer2DModel
from diffusers_autonat.files import write_json
from diffusers_autonat.loading import default_device
from diffusers_autonat.training.loop import History
from diffusers_autonat.training.tokens import load_token_set


SCRIPT = Path(__file__).parents[1] / "training" / "train_autonat.py"
SIZES = {
    "tiny": {"hidden_size": 192, "num_layers": 7, "num_attention_heads": 6},
    "S": {"hidden_size": 512, "num_layers": 13, "num_attention_heads": 8},  # the paper's
}


def bare(
    name: str, dtype: str, batch_size: int, steps: int, sample_size: int, codebook_size: int, device: str
) -> float:
    """Images a second of a model of `SIZES`."""
    model = UViTTransformer2DModel(sample_size, codebook_size=codebook_size, num_classes=10, **SIZES[name]).to(device)
    precision = nullcontext() if dtype == "float32" else torch.autocast(device, getattr(torch, dtype))
    optimizer = torch.optim.AdamW(model.parameters(), 4e-4)
    tokens = torch.randint(codebook_size, (batch_size, sample_size**2), device=device)
    labels = torch.randint(10, (batch_size,), device=device)

    def train(number: int) -> None:
        for _ in range(number):
            with precision:
                loss = F.cross_entropy(model(tokens, class_labels=labels).sample.flatten(0, 1), tokens.flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    train(5)  # warms up
    return steps * batch_size / seconds(lambda: train(steps))


def script(args) -> float:
    with tempfile.TemporaryDirectory() as folder:
        sizes = [word for name, value in SIZES[args.model].items() for word in (f"--{name}", str(value))]
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--num_processes", "1",
                  "--num_cpu_threads_per_process", str(torch.get_num_threads()), "--dynamo_backend", "no",
                  "--mixed_precision", "no" if args.dtype == "float32" else "bf16"]  # fmt: skip
        command = [*launch, SCRIPT, "--train_data_dir", args.tokens, "--vqvae", args.vqvae, "--output_dir", folder,
                   "--use_ema", *sizes, "--train_batch_size", str(args.batch_size), "--max_train_steps", str(args.steps + 10),
                   "--logging_steps", "10", "--validation_steps", "1000000"]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        rows = History.read(Path(folder, "history.jsonl"))[1:]  # the first ten steps warm up
        return len(rows) / sum(1 / row["images_per_second"] for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--vqvae", required=True)
    parser.add_argument("--model", choices=SIZES, default="tiny")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="a round, of each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default="training_overhead.json")
    args = parser.parse_args()
    device = default_device()
    info = load_token_set(args.tokens)[1]
    sizes = (args.model, args.dtype, args.batch_size, args.steps, info.sample_size, info.codebook_size)
    measures = {"bare": lambda: bare(*sizes, device), "script": lambda: script(args)}
    rounds = []
    for one in in_turn(measures, args.rounds):
        rounds.append(one)
        print(one, flush=True)
    ratios = [one["script"] / one["bare"] for one in rounds]
    median, spread = median_and_spread(ratios)
    result = {"median_ratio": median, "spread": spread, "ratios": ratios, "rounds": rounds, "model": args.model,
              "dtype": args.dtype, "batch_size": args.batch_size, "steps": args.steps, **made_with("accelerate")}  # fmt: skip
    write_json(args.output, result)
    print(f"train_autonat.py runs at {median:.2f} of the bare loop's images/s")


if __name__ == "__main__":
    main()
