"""The reference tensors as released files, through the command and `from_pretrained`, back to the authors' numbers."""

import json
import os
import resource
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import VQModel
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from transformers import CLIPTextModel

import diffusers_autonat.schedulers.masked_token_scheduler as masked_token_scheduler
import diffusers_autonat.schedulers.scheduling_nat as scheduling_nat
from diffusers_autonat import (
    AutoNATInpaintPipeline,
    AutoNATPipeline,
    AutoNATTextToImagePipeline,
    ENATTransformer2DModel,
    GenerationStrategy,
    NATScheduler,
    UViTTransformer2DModel,
)
from diffusers_autonat.cli import main
from diffusers_autonat.models.tokenizer import padding_blocks
from tests.conftest import load_reference, on_grid
from tests.conversion.released import RELEASED_YAML, load_vqgan, randomise, release_enat, release_uvit
from tests.pipelines.text_encoders import tiny_clip_tokenizer, tiny_encoder


OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1.0}]}


def close(a, b):
    return (a - b).abs().max() < 2e-5 * b.abs().max()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The released files: each model in another container."""
    folder = tmp_path_factory.mktemp("released")
    uvit, text, enat = (load_reference(name)[0] for name in ("uvit", "uvit_text", "enat"))
    torch.save(uvit | {"token_emb.position_ids": torch.arange(256)[None]}, folder / "nnet_ema.pth")
    (folder / "cc3m.ckpt").mkdir()
    torch.save({f"module.{name}": tensor for name, tensor in text.items()}, folder / "cc3m.ckpt" / "nnet_ema.pth")
    torch.save(OPTIMIZER, folder / "cc3m.ckpt" / "optimizer.pth")
    save_file({f"nnet_ema.{name}": tensor for name, tensor in enat.items()}, folder / "enat.safetensors")
    torch.save({"state_dict": load_vqgan()[0]}, folder / "vqgan.ckpt")
    (folder / "T8.yaml").write_text(RELEASED_YAML)
    return folder


def convert(files, output, model, checkpoint, *args):
    main(["convert", "--model", model, "--checkpoint", str(files / checkpoint), "--output", str(output), *args])


def load(output):
    pipe = AutoNATPipeline.from_pretrained(output)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def autonat(files, tmp_path_factory):
    output = tmp_path_factory.mktemp("converted") / "autonat"
    convert(files, output, "autonat", "nnet_ema.pth", "--num-attention-heads", "4", "--vqgan", str(files / "vqgan.ckpt"),
            "--strategy", str(files / "T8.yaml"))  # fmt: skip
    return output


def recorded_run(pipe, labels, strategy, prefix, reference):
    """Tokens before every step of a run equal the recorded ones; returns the final tokens."""

    def check(pipeline, step, timestep, kwargs):
        after = "final_ids" if step + 1 == pipeline.num_timesteps else f"step{step + 1}.input_ids"
        assert torch.equal(kwargs["latents"], reference[f"{prefix}.{after}"]), step
        return {}

    return pipe(labels, strategy=strategy, output_type="latent", callback_on_step_end=check).images


@torch.no_grad()
def test_autonat_computes_what_the_authors_do(autonat):
    reference, pipe = load_reference("uvit")[1], load(autonat)
    assert pipe.transformer.config.num_attention_heads == 4
    assert close(pipe.transformer(reference["input_ids"], reference["class_labels"]).sample, reference["logits"])
    strategy = GenerationStrategy([0.9, 0.7, 0.35, 0.0], [0.0] * 4, [0.0] * 4, [0.0, 0.5, 1.5, 2.5])
    final = recorded_run(pipe, reference["greedy.class_labels"], strategy, "greedy", reference)
    assert torch.equal(final, reference["greedy.final_ids"])


def test_the_recorded_stochastic_run_with_the_released_strategy(autonat, monkeypatch):
    reference, pipe = load_reference("uvit")[1], load(autonat)
    noise = []  # two draws in each step: of the tokens, then of their confidence
    for step in range(8):
        drawn = torch.nn.functional.one_hot(reference[f"stochastic.step{step}.sampled_ids"], 48)
        noise += [1e4 * drawn.float(), reference.get(f"stochastic.step{step}.gumbel")]
    injected = iter(noise)
    for module in (masked_token_scheduler, scheduling_nat):
        monkeypatch.setattr(module, "gumbel_noise", lambda *_: next(injected))
    final = recorded_run(pipe, reference["stochastic.class_labels"], None, "stochastic", reference)
    assert torch.equal(final, reference["stochastic.final_ids"])
    assert len(list(injected)) == 1  # the last step draws no confidence


@torch.no_grad()
def test_the_tokenizer_is_stock_and_its_padding_is_not_run(autonat):
    _, reference = load_vqgan()
    stock = VQModel.from_pretrained(autonat, subfolder="vqvae")
    latents = stock.encode(reference["image"]).latents
    assert close(latents, reference["encoder_output"])
    assert torch.equal(stock.quantize(latents)[2][2].view(2, 8, 8), reference["codes"])
    for vqvae, skipped in ((stock, 0), (load(autonat).vqvae, 3)):
        assert len(padding_blocks(vqvae)) == skipped
        images = vqvae.decode(reference["codes"], force_not_quantize=True, shape=(2, 8, 8, 32)).sample
        assert (images - reference["reconstruction"]).abs().max() < 1e-4
    assert stock.config.sample_size == 64  # of the 16 x 16 tokens of the pipeline


def test_the_strategy_file_is_the_stored_strategy(autonat, files):
    stored = load(autonat).scheduler.stored_strategies
    assert stored == {8: GenerationStrategy.from_yaml(files / "T8.yaml")}
    assert stored[8].guidance_scales[:3] == (0.0, 0.0, 0.0)


def test_the_card(autonat):
    text = (autonat / "README.md").read_text()
    data = ModelCard(text).data
    assert data.library_name == "diffusers"
    for fact in ("78,705 parameters", "16 x 16 tokens of 48 codes, 10 classes, 5 blocks, 4 heads", "LeapLabTHU/ImprovedNAT",
                 "Ni2024AutoNAT", "Chang2022MaskGIT", "nnet_ema.pth", "vqgan.ckpt", 'from_pretrained("autonat")',
                 "U-ViT: tensors are renamed", "VQGAN: layers are folded"):  # fmt: skip
        assert fact in text
    # Weights of other sizes are somebody's own: they are not given the authors' terms.
    assert (
        data.license == "other"
        and "not the released weights of AutoNAT's" in text
        and "trained on ImageNet" not in text
    )
    assert str(autonat.parent) not in text


@torch.no_grad()
def test_enat_computes_what_the_authors_do(files, tmp_path, capsys):
    convert(files, tmp_path / "enat", "enat", "enat.safetensors", "--num-attention-heads", "4", "--vqgan",
            str(files / "vqgan.ckpt"))  # fmt: skip
    assert "not used: prev_embedder.fc1.bias" in capsys.readouterr().out
    reference, pipe = load_reference("enat")[1], load(tmp_path / "enat")
    cache = None
    for i in range(4):
        output = pipe.transformer(reference[f"reuse.step{i}.input_ids"], reference["class_labels"], cache=cache)
        cache = output.cache
        assert close(output.sample, reference[f"reuse.step{i}.logits"])
        visible = reference[f"reuse.step{i}.input_ids"] != 48
        if visible.any():  # else there is nothing to reuse
            assert close(on_grid(cache, 64), reference[f"reuse.step{i}.features"] * visible[..., None])
        fresh = pipe.transformer(reference[f"reuse.step{i}.input_ids"], reference["class_labels"]).sample
        assert close(fresh, reference[f"fresh.step{i}.logits"])
    # The authors' sampler is stored; the recorded run has zero temperatures.
    assert pipe.scheduler.stored_strategies == {8: GenerationStrategy.enat(8)}
    strategy = replace(GenerationStrategy.enat(8), sampling_temperatures=[0.0] * 8, remasking_temperatures=[0.0] * 8)
    final = recorded_run(pipe, reference["greedy.class_labels"], strategy, "greedy", reference)
    assert torch.equal(final, reference["greedy.final_ids"])
    assert pipe([0], output_type="pt").images.shape == (1, 3, 32, 32)


@torch.no_grad()
def test_the_text_model_without_a_tokenizer_is_a_component(files, tmp_path, capsys):
    convert(
        files, tmp_path / "text", "autonat-text", "cc3m.ckpt", "--num-attention-heads", "4", "--context-length", "12"
    )
    printed = capsys.readouterr().out
    assert "not used: cc3m.ckpt/optimizer.pth" in printed and "assumed" not in printed
    assert sorted(path.name for path in (tmp_path / "text").iterdir()) == ["README.md", "scheduler", "transformer"]
    _, reference = load_reference("uvit_text")
    transformer = UViTTransformer2DModel.from_pretrained(tmp_path / "text", subfolder="transformer")
    logits = transformer(reference["input_ids"], encoder_hidden_states=reference["encoder_hidden_states"]).sample
    assert close(logits, reference["logits"])
    assert NATScheduler.from_pretrained(tmp_path / "text", subfolder="scheduler").config.mask_token_id == 48
    text = (tmp_path / "text" / "README.md").read_text()
    assert 'UViTTransformer2DModel.from_pretrained("text"' in text and "12 text states of width " in text
    assert "--text-encoder NAME" in text
    assert "VQGAN" not in text  # nothing is said about a tokenizer that is not there


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP whose states are as wide as the reference model's."""
    folder = tmp_path_factory.mktemp("encoders") / "clip"
    tiny_encoder("clip", width=24).save_pretrained(folder)
    tiny_clip_tokenizer().save_pretrained(folder)
    return folder


