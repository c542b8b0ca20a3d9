"""More images than fit into memory are refused before any is read."""

import pytest

from lampq.datasets import memory
from lampq.datasets.memory import check_memory, tensor_bytes
from lampq.errors import LampQError


def test_what_fits_is_accepted_and_what_does_not_is_named(monkeypatch):
    monkeypatch.setattr(memory, "memory", lambda: 4 * 2**30)
    image = tensor_bytes((3, 224, 224))
    check_memory({"dataset.calibration_images": 32, "dataset.sample_images": 1024}, image)
    with pytest.raises(LampQError, match=r"^dataset\.sample_images=100000: .* 168 GiB .* has 4; give fewer, 2377 of"):
        check_memory({"dataset.calibration_images": 32, "dataset.sample_images": 100_000}, image)


def test_the_limit_of_a_container_counts(monkeypatch, tmp_path):
    whole = memory.memory()
    for text, expected in (("1000000\n", 1_000_000), ("max\n", None), ("999999999999999999\n", None)):
        monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path / "memory.max")
        (tmp_path / "memory.max").write_text(text)
        assert memory.memory() == (expected or whole) > 0
