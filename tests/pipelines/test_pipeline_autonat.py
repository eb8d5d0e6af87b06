"""The pipeline contract of diffusers, the traps of loading, and the promises of the design."""

import inspect
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import AutoModel, DiffusionPipeline, VQModel
from diffusers.callbacks import PipelineCallback
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file

from diffusers_autonat import AutoNATPipeline, GenerationStrategy, NATScheduler, UViTTransformer2DModel
from diffusers_autonat.pipelines.guided import GuidedTransformer
from tests.pipelines.test_pipeline_enat import enat_pipeline


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(pipe, labels=(0, 1), **kwargs):
    kwargs = {"generator": generator(), "output_type": "pt", "num_inference_steps": 4} | kwargs
    return pipe(list(labels), **kwargs).images


# Saving and loading


def test_saved_and_loaded_pipelines_make_the_same_images(pipe, tmp_path):
    before = sample(pipe)
    pipe.save_pretrained(tmp_path)
    loaded = AutoNATPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(before, sample(loaded))
    assert loaded.id2label == pipe.id2label and loaded.scheduler.stored_strategies == pipe.scheduler.stored_strategies
    loaded.save_pretrained(tmp_path / "again")
    first, again = (json.loads((path / "model_index.json").read_text()) for path in (tmp_path, tmp_path / "again"))
    assert again.pop("_name_or_path") == str(tmp_path) and first == again