TEXT = ["--num-attention-heads", "4", "--context-length", "12"]


def load_text(output):
    pipe = AutoNATTextToImagePipeline.from_pretrained(output)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def muse(files, clip, tmp_path_factory):
    output = tmp_path_factory.mktemp("converted") / "muse"
    convert(files, output, "autonat-text", "cc3m.ckpt", *TEXT, "--vqgan", str(files / "vqgan.ckpt"), "--text-encoder",
            str(clip), "--strategy", str(files / "T8.yaml"))  # fmt: skip
    return output


def test_the_text_model_is_a_pipeline_and_computes_what_the_authors_do(muse):
    _, reference = load_reference("uvit_text")
    pipe, seen = load_text(muse), []
    pipe(
        prompt_embeds=reference["encoder_hidden_states"], latents=reference["input_ids"], output_type="latent",
        strategy=GenerationStrategy([0.0], [0.0], [0.0], [0.0]),
        callback_on_step_end=lambda pipe, step, timestep, tensors: seen.append(tensors["logits"]),
        callback_on_step_end_tensor_inputs=["logits"],
    )  # fmt: skip
    assert close(seen[0], reference["logits"])
    assert sorted(pipe.scheduler.stored_strategies) == [8]
    assert pipe("a!", output_type="pt").images.shape == (1, 3, 32, 32)


