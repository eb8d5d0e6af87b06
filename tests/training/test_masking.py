import pytest
import torch
import torch.nn.functional as F

from diffusers_autonat import NATScheduler, TrainingStrategy
from diffusers_autonat.training.masking import drop_labels, mask_tokens, masked_token_loss


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


def test_drop_labels():
    torch.manual_seed(0)
    labels = drop_labels(torch.zeros(20_000, dtype=torch.long), null_class=7, probability=0.15)
    assert set(labels.tolist()) == {0, 7} and (labels == 7).float().mean().item() == pytest.approx(0.15, abs=0.01)
