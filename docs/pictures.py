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
    commands, program = code("plots.md", "bash"), code("schedules.md", "python")
    subprocess.run(["bash", "-eux", "-c", commands], cwd=DOCS.parent, check=True)
    exec(compile(program, "schedules.md", "exec"), {})
    for name in set(re.findall(r"outputs/([\w-]+\.png)", commands + program)):
        picture = DOCS / "images" / name
        if picture.exists():  # the app's test draws others, and a benchmark one
            shutil.copy(DOCS.parent / "outputs" / name, picture)
            print(f"docs/images/{name}")


if __name__ == "__main__":
    main()
