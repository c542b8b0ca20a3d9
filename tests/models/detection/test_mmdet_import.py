"""mmdet is imported when it is needed, quietly, and what is missing is said in one line."""

import importlib.util
import subprocess
import sys

import pytest

from lampq.errors import LampQError
from lampq.models.detection.mmdet_import import PACKAGES, import_mmdet


def in_a_process(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)


def test_nothing_of_lampq_imports_it_by_itself():
    names = ("pictures", "mmdet_detector", "detector_adapter", "mmdet_checkpoints")
    modules = ", ".join(f"lampq.models.detection.{name}" for name in names)
    program = f"import sys, lampq.pipeline, {modules}\n"
    program += "print([name for name in sys.modules if name.split('.')[0] in ('mmdet', 'mmcv', 'mmengine')])"
    assert in_a_process(program).stdout.strip() == "[]"


def test_a_detector_is_built_and_run_without_a_word():
    program = """
import warnings
from tests.small_detectors import detector_adapter, detector_images, instances_in
adapter = detector_adapter(cascade=True)
pictures = detector_images(1)
print(len(adapter.run(pictures)), len(adapter.losses(pictures, instances_in(pictures), start=0)))
"""
    ran = in_a_process(program)
    assert ran.stdout.split() == ["1", "1"] and ran.stderr == ""


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named_with_the_remedy(package, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(LampQError) as caught:
        import_mmdet.__wrapped__()
    message = str(caught.value)
    assert f"package {package}" in message and "pip install '.[detection]'" in message and "\n" not in message


def test_versions_that_do_not_go_together_are_one_line(monkeypatch):
    import_mmdet()
    monkeypatch.delitem(sys.modules, "mmdet.utils")
    monkeypatch.delitem(sys.modules, "mmdet")
    monkeypatch.setattr("mmcv.__version__", "2.2.0")
    with pytest.raises(LampQError) as caught:
        import_mmdet.__wrapped__()
    message = str(caught.value)
    assert "MMCV==2.2.0 is used but incompatible" in message and "\n" not in message and "[detection]" in message
