#!/usr/bin/env python
"""Render icons of several drawing styles into a captioned data set: "evergreen tree, noto style".

    diffusers-autonat train icons --resolution 64 --output_dir outputs/icons
    diffusers-autonat train tokenize --dataset_name outputs/icons --caption_column caption --label_column none ...

The drawings are the npm packages @iconify-json/NAME, fetched by `npm pack` unless they lie in --source_dir already. Splits:
`train`; `unseen_pairs`, things in a style in which they are not trained, but in two others; `unseen_things`, trained in none.
Run again, it goes on where it was stopped. Needs `pip install "diffusers-autonat[icons]"`.
"""

import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image, Value
from huggingface_hub import DatasetCardData
from PIL import Image as PILImage
from tqdm.auto import tqdm

from diffusers_autonat.command_line import Parser, one_line_errors, positive, warning_lines, whole
from diffusers_autonat.files import whole_file, write_text
from diffusers_autonat.training.checks import writable_folder


STYLES = {  # versions of the packages that were read when this was written; their licences stand in them
    "noto": "1.2.9",
    "fluent-emoji-flat": "1.2.6",
    "twemoji": "1.2.5",
    "emojione": "1.2.3",
    "openmoji": "1.2.29",
}
SHARE_ALIKE = "openmoji"  # what is made of it comes under its licence, so it is taken only when it is named
FILES = ("icons.json", "info.json", "metadata.json", "chars.json")
GROUPS = {"Food": "Food & Drink", "Modifiers": "Symbols", "Nature": "Animals & Nature", "People": "People & Body",
          "Travel": "Travel & Places"}  # fmt: skip
NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
TONES = {"1f3fb": "light", "1f3fc": "medium-light", "1f3fd": "medium", "1f3fe": "medium-dark", "1f3ff": "dark"}
TONE = r"-(?:medium-light|medium-dark|medium|light|dark)"
SPLITS = ("train", "unseen_pairs", "unseen_things")
UNSEEN_PAIRS, UNSEEN_THINGS = 0.10, 0.05
ROWS_PER_PART = 2000
_KEY = b"diffusers_autonat"  # of what a part says of itself


class Icon(NamedTuple):
    """A drawing: `thing` is its name without skin tone, the same in all styles; `name` has the tones at its end."""

    thing: str
    name: str
    style: str
    group: str
    licence: str
    svg: str

    @property
    def caption(self) -> str:
        return f"{self.name.replace('-', ' ')}, {self.style.replace('-', ' ')} style"


def load_package(style: str, folder: Path) -> dict[str, dict]:
    """The package's `FILES` by their names, from its tarball or its folder in `folder`; fetched where neither is there."""
    places = [folder / style, folder / f"@iconify-json/{style}", folder / f"node_modules/@iconify-json/{style}"]
    tarballs = sorted(folder.glob(f"iconify-json-{style}-[0-9]*.tgz"))
    found = next((one for one in places if (one / FILES[0]).is_file()), None)
    if found is None and not tarballs:
        folder.mkdir(parents=True, exist_ok=True)
        tarballs = [fetch(style, folder)]
    try:
        if found is not None:
            return {name: json.loads((found / name).read_text()) for name in FILES}
        with tarfile.open(tarballs[-1]) as tar:
            return {name: json.load(tar.extractfile(f"package/{name}")) for name in FILES}
    except (KeyError, ValueError, EOFError, tarfile.TarError, FileNotFoundError) as error:
        where = found or tarballs[-1]
        raise ValueError(
            f"{where} is not a whole @iconify-json package ({error}): remove it to fetch it again."
        ) from error


def fetch(style: str, folder: Path) -> Path:
    package = f"@iconify-json/{style}@{STYLES[style]}"
    command = ["npm", "pack", package, "--silent", "--pack-destination", str(folder)]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        raise ValueError(
            f"`npm pack {package}` failed ({reason}): put its tarball into --source_dir {folder}."
        ) from error
    return folder / said.split()[-1]


def bare(name: str, code: str | None) -> tuple[str, str]:
    """A name without skin tones, and with them in one spelling at its end; `code`: its Unicode code points, if known."""
    tones = [TONES[point] for point in (code or "").split("-") if point in TONES]
    # fluent-emoji-flat writes `artist-dark`: that "dark" is a skin tone is known from the code points only.
    pattern = f"{TONE}(?:-skin-tone)?(?=-|$)" if tones else f"{TONE}-skin-tone|-tone[1-5](?=-|$)"
    if not tones:
        spelled = [one.removeprefix("-").removesuffix("-skin-tone") for one in re.findall(pattern, name)]
        numbered = {f"tone{i}": tone for i, tone in enumerate(TONES.values(), 1)}
        tones = [numbered.get(one, one) for one in spelled]
    thing = re.sub(pattern, "", name).replace("flag-for-", "flag-")  # as emojione writes
    return thing, "-".join([thing, *(f"{tone}-skin-tone" for tone in tones)])