@torch.no_grad()
def test_prompts_are_padded_as_in_training_and_lose_no_exclamation_mark(muse, clip, files, tmp_path):
    encoder = CLIPTextModel.from_pretrained(clip)

    def states(ids, pad):
        return encoder(torch.tensor([ids + [pad] * (12 - len(ids))])).last_hidden_state

    # The authors pad with id 0. As the pad token of a saved tokenizer, "!" would be read as id 0 in prompts too.
    pipe = load_text(muse)
    prompt, null = pipe.encode_prompt("a!")
    torch.testing.assert_close(prompt, states([4, 3, 1, 5], pad=0))
    torch.testing.assert_close(null, states([4, 5], pad=0))
    assert AutoNATInpaintPipeline(**pipe.components).config.pad_token_id == 0
    assert AutoNATInpaintPipeline.from_pipe(pipe).config.pad_token_id == 0
    convert(files, tmp_path / "out", "autonat-text", "cc3m.ckpt", *TEXT, "--vqgan", str(files / "vqgan.ckpt"),
            "--text-encoder", str(clip), "--pad-token-id", "5")  # fmt: skip
    prompt, _ = load_text(tmp_path / "out").encode_prompt("a!")
    torch.testing.assert_close(prompt, states([4, 3, 1, 5], pad=5))


def test_the_card_of_the_text_pipeline_draws(muse, clip, monkeypatch):
    card = (muse / "README.md").read_text()
    assert "Text encoder and its tokenizer: `clip`" in card and str(clip.parent) not in card
    assert ModelCard(card).data.pipeline_tag == "text-to-image" and "## Classes" not in card
    monkeypatch.chdir(muse.parent)
    variables: dict = {}
    exec(card.split("```python")[1].split("```")[0], variables)
    assert variables["image"].size == (32, 32)


