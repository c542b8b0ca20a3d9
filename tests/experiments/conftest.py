"""What the tests of experiments share."""

import pytest

from tests.experiments.results_folder import ResultsFolder


@pytest.fixture
def results(tmp_path):
    """An empty results folder to write cells and runs into."""
    return ResultsFolder(tmp_path / "results")