def load_icons(styles: list[str], folder: Path) -> list[Icon]:
    """All drawings, each once, with one name for the same thing in all styles."""
    drawings, links = [], []
    for style in styles:
        package = load_package(style, folder)
        icons, aliases = package["icons.json"]["icons"], package["icons.json"].get("aliases", {})
        codes = {name: code for code, name in package["chars.json"].items()}
        groups = {name: key for key, names in package["metadata.json"].get("categories", {}).items() for name in names}
        licence = package["info.json"]["license"]["spdx"]
        size = {"left": 0, "top": 0, "width": 16, "height": 16} | package["icons.json"]
        drawn = set()
        # The shortest of several names of one drawing: `flag-norway`, not `flag-svalbard-and-jan-mayen`.
        for name, icon in sorted(icons.items(), key=lambda item: (len(item[0]), item[0])):
            if icon.get("hidden") or icon["body"] in drawn:
                continue
            drawn.add(icon["body"])
            box = " ".join(str((size | icon)[key]) for key in ("left", "top", "width", "height"))
            svg = f"<svg {NAMESPACES} viewBox={quoteattr(box)}>{icon['body']}</svg>"
            group = groups.get(name, "Symbols")
            drawings.append((*bare(name, codes.get(name)), style, GROUPS.get(group, group), licence, svg))
        # Other names of a drawing, which another style may use: `bear` and `bear-face`; not of a mirrored one.
        links += [
            (bare(alias, None)[0], bare(link["parent"], codes.get(link["parent"]))[0])
            for alias, link in aliases.items()
            if set(link) <= {"parent", "hidden"} and link["parent"] in icons
        ]

    # What is called one thing in some style is one thing, unless another style has a drawing for either name.
    same: dict[str, str] = {}
    styles_of: defaultdict[str, set[str]] = defaultdict(set)
    for thing, _, style, *_ in drawings:
        styles_of[thing].add(style)

    def root(name: str) -> str:
        while name in same:
            name = same[name]
        return name

    for one, other in ((root(one), root(other)) for one, other in links):
        if one != other and not styles_of[one] & styles_of[other]:
            same[one] = other
            styles_of[other] |= styles_of[one]
    names, group_of = {}, {}
    for thing, _, _, group, _, _ in drawings:  # the first style that has a thing names it
        names.setdefault(root(thing), thing)
        group_of.setdefault(root(thing), group)
    return [
        Icon(names[root(thing)], names[root(thing)] + name.removeprefix(thing), style, group_of[root(thing)], licence, svg)
        for thing, name, style, _, licence, svg in drawings
    ]  # fmt: skip


def digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def split_icons(icons: list[Icon]) -> dict[str, list[Icon]]:
    """The drawings of each split, in an order without a pattern: a function of the names alone."""
    things = sorted({icon.thing for icon in icons}, key=digest)
    unseen_things = set(things[: round(UNSEEN_THINGS * len(things))])
    styles: defaultdict[str, set[str]] = defaultdict(set)
    for icon in icons:
        styles[icon.thing].add(icon.style)
    pairs = [(thing, style) for thing in things if thing not in unseen_things for style in styles[thing]]
    pairs = sorted((pair for pair in pairs if len(styles[pair[0]]) > 2), key=lambda pair: digest(*pair))
    left = Counter(thing for thing, _ in pairs)  # styles in which it is trained
    unseen_pairs: set[tuple[str, str]] = set()
    for thing, style in pairs:
        if len(unseen_pairs) < round(UNSEEN_PAIRS * len(pairs)) and left[thing] > 2:
            unseen_pairs.add((thing, style))
            left[thing] -= 1
    splits: dict[str, list[Icon]] = {name: [] for name in SPLITS}
    for icon in sorted(icons, key=lambda icon: digest(icon.name, icon.style)):
        unseen_thing, unseen_pair = icon.thing in unseen_things, (icon.thing, icon.style) in unseen_pairs
        splits["unseen_things" if unseen_thing else "unseen_pairs" if unseen_pair else "train"].append(icon)
    return {name: rows for name, rows in splits.items() if rows}


def render(icon: Icon, resolution: int) -> bytes:
    """A PNG file of `resolution` x `resolution` pixels on white."""
    import resvg_py

    # Both sides are given, so that a drawing that is no square stands in the middle of one.
    svg = icon.svg.replace("<svg", f'<svg width="{resolution}" height="{resolution}"', 1)
    try:
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True))
    except ValueError as error:
        raise ValueError(f"{icon.name} of {icon.style} cannot be drawn ({error}): fetch the package again.") from error
    file = io.BytesIO()
    PILImage.open(io.BytesIO(png)).convert("RGB").save(file, "png")
    return file.getvalue()