def test_the_encoder_is_said_with_what_is_assumed_of_it(files, clip, tmp_path, capsys):
    pipeline = ["--vqgan", str(files / "vqgan.ckpt"), "--text-encoder", str(clip)]
    for args, assumed in ([], True), (["--pad-token-id", "0"], False):
        convert(files, tmp_path / f"out{len(args)}", "autonat-text", "cc3m.ckpt", *TEXT, *pipeline, *args)
        printed = capsys.readouterr().out
        assert "text encoder: CLIPTextModel of clip, " in printed and "states of width 24" in printed
        assert ("no tensor shows pad_token_id=0: assumed" in printed) == assumed


@pytest.mark.parametrize(
    ("model", "checkpoint", "assumed"),
    [
        ("autonat", "nnet_ema.pth", {"num_attention_heads": 8}),
        ("autonat-text", "cc3m.ckpt", {"num_attention_heads": 16, "context_length": 77}),
        ("enat", "enat.safetensors", {"num_attention_heads": 16, "num_decoder_layers": 2}),
    ],
)
def test_what_no_tensor_shows_is_as_released_and_said(files, tmp_path, capsys, model, checkpoint, assumed):
    convert(files, tmp_path / model, model, checkpoint)
    config = json.loads((tmp_path / model / "transformer" / "config.json").read_text())
    assert {key: config[key] for key in assumed} == assumed
    printed = capsys.readouterr().out
    assert f"no tensor shows {', '.join(f'{key}={value}' for key, value in assumed.items())}: assumed" in printed


@torch.no_grad()
def test_the_split_of_enat_is_an_option(tmp_path, capsys):
    config = {"sample_size": 3, "codebook_size": 7, "hidden_size": 8, "num_encoder_layers": 3, "num_decoder_layers": 3,
              "num_attention_heads": 2, "num_classes": 4}  # fmt: skip
    model = randomise(ENATTransformer2DModel(**config))
    torch.save(release_enat(model), tmp_path / "w.pth")
    convert(tmp_path, tmp_path / "out", "enat", "w.pth", "--num-attention-heads", "2", "--num-decoder-layers", "3")
    printed = capsys.readouterr().out
    assert "3 encoder and 3 decoder blocks, 2 heads" in printed and "assumed" not in printed
    converted = ENATTransformer2DModel.from_pretrained(tmp_path / "out", subfolder="transformer")
    ids, labels = torch.tensor([[0, 7, 1, 7, 7, 2, 3, 7, 6]]), torch.tensor([2])
    assert torch.equal(converted(ids, labels).sample, model(ids, labels).sample)
    # Other splits would convert as well: hence the line about what is assumed.
    convert(tmp_path, tmp_path / "default", "enat", "w.pth", "--num-attention-heads", "2")
    printed = capsys.readouterr().out
    assert (
        "4 encoder and 2 decoder blocks, 2 heads" in printed
        and "no tensor shows num_decoder_layers=2: assumed" in printed
    )


def test_what_a_search_writes_is_stored(files, tmp_path):
    strategies = [GenerationStrategy.cosine(4), GenerationStrategy.enat(6)]
    NATScheduler(48, strategies).save_pretrained(tmp_path / "search")
    convert(files, tmp_path / "out", "autonat", "nnet_ema.pth", "--strategy", str(files / "T8.yaml"),
            str(tmp_path / "search" / "scheduler_config.json"))  # fmt: skip
    stored = NATScheduler.from_pretrained(tmp_path / "out", subfolder="scheduler").stored_strategies
    assert stored == {4: strategies[0], 6: strategies[1], 8: GenerationStrategy.from_yaml(files / "T8.yaml")}


def test_imagenet_names(files, tmp_path):
    config = {"sample_size": 4, "codebook_size": 48, "hidden_size": 8, "num_layers": 1, "num_attention_heads": 8}
    torch.save(release_uvit(randomise(UViTTransformer2DModel(**config, num_classes=1000))), tmp_path / "w.pth")
    convert(
        tmp_path, tmp_path / "out", "autonat", "w.pth", "--vqgan", str(files / "vqgan.ckpt"), "--id2label", "imagenet"
    )
    pipe = load(tmp_path / "out")
    assert pipe.get_label_ids(["golden retriever", "Tinca tinca", "toilet paper", "Siberian husky"]) == [
        207,
        0,
        999,
        250,
    ]
    assert len(pipe.id2label) == 1000 and all(name == name.strip() != "" for name in pipe.id2label.values())
    for name, ids in {"crane": [134, 517], "maillot": [638, 639]}.items():
        with pytest.raises(ValueError, match=rf"'{name}' stands for the ids \[{ids[0]}, {ids[1]}\]"):
            pipe.get_label_ids([name])
    assert pipe(["golden retriever"], output_type="pt").images.shape == (1, 3, 16, 16)


