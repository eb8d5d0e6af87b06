#!/usr/bin/env python
"""Draw the pictures of docs/ again: `make pictures`. What draws them is the code of the pages, so pages and pictures agree."""

import re
import shutil
import subprocess
from pathlib import Path


DOCS = Path(__file__).parent


def code(page: str, language: str) -> str:
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE))


def main():
    sources = [code("plots.md", "bash")]
    subprocess.run(["bash", "-eux", "-c", sources[0]], cwd=DOCS.parent, check=True)
    for page in ("schedules.md", "orders.md"):
        sources.append(code(page, "python"))
        exec(compile(sources[-1], page, "exec"), {})
    for name in set(re.findall(r"outputs/([\w-]+\.png)", "".join(sources))):
        picture = DOCS / "images" / name
        if picture.exists():  # the app's test draws others, and a benchmark one
            shutil.copy(DOCS.parent / "outputs" / name, picture)
            print(f"docs/images/{name}")


if __name__ == "__main__":
    main()
