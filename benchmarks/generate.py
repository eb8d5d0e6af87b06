#!/usr/bin/env python
r"""Seconds for whole images: the published way, ours as a user gets it, ours with each option, and what else a user would pick.

    python benchmarks/generate.py --models AutoNAT-S AutoNAT-L ENAT-L --pixels 256 512 --steps 4 8 --batch-sizes 1 8 32 \
        --dtypes float32 bfloat16 --others DiT-XL/2 aMUSEd-256 --output benchmarks/results/generate.json

One process; all ways of a row take turns, so that a busy machine slows all of them. A ratio is taken within each round, and of
these the median counts; the spread is from the least to the largest. Weights are random, of the released sizes; the published
way and ours have the same. All images of a batch are of different classes, but for `one class`.

The published way is what the authors' repositories do, as plainly as it can be written: eager, float32 weights (under autocast
in bfloat16 and float16), both passes in every step, noise by NumPy, and the released decoder, whose shortcuts are convolutions
of their own. Only ENAT is called with its features of the step before, as its authors do.

First the peak of matrix products is measured. Operations are counted while each way warms up (a multiply-accumulate is two),
and their number in a second is given as a share of that peak.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from decoder_padding import build as build_tokenizer
from diffusers import (
    AmusedPipeline,
    AmusedScheduler,
    AutoencoderKL,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    UVit2DModel,
    VQModel,
)
from timing import interleaved, made_with, median_and_spread, seconds
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffusers_autonat import (
    AutoNATPipeline,
    ENATTransformer2DModel,
    GenerationStrategy,
    NATScheduler,
    UViTTransformer2DModel,
)
from diffusers_autonat.export import export_pipeline
from diffusers_autonat.files import write_json
from diffusers_autonat.loading import default_device
from diffusers_autonat.pipelines.first_step import FirstStepCache
from diffusers_autonat.strategy_files import read_strategy


SMALL, PIXELS_512 = {"hidden_size": 512, "num_layers": 13}, {"sample_size": 32, "patch_size": 2}
MODELS: dict[tuple[str, int], tuple[type, dict]] = {
    ("AutoNAT-S", 256): (UViTTransformer2DModel, SMALL),
    ("AutoNAT-L", 256): (UViTTransformer2DModel, {}),
    ("ENAT-L", 256): (ENATTransformer2DModel, {}),
    ("AutoNAT-S", 512): (UViTTransformer2DModel, SMALL | PIXELS_512),
    ("AutoNAT-L", 512): (UViTTransformer2DModel, PIXELS_512),
    ("tiny", 256): (UViTTransformer2DModel, {"hidden_size": 32, "num_layers": 3, "num_attention_heads": 4}),
}
# As released for AutoNAT-L with T = 8: the first three steps are not guided.
RELEASED = GenerationStrategy(
    [0.9531645, 0.8795410, 0.7940231, 0.7459959, 0.6249786, 0.4073220, 0.2606589, 0.0],
    [2.8999038, 1.8672618, 1.1443730, 1.3796334, 1.4699897, 1.3760684, 1.7082165, 0.7133061],
    [2.4049128, 2.4776163, 1.1916966, 0.7685445, 1.0673489, 0.9353703, 0.7843840, 0.0],
    [0.0, 0.0, 0.0, 0.9151275, 1.6160183, 1.1945509, 1.3832237, 1.2267852],
)


@dataclass
class Way:
    """Something that makes a batch of images, and what its row says of it.

    Args:
        draw: Makes the batch. counted_as: Another way whose operations these are, where they cannot be counted.
    """

    draw: Callable[[], object]
    counted_as: str | None = None


def strategy_of(model: str, steps: int) -> GenerationStrategy:
    if model.startswith("ENAT"):
        return GenerationStrategy.enat(steps)
    return RELEASED if steps == 8 else GenerationStrategy.cosine(steps)


# The published way


class PublishedDecoder:
    """MaskGIT's decoder as released, of the weights of a `VQModel`: two blocks a level, and where a block changes the number of
    channels a 1 x 1 convolution of its output is added to it. Its weights are zero here, as in the `VQModel`'s folded ones."""

    def __init__(self, vqvae: VQModel):
        self.vqvae, self.decoder = vqvae, vqvae.decoder
        self.shortcuts = {
            id(block): torch.zeros_like(block.conv2.weight[:, :, :1, :1])
            for block in self.decoder.modules()
            if getattr(block, "conv_shortcut", None) is not None
        }  # fmt: skip
        for block in self.decoder.modules():
            if getattr(block, "conv_shortcut", None) is not None:
                torch.nn.init.zeros_(block.conv_shortcut.weight)
                torch.nn.init.zeros_(block.conv_shortcut.bias)

    def block(self, block: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        hidden = block.conv1(F.silu(block.norm1(inputs)))
        hidden = block.conv2(F.silu(block.norm2(hidden)))
        if id(block) in self.shortcuts:
            return hidden + F.conv2d(hidden, self.shortcuts[id(block)])
        return inputs + hidden

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        side, decoder = int(tokens.shape[1] ** 0.5), self.decoder
        codes = self.vqvae.quantize.embedding(tokens.view(-1, side, side)).permute(0, 3, 1, 2)
        hidden = decoder.conv_in(self.vqvae.post_quant_conv(codes))
        for block in decoder.mid_block.resnets:
            hidden = self.block(block, hidden)
        for level in decoder.up_blocks:
            for block in level.resnets[:-1]:  # the last is there because diffusers' decoder has one more
                hidden = self.block(block, hidden)
            for upsampler in level.upsamplers or ():
                hidden = upsampler.conv(F.interpolate(hidden, scale_factor=2.0, mode="nearest"))
        return decoder.conv_out(F.silu(decoder.conv_norm_out(hidden))).clamp(0, 1)


def gumbel(rng: np.random.Generator, shape: tuple[int, ...], device: str) -> torch.Tensor:
    return torch.from_numpy(rng.gumbel(size=shape).astype(np.float32)).to(device)


@torch.no_grad()
def published(
    transformer: torch.nn.Module, decode: PublishedDecoder, strategy: GenerationStrategy, labels: list[int],
    dtype: torch.dtype, device: str, output: str = "images",
) -> torch.Tensor:  # fmt: skip
    """Images, or token ids, by the released sampler."""
    rng, config = np.random.default_rng(0), transformer.config
    batch, num_tokens, mask_id = len(labels), config.sample_size**2, config.codebook_size
    tokens = torch.full((batch, num_tokens), mask_id, device=device)
    classes = torch.tensor(labels + [config.num_classes] * batch, device=device)
    cache = None
    autocast = nullcontext() if dtype == torch.float32 else torch.autocast(device, dtype)
    with autocast:
        for t in range(strategy.num_inference_steps):
            made = transformer(torch.cat([tokens, tokens]), class_labels=classes, cache=cache)
            cache = made.cache
            cond, uncond = made.sample.float().chunk(2)
            logits = cond + strategy.guidance_scales[t] * (cond - uncond)
            masked = tokens == mask_id
            noise = gumbel(rng, tuple(logits.shape), device)
            drawn = (logits + strategy.sampling_temperatures[t] * noise).argmax(-1)
            drawn = torch.where(masked, drawn, tokens)
            confidence = logits.log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
            confidence = torch.where(masked, confidence, torch.inf)
            tokens = drawn
            if t + 1 < strategy.num_inference_steps:
                left = masked.sum(-1, keepdim=True) - 1
                count = torch.clamp(torch.tensor(int(num_tokens * strategy.mask_ratios[t])), min=1).minimum(left)
                score = confidence + strategy.remasking_temperatures[t] * gumbel(rng, (batch, num_tokens), device)
                cut = score.sort(-1).values.gather(-1, count)
                tokens = torch.where(score < cut, mask_id, drawn)
        return tokens if output == "tokens" else decode(tokens)


# Ours


def ours(pipe: AutoNATPipeline, strategy: GenerationStrategy, labels: list[int]) -> object:
    generator = torch.Generator(pipe.device).manual_seed(0)
    return pipe(labels, strategy=strategy, generator=generator, output_type="pt").images


def with_first_step_kept(draw: Callable[[], object]) -> Callable[[], object]:
    kept = FirstStepCache()

    def draw_with_kept() -> object:
        with kept.in_use():
            return draw()

    return draw_with_kept


def fused(pipe: AutoNATPipeline) -> AutoNATPipeline:
    pipe = copy_of(pipe)
    pipe.transformer.fuse_qkv_projections()
    return pipe


def compiled(pipe: AutoNATPipeline) -> AutoNATPipeline:
    pipe = copy_of(pipe)
    pipe.transformer.compile_repeated_blocks()
    return pipe


def copy_of(pipe: AutoNATPipeline) -> AutoNATPipeline:
    """With a transformer of its own."""
    copied = AutoNATPipeline(pipe.vqvae, copy.deepcopy(pipe.transformer), pipe.scheduler)
    copied.set_progress_bar_config(disable=True)
    return copied


def fp8_storage(pipe: AutoNATPipeline) -> AutoNATPipeline:
    """By diffusers: weights lie in fp8 and are cast, layer by layer, when they are used."""
    pipe = copy_of(pipe)
    pipe.transformer.enable_layerwise_casting(torch.float8_e4m3fn, pipe.transformer.dtype)
    return pipe


def int8_torchao(pipe: AutoNATPipeline) -> AutoNATPipeline:
    """Dynamic int8 by the configuration that diffusers' `TorchAoConfig` takes; `pip install torchao`."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    pipe = copy_of(pipe)
    quantize_(pipe.transformer, Int8DynamicActivationInt8WeightConfig())
    return pipe


def int8_torch(pipe: AutoNATPipeline) -> AutoNATPipeline:
    """Dynamic int8 by torch itself, which has declared it obsolete; of float32 weights, whatever the row's dtype."""
    pipe = copy_of(pipe)
    quantized = torch.ao.quantization.quantize_dynamic(pipe.transformer.float(), {torch.nn.Linear}, torch.qint8)
    pipe.register_modules(transformer=quantized)
    return pipe


def exported(format: str, pipe: AutoNATPipeline, dtype: torch.dtype | None = None, **int8: bool) -> AutoNATPipeline:
    """In another runtime: ONNX Runtime in float32 whatever the row's dtype, OpenVINO in the row's."""
    if format == "openvino":
        dtype = dtype or pipe.transformer.dtype
    with TemporaryDirectory() as folder:
        pipe = copy_of(pipe)
        whole = AutoNATPipeline(copy.deepcopy(pipe.vqvae).float(), pipe.transformer.float(), pipe.scheduler)
        whole.save_pretrained(f"{folder}/torch")
        export_pipeline(f"{folder}/torch", f"{folder}/{format}", format, **int8, report=lambda _: None)
        made = AutoNATPipeline.from_pretrained(f"{folder}/{format}", **({} if dtype is None else {"dtype": dtype}))
        made.set_progress_bar_config(disable=True)
        return made


OPTIONS = {
    "fused qkv": fused, "compiled": compiled, "fp8 storage": fp8_storage, "int8, torchao": int8_torchao,
    "int8, torch": int8_torch, "onnx": partial(exported, "onnx"), "onnx, int8": partial(exported, "onnx", int8=True),
    "openvino": partial(exported, "openvino"), "openvino, int8": partial(exported, "openvino", int8=True),
    "openvino, int8 with decoder": partial(exported, "openvino", int8=True, int8_decoder=True),
}  # fmt: skip
# Packages that this project installs with an extra or not at all, by how options begin.
NEEDED = {"int8, torchao": "torchao", "onnx": "onnxruntime", "openvino": "openvino"}
KEPT, ONE_CLASS = ADDITIONS = ("kept first step", "one class")  # also after another option: "openvino, one class"
# What the counter does not see is the same work.
UNCOUNTED = {name for name in OPTIONS if name not in ("fused qkv", "fp8 storage")}


def ways_of(
    model: str, pixels: int, steps: int, batch: int, dtype: torch.dtype, device: str, options: Sequence[str] = (),
    strategy_file: str | None = None,
) -> dict[str, Way]:  # fmt: skip
    """The published way and ours, of one set of weights."""
    torch.manual_seed(0)
    model_class, config = MODELS[model, pixels]
    transformer, vqvae = model_class(**config).eval().to(device), build_tokenizer().to(device)
    decode = PublishedDecoder(copy.deepcopy(vqvae))
    for block in vqvae.decoder.modules():  # as conversion leaves them
        if getattr(block, "conv_shortcut", None) is not None:
            torch.nn.init.zeros_(block.conv_shortcut.weight)
            torch.nn.init.zeros_(block.conv_shortcut.bias)
    strategy = read_strategy(strategy_file, steps) if strategy_file else strategy_of(model, steps)
    labels = [(127 * i + 7) % transformer.config.num_classes for i in range(batch)]
    ways = {"published": Way(partial(published, transformer, decode, strategy, labels, dtype, device))}

    pipe = AutoNATPipeline(vqvae.to(dtype), copy.deepcopy(transformer).to(dtype), NATScheduler())
    pipe.set_progress_bar_config(disable=True)
    ways["ours"] = Way(partial(ours, pipe, strategy, labels))
    pipes = {"": pipe}
    for name in options:
        option, addition = parts_of(name)
        if option not in pipes:
            pipes[option] = OPTIONS[option](pipe)
        draw = partial(ours, pipes[option], strategy, labels[:1] * batch if addition == ONE_CLASS else labels)
        if addition == KEPT:
            draw = with_first_step_kept(draw)
            draw()
        counted_as = ", ".join(filter(None, ["ours", addition])) if option in UNCOUNTED else None
        ways[f"ours, {name}"] = Way(draw, counted_as)
    return ways


def parts_of(name: str) -> tuple[str, str]:
    """Of "openvino, one class" the option and what is added to it; either can be empty."""
    addition = next((one for one in ADDITIONS if name.endswith(one)), "")
    return name.removesuffix(addition).removesuffix(", "), addition


# What else a user would pick, from diffusers


def dit(batch: int, dtype: torch.dtype, device: str, tiny: bool) -> Way:
    """DiT-XL/2 for 256 pixels with DPM-Solver++, 16 guided steps."""
    sizes = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8} if tiny else {
        "num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72}  # fmt: skip
    transformer = DiTTransformer2DModel(
        **sizes, in_channels=4, out_channels=8, sample_size=32, patch_size=2, num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero", norm_elementwise_affine=False, activation_fn="gelu-approximate", attention_bias=True,
    )  # fmt: skip
    channels = [8, 8, 8, 8] if tiny else [128, 256, 512, 512]
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, block_out_channels=channels,
        layers_per_block=2, latent_channels=4, norm_num_groups=8 if tiny else 32,
    )  # fmt: skip
    pipe = DiTPipeline(transformer.eval(), vae.eval(), DPMSolverMultistepScheduler()).to(device, dtype)
    pipe.set_progress_bar_config(disable=True)
    labels = [(127 * i + 7) % 1000 for i in range(batch)]
    return Way(lambda: pipe(labels, num_inference_steps=16, guidance_scale=4.0, output_type="np"))