def test_names_of_a_file_and_several_strategies(files, tmp_path):
    (tmp_path / "names.json").write_text(json.dumps({str(i): f"class {i}, c{i}" for i in range(10)}))
    GenerationStrategy.cosine(4).to_json(tmp_path / "T4.json")
    for T in (2, 6):
        GenerationStrategy.cosine(T).to_json(tmp_path / f"T{T}.json")
    strategies = ["--strategy", str(files / "T8.yaml"), str(tmp_path / "T4.json"), "--strategy", str(tmp_path / "T2.json"),
                  "--strategy", str(tmp_path / "T6.json")]  # fmt: skip
    convert(files, tmp_path / "out", "autonat", "nnet_ema.pth", "--vqgan", str(files / "vqgan.ckpt"), "--id2label",
            str(tmp_path / "names.json"), *strategies)  # fmt: skip
    pipe = load(tmp_path / "out")
    assert sorted(pipe.scheduler.stored_strategies) == [2, 4, 6, 8] and pipe.get_label_ids("C3") == [3]
    assert "pipe('class 0')" in (tmp_path / "out" / "README.md").read_text()


def test_the_card_shows_a_class_that_can_be_called(files, tmp_path):
    (tmp_path / "names.json").write_text(json.dumps({str(i): f"crane, bird {i}" for i in range(10)}))
    convert(files, tmp_path / "out", "autonat", "nnet_ema.pth", "--vqgan", str(files / "vqgan.ckpt"), "--id2label",
            str(tmp_path / "names.json"))  # fmt: skip
    assert "pipe(0)" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {str(i): "name" for i in range(1, 11)},
            "has 10 names, but .* 10 classes, 0 to 9: 0 is missing and 10 is no class",
        ),
        ({str(i): "name" for i in range(9)}, "has 9 names, but .*: 9 is missing"),
        ({str(i): "name" for i in range(-1, 10)}, "has 11 names, but .*: -1 is no class"),
        ({str(i): " " for i in range(10)}, "not a JSON file of class names"),
        (["name"] * 10, "not a JSON file of class names"),
        ({"cat": 0}, "not a JSON file of class names"),
        (None, "names.json is not a file"),
    ],
)
def test_wrong_names(files, tmp_path, labels, message):
    if labels is not None:
        (tmp_path / "names.json").write_text(json.dumps(labels))
    with pytest.raises(SystemExit, match=message) as error:
        convert(files, tmp_path / "out", "autonat", "nnet_ema.pth", "--vqgan", str(files / "vqgan.ckpt"), "--id2label",
                str(tmp_path / "names.json"))  # fmt: skip
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_pushing_uploads_the_folder(files, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr("diffusers_autonat.hub.create_repo", lambda repo, **kwargs: calls.append((repo, kwargs)))
    monkeypatch.setattr("diffusers_autonat.hub.upload_folder", lambda **kwargs: calls.append(kwargs) or "the-url")
    monkeypatch.setattr("diffusers_autonat.hub.get_token", lambda: "a token")
    convert(files, tmp_path / "out", "autonat", "nnet_ema.pth", "--push-to-hub", "me/autonat")
    assert calls == [
        ("me/autonat", {"exist_ok": True}),
        {
            "repo_id": "me/autonat",
            "folder_path": str(tmp_path / "out"),
            "commit_message": None,
            "allow_patterns": None,
        },
    ]
    assert "pushed to the-url" in capsys.readouterr().out
    assert 'from_pretrained("me/autonat"' in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("repository", "token", "message"),
    [
        ("me/auto nat", "a token", "auto nat"),
        ("autonat", "a token", "names no owner: write OWNER/autonat"),
        ("me/autonat", None, "needs a login: run `hf auth login`"),
    ],
)
def test_what_cannot_be_pushed_is_not_converted(files, tmp_path, monkeypatch, repository, token, message):
    monkeypatch.setattr("diffusers_autonat.hub.get_token", lambda: token)
    monkeypatch.setattr("diffusers_autonat.hub.create_repo", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(SystemExit, match=message):
        convert(files, tmp_path / "out", "autonat", "nnet_ema.pth", "--push-to-hub", repository)
    assert list(tmp_path.iterdir()) == []


def test_a_push_that_fails_keeps_the_folder(files, tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise RuntimeError("cannot connect\nand much more")

    monkeypatch.setattr("diffusers_autonat.hub.get_token", lambda: "a token")
    monkeypatch.setattr("diffusers_autonat.hub.create_repo", no_network)
    with pytest.raises(SystemExit) as error:
        convert(files, tmp_path / "out", "autonat", "nnet_ema.pth", "--push-to-hub", "me/autonat")
    assert "is complete" in str(error.value) and f"hf upload me/autonat {tmp_path / 'out'}" in str(error.value)
    assert "\n" not in str(error.value) and (tmp_path / "out" / "README.md").exists()


# Wrong input: what is wrong is said, and nothing stays behind


def small_checkpoint(path, **changes):
    weights = load_reference("uvit")[0] | changes
    torch.save({name: tensor for name, tensor in weights.items() if tensor is not None}, path)


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        ("autonat", ["--checkpoint", "{files}/enat.safetensors"], "enat.safetensors holds ENAT.*belongs to --model enat"),
        ("enat", ["--checkpoint", "{files}/cc3m.ckpt"], "text-conditional U-ViT.*belongs to --model autonat-text"),
        ("autonat", ["--checkpoint", "{files}/vqgan.ckpt"], "MaskGIT's VQGAN.*belongs to --vqgan"),
        ("autonat", ["--vqgan", "{files}/nnet_ema.pth"], "nnet_ema.pth holds AutoNAT's.*belongs to --model autonat"),
        ("autonat", ["--checkpoint", "{files}/T8.yaml"], "not a checkpoint by its name"),
        ("autonat", ["--checkpoint", "{files}/nowhere.pth"], "nowhere.pth does not exist"),
        ("autonat", ["--vqgan", "{files}/nowhere.ckpt"], "nowhere.ckpt does not exist"),
        ("autonat", ["--strategy", "{files}/T8.yaml", "{files}/T8.yaml"], "more than one strategy for one number"),
        ("autonat", ["--num-decoder-layers", "2"], "num_decoder_layers is no option of AutoNAT's class-conditional"),
        ("enat", ["--checkpoint", "{files}/enat.safetensors", "--context-length", "9"], "context_length is no option of ENAT"),
        ("enat", ["--checkpoint", "{files}/enat.safetensors", "--num-decoder-layers", "6"], "leaves no encoder"),
        ("autonat", ["--strategy", "{files}/nnet_ema.pth"], "nnet_ema.pth is not YAML"),
        ("autonat", ["--num-attention-heads", "5"], "multiple of `num_attention_heads` \\(5\\)"),
        ("autonat", ["--id2label", "imagenet"], "without a tokenizer none is made"),
        ("autonat-text", ["--checkpoint", "{files}/cc3m.ckpt", "--vqgan", "{files}/vqgan.ckpt", "--id2label", "imagenet"],
         "takes texts: leave out --id2label"),
        ("autonat-text", ["--vqgan", "{files}/vqgan.ckpt"], "needs a text encoder too: add --text-encoder laion/CLIP-ViT-bigG"),
        ("autonat-text", ["--text-encoder", "clip"], "a text encoder belongs to a pipeline, .*: add --vqgan"),
        ("autonat-text", ["--pad-token-id", "0"], "add --vqgan and --text-encoder"),
        ("autonat", ["--text-encoder", "clip"], "takes no texts: leave out --text-encoder"),
        ("autonat", ["--vqgan", "{files}/vqgan.ckpt", "--id2label", "imagenet"], "has 1000 names, but the model has 10"),
        ("autonat", ["--id2label", "{files}/T8.yaml"], "not a JSON file of class names"),
    ],
)  # fmt: skip
def test_wrong_input(files, tmp_path, model, args, message):
    args = [arg.format(files=files) for arg in args]
    with pytest.raises(SystemExit, match=message):
        convert(files, tmp_path / "out", model, "nnet_ema.pth", *args)
    assert list(tmp_path.iterdir()) == []


