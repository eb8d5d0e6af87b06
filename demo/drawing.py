"""What the app does, without the app: wishes of visitors are checked, drawn, and shown with their steps and schedules."""

from __future__ import annotations

import inspect
import io
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from diffusers_autonat import AutoNATInpaintPipeline, GenerationStrategy
from diffusers_autonat.images import image_to_array
from diffusers_autonat.loading import default_device, load_pipeline
from diffusers_autonat.pipelines.pipeline_autonat_amused import AutoNATAmusedPipeline
from diffusers_autonat.pipelines.prompts import takes_prompts
from diffusers_autonat.pipelines.step_record import StepRecord
from diffusers_autonat.plots import plot_schedules, plot_steps
from diffusers_autonat.training.recipes import heuristic_of


STORED, HEURISTIC, CURVES = "Stored with the model", "Heuristic", "Own curves"
MAX_SEED = 2**32 - 1
SHOWN_SIDE = 256  # pixels; smaller images are enlarged by a whole factor
ROOM_ABOVE = 32  # of a picture, for the buttons: its width divided by this


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for, so that others get their turn."""

    images: int = 8
    steps: int = 16
    queue: int = 16  # visitors that wait
    prompt: int = 300  # characters
    upload: int = 10  # megabytes


@dataclass(frozen=True)
class Wish:
    """What a visitor asks for. `what` is a class's name or a prompt."""

    what: str
    num_images: int
    seed: int
    strategy: Any  # None: the policy of the pipeline


@dataclass(frozen=True)
class Drawn:
    images: list[Image.Image]
    steps: Image.Image  # of the first image
    said: str


