"""The documentation as a site: built in strict mode, where a broken link, anchor or name of the API is an error."""

import subprocess
import sys
from html.parser import HTMLParser

import pytest

import diffusers_autonat
from tests.documents import ROOT
from tests.test_notebook import cells


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class Links(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page.read_text())

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("href", "src") and value]


def test_every_link_leads_to_a_file(site):
    """mkdocs looks at links of Markdown; here are those of the pages that came out, sources and pictures among them."""
    links = 0
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # served from anywhere, so its links begin at the root
            continue
        for link in Links(page).found:
            path = link.partition("#")[0]
            if path and "://" not in path and not path.startswith(("mailto:", "data:")):
                assert (page.parent / path).exists(), f"{page.relative_to(site)}: {link}"
                links += 1
    assert links > 500
    for name in ("src/diffusers_autonat/strategies.py", "model_cards/autonat-fashion-mnist/index.html"):
        assert (site / "repository" / name).exists()


def test_the_notebook_is_a_page(site):
    assert 'href="tutorial.html"' in (site / "index.html").read_text()
    page = (site / "tutorial.html").read_text()
    assert 'href="search.html"' in page and page.count('<div class="highlight">') == len(cells())


def test_the_api_has_every_public_name(site):
    text = (site / "api.html").read_text()
    missing = [name for name in diffusers_autonat.__all__ if f'.{name}"' not in text]
    assert not missing
    assert "num_images_per_prompt" in text  # of calls, with what their arguments are
