"""Pictures say what they show: the words of titles, axes and legends are the caller's, schedules have readable names."""

import numpy as np
import pytest
from PIL import Image

from diffusers_autonat import GenerationStrategy, plots
from diffusers_autonat.plots import (
    pareto_front,
    plot_bars,
    plot_curves,
    plot_extremes,
    plot_front,
    plot_policy,
    plot_samples,
    plot_schedules,
    plot_search,
    readable,
)


FOUND = GenerationStrategy([0.9, 0.1 + 0.2, 0.1, 0], [1 / 3, 1, 1, 1], [2, 1, 1, 0], [0, 0, 1, 2])
SCHEDULES = {"found": FOUND, "heuristic": GenerationStrategy.cosine(4)}
RUNS = [[(10, 3.0), (20, 2.0)], [(10, 4.0), (30, 1.0)]]
SEARCH = {3: 1.5, 0: 4.0, 1: 2.0, 2: 3.0}


def test_a_notebook_keeps_its_settings(tmp_path):
    import matplotlib

    before = matplotlib.get_backend(), dict(matplotlib.rcParams)
    plot_schedules(SCHEDULES, tmp_path / "s.png")
    assert (matplotlib.get_backend(), dict(matplotlib.rcParams)) == before


def draw(name, path, **more):
    if name == "schedules":
        plot_schedules(SCHEDULES, path, **more)
    elif name == "search":
        plot_search(SEARCH, path, "distance", {"heuristic": 4.0}, **more)
    elif name == "front":
        plot_front({"search": [(1.0, 3.0), (2.0, 1.0), (2.0, 3.0)]}, path, "distance", "cost", **more)
    elif name == "curves":
        plot_curves({"tpe": RUNS, "gp": RUNS[:1]}, path, "images", "best", {"floor": 0.5}, **more)
    else:
        plot_bars({"a": 1.0, "b": 2.0}, path, "distance", 0.5, **more)


@pytest.mark.parametrize("name", ["schedules", "search", "front", "curves", "bars"])
def test_something_is_drawn_under_its_title(tmp_path, figures, name):
    draw(name, tmp_path / "made" / f"{name}.png", title="model, T = 4, N = 500")
    draw(name, tmp_path / "untitled.png")
    titles = [{figure.get_suptitle(), *(axis.get_title() for axis in figure.axes)} for figure in figures]
    assert "model, T = 4, N = 500" in titles[0] and "model, T = 4, N = 500" not in titles[1]
    for path in (tmp_path / "made" / f"{name}.png", tmp_path / "untitled.png"):
        with Image.open(path) as image:
            assert image.width > 500 and len(set(image.convert("L").getdata())) > 50


def test_schedules_have_names_that_a_reader_knows(tmp_path, figures):
    plot_schedules(SCHEDULES, tmp_path / "s.png")
    [figure] = figures
    assert [axis.get_title() for axis in figure.axes] == [
        "mask ratio $r$", r"sampling temperature $\tau_1$", r"re-masking temperature $\tau_2$", "guidance scale $s$"
    ]  # fmt: skip
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["found", "heuristic"]
    ratios, _, remasking, _ = ([line.get_ydata() for line in axis.lines] for axis in figure.axes)
    assert list(ratios[0]) == list(FOUND.mask_ratios)
    assert list(remasking[0]) == [2, 1, 1]  # without the last, which has no effect


def test_search_is_drawn_in_the_order_of_its_trials(tmp_path, figures):
    plot_search(SEARCH, tmp_path / "s.png", "distance")
    trials, best = figures[0].axes[0].lines
    assert list(trials.get_xdata()) == [0, 1, 2, 3] and list(trials.get_ydata()) == [4.0, 2.0, 3.0, 1.5]
    assert list(best.get_ydata()) == [4.0, 2.0, 2.0, 1.5]


def test_curves_are_means_of_what_was_best_so_far(tmp_path, figures):
    plot_curves({"tpe": RUNS}, tmp_path / "c.png", "images", "best")
    [line] = figures[0].axes[0].lines
    np.testing.assert_allclose(line.get_xdata(), [10, 20, 30])
    np.testing.assert_allclose(line.get_ydata(), [3.5, 3.0, 1.5])


def test_names_of_values_and_bars_are_words(tmp_path, figures):
    plot_bars({"all": 1.0, "all but mask_ratios": 2.0}, tmp_path / "b.png", "frechet_distance, confirmed")
    plot_search(SEARCH, tmp_path / "s.png", "fid")
    assert (
        figures[0].axes[0].get_xlabel() == "Fréchet distance, confirmed" and figures[1].axes[0].get_ylabel() == "FID"
    )
    assert [label.get_text() for label in figures[0].axes[0].get_yticklabels()] == ["all", "all but mask ratio $r$"]
    assert readable("confidence of kidney_fid") == "confidence of kidney_fid"  # whole words only


def test_bars_have_whiskers_where_errors_were_measured(tmp_path, figures):
    plot_bars({"a": 1.0, "b": 2.0}, tmp_path / "b.png", "fid", errors={"a": 0.25, "b": None})
    plot_bars({"a": 1.0, "b": 2.0}, tmp_path / "b.png", "fid", errors={"a": None, "b": None})
    whiskers, _ = figures[0].axes[0].containers
    assert [segment[:, 0].tolist() for segment in whiskers.lines[2][0].get_segments()] == [[0.75, 1.25], [2.0, 2.0]]
    assert [bars.errorbar for bars in figures[1].axes[0].containers] == [None]


