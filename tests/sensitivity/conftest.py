"""Fixtures of the allocators' tests, with which metrics are tested too."""

from tests.allocation.conftest import search, store  # noqa: F401