def write_splits(splits: dict[str, list[Icon]], folder: Path, resolution: int, features: Features) -> None:
    """One Parquet file for every `ROWS_PER_PART` drawings; those that are there already are kept."""
    renderer = f"resvg-py {version('resvg-py')}"
    parts = {}
    for split, icons in splits.items():
        chunks = [icons[i : i + ROWS_PER_PART] for i in range(0, len(icons), ROWS_PER_PART)]
        for i, chunk in enumerate(chunks):
            said = digest(
                renderer, str(resolution), str(features), *(word for icon in chunk for word in icon)
            ).encode()
            parts[folder / f"{split}-{i:05d}-of-{len(chunks):05d}.parquet"] = chunk, said
    for path in folder.glob("*.parquet"):
        if path not in parts or (pq.read_schema(path).metadata or {}).get(_KEY) != parts[path][1]:
            raise ValueError(
                f"{path} was made of other drawings or settings: choose another --output_dir, or remove {folder}."
            )
    with tqdm(total=sum(map(len, splits.values())), unit="icon") as progress:
        for path, (chunk, said) in parts.items():
            if not path.exists():
                rows = []
                for icon in chunk:
                    image = {"bytes": render(icon, resolution), "path": None}
                    rows.append({"image": image, "caption": icon.caption, "thing": icon.thing,
                                 "style": features["style"].str2int(icon.style),
                                 "group": features["group"].str2int(icon.group), "licence": icon.licence})  # fmt: skip
                    progress.update()
                schema = features.arrow_schema
                schema = schema.with_metadata({**schema.metadata, _KEY: said})
                with whole_file(path) as partial:
                    pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial)
            else:
                progress.update(len(chunk))


def card(splits: dict[str, list[Icon]], resolution: int) -> str:
    """The data set's README.md: what `datasets` reads, and whose drawings they are."""
    licences = {icon.style: icon.licence for icons in splits.values() for icon in icons}
    files = [{"split": name, "path": f"data/{name}-*.parquet"} for name in splits]
    data = DatasetCardData(
        license=sorted({licence.lower() for licence in licences.values()}), task_categories=["text-to-image"],
        configs=[{"config_name": "default", "data_files": files}],
    )  # fmt: skip
    rows = [f"| [{style}](https://www.npmjs.com/package/@iconify-json/{style}) | {licences[style]} | "
            + " | ".join(str(sum(icon.style == style for icon in icons)) for icons in splits.values()) + " |"
            for style in sorted(licences)]  # fmt: skip
    return "\n".join([
        f"---\n{data.to_yaml()}\n---\n\n# Icons in several drawing styles, {resolution} px\n",
        f"| style | licence | {' | '.join(splits)} |\n|---|---|{'---|' * len(splits)}", *rows, "",
        "The drawings are their artists': name them, and their licences, with what you make of them. `unseen_pairs` are "
        "things in a style in which they are not in `train`, but in two others; `unseen_things` are in `train` in no style "
        "and no skin tone.", "",
    ])  # fmt: skip


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("--output_dir", required=True, help="folder of the data set; run again, it goes on")
    parser.add_argument("--resolution", type=whole(8, 4096), default=64, help="side of the pictures")
    parser.add_argument(
        "--styles", nargs="+", choices=list(STYLES), default=[one for one in STYLES if one != SHARE_ALIKE],
        help="openmoji is share-alike, so it is left out unless it is named",
    )  # fmt: skip
    parser.add_argument(
        "--source_dir", help="packages as `npm pack` or `npm install` gives them; default: OUTPUT_DIR/packages"
    )
    parser.add_argument("--no_skin_tones", action="store_true", help="leave out what differs in skin tone alone")
    parser.add_argument("--max_icons", type=positive, help="render only so many of each split")
    args = parser.parse_args()
    try:
        import resvg_py  # noqa: F401
    except ImportError:
        raise ValueError('resvg-py is not installed: pip install "diffusers-autonat[icons]"') from None

    output = writable_folder(args.output_dir)
    icons = load_icons(list(dict.fromkeys(args.styles)), Path(args.source_dir or output / "packages"))
    if args.no_skin_tones:
        icons = [icon for icon in icons if icon.name == icon.thing]
    splits = {name: rows[: args.max_icons] for name, rows in split_icons(icons).items()}
    features = Features({
        "image": Image(), "caption": Value("string"), "thing": Value("string"),
        "style": ClassLabel(names=sorted({icon.style for icon in icons})),
        "group": ClassLabel(names=sorted({icon.group for icon in icons})), "licence": Value("string"),
    })  # fmt: skip
    write_splits(splits, output / "data", args.resolution, features)
    write_text(output / "README.md", card(splits, args.resolution))
    print(", ".join(f"{len(rows):,} {name}" for name, rows in splits.items()) + f" icons in {output}.")


if __name__ == "__main__":
    with one_line_errors(), warning_lines():
        main()
