import pytest
import torch

from diffusers_autonat import (
    AdaptivePolicyModel,
    AutoNATPipeline,
    ENATTransformer2DModel,
    GenerationStrategy,
    NATScheduler,
)
from diffusers_autonat.cli import main
from diffusers_autonat.commands.cost import format_macs
from diffusers_autonat.cost import measured_costs, pipeline_cost
from diffusers_autonat.metrics.conditions import balanced_labels
from tests.conftest import tiny_vqvae


@pytest.fixture
def folder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "pipeline")
    return str(tmp_path / "pipeline")


def table(text: str) -> list[list[str]]:
    return [line.split("  ") for line in text.splitlines() if line[:1].isdigit()]


def test_a_line_for_every_stored_strategy(pipe, folder, capsys):
    main(["cost", folder])
    text = capsys.readouterr().out
    assert f"{pipe.transformer.num_parameters():,} parameters in the transformer" in text
    assert f"{pipe.vqvae.num_parameters():,} in the tokenizer" in text
    rows = table(text)
    assert [row[0] for row in rows] == ["4", "8"]
    for row, steps in zip(rows, (4, 8)):
        cost = pipeline_cost(pipe, pipe.scheduler.get_strategy(steps))
        assert format_macs(cost.total) in " ".join(row) and row[-1].strip() == "-"


def test_chosen_steps_strategy_files_and_guidance(pipe, folder, tmp_path, capsys):
    main(["cost", folder, "--num-inference-steps", "4"])
    assert len(table(capsys.readouterr().out)) == 1
    strategy = GenerationStrategy([0.5, 0.0], [1.0] * 2, [1.0] * 2, [0.0, 1.0])
    strategy.to_json(tmp_path / "s.json")
    main(["cost", folder, "--strategy", str(tmp_path / "s.json")])
    (row,) = table(capsys.readouterr().out)
    cost = pipeline_cost(pipe, strategy)
    assert f"{format_macs(cost.saved)} ({cost.saved / (cost.total + cost.saved):.0%})" in "  ".join(row)
    main(["cost", folder, "--num-inference-steps", "8", "--guidance-scale", "0"])
    assert [cell.strip() for cell in table(capsys.readouterr().out)[0] if cell.strip()][:2] == ["8", "0"]
    # An option may be given several times: none is dropped.
    main(["cost", folder, "--num-inference-steps", "8", "--num-inference-steps", "4"])
    assert [row[0] for row in table(capsys.readouterr().out)] == ["8", "4"]
    GenerationStrategy.cosine(3).to_json(tmp_path / "T3.json")
    main(["cost", folder, "--strategy", str(tmp_path / "s.json"), "--strategy", str(tmp_path / "T3.json")])
    assert [row[0] for row in table(capsys.readouterr().out)] == ["2", "3"]


def test_the_papers_rows(capsys):
    main(["cost", "--paper"])
    text = capsys.readouterr().out
    assert text.count(" =") == 13 and "differs" not in text
    line = next(
        line for line in text.splitlines() if line.startswith("AutoNAT-L ") and " 512 " in line and "1.2 =" in line
    )
    assert "199.0 M" in line and "1.202" in line
    assert any(line.startswith("ENAT-L") for line in text.splitlines())


@pytest.mark.parametrize(
    ("macs", "text"), [(0.0, "0 k"), (1234.0, "1.23 k"), (5.6e6, "5.6 M"), (9.258e11, "926 G"), (1.2e12, "1.2 T")]
)
def test_format(macs, text):
    assert format_macs(macs) == text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "either a pipeline or --paper"),
        (["{folder}", "--paper"], "either a pipeline or --paper"),
        (["{folder}", "--num-inference-steps", "6"], "only for"),
        (["{folder}-nowhere"], "nowhere"),
        (["{folder}/transformer"], "is no pipeline folder: it has no model_index.json"),
        (["{folder}/model_index.json"], "is no pipeline folder"),
        (["{folder}", "--guidance-scale", "-1"], "must not be negative; 0 turns"),
        (["{folder}", "--guidance-scale", "nan"], "must not be negative"),
        (
            ["{folder}", "--strategy", "s.json", "--num-inference-steps", "4"],
            "either --strategy or --num-inference-steps",
        ),
        (["--paper", "--num-inference-steps", "4"], "pass it alone"),
        (["--paper", "--guidance-scale", "0"], "pass it alone"),
    ],
)
def test_errors_are_one_line(folder, args, message):
    with pytest.raises(SystemExit, match=message) as error:
        main(["cost", *(arg.format(folder=folder) for arg in args)])
    assert "\n" not in str(error.value)


def test_a_policy_is_counted_where_it_decides(pipe, tmp_path, capsys):
    pipe.register_modules(
        policy=AdaptivePolicyModel(in_channels=32, hidden_size=16, grid_size=7, num_inference_steps=3)
    )
    pipe.save_pretrained(tmp_path / "adaptive")
    main(["cost", str(tmp_path / "adaptive")])
    text = capsys.readouterr().out
    cost = pipeline_cost(pipe, None)
    assert f"{pipe.policy.num_parameters():,} in the policy" in text
    taken = f"Of 3 steps the policy takes {format_macs(sum(cost.policy))}."
    assert taken in text
    assert [row[0] for row in table(text)] == ["3"] and format_macs(cost.total) in text
    main(["cost", str(tmp_path / "adaptive"), "--num-inference-steps", "4"])
    text = capsys.readouterr().out
    assert [row[0] for row in table(text)] == ["4"] and "the policy takes" not in text
    main(["cost", str(tmp_path / "adaptive"), "--num-inference-steps", "4", "3"])
    text = capsys.readouterr().out
    assert [row[0] for row in table(text)] == ["4", "3"] and taken in text


def test_what_differs_from_image_to_image_is_measured(tmp_path, capsys):
    transformer = ENATTransformer2DModel(
        sample_size=7, codebook_size=16, hidden_size=32, num_encoder_layers=2, num_decoder_layers=1,
        num_attention_heads=4, num_classes=4,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = AdaptivePolicyModel(in_channels=32, hidden_size=16, grid_size=7, num_inference_steps=3)
    torch.nn.init.normal_(policy.proj_out.weight, std=0.05)
    vqvae = tiny_vqvae(mid_block_add_attention=False)
    AutoNATPipeline(vqvae, transformer, NATScheduler(16), policy=policy).save_pretrained(tmp_path)
    capsys.readouterr()
    main(["cost", str(tmp_path)])
    text = capsys.readouterr().out
    assert "in the policy" in text and "measured on 16 images" in text
    [row] = [line for line in text.splitlines() if line.startswith("3 ")]
    pipe = AutoNATPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    costs = [sum(cost) for cost in measured_costs(pipe, balanced_labels(16, 4).tolist())]
    expected = [format_macs(cost) for cost in (sum(costs) / 16, min(costs), max(costs))]
    assert min(costs) < max(costs) and row.split()[1:7] == " ".join(expected).split()
