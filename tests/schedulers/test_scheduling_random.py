import torch

from diffusers_autonat import GenerationStrategy, RandomScheduler


def test_every_subset_is_equally_likely_whatever_the_model_is_sure_of():
    logits = torch.zeros(20_000, 4, 3)
    logits[:, 0, 0] = 50.0  # the first place is certain
    strategy = GenerationStrategy([0.5, 0.0], [1.0] * 2, [1.0] * 2, [0.0] * 2)
    scheduler = RandomScheduler(3)
    scheduler.set_timesteps(strategy=strategy)
    noise = torch.Generator().manual_seed(0)
    masked = scheduler.step(logits, 0, torch.full((20_000, 4), 3), noise).prev_sample == 3
    subsets = (masked * torch.tensor([1, 2, 4, 8])).sum(dim=1).bincount(minlength=16) / 20_000
    assert (subsets > 0).sum() == 6 and (subsets[subsets > 0] - 1 / 6).abs().max() < 0.012