def test_module_paths_are_a_storage_format(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "AutoNATPipeline"
    assert index["vqvae"] == ["diffusers", "VQModel"]
    assert index["transformer"] == ["diffusers_autonat.models.transformer_uvit", "UViTTransformer2DModel"]
    assert index["scheduler"] == ["diffusers_autonat.schedulers.scheduling_nat", "NATScheduler"]
    assert index["id2label"] == {str(k): v for k, v in pipe.id2label.items()}


def test_importing_the_pipeline_alone_is_enough_to_load(pipe, tmp_path):
    import subprocess
    import sys

    pipe.save_pretrained(tmp_path)
    code = (
        "from diffusers_autonat.pipelines.pipeline_autonat import AutoNATPipeline;"
        f"AutoNATPipeline.from_pretrained({str(tmp_path)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_base_classes_stand_in_the_modules_that_the_loader_looks_into():
    from diffusers_autonat.models import transformer_uvit
    from diffusers_autonat.schedulers import scheduling_nat

    assert hasattr(transformer_uvit, "ModelMixin") and hasattr(scheduling_nat, "SchedulerMixin")


def test_no_folder_name_clashes_with_a_diffusers_pipeline_module():
    import diffusers

    for folder in ("models", "schedulers", "pipelines", "diffusers_autonat"):
        assert not hasattr(diffusers.pipelines, folder)


def test_components_load_alone(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, safe_serialization=True)
    assert (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").exists()
    assert isinstance(AutoModel.from_pretrained(str(tmp_path), subfolder="transformer"), UViTTransformer2DModel)
    assert isinstance(NATScheduler.from_pretrained(tmp_path, subfolder="scheduler"), NATScheduler)


def test_half_precision_variant_and_dtype(pipe, tmp_path):
    pipe.transformer.half()
    pipe.save_pretrained(tmp_path, variant="fp16")
    loaded = AutoNATPipeline.from_pretrained(tmp_path, variant="fp16", dtype=torch.float16)
    assert loaded.transformer.dtype == torch.float16


def test_components_can_be_shared(pipe):
    other = AutoNATPipeline(**pipe.components)
    assert torch.equal(sample(other), sample(pipe)) and other.id2label == pipe.id2label
    assert isinstance(pipe, DiffusionPipeline) and isinstance(pipe.vqvae, VQModel)


def test_a_truncated_weights_file_is_an_error(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(Exception, match="(?i)safetensor|incomplete|corrupt|header|metadata"):
        AutoNATPipeline.from_pretrained(tmp_path)


# The call


def test_signature():
    parameters = inspect.signature(AutoNATPipeline.__call__).parameters
    for name in ("num_inference_steps", "num_images_per_prompt", "generator", "latents", "output_type", "return_dict"):
        assert parameters[name].default is not inspect.Parameter.empty


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_output_types(pipe, output_type):
    images = sample(pipe, output_type=output_type)
    if output_type == "pil":
        assert len(images) == 2 and isinstance(images[0], Image.Image) and images[0].size == (28, 28)
    elif output_type == "np":
        assert images.shape == (2, 28, 28, 1) and images.min() >= 0 and images.max() <= 1
    elif output_type == "pt":
        assert images.shape == (2, 1, 28, 28)
    else:
        assert images.shape == (2, 49) and images.dtype == torch.long and 0 <= images.min() and images.max() < 16


def test_pil_images_are_the_tensor_rounded(pipe):
    expected = (sample(pipe)[0, 0] * 255).round().byte().numpy()
    assert np.array_equal(np.asarray(sample(pipe, output_type="pil")[0]), expected)


def test_tuple(pipe):
    assert torch.equal(pipe([0, 1], 4, generator=generator(), output_type="pt", return_dict=False)[0], sample(pipe))


def test_an_image_does_not_depend_on_its_batch(pipe):
    together = sample(pipe, [0, 1, 2], generator=[generator(i) for i in range(3)], output_type="latent")
    for i in range(3):
        assert torch.equal(together[i : i + 1], sample(pipe, [i], generator=[generator(i)], output_type="latent"))


def test_num_images_per_prompt_repeats_labels_in_order(pipe):
    repeated = sample(pipe, [0, 1], num_images_per_prompt=2, generator=generator(3))
    assert torch.equal(repeated, sample(pipe, [0, 0, 1, 1], generator=generator(3)))


def test_labels_by_id_name_synonym_and_tensor(pipe):
    by_id = sample(pipe, [0, 1])
    assert torch.equal(by_id, sample(pipe, ["Kitty", "DOG "]))
    assert torch.equal(by_id, sample(pipe, ["cat, kitty", 1]))
    assert torch.equal(by_id, pipe(torch.tensor([0, 1]), 4, generator=generator(), output_type="pt").images)
    assert len(pipe("dog", 4).images) == len(pipe(1, 4).images) == 1
    assert len(sample(pipe, [4])) == 1  # the null class


def test_the_label_and_the_guidance_matter(pipe):
    logits = [pipe.transformer(torch.full((1, 49), 16), class_labels=torch.tensor([i])).sample for i in (0, 4)]
    assert not torch.allclose(*logits)
    ids, label = torch.full((1, 49), 16), torch.tensor([0])
    predict = GuidedTransformer(pipe.transformer, {"class_labels": label}, {"class_labels": torch.tensor([4])})
    step = pipe.scheduler.plan(4).parameters[1]
    expected = logits[0] + 2.0 * step.guidance_scale * (logits[0] - logits[1])
    assert torch.allclose(predict(ids, step, guidance_scale=2.0), expected, atol=1e-5)


def test_steps_without_guidance_run_no_unconditional_pass(pipe):
    sizes = []
    pipe.transformer.register_forward_hook(
        lambda module, args, kwargs, out: sizes.append(len(args[0])), with_kwargs=True
    )
    strategy = GenerationStrategy([0.8, 0.5, 0.2, 0.0], [1.0] * 4, [1.0] * 4, [0.0, 1.0, 0.0, 2.0])
    sample(pipe, strategy=strategy)
    assert sizes == [2, 4, 2, 4]
    sizes.clear()
    sample(pipe, strategy=strategy, guidance_scale=0.0)
    assert sizes == [2, 2, 2, 2]


def test_a_strategy_per_image(pipe):
    strategies = [GenerationStrategy.cosine(4, guidance_scale=0.0), GenerationStrategy.cosine(4)]
    both = sample(pipe, strategy=strategies, generator=[generator(0), generator(1)], output_type="latent")
    for i, strategy in enumerate(strategies):
        alone = sample(pipe, [i], strategy=strategy, generator=[generator(i)], output_type="latent")
        assert torch.equal(both[i : i + 1], alone)


def test_given_latents_are_kept(pipe):
    latents = torch.full((2, 49), 16)
    latents[0, :20], latents[1, 5] = 3, 7
    out = sample(pipe, latents=latents, output_type="latent")
    assert (out[0, :20] == 3).all() and out[1, 5] == 7 and out.max() < 16


def test_the_progress_bar_counts_steps(pipe, capfd):
    pipe.set_progress_bar_config(disable=False)
    sample(pipe, num_inference_steps=8)
    assert "8/8" in capfd.readouterr().err


def test_the_default_is_the_longest_stored_strategy(pipe):
    pipe([0])
    assert pipe.num_timesteps == 8 and pipe.guidance_scale == 1.0


# Callbacks


def test_callbacks_get_what_they_ask_for_and_can_change_latents(pipe):
    seen = []

    def callback(pipeline, step, timestep, kwargs):
        seen.append((step, timestep, sorted(kwargs), kwargs["logits"].shape))
        return {"latents": torch.zeros_like(kwargs["latents"])} if step == 3 else {}

    images = sample(pipe, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=["latents", "logits"],
                    output_type="latent")  # fmt: skip
    assert [entry[:2] for entry in seen] == [(i, i) for i in range(4)]
    assert all(entry[2] == ["latents", "logits"] and entry[3] == (2, 49, 16) for entry in seen)
    assert not images.any()


def test_pipeline_callback_objects(pipe):
    class Raise(PipelineCallback):
        tensor_inputs = ["latents"]

        def callback_fn(self, pipeline, step, timestep, kwargs):
            pipeline._guidance_scale += 1.0
            return kwargs

    sample(pipe, callback_on_step_end=Raise(cutoff_step_ratio=1.0))
    assert pipe.guidance_scale == 1.0 + pipe.num_timesteps


def test_a_callback_may_return_nothing_change_guidance_and_interrupt(pipe):
    assert torch.equal(sample(pipe, callback_on_step_end=lambda *_: None), sample(pipe))

    def turn_guidance_off(pipeline, step, timestep, kwargs):
        pipeline._guidance_scale = 0.0

    def stop(pipeline, step, timestep, kwargs):
        seen.append(kwargs["latents"])
        pipeline._interrupt = step == 1

    sizes, seen = [], []
    hook = pipe.transformer.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    sample(pipe, callback_on_step_end=turn_guidance_off)
    assert sizes == [3, 2, 2, 2]  # two classes and no class in the first step
    hook.remove()
    tokens = sample(pipe, callback_on_step_end=stop, output_type="latent")
    assert len(seen) == 2 and (tokens < 16).all()  # what was still masked is as it was guessed
    assert torch.equal(tokens[seen[1] != 16], seen[1][seen[1] != 16])
    assert (sample(pipe, output_type="latent") < 16).all() and not pipe.interrupt


def test_a_call_inside_a_callback_leaves_the_outer_call_alone(pipe):
    def call(pipeline, step, timestep, kwargs):
        pipeline(["dog"], strategy=GenerationStrategy.cosine(2, guidance_scale=9.0), guidance_scale=5.0)

    assert torch.equal(sample(pipe, callback_on_step_end=call), sample(pipe))
    assert pipe.num_timesteps == 4


def test_threads_with_strategies_of_their_own_share_a_pipeline(pipe):
    strategies = [GenerationStrategy.cosine(T, guidance_scale=s) for T, s in ((2, 0.0), (4, 1.0), (6, 2.0), (9, 4.0))]

    def draw(i):
        return sample(pipe, num_inference_steps=None, strategy=strategies[i % 4], guidance_scale=1.0 + i % 3)

    expected = [draw(i) for i in range(24)]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, pool.map(draw, range(24)), expected))


def test_tokens_without_a_tokenizer(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = AutoNATPipeline.from_pretrained(tmp_path, vqvae=None)
    for bare in (AutoNATPipeline(None, pipe.transformer, pipe.scheduler), loaded):
        assert bare.vqvae is None
        assert torch.equal(sample(bare, output_type="latent"), sample(pipe, output_type="latent"))
    with pytest.raises(ValueError, match="output_type = 'pt' needs a vqvae"):
        sample(bare)


def test_lora_through_the_pipeline(pipe, tmp_path):
    @torch.no_grad()
    def logits():
        return pipe.transformer(torch.full((1, 49), 16), class_labels=torch.tensor([0])).sample

    before = logits()
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.transformer.add_adapter(config, "style")
    with_lora = logits()
    assert (with_lora - before).abs().max() > 1e-3
    layers = get_peft_model_state_dict(pipe.transformer, adapter_name="style")
    pipe.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    pipe.unload_lora_weights()
    assert torch.equal(logits(), before)
    pipe.load_lora_weights(tmp_path, adapter_name="mine")
    assert torch.equal(logits(), with_lora)
    pipe.set_adapters("mine", 0.0)
    assert torch.equal(logits(), before)
    pipe.set_adapters("mine", 1.0)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert pipe.get_list_adapters() == {} and torch.allclose(logits(), with_lora, atol=1e-5)


def test_the_generic_class_finds_ours_through_the_folder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, custom_pipeline=str(tmp_path), trust_remote_code=True)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is AutoNATPipeline and torch.equal(sample(loaded), sample(pipe))


# Bad input: one clear error, before any work


@pytest.mark.parametrize(
    "labels, kwargs, message",
    [
        ([5], {}, "class id 5 does not exist: ids are 0 to 3"),
        (b"\0", {}, r"class id b'\\x00' does not exist"),
        (memoryview(b"\0"), {}, r"class id <memory at .* does not exist"),
        ([-1], {}, "class id -1"),
        ([0.5], {}, "class id 0.5"),
        (["horse"], {}, "unknown class name 'horse'; known are"),
        (["crane"], {}, r"'crane' stands for the ids \[2, 3\]"),
        ([], {}, "class_labels is empty"),
        ([0], {"num_images_per_prompt": 0}, "num_images_per_prompt = 0"),
        ([0], {"num_images_per_prompt": -2}, "num_images_per_prompt = -2"),
        ([0], {"guidance_scale": -1.0}, "guidance_scale = -1.0"),
        ([0, 1], {"generator": [generator()]}, "1 generators were passed for 2 images"),
        (None, {}, "class id None"),
        ([None], {}, "class id None"),
        ([float("nan")], {}, "class id nan"),
        ([True], {}, "class id True"),
        ([[0]], {}, r"class id \[0\]"),
        ({0}, {}, r"class id {0}"),
        (torch.zeros(1), {}, "class id 0.0"),
        ([0], {"num_images_per_prompt": 2.0}, "num_images_per_prompt = 2.0"),
        ([0], {"num_images_per_prompt": None}, "num_images_per_prompt = None"),
        ([0], {"num_inference_steps": "4"}, "num_inference_steps = '4'"),
        ([0], {"num_inference_steps": float("nan")}, "num_inference_steps = nan"),
        ([0], {"num_inference_steps": 10**9}, "num_inference_steps = 1000000000"),
        ([0], {"guidance_scale": 1e39}, r"guidance_scale = 1e\+39"),
        ([0], {"guidance_scale": float("nan")}, "guidance_scale = nan"),
        ([0], {"guidance_scale": float("inf")}, "guidance_scale = inf"),
        ([0], {"guidance_scale": "3"}, "guidance_scale = '3'"),
        ([0], {"guidance_scale": None}, "guidance_scale = None"),
        ([0], {"strategy": {}}, "strategy = {} must be a GenerationStrategy"),
        ([0], {"strategy": "found.json"}, "strategy = 'found.json' must be a GenerationStrategy.*from_json"),
        ([0], {"strategy": [None]}, "strategy = .* must be a GenerationStrategy"),
        ([0], {"generator": 0}, "generator = 0 must be a torch.Generator"),
        ([0], {"latents": [[16] * 49]}, "latents must be an int64 tensor"),
        ([0, 1], {"generator": [generator(), 3]}, "holds int"),
        ([0], {"latents": torch.zeros(1, 48, dtype=torch.long)}, r"\(1, 49\)"),
        ([0], {"latents": torch.zeros(1, 49)}, "int64"),
        ([0], {"latents": torch.full((1, 49), 17)}, "id 17; ids are 0 to 15, 16 is masked"),
        ([0], {"latents": torch.full((1, 49), -1)}, "id -1"),
        ([0], {"num_inference_steps": 6}, r"only for \[4, 8\]"),
        ([0], {"num_inference_steps": 0}, "0"),
        ([0], {"output_type": "jpg"}, "'jpg'"),
        ([0], {"callback_on_step_end_tensor_inputs": ["noise"]}, "noise"),
        ([0, 1], {"strategy": [GenerationStrategy.cosine(4)]}, "1 strategies were passed for 2 images"),
    ],
)
def test_bad_input(pipe, labels, kwargs, message):
    def fail(*_, **__):
        raise AssertionError("work began before the input was checked")

    pipe.transformer.register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match=message):
        pipe(labels, **kwargs)


@pytest.mark.parametrize("changed", [torch.zeros(1, 48, dtype=torch.long), torch.zeros(1, 49), [0] * 49])
def test_a_callback_that_returns_no_tokens_is_told_so(pipe, changed):
    with pytest.raises(ValueError, match="latents must be"):
        pipe([0], callback_on_step_end=lambda *_: {"latents": changed})


@pytest.mark.parametrize("broken", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("guidance_scale", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(pipe, broken, guidance_scale):
    pipe.transformer.head.bias.data[3] = float(broken)
    given = torch.arange(49)[None] % 16
    given[0, ::2] = 16
    seen = []
    with pytest.raises(ValueError, match=r"not finite in step 0 of this call \(float32\)"):
        pipe(
            [0], guidance_scale=guidance_scale, latents=given,
            callback_on_step_end=lambda pipe, step, timestep, tensors: seen.append(tensors["latents"]),
        )  # fmt: skip
    known = given != 16
    assert len(seen) == 8 and all(torch.equal(tokens[known], given[known]) for tokens in seen)


def test_a_later_step_that_overflows_is_named(pipe):
    def overflow(pipe, step, timestep, tensors):
        if step == 2:
            pipe._guidance_scale = 3e38

    with pytest.raises(ValueError, match="not finite in step 3.*less guidance"):
        pipe([0], strategy=GenerationStrategy.cosine(8, guidance_scale=50.0), callback_on_step_end=overflow)


def test_a_tokenizer_that_decodes_to_nan_is_an_error(pipe):
    pipe.vqvae.decoder.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"decodes to NaN \(float32\)"):
        pipe([0])
    assert pipe([0], output_type="latent").images.shape == (1, 49)


def test_components_that_do_not_fit_are_named(pipe):
    pipe.scheduler = NATScheduler(1024)
    with pytest.raises(ValueError, match="mask_token_id is 1024"):
        pipe([0])


def test_names_without_id2label(pipe):
    plain = AutoNATPipeline(pipe.vqvae, pipe.transformer, pipe.scheduler)
    with pytest.raises(ValueError, match="no id2label"):
        plain(["dog"])


DRAW = """
import sys, torch
from diffusers_autonat import AutoNATPipeline
from safetensors.torch import save_file
torch.set_num_threads(int(sys.argv[3]))
draws = {}
for name in ("autonat", "enat"):
    pipe = AutoNATPipeline.from_pretrained(f"{sys.argv[1]}/{name}")
    noise = [torch.Generator().manual_seed(i) for i in range(3)]
    draws[name] = pipe([0, 2, 4], num_inference_steps=4, generator=noise, output_type="latent").images
save_file(draws, sys.argv[2])
"""


def test_another_process_draws_the_same(pipe, tmp_path):
    pipes = {"autonat": pipe, "enat": enat_pipeline()}
    for name, one in pipes.items():
        one.save_pretrained(tmp_path / name)
    arguments = [sys.executable, "-c", DRAW, str(tmp_path), str(tmp_path / "drawn"), str(torch.get_num_threads())]
    subprocess.run(arguments, check=True)
    drawn = load_file(tmp_path / "drawn")
    for name, one in pipes.items():
        noise = [generator(i) for i in range(3)]
        here = one([0, 2, 4], num_inference_steps=4, generator=noise, output_type="latent").images
        assert torch.equal(drawn[name], here)
