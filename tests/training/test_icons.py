"""`training/icons.py` on small packages of drawings that are written here."""

import json
import runpy
import sys
import tarfile
from collections import defaultdict
from pathlib import Path

import pytest
from datasets import load_dataset


SCRIPT = Path(__file__).parents[2] / "training" / "icons.py"
SHAPES = {
    "bear-face": '<circle cx="8" cy="8" r="6" fill="#a52"/>',
    "boat": '<path d="M2 9h12l-3 4H5z" fill="#c00"/>',
    "flag-norway": '<path d="M0 0h16v16H0z" fill="#00f"/>',
    "traffic-light": '<path d="M6 1h4v14H6z" fill="#333"/>',
    "waving-hand": '<path d="M4 4h8v8H4z" fill="#fc0"/>',
    "waving-hand-dark-skin-tone": '<path d="M4 4h8v8H4z" fill="#630"/>',
}


def write_package(folder, icons, licence="MIT", aliases=None, chars=None, **size):
    """A package as it lies in node_modules; `icons`: name -> body."""
    folder.mkdir(parents=True)
    files = {
        "icons.json": {"icons": {name: {"body": body} for name, body in icons.items()}, "aliases": aliases or {}, **size},
        "info.json": {"license": {"spdx": licence}},
        "metadata.json": {"categories": {"Flags": [name for name in icons if "flag" in name], "Food": ["boat"]}},
        "chars.json": chars or {},
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


@pytest.fixture
def packages(tmp_path):
    """Three styles: names and viewBoxes of their own, one of them as a tarball."""
    folder = tmp_path / "packages"
    write_package(folder / "noto", SHAPES | {"flag-svalbard": SHAPES["flag-norway"]}, "Apache-2.0")
    fluent = {name.removesuffix("-skin-tone"): body for name, body in SHAPES.items()}
    write_package(
        folder / "@iconify-json/fluent-emoji-flat", fluent, chars={"1f44b-1f3ff": "waving-hand-dark"}, height=32
    )
    other = {name: body for name, body in SHAPES.items() if name not in ("bear-face", "flag-norway")}
    other |= {"bear": SHAPES["bear-face"], "flag-for-norway": SHAPES["flag-norway"]}
    write_package(tmp_path / "package", other, "CC-BY-4.0", aliases={"bear-face": {"parent": "bear"}})
    with tarfile.open(folder / "iconify-json-emojione-1.2.3.tgz", "w:gz") as tar:
        tar.add(tmp_path / "package", "package")
    return folder


@pytest.fixture
def run(packages, tmp_path, monkeypatch, capsys):
    pytest.importorskip("resvg_py")

    def run(*more, styles=("noto", "fluent-emoji-flat", "emojione")):
        args = ["--output_dir", tmp_path / "icons", "--source_dir", packages, "--resolution", 32, *more]
        args += ["--styles", *styles] if styles else []
        monkeypatch.setattr(sys, "argv", [str(word) for word in (SCRIPT, *args)])
        capsys.readouterr()
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
            return 0, ""
        except SystemExit as end:
            lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("icons.py: ")]
            assert len(lines) == 1
            return end.code, lines[0]

    return run


