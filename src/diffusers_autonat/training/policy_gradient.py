"""Proximal policy optimisation (PPO, arXiv:1707.06347) of an `AdaptivePolicyModel`, with a reward at the end of an image, as
AdaNAT trains it (ECCV 2024, arXiv:2409.00342).

A trajectory is one image: at each step the policy sees features and puts out `raw` `[4]`, to which Gaussian noise is added.
What the policy saw and drew is kept, so learning from it calls the transformer no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from ..metrics import Requests
from ..metrics.extractors.base import to_uint8
from ..models.policy_adaptive import AdaptivePolicyModel, AdaptivePolicyModelOutput


class ExploringPolicy(nn.Module):
    """
    The policy of a pipeline whose images are to be learned from: noise is added to what it puts out, and all is kept.

    Args:
        policy: What is learned.
        std: Standard deviation of the noise on the four outputs, before they are smoothed and activated.
    """

    def __init__(self, policy: AdaptivePolicyModel, std: float):
        super().__init__()
        self.policy, self.std = policy, std
        self.features: list[Tensor] = []  # of each step so far, `[B, N, D]`
        self.raw: list[Tensor] = []  # `[B, 4]`

    @property
    def config(self) -> Any:
        return self.policy.config

    @property
    def device(self) -> torch.device:  # pipelines ask their components
        return self.policy.device

    @property
    def dtype(self) -> torch.dtype:
        return self.policy.dtype

    def forward(
        self, features: Tensor, timestep: int, previous_action: Tensor | None = None
    ) -> AdaptivePolicyModelOutput:
        mean = self.policy(features, timestep, previous_action).raw.float()
        raw = mean + self.std * torch.randn_like(mean)
        steps = torch.full((len(raw),), timestep, device=raw.device)
        action = self.policy.smoothed(raw, steps, previous_action)
        self.features.append(features.clone())  # a part of what both passes gave
        self.raw.append(raw)
        parameters = self.policy.parameters_of(action, timestep == self.config.num_inference_steps - 1)
        return AdaptivePolicyModelOutput(parameters=parameters, action=action, raw=raw)

    def take(self) -> tuple[Tensor, Tensor]:
        """Features `[B, T, N, D]` and outputs `[B, T, 4]` of the images since the last call."""
        taken = torch.stack(self.features, dim=1), torch.stack(self.raw, dim=1)
        self.features, self.raw = [], []
        return taken


@dataclass(frozen=True)
class Trajectories:
    """
    What the policy saw and did for n images.

    Args:
        features: `[n, T, N, D]`, in the precision of the transformer. raw: `[n, T, 4]`.
    """

    features: Tensor
    raw: Tensor

    def __len__(self) -> int:
        return len(self.raw)


@torch.no_grad()
def rollout(
    pipeline: Any, policy: AdaptivePolicyModel, std: float, requests: Requests, batch_size: int
) -> Iterator[tuple[Trajectories, Tensor]]:
    """
    Images of a pipeline that explores, batch by batch in the order of `requests`: their trajectories, and the images, uint8
    `[B, C, H, W]`. All noise is of torch's global generator.

    Args:
        pipeline: Its own policy, if it has one, is not used.
        policy, std: See `ExploringPolicy`.
    """
    explorer = ExploringPolicy(policy, std)
    exploring = type(pipeline)(**pipeline.components | {"policy": explorer})
    exploring.set_progress_bar_config(disable=True)
    for rows in torch.arange(len(requests)).split(batch_size):
        images = to_uint8(exploring(**requests[rows].arguments, output_type="pt").images)
        yield Trajectories(*explorer.take()), images


def joined(parts: list[Trajectories]) -> Trajectories:
    return Trajectories(torch.cat([part.features for part in parts]), torch.cat([part.raw for part in parts]))


class Critic(nn.Module):
    """The value of a state, by a network of the policy's shape with weights of its own; a fresh one says 0."""

    def __init__(self, policy: AdaptivePolicyModel):
        super().__init__()
        self.network = AdaptivePolicyModel.from_config(policy.config)
        self.network.proj_out = nn.Linear(policy.proj_out.in_features, 1)
        nn.init.zeros_(self.network.proj_out.weight)
        nn.init.zeros_(self.network.proj_out.bias)

    def forward(self, features: Tensor, timestep: Tensor) -> Tensor:
        """Features `[B, N, D]` at steps `[B]` to values `[B]`."""
        return self.network.proj_out(self.network.encode(features, timestep)).squeeze(-1).float()


class ActorCritic(nn.Module):
    """Policy and critic as one module, whose gradients processes average."""

    counts: Tensor

    def __init__(self, policy: AdaptivePolicyModel):
        super().__init__()
        self.actor, self.critic = policy, Critic(policy)
        counts = torch.ones(policy.config.num_inference_steps, 4)
        counts[-1, :2] = 0  # the last step masks nothing: its r and tau2 decide nothing
        self.register_buffer("counts", counts, persistent=False)

    def forward(self, features: Tensor, raw: Tensor, std: float) -> tuple[Tensor, Tensor]:
        """
        Log-probabilities of what was drawn, and values of what was seen, both `[B, T]`, float32.

        Args:
            features: `[B, T, N, D]`. raw: `[B, T, 4]`, drawn with this `std` around an earlier policy.
        """
        shape = raw.shape[:2]
        steps = torch.arange(shape[1], device=raw.device).repeat(shape[0])  # [B * T]
        states = features.flatten(0, 1)  # [B * T, N, D]
        mean = self.actor.proj_out(self.actor.encode(states, steps)).float().view_as(raw)  # [B, T, 4]
        log_probs = (Normal(mean, std).log_prob(raw) * self.counts).sum(dim=-1)  # [B, T]
        return log_probs, self.critic(states, steps).view(shape)


def ppo_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    values: Tensor,
    returns: Tensor,
    advantages: Tensor,
    clip: float,
    value_weight: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""
    The clipped objective and the critic's error: with \( \rho = \exp(\log p - \log p_{old}) \)

        loss = mean(-min(rho A, clip(rho, 1 - clip, 1 + clip) A)) + value_weight mean((V - R)^2)

    The noise is not learned, so an entropy term would be a constant: there is none.

    Args:
        log_probs, old_log_probs, values: `[B, T]`. returns, advantages: `[B, T]`, or what broadcasts to it.

    Returns:
        The loss, and to be logged: `value_loss`, `approx_kl` (of the old policy to the new), `clip_fraction`.
    """
    difference = log_probs - old_log_probs
    ratio = difference.exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    value_loss = (values - returns).square().mean()
    logs = {
        "value_loss": value_loss,
        "approx_kl": (ratio - 1 - difference).mean(),
        "clip_fraction": ((ratio - 1).abs() > clip).float().mean(),
    }
    return value_weight * value_loss - surrogate.mean(), {name: value.detach() for name, value in logs.items()}


def exploration(step: int, max_steps: int, first: float, last: float) -> float:
    """Standard deviation of the noise in update `step` of 1 to `max_steps`: it falls linearly."""
    return first + (last - first) * (step - 1) / max(1, max_steps - 1)