def amused(batch: int, dtype: torch.dtype, device: str, tiny: bool) -> Way:
    """aMUSEd-256 in its 12 guided steps, given the states of a prompt: reading it is not counted."""
    small = {"hidden_size": 32, "in_channels": 32, "block_out_channels": 32, "num_res_blocks": 1, "block_num_heads": 4,
             "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}  # fmt: skip
    transformer = UVit2DModel(sample_size=16, **small if tiny else {})  # the class's defaults are aMUSEd's sizes
    channels = [8] * 5 if tiny else [128, 256, 256, 512, 768]
    vqvae = VQModel(
        down_block_types=["DownEncoderBlock2D"] * 5, up_block_types=["UpDecoderBlock2D"] * 5, block_out_channels=channels,
        layers_per_block=2, latent_channels=64, num_vq_embeddings=8192, vq_embed_dim=64, mid_block_add_attention=False,
        norm_num_groups=8 if tiny else 32, lookup_from_codebook=True, force_upcast=True,
    )  # fmt: skip
    pipe = AmusedPipeline(vqvae.eval(), None, None, transformer.eval(), AmusedScheduler(8255)).to(device, dtype)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    pooled, states = (
        torch.randn(batch, *shape, generator=generator).to(device, dtype) for shape in ((768,), (77, 768))
    )
    prompt = {"prompt_embeds": pooled, "encoder_hidden_states": states}
    prompt |= {"negative_prompt_embeds": pooled.flip(0), "negative_encoder_hidden_states": states.flip(0)}
    return Way(lambda: pipe(**prompt, height=256, width=256, num_inference_steps=12, output_type="np"))


OTHERS = {"DiT-XL/2": dit, "aMUSEd-256": amused}


# Measuring


def matrix_peak(dtype: torch.dtype, device: str, size: int) -> float:
    """Operations in a second of the best of some products of square matrices."""
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: one @ other) for _ in range(7))


