"""The page of groups, options and keys says what the YAML files say now."""

from pathlib import Path

import pytest

from experiments.configuration import Key, configuration_page, keys_of, title
from lampq.configuration.config_folder import config_folder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
EXAMPLE = """\
# @package _global_
# An example.
# It is read here alone.
# Class of the part.
_target_: lampq.Part
defaults:
  - _self_ # the values below
  - override /dataset: shapes # drawn images
# Steps of the search,
# at least one.
steps: 3
# The images.
images:
  # How many.
  count: ${steps} # of them
# Sizes.
sizes:
  - 2 # small
  - 5e-1
"""


def test_keys_are_read_with_their_comments(tmp_path):
    path = tmp_path / "example.yaml"
    path.write_text(EXAMPLE)
    assert title(path) == "An example."
    assert list(keys_of(path))[1:] == [
        Key("defaults.dataset", "shapes", "drawn images"),
        Key("steps", "3", "Steps of the search, at least one."),
        Key("images.count", "${steps}", "of them"),
        Key("sizes", "[2, 5e-1]", "Sizes."),
    ]


def test_the_page_is_up_to_date():
    if PAGE.read_text() != configuration_page():
        pytest.fail(
            "docs/configuration.md is older than conf/: python -m experiments configuration > docs/configuration.md"
        )


def test_every_option_is_on_the_page():
    page = configuration_page()
    for path in config_folder().glob("*/*.yaml"):
        section = page.split(f"\n## {path.parent.name}\n")[1].split("\n## ")[0]
        assert f"\n| `{path.stem}` | {title(path)}" in section
