"""Links out of docs/ that work on GitHub work in the site too.

Pages link to sources, results, cards and pictures of the repository by relative paths. mkdocs knows the files of docs/ alone, so
what pages link to is put into the site under repository/, pages as pages (with what they link to in turn), all else as it is, and
README.md is the first page. Notebooks become pages, their code in blocks. A link to what does not exist is left
as it is, and mkdocs, with --strict, refuses it.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


ROOT = Path(__file__).parents[2]
ALWAYS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"(\]\()([^)\s#]+)")


def in_site(path: str) -> str:
    """Where a file of the repository is in the site."""
    if path == "README.md":
        return "index.md"
    path = path.replace(".ipynb", ".md")
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def in_repository(uri: str) -> str:
    """Where a file of the site is in the repository."""
    if uri == "index.md":
        return "README.md"
    return uri.removeprefix("repository/") if uri.startswith("repository/") else f"docs/{uri}"


def target_of(path: str, link: str) -> str | None:
    """The file of the repository that a link of a page leads to; None where it leads elsewhere, or nowhere."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    return target if "://" not in link and (ROOT / target).is_file() else None


def targets_of(path: str) -> list[str]:
    """The files of the repository that a page of it links to."""
    return [target for _, link in LINK.findall((ROOT / path).read_text()) if (target := target_of(path, link))]


def page_of(notebook: Path) -> str:
    """A notebook as Markdown, its code in blocks."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(notebook.read_text())["cells"]]
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    waiting = [*ALWAYS, *(in_repository(file.src_uri) for file in files.documentation_pages())]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        uri = in_site(path)
        if uri not in files.src_uris:
            if path.endswith(".ipynb"):
                files.append(File.generated(config, uri, content=page_of(ROOT / path)))
            else:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            new = set(targets_of(path)) - seen
            seen |= new
            waiting += sorted(new)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite a page's links from the places of the repository to those of the site."""
    uri = page.file.src_uri
    here = in_repository(uri)

    def rewrite(found: re.Match) -> str:
        target = target_of(here, found[2])
        if target is None:
            return found[0]
        return found[1] + posixpath.relpath(in_site(target), posixpath.dirname(uri) or ".")

    return LINK.sub(rewrite, markdown)