def operations(draw: Callable[[], object]) -> int:
    """Of matrix products and convolutions, in one batch; attention written out, so that it is counted."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        draw()
    return counter.get_total_flops()


def rows_of(ways: dict[str, Way], rounds: int, peak: float, case: dict) -> list[dict]:
    counts = {name: operations(way.draw) for name, way in ways.items() if way.counted_as is None}
    taken = interleaved(
        {name: way.draw for name, way in ways.items()}, rounds, description=" ".join(map(str, case.values()))
    )
    rows = []
    for name, way in ways.items():
        ratio, spread = median_and_spread([base / own for base, own in zip(taken["published"], taken[name])])
        median = median_and_spread(taken[name])[0]
        count = counts[way.counted_as or name]
        rows.append({
            **case, "way": name, "ratio": ratio, "ratio_spread": spread, "seconds_per_batch": median,
            "seconds_per_image": median / case["batch_size"], "operations": count,
            "share_of_peak": count / median / peak, "rounds": taken[name],
        })  # fmt: skip
    return rows


def table(rows: list[dict]) -> str:
    lines = ["| times as fast as published | way | s/image | of the peak | model | pixels | T | batch | dtype |",
             "|---:|---|---:|---:|---|---:|---:|---:|---|"]  # fmt: skip
    for row in rows:
        ratio = f"{row['ratio']:.2f} (spread {row['ratio_spread']:.0%})"
        lines.append(
            f"| {ratio} | {row['way']} | {row['seconds_per_image']:.3f} | {row['share_of_peak']:.0%} | {row['model']} |"
            f" {row['pixels']} | {row['steps']} | {row['batch_size']} | {row['dtype']} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["AutoNAT-L"], choices=sorted({name for name, _ in MODELS}))
    parser.add_argument("--pixels", type=int, nargs="+", default=[256], choices=[256, 512])
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[8], help="T; a strategy of 8 steps is the one released"
    )
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1])
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--options", nargs="*", default=[KEPT, "fused qkv"],
                        choices=[*OPTIONS, *ADDITIONS, *(f"{name}, {one}" for name in OPTIONS for one in ADDITIONS)],
                        metavar="OPTION", help=f"of {', '.join(OPTIONS)}; {' or '.join(ADDITIONS)}, alone or after one: 'onnx, {KEPT}'")  # fmt: skip
    parser.add_argument("--others", nargs="*", default=[], choices=list(OTHERS))
    parser.add_argument("--strategy", help="a strategy file, of the numbers of steps that are asked for")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak-size", type=int, default=4096, help="side of the matrices whose product is the peak")
    parser.add_argument("--output", default="generate.json", help="JSON; a table lies beside it, with the suffix .md")
    args = parser.parse_args()
    for option, addition in map(parts_of, args.options):
        missing = [one for name, one in NEEDED.items() if option.startswith(name) and find_spec(one) is None]
        if missing:
            parser.error(f"--options '{option}' needs {missing[0]}: `pip install {missing[0]}`, or leave it out")
        if option and addition and addition not in args.options:
            parser.error(
                f"--options: operations of '{option}, {addition}' are those of '{addition}', which has to be there too"
            )
    device, rows = default_device(), []
    peaks = {name: matrix_peak(getattr(torch, name), device, args.peak_size) for name in args.dtypes}
    for name, peak in peaks.items():
        print(f"peak of matrix products in {name}: {peak / 1e9:,.0f} billion operations a second")
    for model, pixels in [one for one in MODELS if one[0] in args.models and one[1] in args.pixels]:
        for dtype_name in args.dtypes:
            dtype = getattr(torch, dtype_name)
            for steps in args.steps:
                for batch in args.batch_sizes:
                    ways = ways_of(model, pixels, steps, batch, dtype, device, args.options, args.strategy)
                    if pixels == 256:
                        ways |= {name: OTHERS[name](batch, dtype, device, model == "tiny") for name in args.others}
                    case = {"model": model, "pixels": pixels, "steps": steps, "batch_size": batch, "dtype": dtype_name}
                    rows += rows_of(ways, args.rounds, peaks[dtype_name], case)
                    write_json(args.output, {"rows": rows, "peaks": peaks, "device": device, **made_with("onnxruntime", "openvino", "torchao")})  # fmt: skip
    print(table(rows))
    with open(args.output.removesuffix(".json") + ".md", "w") as file:
        file.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
