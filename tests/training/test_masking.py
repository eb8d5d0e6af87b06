import pytest
import torch
import torch.nn.functional as F

from diffusers_autonat import NATScheduler, TrainingStrategy
from diffusers_autonat.training.masking import hide_visible_tokens, mask_tokens, masked_token_loss


def test_only_masked_positions_are_scored():
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 10, 6), torch.randint(0, 6, (4, 10))
    masked = torch.rand(4, 10) < 0.4
    loss, accuracy = masked_token_loss(logits, targets, masked, label_smoothing=0.1)
    expected = F.cross_entropy(logits[masked], targets[masked], label_smoothing=0.1)
    assert torch.allclose(loss, expected)
    assert accuracy == pytest.approx((logits[masked].argmax(-1) == targets[masked]).float().mean().item())


def test_mask_ratios_are_drawn_per_sample():
    torch.manual_seed(0)
    scheduler = NATScheduler(6)
    counts = (mask_tokens(torch.zeros(500, 64, dtype=torch.long), TrainingStrategy(12, 3), scheduler) == 6).sum(-1)
    assert len(counts.unique()) > 20 and counts.float().mean().item() == pytest.approx(64 * 0.8, rel=0.02)
    fixed = mask_tokens(torch.zeros(5, 64, dtype=torch.long), TrainingStrategy.fixed(0.75), scheduler)
    assert ((fixed == 6).sum(-1) == 48).all()


def test_one_mask_ratio_for_the_batch():
    torch.manual_seed(0)
    seen = set()
    for _ in range(30):
        ids = mask_tokens(
            torch.zeros(6, 64, dtype=torch.long), TrainingStrategy(12, 3), NATScheduler(6), one_ratio=True
        )
        counts = (ids == 6).sum(-1)
        assert (counts == counts[0]).all() and not torch.equal(ids[0], ids[1])
        seen.add(counts[0].item())
    assert len(seen) > 10


def test_a_uniform_share_of_the_visible_tokens_is_hidden():
    torch.manual_seed(0)
    ids = torch.arange(40).repeat(5, 1)
    ids[:, 25:] = 99
    shares = []
    for _ in range(400):
        hidden = hide_visible_tokens(ids, 99)
        visible = (hidden != 99).sum(-1)
        assert (visible == visible[0]).all() and torch.equal(hidden[hidden != 99], ids[hidden != 99])
        shares.append(visible[0].item())
    assert set(shares) == set(range(26))  # everything from none to all of the 25
    assert sum(shares) / 400 == pytest.approx(12.5, abs=1)
    assert len({tuple(row.tolist()) for row in hide_visible_tokens(ids, 99)}) > 1
