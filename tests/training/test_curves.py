from PIL import Image

from diffusers_autonat.training.curves import plot_history


def test_a_panel_for_each_column(tmp_path):
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "accuracy": 0.5}]
    sizes = []
    for columns in ({"loss": "loss"}, {"loss": "loss", "accuracy": "token accuracy"}):
        plot_history(history, tmp_path / "curves.png", columns)
        sizes.append(Image.open(tmp_path / "curves.png").size)
    assert sizes[1][0] == 2 * sizes[0][0] and sizes[1][1] == sizes[0][1]