def test_pareto_front():
    assert pareto_front([(1, 3), (2, 1), (2, 3), (3, 0), (1, 4)]) == [(1, 3), (2, 1), (3, 0)]


def test_a_panel_for_each_column_of_a_training(tmp_path):
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "accuracy": 0.5}]
    sizes = []
    for columns in ({"loss": "loss"}, {"loss": "loss", "accuracy": "token accuracy"}):
        plots.plot_history(history, tmp_path / "curves.png", columns)
        sizes.append(Image.open(tmp_path / "curves.png").size)
    assert sizes[1][0] == 2 * sizes[0][0] and sizes[1][1] == sizes[0][1]


def test_a_policy_is_drawn_as_bands_and_by_class(tmp_path, figures):
    names = list(FOUND.to_dict())
    rng = np.random.default_rng(0)
    schedules = {name: rng.random((40, 4)) for name in names}
    labels = np.arange(40) % 2
    plot_policy(schedules, labels, tmp_path / "p.png", {0: "Coat, jacket", 1: "Bag"}, FOUND, "model, T = 4")
    [figure] = figures
    assert figure.get_suptitle() == "model, T = 4" and len(figure.axes) == 8
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Coat", "Bag"]
    median, static = figure.axes[1].lines
    np.testing.assert_allclose(median.get_ydata(), np.median(schedules["sampling_temperatures"], axis=0))
    assert list(static.get_ydata()) == list(FOUND.sampling_temperatures)
    coats, bags = figure.axes[4].lines
    np.testing.assert_allclose(coats.get_ydata(), schedules["mask_ratios"][::2, :-1].mean(axis=0))
    np.testing.assert_allclose(bags.get_ydata(), schedules["mask_ratios"][1::2, :-1].mean(axis=0))
    plot_policy(schedules, np.arange(40) % 20, tmp_path / "many.png")
    assert len(figures[1].axes[4].lines) == 10


def test_extremes_are_the_images_with_the_least_and_the_most(tmp_path, figures):
    images = np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2)
    values = [5, 1, 9, 3, 7, 0, 8, 2, 6, 4]
    plot_extremes(images, values, tmp_path / "e.png", "guidance_scales", [f"image {i}" for i in range(10)], 3, "T = 4")
    [figure] = figures
    assert figure.get_suptitle() == "guidance scale $s$, T = 4"
    shown = [int(axis.images[0].get_array().max()) for axis in figure.axes]
    assert shown == [5, 1, 7, 2, 6, 4]
    assert figure.axes[0].get_title() == "image 5\n0.00" and figure.axes[3].get_title() == "image 2\n9.00"


def test_growth_finds_the_exponent(tmp_path):
    sizes = [64, 256, 1024]
    costs = [0.01 * size**1.5 for size in sizes]
    assert plots.fit_power(sizes, costs) == pytest.approx((1.5, 0.01))
    plots.plot_growth({"tokens": (sizes, costs), "steps": ([1, 2, 4], [1.0, 1.9, 4.2])}, tmp_path / "growth.png")
    assert Image.open(tmp_path / "growth.png").width > 400


def test_ratios_have_a_panel_for_each_case_and_whiskers_over_all_rounds(tmp_path, figures):
    panels = {"small": {"published": [1.0, 1.0], "ours": [1.2, 1.6]}, "large": {"ours": [2.0, 2.0, 5.0]}}
    plots.plot_ratios(panels, tmp_path / "ratios.png", title="Speed")
    [figure] = figures
    small, large = figure.axes
    assert figure.get_suptitle() == "Speed" and small.get_title("left") == "small"
    assert [bar.get_width() for bar in small.patches] == pytest.approx([1.0, 1.4])
    whisker = large.collections[0].get_segments()[0]
    assert [bar.get_width() for bar in large.patches] == [2.0] and whisker[:, 0].tolist() == [2.0, 5.0]
    assert [label.get_text() for label in small.get_yticklabels()] == ["published", "ours"]


def test_samples_have_names_in_their_margins_and_frames_where_asked(tmp_path, figures):
    images = [[Image.new("L", (28, 28), 40 * row + 10 * column) for column in range(3)] for row in range(2)]
    plot_samples(
        {"real": [row[:1] for row in images], "T = 8": images}, ["Coat", "Bag"], tmp_path / "s.png", framed=[(1, 0)]
    )
    real, drawn = figures[-1].axes
    assert [axis.get_title() for axis in (real, drawn)] == ["real", "T = 8"]
    assert [label.get_text() for label in real.get_yticklabels()] == ["Coat", "Bag"] and not drawn.get_yticklabels()
    pixels = drawn.get_images()[0].get_array()
    assert pixels.shape == (2 * 84, 3 * 84, 3) and pixels[40, 84 + 40].tolist() == [10] * 3
    assert pixels[84, 2].tolist() == pixels[167, 83].tolist() == [0xE6, 0x9F, 0x00] != pixels[84, 90].tolist()
    assert Image.open(tmp_path / "s.png").width > 4 * 84