class Studio:
    """
    A pipeline and what visitors may ask of it; every value is looked at here, wherever it comes from.

    Args:
        pipeline: Of this package, or its folder or Hub id.
        limits: Of a wish.
        text_encoder: Folder or Hub id, for a folder that is stored without its own.

    Raises:
        ValueError: It cannot be loaded, or has nothing that reads prompts.
    """

    def __init__(self, pipeline: Any, limits: Limits = Limits(), text_encoder: str | None = None):
        if isinstance(pipeline, (str, Path)):
            self.name = Path(pipeline).resolve().name if Path(pipeline).exists() else str(pipeline)
            pipeline = load_pipeline(pipeline, device=default_device(), text_encoder=text_encoder)
        else:
            self.name = type(pipeline).__name__
        if isinstance(pipeline, AutoNATAmusedPipeline):
            raise ValueError("The app shows pipelines with a U-ViT or an ENAT, not aMUSEd's: name one of those.")
        self.pipe, self.limits = pipeline, limits
        self.takes_prompts = takes_prompts(pipeline)
        if self.takes_prompts and pipeline.text_encoder is None:
            raise ValueError(f"{self.name} is stored without its text encoder: name that with --text-encoder.")
        self.edit = AutoNATInpaintPipeline(**pipeline.components)
        for one in (self.pipe, self.edit):
            one.set_progress_bar_config(disable=True)
        self.side = pipeline.transformer.config.sample_size * pipeline.vae_scale_factor

    @cached_property
    def class_names(self) -> list[str]:
        """By id: as the model calls them, with the id where it calls two alike or one nothing."""
        names = [self.pipe.id2label.get(one, "class") for one in range(self.pipe.transformer.config.num_classes)]
        return [name if names.count(name) == 1 else f"{name} {number}" for number, name in enumerate(names)]

    @property
    def stored_steps(self) -> list[int]:
        """Numbers of steps that the pipeline itself serves: those of its stored strategies, or its policy's."""
        if self.has_policy:
            return [self.pipe.policy.config.num_inference_steps]
        return sorted(steps for steps in self.pipe.scheduler.stored_strategies if steps <= self.limits.steps)

    @property
    def has_policy(self) -> bool:
        return getattr(self.pipe, "policy", None) is not None

    @property
    def kinds(self) -> list[str]:
        """Of strategies. Orders whose steps have other parameters have no sliders."""
        own = [CURVES] if self.pipe.scheduler.strategy_class is GenerationStrategy else []
        return [STORED] * bool(self.stored_steps) + [HEURISTIC] + own

    @property
    def heuristic_settings(self) -> tuple[float, float]:
        """Lambda and k of the paper of the pipeline's transformer."""
        known = inspect.signature(heuristic_of(self.pipe)).parameters
        return known["remasking_temperature"].default, known["guidance_scale"].default

    def heuristic(self, steps: int, **settings: float) -> Any:
        """That of the paper of the pipeline's transformer, or of its order."""
        if self.pipe.scheduler.strategy_class is not GenerationStrategy:
            return self.pipe.scheduler.heuristic(steps)
        return heuristic_of(self.pipe)(steps, **settings)

    def strategy(
        self, kind: str, steps: int, settings: Mapping[str, float], curves: Mapping[str, tuple[float, float]]
    ) -> Any:
        """
        The strategy that a visitor has set; None where the pipeline's policy is asked for.

        Args:
            kind: One of `kinds`. steps: T.
            settings: Lambda and k of the heuristic, `remasking_temperature` and `guidance_scale`.
            curves: First and last value of each schedule; of `mask_ratios` the last is that of the step before the last, which
                masks nothing again.
        """
        steps = self._whole("steps", steps, 1, self.limits.steps)
        if kind not in self.kinds:
            raise ValueError(f"{kind!r} is no strategy of this model: choose {' or '.join(self.kinds)}.")
        if kind == STORED:
            return None if self.has_policy else self.pipe.scheduler.get_strategy(steps)
        if kind == HEURISTIC:
            return self.heuristic(steps, **settings)
        schedules = {name: line(*ends, steps) for name, ends in curves.items() if name != "mask_ratios"}
        ratios = [*line(*curves["mask_ratios"], steps - 1), 0.0]
        return GenerationStrategy(mask_ratios=ratios, **schedules)

    def wish(self, what: Any, num_images: Any, seed: Any, strategy: Any) -> Wish:
        """A wish, or a ValueError that says what is wrong with it."""
        if not isinstance(what, str) or not what.strip():
            raise ValueError("Say what to draw." if self.takes_prompts else "Choose a class.")
        if self.takes_prompts and len(what) > self.limits.prompt:
            raise ValueError(f"The prompt has {len(what)} characters; {self.limits.prompt} are the most.")
        if not self.takes_prompts and what not in self.class_names:
            raise ValueError("There is no such class: choose one of the list.")
        count = self._whole("images", num_images, 1, self.limits.images)
        return Wish(what, count, self._whole("the seed", seed, 0, MAX_SEED), strategy)

    def draw(self, wish: Wish) -> Drawn:
        """Images, with the steps of the first and the time of the call; the same wish gives the same images."""
        return self._run(self.pipe, wish, [self._asked(wish)])

    def inpaint(self, wish: Wish, image: Image.Image, painted: np.ndarray, strength: float, keep: bool) -> Drawn:
        """
        Draw anew what a visitor has painted over.

        Args:
            image: Any size; its centre is taken as a square.
            painted: `[H, W]` booleans, of the image's size.
            strength: Share of the painted tokens that is drawn anew. keep: The other pixels stay as they are in the image.
        """
        if not painted.any():
            raise ValueError("Nothing is painted over: mark with the brush what is to be drawn anew.")
        if not isinstance(strength, (int, float)) or not 0 < strength <= 1:
            raise ValueError("The strength must be more than 0 and at most 1.")
        channels = self.pipe.vqvae.config.in_channels
        square = self.square(image, channels)
        mask = image_to_array(Image.fromarray(painted.astype(np.uint8) * 255), self.side, 1)[0] >= 128
        if not mask.any():
            raise ValueError("What is painted lies outside of the square in the middle, or is too thin: paint more.")
        called = {"prompt": wish.what} if self.takes_prompts else {"class_labels": self._asked(wish)}
        given = {"mask_image": Image.fromarray(mask.astype(np.uint8) * 255), "strength": float(strength)}
        return self._run(self.edit, wish, [square], **given, **called, keep_unmasked=bool(keep))

    def square(self, image: Image.Image, num_channels: int | None = None) -> Image.Image:
        """The centre of an image, as large as the pipeline's."""
        array = image_to_array(image, self.side, num_channels, "the image")
        return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))

    def schedules(self, strategy: Any, kind: str) -> Image.Image | None:
        """The schedules of a strategy, beside the heuristic; None of a policy, which has none until it sees the images."""
        if strategy is None:
            return None
        drawn, heuristic = {kind.lower(): strategy}, self.heuristic(strategy.num_inference_steps)
        if strategy != heuristic:
            drawn["heuristic of the paper"] = heuristic
        return picture(lambda path: plot_schedules(drawn, path, "Parameters of each step"))

    def _asked(self, wish: Wish) -> str | int:
        """A class's id: names may stand for several. A prompt as it is."""
        return wish.what if self.takes_prompts else self.class_names.index(wish.what)

    def _run(self, pipe: Any, wish: Wish, given: list[Any], **options: Any) -> Drawn:
        record = StepRecord()
        # A stream for each image: more images leave the first ones as they are.
        generators = [torch.Generator().manual_seed((wish.seed + i) % (MAX_SEED + 1)) for i in range(wish.num_images)]
        start = time.perf_counter()
        images = pipe(
            *given, strategy=wish.strategy, num_images_per_prompt=wish.num_images, generator=generators,
            callback_on_step_end=record, **options,
        ).images  # fmt: skip
        seconds = time.perf_counter() - start
        guesses, masks = record.pictures(pipe)
        steps = len(masks)
        said = (
            f"{len(images)} image{'s' * (len(images) > 1)} in {steps} step{'s' * (steps > 1)}: {seconds:.2f} s on "
            f"{pipe.device.type}, {seconds / len(images):.2f} s each. Seed {wish.seed}."
        )
        title = "The first image after each step, and its tokens: grey where they are masked again"
        strip = picture(lambda path: plot_steps(guesses, masks, path, title if steps > 3 else "The first image"))
        return Drawn([enlarged(one) for one in images], strip, said)

    def _whole(self, name: str, value: Any, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
            raise ValueError(f"{name} must be a whole number.")
        if not low <= value <= high:
            raise ValueError(f"{name} = {int(value)}: {low} to {high} are possible here.")
        return int(value)


def line(first: float, last: float, count: int) -> list[float]:
    """So many values on a straight line."""
    return np.linspace(first, last, count).tolist()


def picture(draw: Callable[[Path], None]) -> Image.Image:
    """What a function of `plots` draws, as an image with room above for the buttons that the browser lays over it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        draw(path)
        drawn = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
    return ImageOps.expand(drawn, (0, drawn.width // ROOM_ABOVE, 0, 0), "white")


def enlarged(image: Image.Image) -> Image.Image:
    scale = math.ceil(SHOWN_SIDE / image.height)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
