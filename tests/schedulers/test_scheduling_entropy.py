import math

import pytest
import torch

from diffusers_autonat import EntropyBoundedScheduler, EntropyStrategy


K, N = 4, 6
SCHEDULER = EntropyBoundedScheduler(K)


def logits_with(shares: list[float]) -> torch.Tensor:
    """Places where one token has this share, and the others what is left in equal parts."""
    share = torch.tensor(shares)[:, None]
    return torch.cat([share, ((1 - share) / (K - 1)).expand(-1, K - 1)], dim=1).log()


def entropy(share: float) -> float:
    rest = 1 - share
    return -share * math.log(share) - (rest * math.log(rest / (K - 1)) if rest else 0.0)


def revealed(logits, bound, sample=None):
    SCHEDULER.set_timesteps(strategy=EntropyStrategy.constant(3, bound))
    sample = torch.full(logits.shape[:2], K) if sample is None else sample
    return SCHEDULER.step(logits, 0, sample, torch.Generator().manual_seed(0)).prev_sample != K


def test_the_largest_k_whose_sum_less_its_largest_is_bounded():
    shares = [0.6, 0.99, 0.4, 0.9, 0.25, 0.8]
    logits, ascending = logits_with(shares)[None], [1, 3, 5, 0, 2, 4]
    for k in range(1, N + 1):
        # The k-th place is revealed as soon as the entropies before it fit.
        exactly = sum(entropy(shares[i]) for i in ascending[: k - 1])
        found = revealed(logits, exactly * 1.001)
        assert found[0].nonzero().flatten().tolist() == sorted(ascending[:k])
        if k > 1:
            assert revealed(logits, exactly * 0.999).sum() == k - 1


def test_images_differ_and_those_that_are_done_stay():
    logits = torch.stack([logits_with([0.999] * N), logits_with([0.3] * N), logits_with([0.3] * N)])
    sample = torch.full((3, N), K)
    sample[2] = torch.arange(N) % K
    assert revealed(logits, 1.0, sample).sum(dim=1).tolist() == [N, 1, N]
    output = SCHEDULER.step(logits, 0, sample, torch.Generator().manual_seed(0))
    assert torch.equal(output.prev_sample[2], sample[2])


def test_bounds_of_images_and_the_last_step():
    logits = logits_with([0.3] * N)[None].expand(2, -1, -1)
    plan = SCHEDULER.plan(strategy=[EntropyStrategy.constant(2, bound) for bound in (0.0, 1e4)])
    masked = torch.full((2, N), K)
    after = [SCHEDULER.step(logits, t, masked, parameters=plan.parameters[t]).prev_sample for t in range(2)]
    assert [(tokens != K).sum(dim=1).tolist() for tokens in after] == [[1, N], [N, N]]


def test_a_bound_of_zero_reveals_one_however_small_the_least_is():
    """1e-9 is lost in a float32 sum with 3, but does not stand in it for what comes before."""
    nearly = torch.tensor([1e-12, 1 / 3, 1 / 3, 1 / 3])  # of four tokens: sure but for 1e-12
    logits = torch.stack([torch.tensor([1.0, 1e-12, 1e-12, 1e-12]), nearly, nearly]).log()[None]
    assert revealed(logits, 0.0).sum() == 1


def test_a_strategy_is_checked():
    with pytest.raises(ValueError, match=r"entropy_bounds\[1\] = -1"):
        EntropyStrategy([1.0, -1.0], [1.0] * 2, [0.0] * 2)
    with pytest.raises(ValueError, match="guidance_scales has 1 values but entropy_bounds has 2"):
        EntropyStrategy([1.0, 1.0], [1.0] * 2, [0.0])
    assert EntropyBoundedScheduler(16).get_strategy(8).entropy_bounds == (4 * math.log(16),) * 8
