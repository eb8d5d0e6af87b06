"""The released layouts, written from their description and apart from the converters: what these are tested against."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from diffusers_autonat import ENATTransformer2DModel, UViTTransformer2DModel


FIXTURES = Path(__file__).parents[1] / "fixtures"
RELEASED_YAML = """
manual_ratios: [0.9531645174140464, 0.8795409806037042, 0.7940230737075623, 0.745995860948045, 0.6249785820461957,
                0.407321956652571, 0.260658917067054]
manual_temp: [2.404912789740805, 2.477616274962803, 1.191696577294597, 0.7685444738649722, 1.0673489052089495,
              0.9353720330515827, 0.7843839537838292]
manual_samp_temp: [2.8999037830310685, 1.867261830931786, 1.1443729673819831, 1.3796334226014182, 1.4699896959810144,
                   1.3760684112198358, 1.7082165405200722, 0.7133060703601533]
manual_cfg: [0.0001, 0.0001, 0.0001, 0.9151274967591447, 1.6160182878189675, 1.1945509026838659, 1.38322370140345,
             1.22678520936251]
"""


def load_vqgan() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The reference tokenizer's weights, and the other tensors of the file."""
    tensors = load_file(FIXTURES / "vqgan.safetensors")
    parts = {name: name.split(".")[0] in ("encoder", "decoder", "quantize") for name in tensors}
    return {n: t for n, t in tensors.items() if parts[n]}, {n: t for n, t in tensors.items() if not parts[n]}


def load_policy() -> dict[str, torch.Tensor]:
    """The reference policy's weights."""
    tensors = load_file(FIXTURES / "policy.safetensors")
    return {name.removeprefix("policy."): value for name, value in tensors.items() if name.startswith("policy.")}


def randomise(model: torch.nn.Module, std: float = 0.1) -> torch.nn.Module:
    """Weights of which none is zero or equal to another: a swap of two tensors changes the output."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model.eval()


def release_uvit(model: UViTTransformer2DModel) -> dict[str, torch.Tensor]:
    """Our weights under the authors' names."""
    released = {}
    for name, tensor in model.state_dict().items():
        if ".attn.to_k" in name or ".attn.to_v" in name:
            continue
        if ".attn.to_q" in name:
            tensor = torch.cat([model.state_dict()[name.replace("to_q", part)] for part in ("to_q", "to_k", "to_v")])
        for ours, theirs in [
            ("embed.word_", "token_emb.word_"), ("embed.position_", "token_emb.position_"),
            ("embed.norm", "token_emb.LayerNorm"), ("embed.class_embeddings", "context_embed.word_embeddings"),
            ("embed.class_position_", "context_embed.position_"), ("embed.class_norm", "context_embed.LayerNorm"),
            ("embed.context_proj", "context_embed"), ("attn.to_q", "attn.qkv"), ("attn.to_out", "attn.proj"),
            ("ff.net.0.proj", "mlp.fc1"), ("ff.net.2", "mlp.fc2"), ("head.norm_in", "norm"),
            ("head.dense", "mlm_layer.fc"), ("head.norm_out", "mlm_layer.ln"), ("head.bias", "mlm_layer.bias"),
        ]:  # fmt: skip
            name = name.replace(ours, theirs)
        released[name] = tensor.view(1, 1, -1) if name == "mlm_layer.bias" else tensor
    return released


def release_enat(model: ENATTransformer2DModel) -> dict[str, torch.Tensor]:
    """Our weights under the authors' names, with the layers that they ship and do not use."""
    released, state = {}, model.state_dict()
    depth = model.config.num_encoder_layers
    for name, tensor in state.items():
        if "_v_proj" in name or ".to_v" in name:
            continue
        if "_k_proj" in name or ".to_k" in name:
            value = name.replace("_k_proj", "_v_proj").replace(".to_k", ".to_v")
            tensor = torch.cat([tensor, state[value]])
        if name.startswith("decoder_blocks."):
            number = name.split(".")[1]
            name = name.replace(f"decoder_blocks.{number}", f"blocks.{depth + int(number)}", 1)
        for ours, theirs in [
            ("encoder_blocks", "blocks"), ("embed.word_", "x_embedder.word_"),
            ("embed.position_", "x_embedder.position_"), ("embed.norm", "x_embedder.LayerNorm"),
            ("embed.class_embeddings", "y_embedder.embedding_table"), ("reuse_proj.norm", "prev_proj.norm"),
            ("reuse_proj.ff", "prev_proj.ff"), ("attn.to_q", "attn.q"), ("attn.add_k_proj", "attn.kv.A"),
            ("attn.to_k", "attn.kv.B"), ("attn.to_out", "attn.proj"), ("ff.net.0.proj", "mlp.fc1"),
            ("ff.net.2", "mlp.fc2"), ("modulation", "adaLN_modulation.1"), ("head.norm_in", "norm"),
            ("head.dense", "mlm_layer.fc"), ("head.norm_out", "mlm_layer.ln"), ("head.bias", "mlm_layer.bias"),
        ]:  # fmt: skip
            name = name.replace(ours, theirs)
        released[name] = tensor.view(1, 1, -1) if name == "mlm_layer.bias" else tensor
    return released | {"prev_embedder.fc1.weight": torch.zeros(4, 4), "x_embedder.position_ids": torch.arange(4)}


