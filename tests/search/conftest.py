"""A tiny pipeline, extractor and reference in folders, for scripts that are run as a user runs them."""

import pytest

from tests.conftest import save_tiny_study


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, fashion_mnist):
    """Folder with `pipeline`, `judge` (a classifier of its four classes, six features), `reference.npz`."""
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_study(folder, fashion_mnist[0])
    return folder
