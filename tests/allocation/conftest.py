"""What tests of allocators share: a search over a small ViT, and a store a file."""

import pytest

from tests.small_models import search_over, vit_adapter


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One store for the file: allocators that share work read it."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def search(store):
    return search_over(vit_adapter(), store)
