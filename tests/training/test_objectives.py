import pytest
import torch

from diffusers_autonat import ENATTransformer2DModel, NATScheduler, TrainingStrategy
from diffusers_autonat.training.conditions import ClassCondition
from diffusers_autonat.training.masking import masked_token_loss
from diffusers_autonat.training.objectives import MaskedModelling, ReuseModelling


SCHEDULER = NATScheduler(8)
TOKENS = torch.arange(8).repeat(6, 2)  # [6, 16]


def masked_counts(input_ids):
    return (input_ids == 8).sum(-1)


def tiny_enat():
    torch.manual_seed(0)
    return ENATTransformer2DModel(
        sample_size=4, codebook_size=8, hidden_size=16, num_encoder_layers=1, num_decoder_layers=1, num_attention_heads=2,
        num_classes=3,
    ).eval()  # fmt: skip


def test_plain_modelling_hides_by_sample_and_reuses_nothing():
    torch.manual_seed(0)
    objective = MaskedModelling(TrainingStrategy(2, 2))
    input_ids = objective.hide(TOKENS, SCHEDULER)
    assert len(masked_counts(input_ids).unique()) > 1
    assert objective.reuse(input_ids, {}, SCHEDULER) == {} and not objective.needs_average
    logits = torch.randn(6, 16, 8)
    expected = masked_token_loss(logits, TOKENS, input_ids == 8, 0.1)
    assert all(map(torch.equal, objective.score(logits, TOKENS, input_ids, SCHEDULER), expected))
    assert MaskedModelling(TrainingStrategy(2, 2), 0.0).score(logits, TOKENS, input_ids, SCHEDULER)[0] != expected[0]


def test_reuse_is_of_the_averaged_model_with_fewer_tokens_visible():
    torch.manual_seed(0)
    objective = ReuseModelling(TrainingStrategy.fixed(0.5), reuse_prob=1.0)
    objective.averaged = tiny_enat()
    input_ids = objective.hide(TOKENS, SCHEDULER)
    assert (masked_counts(input_ids) == 8).all()
    visible = set()
    for _ in range(20):
        cache = objective.reuse(input_ids, {"class_labels": torch.arange(6) % 3}, SCHEDULER)["cache"]
        if cache is not None:
            assert (input_ids.gather(1, cache.indices) != 8).all() and not cache.features.requires_grad
        visible.add(0 if cache is None else cache.indices.shape[1])
    assert len(visible) > 3 and max(visible) <= 8


def test_a_share_of_the_batches_reuses():
    torch.manual_seed(0)
    objective = ReuseModelling(TrainingStrategy.fixed(0.5), reuse_prob=0.3)
    objective.averaged = tiny_enat()
    input_ids, condition = objective.hide(TOKENS, SCHEDULER), {"class_labels": torch.zeros(6, dtype=torch.long)}
    share = sum(bool(objective.reuse(input_ids, condition, SCHEDULER)) for _ in range(300)) / 300
    assert share == pytest.approx(0.3, abs=0.08)
    assert objective.needs_average and not ReuseModelling(TrainingStrategy.fixed(0.5), reuse_prob=0).needs_average
    assert MaskedModelling.uses_all_parameters and not ReuseModelling.uses_all_parameters


def test_a_condition_of_another_kind_needs_no_other_objective():
    """The objective hands the condition on as it is: states of a text as well as labels."""

    class Averaged:
        def __call__(self, input_ids, **condition):
            self.condition = condition
            return type("Output", (), {"cache": "kept"})

    objective = ReuseModelling(TrainingStrategy.fixed(0.5), reuse_prob=1.0)
    objective.averaged = Averaged()
    states = torch.randn(6, 77, 4)
    assert objective.reuse(TOKENS, {"encoder_hidden_states": states}, SCHEDULER) == {"cache": "kept"}
    assert objective.averaged.condition["encoder_hidden_states"] is states


def test_a_class_condition_is_what_its_transformer_takes():
    condition = ClassCondition(3, dropout=0.0)
    model = tiny_enat()
    assert condition.transformer_config == {"num_classes": model.config.num_classes} and str(condition) == "3 classes"
    inputs = condition.batch({"input_ids": TOKENS, "class_labels": torch.tensor([0, 1, 2, 2, 1, -1])})
    assert inputs["class_labels"].tolist() == [0, 1, 2, 2, 1, 0]
    assert model(TOKENS, **inputs).sample.shape == (6, 16, 8)
