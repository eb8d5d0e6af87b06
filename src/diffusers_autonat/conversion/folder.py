"""Released files -> a folder that `from_pretrained` loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin

from ..cards import save_card
from ..files import naming
from ..pipelines.checks import check_policy
from ..pipelines.pipeline_autonat import AutoNATPipeline
from ..pipelines.pipeline_autonat_text_to_image import AutoNATTextToImagePipeline
from ..schedulers.scheduling_nat import NATScheduler
from ..strategies import GenerationStrategy
from . import SOURCES
from .checkpoint import Checkpoint, read_checkpoint
from .model_card import converted_card
from .others import OTHERS
from .source_format import SourceFormat
from .text_encoder import TextEncoder


@dataclass(frozen=True)
class Converted:
    """
    A component with where it came from.

    Args:
        source: Its format. checkpoint: Its file. model: The component. config: What it was built from.
        unused: Tensors of the file that it does not use.
        assumed: What no tensor shows and nobody gave: the released model's values.
    """

    source: SourceFormat
    checkpoint: Checkpoint
    model: ModelMixin
    config: dict[str, Any]
    unused: list[str]
    assumed: dict[str, int]

    def describe(self) -> list[str]:
        source, names = self.source, [*self.checkpoint.left_out, *self.unused]
        sizes = source.describe(self.config)
        lines = [f"{source.component}: {source.title}, {self.model.num_parameters():,} parameters, {sizes}"]
        if self.assumed:
            values = ", ".join(f"{key}={value}" for key, value in self.assumed.items())
            lines.append(f"  no tensor shows {values}: assumed, as in the released model")
        return lines + [f"  not used: {', '.join(names)}"] * bool(names)


def convert_component(path: str | Path, accepted: Sequence[SourceFormat], **options: int) -> Converted:
    """
    Read and convert one file.

    Args:
        accepted: The formats it may have.
        options: For the format's `convert`, in place of what it would assume.

    Raises:
        ValueError: The file cannot be read safely, holds another model (which is named), or its tensors are not
            exactly those of such a model (all differences are listed).
    """
    checkpoint = read_checkpoint(path)
    if other := next((one for one in OTHERS if one.recognise(checkpoint.tensors)), None):
        raise ValueError(f"{path} holds {other.title}, not {accepted[0].title}; {other.remedy}.")
    # Accepted ones first: AdaGen's transformer looks like AutoNAT's.
    found = [one for one in (*accepted, *SOURCES) if one.recognise(checkpoint.tensors)]
    if found and found[0] not in accepted:
        flags = {"transformer": f"--model {found[0].name}", "vqvae": "--vqgan", "policy": "--policy"}
        flag = flags[found[0].component]
        raise ValueError(f"{path} holds {found[0].title}, not {accepted[0].title}; it belongs to {flag}.")
    source = found[0] if found else accepted[0]  # of an unknown file it is said what it lacks
    unused = source.unused_in(checkpoint.tensors)
    assumed = {key: value for key, value in source.assumed.items() if key not in options}
    try:
        config, state_dict = source.convert(checkpoint.tensors, **options, **assumed)
        with torch.device("meta"):
            model = source.load_model_class()(**config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    model.load_state_dict(state_dict, assign=True)
    return Converted(source, checkpoint, model.eval(), config, unused, assumed)


def read_id2label(name: str) -> dict[int, str]:
    """`imagenet`, whose names are shipped, or a JSON file `{"0": "name, synonym", ...}`.

    The 1000 ImageNet names are the lemmas of their WordNet synsets; a few of them stand for two classes.
    """
    path: Any = files(__package__) / "imagenet_id2label.json" if name == "imagenet" else Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"{name} is not a file; class names are `imagenet` or a JSON file of yours.")
    try:
        labels = json.loads(path.read_text())
        if not isinstance(labels, dict) or not all(isinstance(one, str) and one.strip() for one in labels.values()):
            raise ValueError
        return {int(key): label for key, label in labels.items()}
    except ValueError:
        raise ValueError(f'{name} is not a JSON file of class names: {{"0": "name", "1": "name", ...}}.') from None


def _check_labels(id2label: Mapping[int, str], num_classes: int) -> None:
    missing = [number for number in range(num_classes) if number not in id2label]
    extra = sorted(set(id2label) - set(range(num_classes)))
    if missing or extra:
        wrong = [f"{ids[0]} {what}" for ids, what in ((missing, "is missing"), (extra, "is no class")) if ids]
        raise ValueError(
            f"id2label has {len(id2label)} names, but the model has {num_classes} classes, 0 to {num_classes - 1}:"
            f" {' and '.join(wrong)}."
        )


def _check_parts(
    source: SourceFormat,
    vqgan: str | Path | None,
    id2label: Mapping[int, str] | None,
    text_encoder: str | None,
    pad_token_id: int | None,
) -> None:
    """`ValueError` where what is given does not make a pipeline of this kind of model."""
    if source.text_encoder is None and (text_encoder or pad_token_id is not None):
        raise ValueError(f"{source.title} takes no texts: leave out --text-encoder and --pad-token-id.")
    if source.text_encoder is not None and id2label is not None:
        raise ValueError(
            f"class names are for models with classes, and {source.title} takes texts: leave out --id2label."
        )
    if vqgan is None and (id2label is not None or text_encoder):
        what = "a text encoder belongs" if text_encoder else "class names belong"
        raise ValueError(f"{what} to a pipeline, and without a tokenizer none is made: add --vqgan.")
    if pad_token_id is not None and not text_encoder:
        raise ValueError("pad_token_id belongs to a pipeline with a text encoder: add --vqgan and --text-encoder.")
    if vqgan is not None and source.text_encoder is not None and not text_encoder:
        raise ValueError(
            f"a pipeline of {source.title} needs a text encoder too: add --text-encoder {source.text_encoder.name}, with which "
            "the released one was trained, or the folder of another."
        )


def _a_label(id2label: Mapping[int, str] | None) -> str | int:
    """What to call class 0: a name, if it has one of its own."""
    names = [name.strip().lower() for label in (id2label or {}).values() for name in label.split(",")]
    first = id2label[0].split(",")[0].strip() if id2label else ""
    return first if names.count(first.lower()) == 1 else 0


@contextmanager
def _written_beside(output: Path) -> Iterator[Path]:
    """A new folder to write to, which becomes `output` when the block ends, and disappears when it breaks."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists already; name another folder, or remove it first.")
    # A link is followed, and what cannot be replaced is refused before the work.
    target = output.resolve()
    if target.is_mount() or target == Path.cwd():
        raise ValueError(f"{output} cannot be replaced by what is converted; name a new folder inside it.")
    partial = target.with_name(f".{target.name}.partial")
    made = [folder for folder in partial.parents if not folder.exists()]
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        try:
            partial.mkdir(parents=True)
        except OSError as error:
            raise OSError(f"{output} cannot be made ({error.strerror}); name a folder where you may write.") from None
        yield partial
        partial.replace(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise


def convert_to_folder(
    model: str,
    checkpoint: str | Path,
    output: str | Path,
    vqgan: str | Path | None = None,
    policy: str | Path | None = None,
    strategies: Sequence[GenerationStrategy] = (),
    options: Mapping[str, int] | None = None,
    id2label: dict[int, str] | None = None,
    text_encoder: str | None = None,
    pad_token_id: int | None = None,
    name: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """
    Convert released files and save them with a model card. `output` appears when everything is done, or not at all.

    With a tokenizer a class-conditional model becomes a whole [`AutoNATPipeline`], and with a text encoder too a
    text-conditional one an [`AutoNATTextToImagePipeline`]; without, `output` holds transformer and scheduler in their folders.

    Args:
        model: Name of one of `SOURCES`. checkpoint: Its file or training folder. output: New or empty folder.
        vqgan: The tokenizer's file. policy: A policy's file. strategies: To store in the scheduler, with different numbers of steps.
        options: What no tensor of the transformer or the policy shows (`SourceFormat.assumed`); by default as in the
            released model.
        id2label: Class names of a pipeline. text_encoder: Folder or Hub id of the encoder that the model was trained with.
        pad_token_id: What prompts were padded with in training; by default as in the released model.
        name: What the card tells users to load; by default the name of `output`.
        report: Is told what is being done, line by line.

    Raises:
        ValueError: See `convert_component`; or the parts do not fit together.
    """
    output = Path(output)
    for path in (checkpoint, vqgan, policy):
        if path is not None and not Path(path).exists():
            raise FileNotFoundError(f"{path} does not exist.")
    (source,) = (one for one in SOURCES if one.name == model)
    options, policy_options = dict(options or {}), {}
    policies = [one for one in SOURCES if one.component == "policy"]
    if policy is not None:
        policy_options = {name: options.pop(name) for name in policies[0].assumed if name in options}
    if wrong := [name for name in options if name not in source.assumed]:
        raise ValueError(f"{wrong[0]} is no option of {source.title}, which has {', '.join(source.assumed)}.")
    _check_parts(source, vqgan, id2label, text_encoder, pad_token_id)
    NATScheduler(strategies=list(strategies) or None)  # two strategies for one T end here, before anything is read

    with _written_beside(output) as partial:
        encoder = None
        if source.text_encoder is not None and text_encoder:
            encoder = TextEncoder.open(text_encoder, source.text_encoder, pad_token_id)
        report(f"reading {checkpoint}")
        parts = [convert_component(checkpoint, [source], **options)]
        config = parts[0].config
        if id2label is not None:
            _check_labels(id2label, config["num_classes"])
        if encoder is not None:
            encoder.fit(config)
        if vqgan is not None:
            report(f"reading {vqgan}")
            tokenizers = [one for one in SOURCES if one.component == "vqvae"]
            parts.append(convert_component(vqgan, tokenizers, grid_size=config["sample_size"]))
            codes = parts[1].config["num_vq_embeddings"]
            if codes != config["codebook_size"]:
                raise ValueError(f"{vqgan} has {codes} codes, but {checkpoint} is for {config['codebook_size']}.")
        if policy is not None:
            report(f"reading {policy}")
            parts.append(convert_component(policy, policies, **policy_options))
            check_policy(parts[-1].model, parts[0].model, NATScheduler(config["codebook_size"]))
        if encoder is not None:
            report(f"reading {text_encoder}")
            encoder.load()
        stored = list(strategies) or source.strategies(config)
        scheduler = NATScheduler(config["codebook_size"], stored or None)
        steps = sorted(strategy.num_inference_steps for strategy in stored)
        described = [line for part in parts for line in part.describe()]
        for line in described + (encoder.describe() if encoder else []):
            report(line)
        report(f"scheduler: {f'strategies for {steps} steps' if steps else 'the heuristic, for any number of steps'}")

        report("saving")
        origins = [(part.source, part.checkpoint, part.config) for part in parts]
        parameters, label = parts[0].model.num_parameters(), _a_label(id2label)
        encoder_title = encoder.title if encoder else ""
        card = converted_card(name or output.name, origins, parameters, steps, label, id2label, encoder_title)
        with naming(output):
            models = {part.source.component: part.model for part in parts}
            if encoder is not None:
                components = {"text_encoder": encoder.model, "tokenizer": encoder.tokenizer, **models}
                pipeline = AutoNATTextToImagePipeline(
                    **components, scheduler=scheduler, pad_token_id=encoder.pad_token_id
                )
                pipeline.save_pretrained(partial)
            elif vqgan is not None:
                AutoNATPipeline(**models, scheduler=scheduler, id2label=id2label).save_pretrained(partial)
            else:
                for part in parts:
                    part.model.save_pretrained(partial / part.source.component)
                scheduler.save_pretrained(partial / "scheduler")
            save_card(partial, card)
    report(f"{'components' if vqgan is None else 'pipeline'} in {output}")
