import numpy as np
import pytest
from PIL import Image

from diffusers_autonat import EntropyBoundedScheduler, EntropyStrategy, GenerationStrategy, NATScheduler
from diffusers_autonat.cli import main
from tests.pipelines.text_encoders import save_without_encoder, tiny_text_pipeline


@pytest.fixture
def folder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "pipeline")
    return str(tmp_path / "pipeline")


def test_generate_draws_a_row_per_class(folder, tmp_path, capsys):
    output = tmp_path / "out" / "grid.png"
    main(["generate", folder, "--class-labels", "dog", "0", "--num-images", "3", "--output", str(output)])
    assert Image.open(output).size == (3 * 84, 2 * 84)  # 28-pixel images, three times enlarged
    assert "6 images in 8 steps, rows: dog, cat, kitty" in capsys.readouterr().out
    first = np.asarray(Image.open(output))
    main(["generate", folder, "--class-labels", "dog", "0", "--num-images", "3", "--output", str(output)])
    assert np.array_equal(first, np.asarray(Image.open(output)))


def test_generate_takes_a_strategy_file(folder, tmp_path, capsys):
    GenerationStrategy.cosine(3).to_json(tmp_path / "s.json")
    main(["generate", folder, "--strategy", str(tmp_path / "s.json"), "--output", str(tmp_path / "x.png")])
    assert "16 images in 3 steps" in capsys.readouterr().out


def test_generate_takes_a_heuristic_of_any_number_of_steps(folder, tmp_path, capsys):
    words = ["generate", folder, "--class-labels", "dog", "--output", str(tmp_path / "x.png"), "--heuristic"]
    main([*words, "cosine", "--num-inference-steps", "12"])
    assert "4 images in 12 steps" in capsys.readouterr().out
    first = np.asarray(Image.open(tmp_path / "x.png"))
    main([*words, "cosine", "--num-inference-steps", "12", "--remasking-temperature", "0"])
    assert not np.array_equal(first, np.asarray(Image.open(tmp_path / "x.png")))  # lambda is heard
    main([*words, "enat"])
    assert "4 images in 8 steps" in capsys.readouterr().out


def test_generate_takes_what_a_search_writes(folder, tmp_path, capsys):
    NATScheduler(16, [GenerationStrategy.cosine(3), GenerationStrategy.cosine(5)]).save_pretrained(tmp_path)
    args = [
        "generate",
        folder,
        "--strategy",
        str(tmp_path / "scheduler_config.json"),
        "--output",
        str(tmp_path / "x.png"),
    ]
    main([*args, "--num-inference-steps", "3"])
    assert "16 images in 3 steps" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"for \[3, 5\] steps: choose one with --num-inference-steps") as error:
        main(args)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "args, message",
    [
        (["--class-labels", "horse"], "unknown class name 'horse'"),
        (["--num-inference-steps", "12"], "only for 4, 8 steps, not for 12: add --heuristic cosine"),
        (["--heuristic", "cosine", "--strategy", "missing.json"], "are two strategies: give one"),
        (["--remasking-temperature", "2"], "give --heuristic cosine too"),
        (["--strategy", "missing.json"], "missing.json"),
        (["--strategy", __file__], "test_generate.py is not YAML"),
    ],
)
def test_errors_are_one_line(folder, tmp_path, args, message):
    with pytest.raises(SystemExit, match=message) as error:
        main(["generate", folder, "--output", str(tmp_path / "x.png"), *args])
    assert "\n" not in str(error.value)


def test_no_heuristic_of_another_order_is_offered(pipe, tmp_path):
    mask_token_id = pipe.scheduler.config.mask_token_id
    pipe.scheduler = EntropyBoundedScheduler(mask_token_id, [EntropyStrategy.constant(4, 2.0)])
    pipe.save_pretrained(tmp_path / "entropy")
    with pytest.raises(SystemExit, match="only for 4 steps, not for 12: add --strategy FILE"):
        main(
            ["generate", str(tmp_path / "entropy"), "--num-inference-steps", "12", "--output", str(tmp_path / "x.png")]
        )


@pytest.mark.parametrize("number", ["0", "-3", "2.5"])
def test_numbers_are_checked(folder, number, capsys):
    with pytest.raises(SystemExit):
        main(["generate", folder, "--num-images", number, "--output", "x.png"])
    assert "--num-images" in capsys.readouterr().err.splitlines()[-1]


def test_nothing_is_written_that_is_not_named(folder, capsys):
    with pytest.raises(SystemExit):
        main(["generate", folder])
    assert "arguments are required: --output" in capsys.readouterr().err


def test_a_missing_pipeline_is_named(tmp_path):
    with pytest.raises(SystemExit, match="nowhere"):
        main(["generate", str(tmp_path / "nowhere"), "--output", str(tmp_path / "x.png")])


def test_prompts_make_rows_too(folder, tmp_path, capsys):
    tiny_text_pipeline().save_pretrained(tmp_path / "text")
    output = tmp_path / "grid.png"
    words = ["generate", str(tmp_path / "text"), "--num-images", "2", "--output", str(output)]
    main([*words, "--prompts", "a red boat", "the lake", "a tree"])
    assert Image.open(output).size == (2 * 84, 3 * 84)
    assert "6 images in 8 steps, rows: a red boat, the lake, a tree" in capsys.readouterr().out
    for wrong in (words, [*words, "--class-labels", "1"], [*words, "--class-labels", "1", "--prompts", "a boat"]):
        with pytest.raises(SystemExit, match="draws from text: give --prompts, and no --class-labels"):
            main(wrong)
    encoder, alone = save_without_encoder(tmp_path / "alone", tmp_path / "encoder"), tmp_path / "alone.png"
    words = ["generate", str(tmp_path / "alone"), "--prompts", "a red boat", "the lake", "a tree", "--num-images", "2"]
    main([*words, "--text-encoder", encoder, "--output", str(alone)])
    assert alone.read_bytes() == output.read_bytes()
    with pytest.raises(SystemExit, match="load it with `text_encoder=` and `tokenizer=` .in the shell --text-encoder"):
        main([*words, "--output", str(alone)])
    with pytest.raises(SystemExit, match="draws from classes: give --class-labels, and no --prompts"):
        main(["generate", folder, "--prompts", "a boat", "--output", str(output)])
