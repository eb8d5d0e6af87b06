import pytest
from huggingface_hub import ModelCard

from diffusers_autonat.cards import code_block, escape, make_card, metadata, save_card, shell_command, table


def test_a_card_is_metadata_and_sections():
    text = make_card(metadata("mit", ["enat"], ["me/data"]), ["# Title\n", "", "  \n", "\ntext"])
    card = ModelCard(text)
    assert card.text.strip() == "# Title\n\ntext" and text.endswith("text\n")
    assert card.data.to_dict() == {
        "library_name": "diffusers", "license": "mit", "pipeline_tag": "unconditional-image-generation",
        "datasets": ["me/data"], "tags": ["diffusers", "enat", "masked-image-generation"],
    }  # fmt: skip
    assert ModelCard(make_card(metadata("other", []), [])).data.license_name == "see-license-section"


def test_markdown():
    assert table(["a", "b"], [("1", "2")]) == "| a | b |\n|---|---|\n| 1 | 2 |"
    assert code_block("x = 1") == "```python\nx = 1\n```"


@pytest.mark.parametrize(
    "name, shown",
    [
        ("T-shirt/top", "T-shirt/top"),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("salt & pepper", "salt &amp; pepper"),
        ("a_b *c* [d](e)|", r"a\_b \*c\* \[d\](e)\|"),
        ("two\nlines", "two lines"),
    ],
)
def test_what_others_wrote_is_shown_and_not_obeyed(name, shown):
    assert escape(name) == shown


def test_a_command_shows_no_folder_of_this_machine():
    command = ["accelerate", "launch", "/home/me/training/train.py", "--output_dir", "/home/me/a run", "--vqvae=/data/vq/",
               "--seed", "0", "--tokens", "outputs/tokens", "-o/x", "me/hub-id"]  # fmt: skip
    assert shell_command(command) == (
        "accelerate launch train.py --output_dir 'a run' --vqvae=vq --seed 0 --tokens outputs/tokens -o/x me/hub-id"
    )
    told = ["~/a/b", "--x=~/a/b", "../../root/b", "file:///root/b", "C:\\Users\\me\\b", "--x=D:/me/b/"]
    assert shell_command(told) == "b --x=b b b b --x=b"


def test_a_card_is_the_readme_of_its_folder(tmp_path):
    save_card(tmp_path / "new", "text\n")
    assert (tmp_path / "new" / "README.md").read_text() == "text\n"
