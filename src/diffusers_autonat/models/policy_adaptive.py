"""The policy of AdaNAT and AdaGen: a small network that sets the parameters of each step, image by image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput

from ..strategies import GenerationStrategy, StepParameters
from .sizes import check_sizes


FLOOR = 1e-4  # of values that a sigmoid or a softplus never reaches; the authors' searches keep theirs above it too


@dataclass
class AdaptivePolicyModelOutput(BaseOutput):
    """
    Output of [`AdaptivePolicyModel`].

    Args:
        parameters ([`StepParameters`]): Of the step, float32 tensors `(batch_size,)`: one for each image.
        action (`torch.Tensor` of shape `(batch_size, 4)`): What they were made of, in the order r, tau2, tau1, s, smoothed
            and before activation, float32: `previous_action` of the next step.
        raw (`torch.Tensor` of shape `(batch_size, 4)`): What the network put out.
    """

    parameters: StepParameters
    action: torch.Tensor
    raw: torch.Tensor


class AdaptiveLayerNorm(nn.Module):
    """LayerNorm without weights; scale and shift come from an embedding of the step."""

    def __init__(self, channels: int, embedding_channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(embedding_channels, 2 * channels)

    def forward(self, hidden_states: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        shift, scale = self.modulation(F.silu(embedding)).chunk(2, dim=-1)  # [B, C] each
        if hidden_states.ndim == 3:
            shift, scale = shift.unsqueeze(1), scale.unsqueeze(1)  # [B, 1, C]
        return self.norm(hidden_states) * (1 + scale) + shift


class AdaptivePolicyModel(ModelMixin, ConfigMixin):
    r"""
    A policy that looks at the features of every image and sets r, tau1, tau2 and s of each step (AdaNAT: Exploring
    Adaptive Policy for Token-Based Image Generation, ECCV 2024, arXiv:2409.00342; AdaGen, arXiv:2603.06993).

    The network adds to a heuristic and its actions are smoothed: with \( o_t \) its output and \( h_t \) what makes the
    heuristic of an output that is zero, \( a_0 = o_0 + h_0 \) and \( a_t = \beta a_{t-1} + (1 - \beta) (o_t + h_t) \); then
    \( r = \mathrm{sigmoid}(a) \), and the others \( \mathrm{softplus}(a) \). With \( u = (t + 1 - 0.001) / T \), t = 0..T-1,
    the heuristic is \( r = \cos(\pi u / 2) \), \( \tau_2 = \lambda (1 - u) \), \( \tau_1 \) constant, and
    \( s = k (t + 0.001) / T \). So a policy that ignores its input is a static strategy: a fresh one, whose last layer is zero,
    is the heuristic, or the `strategy` that takes its place.

    As released, r of a policy is taken as it is: a step may reveal nothing, or all (`StepParameters.is_bounded`).

    Args:
        in_channels (`int`, defaults to 768): Width of the transformer's features.
        hidden_size (`int`, defaults to 512): Width of the policy.
        conv_channels (`int`, defaults to 128): Channels after the convolutions.
        mlp_channels (`tuple[int, int]`, defaults to `(1024, 512)`): Widths of the two layers before the last.
        grid_size (`int`, defaults to 16): Side of the grid of features; of a U-ViT, of its patches.
        num_inference_steps (`int`, defaults to 16): T, the number of steps that the policy is for.
        action_smooth (`float`, defaults to 0.8): \( \beta \) in [0, 1).
        sampling_temperature, remasking_temperature, guidance_scale (`float`, default to 1.0): tau1, lambda and k of the
            heuristic, positive.
        use_heuristic (`bool`, defaults to `True`): Off, as in AdaNAT's policy for ImageNet, \( h_t = 0 \).
        strategy (`dict[str, list[float]]`, *optional*): The schedules of a [`GenerationStrategy`] of T steps in place of the
            heuristic. Values are kept 0.0001 away from where r ends, 0 and 1, and temperatures and guidance above it.
    """

    _no_split_modules = ["AdaptivePolicyModel"]
    _skip_layerwise_casting_patterns = ["norm", "time_embed"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 768,
        hidden_size: int = 512,
        conv_channels: int = 128,
        mlp_channels: tuple[int, int] = (1024, 512),
        grid_size: int = 16,
        num_inference_steps: int = 16,
        action_smooth: float = 0.8,
        sampling_temperature: float = 1.0,
        remasking_temperature: float = 1.0,
        guidance_scale: float = 1.0,
        use_heuristic: bool = True,
        strategy: dict[str, list[float]] | None = None,
    ):
        super().__init__()
        first, second = mlp_channels
        check_sizes(
            in_channels=in_channels,
            hidden_size=hidden_size,
            conv_channels=conv_channels,
            mlp_channels=first,
            grid_size=grid_size,
            num_inference_steps=num_inference_steps,
        )
        check_sizes(mlp_channels=second)
        if not 0 <= action_smooth < 1:
            raise ValueError(f"`action_smooth` has to be in [0, 1), but is {action_smooth}.")
        for name in ("sampling_temperature", "remasking_temperature", "guidance_scale"):
            value = self.config[name]
            if not 0 < value < math.inf:
                raise ValueError(f"`{name}` of the heuristic has to be a positive number, but is {value}.")
        if strategy is not None:
            steps = GenerationStrategy.from_dict(strategy).num_inference_steps
            if steps != num_inference_steps:
                raise ValueError(f"`strategy` has {steps} steps, and `num_inference_steps` is {num_inference_steps}.")
        self._tables: dict[torch.device, torch.Tensor] = {}  # actions of the strategy's steps, on the devices in use

        # As released, features of the policy's own width are not mapped.
        self.proj_in = nn.Linear(in_channels, hidden_size) if in_channels != hidden_size else nn.Identity()
        self.time_proj = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)  # cosines first
        self.time_embed = TimestepEmbedding(256, hidden_size)
        self.norm_in = AdaptiveLayerNorm(hidden_size, hidden_size)
        self.depthwise_conv = nn.Conv2d(hidden_size, hidden_size, 3, stride=2, padding=1, groups=hidden_size)
        self.pointwise_conv = nn.Conv2d(hidden_size, conv_channels, 1)
        self.linear_1 = nn.Linear(conv_channels * ((grid_size + 1) // 2) ** 2, first)
        self.norm_1 = AdaptiveLayerNorm(first, hidden_size)
        self.linear_2 = nn.Linear(first, second)
        self.norm_2 = AdaptiveLayerNorm(second, hidden_size)
        self.proj_out = nn.Linear(second, 4)
        self.initialize_weights()

    def initialize_weights(self) -> None:
        """AdaNAT's: Xavier, small time embeddings, zero modulation; a last layer of zeros, so that it starts static."""
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.zeros_(module.bias)
                if name.endswith("modulation") or name == "proj_out":
                    nn.init.zeros_(module.weight)
                elif name.startswith("time_embed"):
                    nn.init.normal_(module.weight, std=0.02)
                else:
                    nn.init.xavier_uniform_(module.weight)

    def heuristic(self, timestep: torch.Tensor) -> torch.Tensor:
        """Actions `[B, 4]` that activate to the heuristic at steps `[B]`, in the order r, tau2, tau1, s."""
        config, t = self.config, timestep.float()
        if config.strategy is not None:
            return self._strategy_actions(t.device)[timestep]
        if not config.use_heuristic:
            return t.new_zeros(len(t), 4)
        angle = math.pi / 2 * (t + 1 - 0.001) / config.num_inference_steps
        rest = math.pi / 2 * (config.num_inference_steps - t - 1 + 0.001) / config.num_inference_steps
        # r = cos(angle) = sin(rest) and 1 - r = 2 sin(angle / 2)^2: in float32 neither may be a difference.
        r = rest.sin().log() - (2 * (angle / 2).sin().square()).log()
        tau2 = _inverse_softplus(config.remasking_temperature * rest / (math.pi / 2))
        tau1 = _inverse_softplus(torch.full_like(t, config.sampling_temperature))
        s = _inverse_softplus(config.guidance_scale * (t + 0.001) / config.num_inference_steps)
        return torch.stack([r, tau2, tau1, s], dim=-1)

    def _strategy_actions(self, device: torch.device) -> torch.Tensor:
        """Actions `[T, 4]` that activate to the strategy. No buffer: loading would leave that on the meta device."""
        if device not in self._tables:
            strategy = GenerationStrategy.from_dict(self.config.strategy)
            r, tau2, tau1, s = torch.tensor(
                [
                    strategy.mask_ratios,
                    strategy.remasking_temperatures,
                    strategy.sampling_temperatures,
                    strategy.guidance_scales,
                ],
                dtype=torch.float64,
            ).clamp(min=FLOOR)
            columns = [r.clamp(max=1 - FLOOR).logit(), *(_inverse_softplus(column) for column in (tau2, tau1, s))]
            self._tables[device] = torch.stack(columns, dim=-1).float().to(device)
        return self._tables[device]

    def smoothed(
        self, raw: torch.Tensor, timestep: torch.Tensor, previous_action: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The action `[B, 4]` of outputs `[B, 4]` at steps `[B]`: heuristic added, smoothed."""
        heuristic = self.heuristic(timestep)
        if previous_action is None:
            return raw.float() + heuristic
        # The inverse smoothing of the heuristic cancels; what remains is exact where nothing departs from it.
        beta = self.config.action_smooth
        return heuristic + beta * (previous_action - self.heuristic(timestep - 1)) + (1 - beta) * raw.float()

    def parameters_of(self, action: torch.Tensor, is_last: bool = False) -> StepParameters:
        """The parameters that an action `[B, 4]` stands for."""
        r, tau2, tau1, s = action.unbind(dim=-1)
        return StepParameters(
            r.sigmoid(), F.softplus(tau1), F.softplus(tau2), F.softplus(s), is_last, is_bounded=False
        )

    def forward(
        self,
        features: torch.Tensor,
        timestep: int | torch.Tensor,
        previous_action: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> AdaptivePolicyModelOutput | tuple[StepParameters, torch.Tensor, torch.Tensor]:
        """
        Args:
            features (`torch.Tensor` of shape `(batch_size, grid_size**2, in_channels)`):
                `features` of the transformer's output, of the conditional pass.
            timestep (`int`, or `torch.Tensor` of shape `(batch_size,)`):
                Index of the step, 0 to T - 1. Given as a number, the last one's parameters say that it is the last.
            previous_action (`torch.Tensor` of shape `(batch_size, 4)`, *optional*):
                `action` of the step before; none for the first.
            return_dict (`bool`, defaults to `True`): Whether to return a dataclass or a tuple.

        Returns:
            [`AdaptivePolicyModelOutput`], or `(parameters, action, raw)` if `return_dict` is False.

        Raises:
            ValueError: features of another shape, or a number that is no step of the policy.
        """
        steps = self.config.num_inference_steps
        if isinstance(timestep, int) and not 0 <= timestep < steps:
            raise ValueError(
                f"`timestep` has to be from 0 to {steps - 1}, the steps of the policy, but is {timestep}."
            )
        is_last = isinstance(timestep, int) and timestep == steps - 1
        if not isinstance(timestep, torch.Tensor):
            timestep = torch.full(features.shape[:1], timestep, device=features.device)  # [B]
        raw = self.proj_out(self.encode(features, timestep))  # [B, 4]

        action = self.smoothed(raw, timestep, previous_action)  # [B, 4]
        parameters = self.parameters_of(action, is_last)
        if not return_dict:
            return parameters, action, raw
        return AdaptivePolicyModelOutput(parameters=parameters, action=action, raw=raw)

    def encode(self, features: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """What the last layer sees `[B, M2]` of features `[B, grid_size**2, in_channels]` at steps `[B]`."""
        config = self.config
        if features.ndim != 3 or features.shape[1:] != (config.grid_size**2, config.in_channels):
            raise ValueError(
                f"`features` has to be [batch, {config.grid_size**2}, {config.in_channels}], but is {list(features.shape)}."
            )
        embedding = self.time_embed(self.time_proj(timestep).to(self.dtype))  # [B, D]

        hidden_states = self.proj_in(features.to(self.dtype))  # [B, N, D]
        hidden_states = self.norm_in(hidden_states, embedding)  # [B, N, D]
        hidden_states = hidden_states.transpose(1, 2).unflatten(
            2, (config.grid_size, config.grid_size)
        )  # [B, D, h, w]
        hidden_states = F.gelu(self.depthwise_conv(hidden_states))  # [B, D, h/2, w/2]
        hidden_states = F.gelu(self.pointwise_conv(hidden_states))  # [B, C, h/2, w/2]
        hidden_states = self.linear_1(hidden_states.flatten(1))  # [B, M1]
        hidden_states = F.gelu(self.norm_1(hidden_states, embedding))  # [B, M1]
        return F.gelu(self.norm_2(self.linear_2(hidden_states), embedding))  # [B, M2]


def _inverse_softplus(value: torch.Tensor) -> torch.Tensor:
    return value + (-(-value).expm1()).log()