def rows(folder, monkeypatch):
    """All rows of the data set, with their split."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder.parent / "cache")
    return [row | {"split": name} for name, split in load_dataset(str(folder)).items() for row in split]


def test_drawings_of_one_thing_are_captioned_alike(run, tmp_path, monkeypatch):
    assert run() == (0, "")
    made = rows(tmp_path / "icons", monkeypatch)
    assert len(made) == 18  # the second flag of the first style is the first one again
    assert {row["caption"] for row in made if row["thing"] == "waving-hand"} == {
        f"waving hand{tone}, {style} style" for tone in ("", " dark skin tone") for style in ("noto", "fluent emoji flat", "emojione")
    }  # fmt: skip
    # `bear` is known to be `bear-face` from an alias; of `traffic-light` "light" is no tone.
    assert {row["thing"] for row in made} == {"bear-face", "boat", "flag-norway", "traffic-light", "waving-hand"}
    assert {row["licence"] for row in made} == {"MIT", "Apache-2.0", "CC-BY-4.0"}
    one = next(row for row in made if row["caption"] == "boat, fluent emoji flat style")
    assert one["image"].size == (32, 32) and one["image"].mode == "RGB"
    # Half as wide as high, so it stands in the middle between white bars.
    assert one["image"].getpixel((1, 11)) == (255, 255, 255) and one["image"].getpixel((16, 11)) == (204, 0, 0)
    card = (tmp_path / "icons" / "README.md").read_text()
    assert "[emojione](https://www.npmjs.com/package/@iconify-json/emojione) | CC-BY-4.0" in card


def test_names_of_groups_are_one_for_all_styles(run, tmp_path, monkeypatch):
    run("--no_skin_tones")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    data = load_dataset(str(tmp_path / "icons"), split="train+unseen_pairs")
    names = {data.features["group"].int2str(row["group"]) for row in data if row["thing"] == "boat"}
    assert names == {"Food & Drink"} and not [row for row in data if "tone" in row["caption"]]
    assert data.features["style"].names == ["emojione", "fluent-emoji-flat", "noto"]


@pytest.mark.parametrize(
    "name, code, thing, full",
    [
        ("artist-dark", "1f9d1-1f3ff-200d-1f3a8", "artist", "artist-dark-skin-tone"),
        ("man-medium-dark-skin-tone-red-hair", None, "man-red-hair", "man-red-hair-medium-dark-skin-tone"),
        ("handshake-light-dark", "1f1-1f3fb-1f3ff", "handshake", "handshake-light-skin-tone-dark-skin-tone"),
        ("breast-feeding-tone3", None, "breast-feeding", "breast-feeding-medium-skin-tone"),
        ("traffic-light", "1f6a5", "traffic-light", "traffic-light"),
        ("flag-for-norway", None, "flag-norway", "flag-norway"),
    ],
)
def test_skin_tones_are_known_and_spelled_in_one_way(name, code, thing, full):
    assert runpy.run_path(str(SCRIPT))["bare"](name, code) == (thing, full)


def test_what_is_held_out_is_known_from_elsewhere_or_not_at_all():
    script = runpy.run_path(str(SCRIPT))
    Icon, split_icons = script["Icon"], script["split_icons"]
    styles = {"a": 200, "b": 200, "c": 180, "d": 90}
    icons = [
        Icon(f"thing-{i}", f"thing-{i}{tone}", style, "group", "MIT", "")
        for style, count in styles.items() for i in range(count) for tone in ("", "-dark-skin-tone")
    ]  # fmt: skip
    splits = split_icons(icons)
    assert splits == split_icons(icons[::-1])
    things = {name: {icon.thing for icon in rows} for name, rows in splits.items()}
    assert len(things["unseen_things"]) == 10 and not things["unseen_things"] & (
        things["train"] | things["unseen_pairs"]
    )
    trained = defaultdict(set)
    for icon in splits["train"]:
        trained[icon.thing].add(icon.style)
    pairs = {(icon.thing, icon.style) for icon in splits["unseen_pairs"]}
    assert len(pairs) == pytest.approx(0.1 * (3 * 90 + 4 * 90) * 0.95, rel=0.1)
    assert all(style not in trained[thing] and len(trained[thing]) >= 2 for thing, style in pairs)
    assert sum(map(len, splits.values())) == len(icons)


def test_it_goes_on_where_it_was_stopped_and_mixes_nothing(run, tmp_path):
    run()
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "icons" / "data").iterdir()}
    gone = sorted(parts)[0]
    content = gone.read_bytes()
    gone.unlink()
    assert run() == (0, "")
    assert gone.read_bytes() == content
    assert all(path.stat().st_mtime_ns == time for path, time in parts.items() if path != gone)
    status, line = run("--resolution", 64)
    assert status == 2 and "was made of other drawings or settings: choose another --output_dir" in line


def test_what_is_wrong_is_one_line(run, packages, monkeypatch):
    (packages / "noto" / "info.json").unlink()
    status, line = run()
    assert status == 2 and "noto is not a whole @iconify-json package" in line
    monkeypatch.setenv("PATH", "")  # no npm
    status, line = run(styles=["twemoji"])
    assert status == 2 and "npm pack @iconify-json/twemoji@" in line and "put its tarball into --source_dir" in line
    (packages / "noto" / "info.json").write_text('{"license": {"spdx": "MIT"}}')
    (packages / "noto" / "icons.json").write_text('{"icons": {"bear": {"body": "<path"}}}')
    status, line = run(styles=["noto"])
    assert status == 2 and "bear of noto cannot be drawn" in line


def test_without_the_renderer_it_names_the_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    assert 'pip install "diffusers-autonat[icons]"' in run()[1]


def test_share_alike_drawings_are_taken_only_by_name(run, packages, tmp_path, monkeypatch):
    for style in ("twemoji", "openmoji"):
        write_package(packages / style, SHAPES, "CC-BY-SA-4.0" if style == "openmoji" else "CC-BY-4.0")
    assert run(styles=None) == (0, "")
    assert {row["licence"] for row in rows(tmp_path / "icons", monkeypatch)} == {"Apache-2.0", "MIT", "CC-BY-4.0"}
