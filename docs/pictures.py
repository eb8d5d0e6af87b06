#!/usr/bin/env python
"""Draw the pictures of docs/ again: `make pictures`. What draws them is the code of two pages, so pages and pictures agree."""

import re
import shutil
import subprocess
from pathlib import Path


DOCS = Path(__file__).parent


def code(page: str, language: str) -> str:
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE))


def main():
    subprocess.run(["bash", "-eux", "-c", code("plots.md", "bash")], cwd=DOCS.parent, check=True)
    exec(compile(code("schedules.md", "python"), "schedules.md", "exec"), {})
    for picture in (DOCS / "images").iterdir():
        if picture.name.startswith("demo-"):  # by the app's test
            continue
        shutil.copy(DOCS.parent / "outputs" / picture.name, picture)
        print(f"docs/images/{picture.name}")


if __name__ == "__main__":
    main()