def test_all_wrong_tensors_are_listed_at_once(tmp_path):
    weights = load_reference("uvit")[0]
    small_checkpoint(tmp_path / "w.pth", **{
        "norm.weight": None, "extra.weight": torch.ones(1), "mlm_layer.fc.bias": weights["mlm_layer.fc.bias"][:5]
    })  # fmt: skip
    with pytest.raises(SystemExit) as error:
        convert(tmp_path, tmp_path / "out", "autonat", "w.pth")
    lines = {line.strip() for line in str(error.value).splitlines()[1:]}
    assert lines == {
        "missing: norm.weight",
        "not expected: extra.weight",
        "shape: mlm_layer.fc.bias is [5], expected [32]",
    }
    assert str(tmp_path / "w.pth") in str(error.value) and not (tmp_path / "out").exists()


def test_a_tokenizer_with_another_codebook(files, tmp_path):
    config = {"sample_size": 4, "codebook_size": 47, "hidden_size": 8, "num_layers": 1, "num_attention_heads": 8}
    torch.save(release_uvit(randomise(UViTTransformer2DModel(**config))), tmp_path / "w.pth")
    with pytest.raises(SystemExit, match="vqgan.ckpt has 48 codes, but .*w.pth is for 47"):
        convert(tmp_path, tmp_path / "out", "autonat", "w.pth", "--vqgan", str(files / "vqgan.ckpt"))


