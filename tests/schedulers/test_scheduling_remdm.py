import pytest
import torch

from diffusers_autonat import ReMDMScheduler, ReMDMStrategy


K, N = 4, 100
MASK = K
SCHEDULER = ReMDMScheduler(K)


def step(sample, ratio, rate, given=None, seed=0):
    SCHEDULER.set_timesteps(strategy=ReMDMStrategy([ratio, 0.0], [1.0] * 2, [rate] * 2, [0.0] * 2))
    logits = torch.zeros(*sample.shape, K)
    return SCHEDULER.step(logits, 0, sample, torch.Generator().manual_seed(seed), given=given).prev_sample


def half_revealed(rows=1):
    sample = torch.full((rows, N), MASK)
    sample[:, :50] = 1
    return sample


@pytest.mark.parametrize(
    ("ratio", "rate", "back"),
    [
        (0.3, 0.0, 0),
        (0.3, 1.0, 30),  # alpha_t = 0.5, alpha_s = 0.7: sigma = 0.3 / 0.5
        (0.3, 0.5, 15),
        (0.49, 1.0, 49),
    ],
)
def test_sigma(ratio, rate, back):
    after = step(half_revealed(), ratio, rate)
    assert (after == MASK).sum() == ratio * N
    assert (after[:, :50] == MASK).sum() == back


def test_sigma_holds_in_the_mean_where_it_is_no_whole_number():
    after = step(half_revealed(20_000), 0.3, 0.05)  # 1.5 tokens
    back = (after[:, :50] == MASK).sum(dim=1)
    assert set(back.tolist()) == {1, 2} and abs(back.float().mean() - 1.5) < 0.02
    assert ((after == MASK).sum(dim=1) == 30).all()


def test_sigma_is_at_most_one():
    sample = torch.full((1, N), MASK)
    sample[:, :10] = 1
    after = step(sample, 0.8, 1.0)  # (1 - alpha_s) / alpha_t = 8
    assert (after[:, :10] == MASK).all() and (after == MASK).sum() == 80


def test_which_tokens_go_back_is_chance():
    after = step(half_revealed(20_000), 0.3, 0.5)
    share = (after == MASK).float().mean(dim=0)
    assert (share[:50] - 15 / 50).abs().max() < 0.02 and (share[50:] - 15 / 50).abs().max() < 0.02


def test_given_tokens_never_go_back():
    sample = half_revealed()
    given = torch.zeros_like(sample, dtype=torch.bool)
    given[:, :40] = True  # so ten were revealed
    after = step(sample, 0.3, 1.0, given)
    assert (after[:, :40] == 1).all() and (after == MASK).sum() == 30
    assert (after[:, 40:50] == MASK).sum() == 10  # sigma = min(1, 30 / 10)


def test_what_goes_back_is_drawn_anew():
    """Over a run tokens change after they were revealed, which no other order lets them."""
    noise, tokens, changed = torch.Generator().manual_seed(0), torch.full((1, N), MASK), 0
    first = torch.full((1, N), MASK)
    for t, parameters in enumerate(SCHEDULER.plan(strategy=ReMDMStrategy.cosine(8, remasking_rate=0.5)).parameters):
        tokens = SCHEDULER.step(torch.zeros(1, N, K), t, tokens, noise, parameters=parameters).prev_sample
        changed += int(((first != MASK) & (tokens != MASK) & (tokens != first)).sum())
        first = torch.where(first == MASK, tokens, first)
    assert changed > 0 and (tokens != MASK).all()


def test_a_strategy_is_checked():
    with pytest.raises(ValueError, match=r"remasking_rates\[0\] = 1.5 must be in \[0, 1\]"):
        ReMDMStrategy([0.0], [1.0], [1.5], [0.0])