class ReleasedVQGAN:
    """MaskGIT's tokenizer as functions of its weights."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        self.weights = weights
        self.num_levels = 1 + max(int(n.split(".")[2]) for n in weights if n.startswith("encoder.down."))
        self.num_layers = 1 + max(int(n.split(".")[4]) for n in weights if n.startswith("encoder.down.0.block."))

    @staticmethod
    def random_weights(widths: list[int], num_layers: int, num_codes: int, latents: int, channels: int) -> dict:
        weights: dict[str, torch.Tensor] = {}

        def conv(name, i, o, size=3, bias=False):
            weights[f"{name}.weight"] = torch.randn(o, i, size, size) / (i * size**2) ** 0.5
            if bias:
                weights[f"{name}.bias"] = 0.1 * torch.randn(o)

        def norm(name, width):
            weights[f"{name}.weight"], weights[f"{name}.bias"] = torch.rand(width) + 0.5, 0.1 * torch.randn(width)

        def block(name, i, o):
            norm(f"{name}.norm1", i)
            conv(f"{name}.conv1", i, o)
            norm(f"{name}.norm2", o)
            conv(f"{name}.conv2", o, o)
            if i != o:
                conv(f"{name}.nin_shortcut", o, o, 1)

        for i, width in enumerate(widths):
            for j in range(num_layers):
                block(f"encoder.down.{i}.block.{j}", width if j else widths[max(i - 1, 0)], width)
                block(f"decoder.up.{i}.block.{j}", width if j else widths[min(i + 1, len(widths) - 1)], width)
            if i > 0:
                conv(f"decoder.up.{i}.upsample.conv", width, width, bias=True)
        for side in ("encoder", "decoder"):
            block(f"{side}.mid.block_1", widths[-1], widths[-1])
            block(f"{side}.mid.block_2", widths[-1], widths[-1])
        conv("encoder.conv_in", channels, widths[0])
        norm("encoder.norm_out", widths[-1])
        conv("encoder.conv_out", widths[-1], latents, 1, bias=True)
        conv("decoder.conv_in", latents, widths[-1], bias=True)
        norm("decoder.norm_out", widths[0])
        conv("decoder.conv_out", widths[0], channels, bias=True)
        weights["quantize.embedding.weight"] = torch.randn(num_codes, latents)
        return weights

    def conv(self, name, x):
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(x, weight, self.weights.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def norm_silu(self, name, x):
        return F.silu(F.group_norm(x, 32, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], eps=1e-6))

    def block(self, name, x):
        h = self.conv(f"{name}.conv1", self.norm_silu(f"{name}.norm1", x))
        h = self.conv(f"{name}.conv2", self.norm_silu(f"{name}.norm2", h))
        return h + (self.conv(f"{name}.nin_shortcut", h) if f"{name}.nin_shortcut.weight" in self.weights else x)

    def encode(self, images):
        h = self.conv("encoder.conv_in", images)
        for i in range(self.num_levels):
            for j in range(self.num_layers):
                h = self.block(f"encoder.down.{i}.block.{j}", h)
            if i < self.num_levels - 1:
                h = F.avg_pool2d(h, 2)
        h = self.block("encoder.mid.block_2", self.block("encoder.mid.block_1", h))
        return self.conv("encoder.conv_out", self.norm_silu("encoder.norm_out", h))

    def decode(self, codes):
        """Codes `[B, h, w]`."""
        h = self.conv("decoder.conv_in", self.weights["quantize.embedding.weight"][codes].movedim(-1, 1))
        h = self.block("decoder.mid.block_2", self.block("decoder.mid.block_1", h))
        for i in reversed(range(self.num_levels)):
            for j in range(self.num_layers):
                h = self.block(f"decoder.up.{i}.block.{j}", h)
            if i > 0:
                h = self.conv(f"decoder.up.{i}.upsample.conv", F.interpolate(h, scale_factor=2.0))
        return self.conv("decoder.conv_out", self.norm_silu("decoder.norm_out", h))