def test_an_existing_folder_is_not_touched(files, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="exists already"):
        convert(files, tmp_path / "out", "autonat", "nnet_ema.pth")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    (tmp_path / "out" / "mine.txt").unlink()
    convert(files, tmp_path / "out", "autonat", "nnet_ema.pth")  # an empty one is taken
    assert (tmp_path / "out" / "README.md").exists()


def test_a_link_to_an_empty_folder_is_followed(files, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    convert(files, tmp_path / "out", "autonat", "nnet_ema.pth")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "real" / "README.md").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "real"]


def test_a_folder_that_cannot_be_made_is_found_before_anything_is_read(files, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for output, message in {tmp_path / "file" / "out": "cannot be made", ".": "name a new folder inside it"}.items():
        with pytest.raises(SystemExit, match=message) as error:
            convert(files, output, "autonat", "nnet_ema.pth")
        assert "partial" not in str(error.value)
    assert "reading" not in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "file"]


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_leaves_nothing(files, tmp_path, monkeypatch, request, signal_number):
    def nobody_cares(*_): ...

    # SIGTERM's default would end the tests; SIGINT is ignored in what a shell has put into the background.
    for number, handler in ((signal.SIGTERM, nobody_cares), (signal.SIGINT, signal.default_int_handler)):
        request.addfinalizer(partial(signal.signal, number, signal.signal(number, handler)))
    seen = []

    def stop(self, *args, **kwargs):
        seen.extend(path.name for path in (tmp_path / "new" / "folders").iterdir())
        os.kill(os.getpid(), signal_number)

    monkeypatch.setattr(NATScheduler, "save_pretrained", stop)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        convert(files, tmp_path / "new" / "folders" / "out", "autonat", "nnet_ema.pth")
    assert seen == [".out.partial"] and list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is nobody_cares


def test_a_run_that_breaks_leaves_nothing(files, tmp_path, monkeypatch):
    save = NATScheduler.save_pretrained

    def full_disk(self, *args, **kwargs):
        assert (tmp_path / ".out.partial" / "transformer" / "config.json").exists()
        raise OSError("No space left on device")

    monkeypatch.setattr(NATScheduler, "save_pretrained", full_disk)
    with pytest.raises(SystemExit, match="No space left"):
        convert(files, tmp_path / "out", "autonat", "nnet_ema.pth")
    assert list(tmp_path.iterdir()) == []
    # What a killed run left is taken away by the next one.
    monkeypatch.setattr(NATScheduler, "save_pretrained", save)
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "old").write_text("old")
    convert(files, tmp_path / "out", "autonat", "nnet_ema.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and not (tmp_path / "out" / "old").exists()


def test_a_full_disk_is_one_line_that_names_the_folder(files, tmp_path):
    """The limit on file sizes stands for a full disk; safetensors has an error of its own for both."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises(SystemExit, match=f"File too large.*'{tmp_path}/out'") as error:
            convert(files, tmp_path / "out", "autonat", "nnet_ema.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []
    convert(files, tmp_path / "out", "autonat", "nnet_ema.pth")
