#!/usr/bin/env python
"""Draw what a pipeline's policy does: policy.png, r, tau1, tau2 and s over steps for all images and by class, and
extremes.png, the images with the smallest and the largest guidance.

    diffusers-autonat train plot-policy outputs/policy/pipeline --num_images 500 --output_dir outputs/policy
"""

from pathlib import Path

from diffusers_autonat.command_line import Parser, one_line_errors, positive, warning_lines, whole
from diffusers_autonat.loading import default_device, load_pipeline
from diffusers_autonat.metrics.policy_trace import trace_policy
from diffusers_autonat.plots import plot_extremes, plot_policy, title_of
from diffusers_autonat.strategies import GenerationStrategy
from diffusers_autonat.training.checks import writable_folder
from diffusers_autonat.training.loop import MAX_SEED


def parse_args():
    parser = Parser(description=__doc__)
    parser.add_argument("pipeline", help="folder or Hub id")
    parser.add_argument("--num_images", type=whole(2), default=500, help="that are made and looked at")
    parser.add_argument("--seed", type=whole(0, MAX_SEED), default=0, help="of their classes and noise")
    parser.add_argument("--batch_size", type=positive, default=32, help="images made at once")
    parser.add_argument("--output_dir", required=True, help="gets policy.png and extremes.png")
    return parser.parse_args()


def main():
    args = parse_args()
    output = writable_folder(args.output_dir)
    pipeline = load_pipeline(args.pipeline, device=default_device())
    pipeline.set_progress_bar_config(disable=True)
    trace = trace_policy(pipeline, args.num_images, args.seed, args.batch_size, progress=True)
    config, names = pipeline.policy.config, pipeline.id2label or {}
    static = GenerationStrategy.from_dict(config.strategy) if config.strategy else None
    what = title_of(str(Path(args.pipeline).resolve()), config.num_inference_steps, args.num_images)
    schedules = {name: values.numpy() for name, values in trace.schedules.items()}
    labels = trace.class_labels.tolist()
    plot_policy(schedules, labels, output / "policy.png", names, static, what)
    plot_extremes(
        trace.images.permute(0, 2, 3, 1).numpy(),
        schedules["guidance_scales"].mean(axis=1).tolist(),
        output / "extremes.png",
        "mean guidance",
        [names.get(label, str(label)).split(",")[0] for label in labels],
        title=what,
    )
    print(f"Drawn: {output / 'policy.png'}, {output / 'extremes.png'}.")


if __name__ == "__main__":
    with one_line_errors(), warning_lines():
        main()
