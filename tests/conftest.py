"""What every test runs under: one thread, no network, and no writing into the user's cache or W&B account."""

import gc
import logging
import os
import sys
import tempfile
from types import SimpleNamespace

import pytest

# Before PyTorch is imported: two threads a process make small tensors slower, and pytest-xdist has its own processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ.pop("LAMPQ_TRACEBACK", None)
# A hundred processes are started; each would compile the project and the tests anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_folder = tempfile.TemporaryDirectory(prefix="lampq-tests-")
os.environ["LAMPQ_CACHE"] = os.path.join(_folder.name, "cache")
for _name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
    os.environ[_name] = os.path.join(_folder.name, "wandb")
os.makedirs(os.environ["WANDB_DIR"])


# Imports of all that is tested make a million objects that stay: to look through them for garbage takes seconds.
gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: short ones are left for the end, so that all processes have work until then."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def loggers_as_before():
    """Hydra configures logging; put it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, loggers_as_before):
    """Run the command line in this process: (exit status, standard output, lines of standard error)."""
    from lampq.launch.command_line import command_line

    def run(*arguments, results_here=True):
        """With `results_here`, results go under `tmp_path`."""
        results = (
            []
            if not results_here or {"--help", "-sc", "--cfg"} & set(arguments)
            else [f"paths.results={tmp_path / 'results'}"]
        )
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments, *results])
        monkeypatch.chdir(tmp_path)
        status = command_line()
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


@pytest.fixture
def pipeline(monkeypatch):
    """A stand-in for `lampq.pipeline.run`: keeps the settings it is given, and raises what the test asks for."""
    import lampq.launch.isolation
    import lampq.pipeline
    import lampq.report.console

    seen = SimpleNamespace(settings=[], raises={})

    def stand_in(settings):
        seen.settings.append(settings)
        error = seen.raises.get(int(settings.budget.weight_bits)) or seen.raises.get("always")
        if error is not None:
            raise error
        return [SimpleNamespace(metrics={"sample_loss": 1.5}, fingerprint="f")]

    monkeypatch.setattr(lampq.pipeline, "run", stand_in)
    monkeypatch.setattr(lampq.report.console, "show", lambda records: None)
    monkeypatch.setattr(lampq.report.console, "summary_line", lambda record: "a line")
    # Jobs of a grid in this process, where the stand-in is; tests/launch/test_isolation.py has them in their own.
    here = SimpleNamespace(call=lambda function, *arguments: function(*arguments), stop=lambda: None)
    monkeypatch.setattr(lampq.launch.isolation, "shared", here)
    return seen
