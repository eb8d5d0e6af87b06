"""Counted costs are those of what a pipeline really runs, and those the papers print."""

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import diffusers_autonat.cost.counting as cost_module
from diffusers_autonat import (
    AdaptivePolicyModel,
    AutoNATAmusedPipeline,
    AutoNATPipeline,
    ENATTransformer2DModel,
    GenerationStrategy,
    NATScheduler,
)
from diffusers_autonat.cost import CostVaries, measured_costs, pipeline_cost
from diffusers_autonat.cost.paper import paper_rows
from diffusers_autonat.models.tokenizer import skip_padding_blocks
from tests.conftest import tiny_vqvae
from tests.pipelines.amused import tiny_amused


@pytest.fixture(params=["uvit", "enat"])
def pipeline(request, pipe):
    if request.param == "uvit":
        return pipe
    transformer = ENATTransformer2DModel(
        sample_size=7, codebook_size=16, hidden_size=32, num_encoder_layers=3, num_decoder_layers=2,
        num_attention_heads=4, num_classes=4,
    ).eval()  # fmt: skip
    enat = AutoNATPipeline(tiny_vqvae(mid_block_add_attention=False), transformer, NATScheduler(16))
    enat.set_progress_bar_config(disable=True)
    return enat


def measured(pipeline, strategy, guidance_scale=1.0, output_type="pt") -> tuple[float, float]:
    """Multiply-accumulates of a real image, and those of matrix products of batches among them."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        pipeline([0], strategy=strategy, guidance_scale=guidance_scale, output_type=output_type)
    operations = counter.get_flop_counts()["Global"]
    return sum(operations.values()) / 2, operations.get(torch.ops.aten.bmm, 0) / 2


def strategy_with(guidance_scales, mask_ratios=None):
    T = len(guidance_scales)
    ratios = mask_ratios or GenerationStrategy.cosine(T).mask_ratios
    return GenerationStrategy(ratios, [1.0] * T, [1.0] * T, guidance_scales)


STRATEGIES = {
    "guided": GenerationStrategy.cosine(4),
    "first steps unguided": strategy_with([0.0, 0.0, 1.0, 1.0]),
    "guidance comes and goes": strategy_with([1.0, 0.0, 1.0, 0.0, 0.0, 2.0]),
    "unguided": strategy_with([0.0] * 5),
    "one step": strategy_with([1.0]),
    "ratios that do not fall": strategy_with([1.0, 0.0, 1.0, 1.0], [0.5, 0.99, 0.01, 0.0]),
    "nearly nothing at first": strategy_with([1.0] * 3, [0.999, 0.001, 0.0]),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_cost_is_that_of_a_real_run(pipeline, name):
    strategy = STRATEGIES[name]
    cost = pipeline_cost(pipeline, strategy)
    assert cost.total == measured(pipeline, strategy)[0]
    transformer, attention = measured(pipeline, strategy, output_type="latent")  # only the transformer's is left out
    assert cost.total - cost.total_without_attention == attention == cost.transformer.attention > 0
    assert sum(cost.transformer) == transformer
    assert cost.num_inference_steps == strategy.num_inference_steps
    assert cost.num_guided_steps == sum(s > 0 for s in strategy.guidance_scales)


def test_without_guidance(pipeline):
    cost = pipeline_cost(pipeline, STRATEGIES["guided"], guidance_scale=0.0)
    assert cost.total == measured(pipeline, STRATEGIES["guided"], 0.0)[0] and cost.num_guided_steps == 0
    with pytest.raises(ValueError, match="guidance_scale = -1"):
        pipeline_cost(pipeline, STRATEGIES["guided"], guidance_scale=-1)


def test_saved_is_what_all_passes_would_cost_on_top(pipeline):
    for name in ("first steps unguided", "guidance comes and goes", "unguided"):
        strategy = STRATEGIES[name]
        cost, full = (pipeline_cost(pipeline, s) for s in (
            strategy, dataclasses.replace(strategy, guidance_scales=[1.0] * strategy.num_inference_steps)
        ))  # fmt: skip
        assert cost.saved == full.total - cost.total > 0 and full.saved == 0


def test_padding_of_the_tokenizer_is_not_counted(pipe):
    before = pipeline_cost(pipe, STRATEGIES["guided"])
    for parameter in pipe.vqvae.decoder.up_blocks[2].resnets[1].conv2.parameters():
        torch.nn.init.zeros_(parameter)
    skip_padding_blocks(pipe.vqvae)
    after = pipeline_cost(pipe, STRATEGIES["guided"])
    assert before.total - after.total == 2 * 8 * 8 * 9 * 28 * 28  # two 3x3 convolutions of 8 channels
    assert after.total == measured(pipe, STRATEGIES["guided"])[0]


def test_a_search_measures_a_pipeline_once(pipeline, monkeypatch):
    pipeline_cost(pipeline, STRATEGIES["guided"])
    monkeypatch.setattr(cost_module, "_count", lambda *_, **__: pytest.fail("measured again"))
    assert len({pipeline_cost(pipeline, strategy).total for strategy in STRATEGIES.values()}) >= 5


def test_models_of_other_sizes_are_not_mistaken(pipe):
    wide = type(pipe.transformer)(**{**pipe.transformer.config, "hidden_size": 64})
    costs = [
        pipeline_cost(p, STRATEGIES["guided"]).transformer
        for p in (pipe, AutoNATPipeline(pipe.vqvae, wide, pipe.scheduler))
    ]
    assert costs[1].attention == 2 * costs[0].attention and costs[1].weights > 2 * costs[0].weights


@pytest.fixture(scope="module")
def rows():
    return paper_rows()


def test_the_papers_tables(rows):
    printed = {(row.table, row.model, row.pixels, row.cost.num_inference_steps): row for row in rows if row.table}
    costs = {key: row.printed_cost for key, row in printed.items()}
    assert costs == {
        ("3", "AutoNAT-S", 256, 4): 0.2, ("3", "AutoNAT-S", 256, 8): 0.3, ("3", "AutoNAT-L", 256, 12): 0.7,
        ("3", "AutoNAT-L", 256, 4): 0.5, ("3", "AutoNAT-L", 256, 8): 0.9, ("3", "AutoNAT-S", 512, 4): 0.5,
        ("3", "AutoNAT-S", 512, 8): 0.6, ("3", "AutoNAT-L", 512, 12): 1.0, ("3", "AutoNAT-L", 512, 4): 0.8,
        ("3", "AutoNAT-L", 512, 8): 1.2, ("4", "AutoNAT-S, text", 256, 8): 0.3, ("5", "Muse", 256, 8): 2.8,
        ("5", "Muse", 256, 16): 5.4,
    }  # fmt: skip
    for row in printed.values():
        assert round(row.cost.total_without_attention / 1e12, 1) == row.printed_cost and row.agrees
        assert abs(row.parameters / 1e6 - row.printed_parameters) < 0.01 * row.printed_parameters
        assert row.cost.num_guided_steps == (0 if row.cost.num_inference_steps == 12 else row.cost.num_inference_steps)
    assert not dataclasses.replace(rows[0], printed_cost=0.3).agrees


def test_costs_in_full(rows):
    full = {(row.model, row.pixels, row.cost.num_inference_steps): row.cost.total / 1e12 for row in rows}
    expected = {("AutoNAT-S", 256, 4): 0.192, ("AutoNAT-S", 256, 8): 0.292, ("AutoNAT-L", 256, 4): 0.509,
                ("AutoNAT-L", 256, 8): 0.925, ("AutoNAT-S, text", 256, 8): 0.356, ("Muse", 256, 8): 2.89,
                ("Muse", 256, 16): 5.68}  # fmt: skip
    for key, value in expected.items():
        assert full[key] == pytest.approx(value, rel=5e-3), key


def test_beside_the_tables(rows):
    released, enat = (row for row in rows if not row.table)
    # Three of 16 passes of AutoNAT-L are not run; ENAT-L, nearly three times as large, costs less than half.
    assert released.cost.num_guided_steps == 5
    assert released.cost.saved == pytest.approx(3 / 13 * sum(released.cost.transformer))
    assert enat.model == "ENAT-L" and enat.cost.num_inference_steps == 8
    assert enat.cost.total < 0.4 * (released.cost.total + released.cost.saved)


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0])
def test_a_policy_s_own_cost_is_counted(pipe, guidance_scale):
    pipe.register_modules(
        policy=AdaptivePolicyModel(in_channels=32, hidden_size=16, grid_size=7, num_inference_steps=3)
    )
    cost = pipeline_cost(pipe, None, guidance_scale)
    assert cost.total == measured(pipe, None, guidance_scale)[0] and sum(cost.policy) > 0
    assert (cost.num_inference_steps, cost.num_guided_steps) == (3, 3 if guidance_scale else 0)
    assert not sum(pipeline_cost(pipe, STRATEGIES["guided"]).policy)


def test_what_enat_costs_with_a_policy_differs_from_image_to_image(pipeline):
    if not isinstance(pipeline.transformer, ENATTransformer2DModel):
        pytest.skip("a U-ViT's passes cost the same with any number of masked tokens")
    pipeline.register_modules(policy=AdaptivePolicyModel(in_channels=32, hidden_size=16, grid_size=7))
    torch.manual_seed(0)
    torch.nn.init.normal_(pipeline.policy.proj_out.weight, std=0.05)
    with pytest.raises(CostVaries, match="what ENAT costs follows the number of revealed tokens"):
        pipeline_cost(pipeline, None)
    costs = [sum(cost) for cost in measured_costs(pipeline, [0, 1, 2, 3])]
    assert len(set(costs)) > 1


def test_costs_that_are_measured_are_those_that_are_counted(pipeline):
    strategy = STRATEGIES["first steps unguided"]
    for cost in measured_costs(pipeline, [0, 3], strategy):
        assert sum(cost) == pipeline_cost(pipeline, strategy).total


def test_amused_costs_what_its_passes_do(monkeypatch):
    monkeypatch.setattr(cost_module, "CLIP_LENGTH", 8)  # of the small text encoder
    cost_module._pass_cost.cache_clear()
    pipe = AutoNATAmusedPipeline.from_amused(tiny_amused())
    pipe.set_progress_bar_config(disable=True)
    device = torch.device("cpu")

    def count(call):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call()
        return counter.get_total_flops() / 2

    for scales in ([1.0, 0.0, 2.0], [0.0, 0.0]):
        strategy = strategy_with(scales)
        run = count(lambda: pipe("a boat", strategy=strategy, output_type="latent"))
        encoders = count(lambda: pipe.get_conditions("a boat", device, 1, any(scales), None))
        cost = pipeline_cost(pipe, strategy)
        assert sum(cost.transformer) == run - encoders > 0 and sum(cost.decoder) > 0
        assert cost.num_guided_steps == sum(scale > 0 for scale in scales)
    cost_module._pass_cost.cache_clear()
