"""Models whose weights are in an exported graph: as those they were exported from, to a pipeline.

Folders that `diffusers-autonat export` writes name these classes, so they never move.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin, VQModel  # ModelMixin: a pipeline looks it up here
from diffusers.models.autoencoders.vae import DecoderOutput
from typing_extensions import Self

from ..provenance import file_hash
from .runtimes import STEM, Graph, load_graph
from .transformer_enat import ENATCache, ENATTransformer2DModel, ENATTransformer2DModelOutput
from .transformer_uvit import UViTTransformer2DModel, UViTTransformer2DModelOutput


class ExportedMixin(ModelMixin, ConfigMixin):
    """A model without weights of its own: inputs go to a graph on the CPU, in inference only.

    Args:
        graph: What is run. config: Of the model that was exported. folder: Where both were loaded from.
    """

    config_name = "config.json"
    exported_from: type[ModelMixin]

    def __init__(self, graph: Graph, config: dict[str, Any], folder: Path):
        ModelMixin.__init__(self)  # not that of the model, which makes weights
        self.register_to_config(**config)
        self.graph, self.folder = graph, folder
        # By which provenance tells one graph from another, as it does weights.
        digest = bytes.fromhex(file_hash(sorted(folder.glob(f"{STEM}.*"))))
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype=None, torch_dtype=None, **_: Any) -> Self:
        """Load `folder`, as a pipeline does; what it says of torch's weights has no meaning here.

        Args:
            dtype: Of the products; float32 by default. `torch_dtype` is its earlier name.

        Raises:
            ValueError: There is no graph, or its library is not installed.
        """
        folder = Path(folder)
        config = json.loads((folder / cls.config_name).read_text())
        config = {name: value for name, value in config.items() if not name.startswith("_")}
        return cls(load_graph(folder, dtype or torch_dtype), config, folder)

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Copy the graph and write the config."""
        if Path(folder).resolve() != self.folder.resolve():
            shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        self.save_config(folder)

    def num_parameters(self, *args: Any, **options: Any) -> int:
        raise ValueError(f"the weights of {self.folder} are in its graph: ask the pipeline that it was exported from.")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32  # of what goes in and comes out

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


def conditions(**given: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Those that are given, as a graph takes them."""
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in given.items()
        if tensor is not None
    }


class ExportedUViTTransformer2DModel(ExportedMixin, UViTTransformer2DModel):
    """A [`UViTTransformer2DModel`] in a graph."""

    exported_from = UViTTransformer2DModel

    def forward(  # type: ignore[override]
        self, input_ids, class_labels=None, encoder_hidden_states=None, cache=None, num_masked=None, return_dict=True
    ):
        """As [`UViTTransformer2DModel.forward`]."""
        self.check_inputs(input_ids, class_labels, encoder_hidden_states, cache)
        condition = conditions(class_labels=class_labels, encoder_hidden_states=encoder_hidden_states)
        made = self.graph(input_ids=input_ids, **condition)
        if not return_dict:
            return made["sample"], made["features"]
        return UViTTransformer2DModelOutput(sample=made["sample"], features=made["features"])


class ExportedENATTransformer2DModel(ExportedMixin, ENATTransformer2DModel):
    """An [`ENATTransformer2DModel`] in a graph; which tokens go where is found out here, as by the model itself."""

    exported_from = ENATTransformer2DModel

    def _bounds(self, members, cache, num_masked):
        # Room for one token of each kind, masked as any that is not there: runtimes stumble over tensors without elements.
        return [(low, max(high, 1)) for low, high in super()._bounds(members, cache, num_masked)]

    def forward(  # type: ignore[override]
        self, input_ids, class_labels=None, cache=None, num_masked=None, return_dict=True, encoder_hidden_states=None
    ):
        """As [`ENATTransformer2DModel.forward`]."""
        self.check_inputs(input_ids, class_labels, encoder_hidden_states, cache)
        arrangement = self.arrange(input_ids, cache, num_masked)
        condition = conditions(class_labels=class_labels, encoder_hidden_states=encoder_hidden_states)
        made = self.graph(input_ids=input_ids, **condition, **arrangement.as_inputs(self.config.hidden_size))
        logits, normed = made["sample"], made["features"]
        new_cache: ENATCache | None = arrangement.new_cache(made["encoded"])
        if not return_dict:
            return logits, new_cache, normed
        return ENATTransformer2DModelOutput(sample=logits, cache=new_cache, features=normed)


class ExportedVQModel(ExportedMixin, VQModel):
    """The decoder of a [`~diffusers.VQModel`] in a graph: token ids to images."""

    exported_from = VQModel

    def __init__(self, graph: Graph, config: dict[str, Any], folder: Path):
        super().__init__(graph, config, folder)
        self.decoder = torch.nn.Module()  # a pipeline arranges its weights, and there are none

    def decode(self, h: torch.Tensor, force_not_quantize: bool = False, return_dict: bool = True, shape=None):  # type: ignore[override]
        """As `VQModel.decode` of token ids `[B, N]`: images `[B, C, H, W]`."""
        made = self.graph(tokens=h)["sample"]
        return DecoderOutput(sample=made) if return_dict else (made,)

    def encode(self, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        raise ValueError(
            "an exported tokenizer only decodes: to read images, pass vqvae= of the pipeline that it was exported from."
        )
