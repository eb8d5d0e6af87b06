"""Pictures of what lies on the disk: each is drawn from real files, and is not empty."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusers_autonat import AdaptivePolicyModel
from diffusers_autonat.cli import main


ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "search" / "results"
MODEL = ROOT / "model_cards" / "autonat-fashion-mnist"


def test_strategies_against_the_heuristic(figures, tmp_path):
    main(["plot", "strategy", str(MODEL), "--num-inference-steps", "4", "--output", str(tmp_path / "s.png")])
    [legend] = [[text.get_text() for text in legend.texts] for legend in figures[0].legends]
    assert legend == ["autonat-fashion-mnist, T = 4", "cosine heuristic, T = 4"]
    assert [axis.get_title() for axis in figures[0].axes][0] == "mask ratio $r$" and (
        tmp_path / "s.png"
    ).stat().st_size > 10_000


def test_strategies_that_a_policy_takes_the_place_of_are_said_to_be_such(pipe, figures, tmp_path, capsys):
    policy = AdaptivePolicyModel(in_channels=32, hidden_size=8, grid_size=7, num_inference_steps=4)
    for name, chosen in (("static", None), ("adaptive", policy)):
        pipe.register_modules(policy=chosen)
        pipe.save_pretrained(tmp_path / name)
        main(["plot", "strategy", str(tmp_path / name), "--output", str(tmp_path / "s.png")])
        assert ("has a policy, which decides in the place of what is drawn" in capsys.readouterr().out) == bool(chosen)


def test_a_search_and_several_seeds(figures, tmp_path):
    folder = RESULTS / "autonat-fashion-mnist-T4"
    main(["plot", "search", str(folder), "--output", str(tmp_path / "one.png")])
    [axis] = figures[0].axes
    search = json.loads((folder / "result.json").read_text())["search"]
    populations, single, _ = (len(line.get_xdata()) for line in axis.lines)
    assert (populations + single, single) == (search["num_trials"], 2) and axis.get_ylabel() == "Fréchet distance"
    assert f"N = {search['num_images']:,}" in axis.get_title()
    shutil.copytree(folder, tmp_path / "again")
    main(["plot", "search", str(folder), str(tmp_path / "again"), "--output", str(tmp_path / "two.png")])
    [axis] = figures[1].axes
    assert axis.get_xlabel() == "generated images" and np.all(np.diff(axis.lines[0].get_ydata()) <= 0)
    images = [number * search["num_images"] for number in range(1, search["num_trials"] + 1)]
    assert (
        list(axis.lines[0].get_xdata()) == images[-2:]
    )  # before, all were of populations, whose values are of no strategy
    (tmp_path / "again" / "result.json").unlink()  # as while it runs
    with pytest.raises(SystemExit, match="again holds no finished search yet: let it end, run its command again"):
        main(["plot", "search", str(tmp_path / "again"), "--output", str(tmp_path / "x.png")])
    shutil.copy(folder / "result.json", tmp_path / "again")
    (tmp_path / "again" / "trials.csv").write_text("number,state,value\n")
    with pytest.raises(SystemExit, match="again holds no finished trial"):
        main(["plot", "search", str(tmp_path / "again"), "--output", str(tmp_path / "x.png")])


def test_a_front_of_two_objectives(figures, tmp_path):
    result = {"metric_name": "fid", "study": "nsga2-T4-T8", "sampler": "nsga2", "confirmed": False, "candidates": [],
              "search": {"num_images": 100}}  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(result))
    (tmp_path / "trials.csv").write_text(
        "number,state,values_0,values_1\n0,COMPLETE,3,1e9\n1,FAIL,,\n2,COMPLETE,2,2e9\n"
    )
    main(["plot", "search", str(tmp_path), "--output", str(tmp_path / "front.png")])
    [axis] = figures[0].axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("multiply-accumulates per image", "FID")
    assert not axis.containers
    rows = [
        {"value": 2.5, "macs": 1e9, "values": {"fid": 2.5, "fid_error": 0.5}},
        {"value": 2, "macs": 2e9, "values": {}},
    ]
    result |= {"confirmed": True, "candidates": rows, "num_images": 1000}
    (tmp_path / "result.json").write_text(json.dumps(result))
    main(["plot", "search", str(tmp_path), "--output", str(tmp_path / "front.png")])
    [whisker] = figures[1].axes[0].containers  # of the one whose error was measured
    assert whisker.lines[2][0].get_segments()[0].tolist() == [[1e9, 2.0], [1e9, 3.0]]


def test_a_training(figures, tmp_path):
    main(["plot", "training", str(MODEL / "training"), "--output", str(tmp_path / "t.png")])
    assert [axis.get_title() for axis in figures[0].axes] == ["loss (nats per token)", "masked-token accuracy"]
    with pytest.raises(SystemExit, match="holds no curve: name the --output_dir of a training"):
        main(["plot", "training", str(tmp_path), "--output", str(tmp_path / "x.png")])


def test_what_does_not_change_in_a_training_is_left_out(figures, tmp_path):
    rows = [{"step": 1, "l1": 0.5, "codes_used": 256}, {"step": 2, "l1": 0.4, "codes_used": 256}]
    for name, shown in (("flat", rows), ("used", [*rows, {"step": 3, "codes_used": 255}]), ("begun", rows[:1])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, shown)))
        main(["plot", "training", str(tmp_path / f"{name}.jsonl"), "--output", str(tmp_path / "t.png")])
    flat, used, begun = ([axis.get_title() for axis in figure.axes] for figure in figures)
    assert flat == ["absolute error of pixels in [0, 1]"] and used == begun == [*flat, "codes in use"]
    low, high = figures[1].axes[1].get_ylim()
    ticks = [tick for tick in figures[1].axes[1].get_yticks() if low <= tick <= high]
    assert ticks == [255, 256]  # there are no halves of codes


def test_the_steps_of_an_image(pipe, figures, tmp_path):
    pipe.save_pretrained(tmp_path / "pipeline")
    words = ["plot", "steps", str(tmp_path / "pipeline"), "--num-inference-steps", "4"]
    main([*words, "--class-label", "dog", "--output", str(tmp_path / "strip.png")])
    below = [axis.get_xlabel() for axis in figures[0].axes if "masked" in axis.get_xlabel()]
    counts = [int(text.split()[0]) for text in below]
    assert len(counts) == 4 and counts == sorted(counts, reverse=True) and counts[-1] == 0
    main([*words, "--class-label", "1", "--output", str(tmp_path / "steps.webp")])
    with Image.open(tmp_path / "steps.webp") as film:
        assert film.n_frames == 4 and film.size == (520, 256)
        film.seek(3)
        last = np.asarray(film.convert("RGB"))
    assert (last[:, 264:] == (0, 114, 178)).all()  # nothing is masked at the end
    with pytest.raises(SystemExit, match="needs --class-label NAME or id"):
        main([*words, "--output", str(tmp_path / "x.png")])
