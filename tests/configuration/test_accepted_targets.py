"""Nothing that a configuration names is called unless it is accepted, wherever in the configuration it stands."""

import pickle
from pathlib import Path

import pytest
import yaml

from lampq.allocation.base import Allocator
from lampq.configuration.accepted_targets import is_part
from lampq.configuration.settings import construct
from lampq.errors import LampQError

PARTS = ("base_quantizer=rtn", "allocator=uniform", "dataset.validation_images=8")


class Marks:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.fixture
def mark(tmp_path):
    """A file that is there once something was executed; `evil.pkl` makes it."""
    path = tmp_path / "executed"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Marks(path)))
    return path


HARM = {
    "joblib.load": {"filename": "evil.pkl"},
    "numpy.load": {"file": "evil.pkl", "allow_pickle": True},
    "pandas.read_pickle": {"filepath_or_buffer": "evil.pkl"},
    "torch.load": {"f": "evil.pkl", "weights_only": False},
    "shutil.copy": {"src": "evil.pkl", "dst": "executed"},
    "logging.FileHandler": {"filename": "executed"},
    "subprocess.Popen": {"args": ["touch", "executed"]},
    "lampq.launch.cells.Cell": {"experiment": "x", "overrides": {}},
}


def refused(run, mark, *arguments):
    """The one line that says why, after nothing was executed and no run begun."""
    status, _, err = run(*PARTS, *arguments)
    assert status == 1 and len(err) == 1, err
    assert not mark.exists()
    return err[0]


def own_file(tmp_path, group, **values):
    folder = tmp_path / "own" / group
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\n" + yaml.safe_dump(values))
    return ["--config-dir", str(tmp_path / "own")]


@pytest.mark.parametrize("target", HARM)
def test_a_file_of_ones_own_calls_nothing(run, pipeline, tmp_path, mark, target):
    callback = {"callbacks": {"e": {"_target_": target, **HARM[target]}}}
    line = refused(run, mark, *own_file(tmp_path, "method", hydra=callback), "method=mine")
    assert line == (
        f"error: hydra.callbacks.e._target_={target}: only what lampq/configuration/accepted_targets.py lists is "
        "constructed, and nothing here; leave it out"
    )


def test_nor_does_one_job_of_a_grid(run, pipeline, tmp_path, mark):
    handler = {"handlers": {"f": {"class": "logging.FileHandler", "filename": str(mark)}}}
    own = own_file(tmp_path, "method", hydra={"job_logging": handler})
    assert "logging.FileHandler: only logging.StreamHandler" in refused(run, mark, *own, "-m", "method=rtn,mine")
    assert pipeline.settings == []


@pytest.mark.parametrize("section", ["hydra_logging", "job_logging"])
@pytest.mark.parametrize("kind", ["handlers", "formatters"])
def test_logging_has_no_factory(run, pipeline, tmp_path, mark, section, kind):
    made = {kind: {"f": {"()": "shutil.copy", "src": "evil.pkl", "dst": str(mark)}}}
    line = refused(run, mark, *own_file(tmp_path, "method", hydra={section: made}), "method=mine")
    assert line.startswith(f"error: hydra.{section}.{kind}.f.()=shutil.copy: only logging.StreamHandler")


def test_the_command_line_calls_nothing_either(run, pipeline, mark):
    for arguments, key in [
        (["+hydra.callbacks.e={_target_:joblib.load,filename:evil.pkl}"], "hydra.callbacks.e._target_=joblib.load"),
        (["+hydra.callbacks.e={_target_:${oc.env:HOME}}"], "hydra.callbacks.e._target_=${oc.env:HOME}"),
        (["-m", "+hydra.sweeper.params.x._target_=joblib.load"], "hydra.sweeper.params.x._target_=joblib.load"),
        (["-m", "hydra.launcher._target_=subprocess.Popen"], "hydra.launcher._target_=subprocess.Popen"),
        (["-m", "hydra.sweeper._target_=joblib.load"], "hydra.sweeper._target_=joblib.load"),
        (["-m", "+hydra.launcher.x._target_=shutil.copy"], "hydra.launcher.x._target_=shutil.copy"),
        (
            ["+hydra.job_logging.handlers.f={class:logging.FileHandler,filename:executed}"],
            "f.class=logging.FileHandler",
        ),
        (["hydra.job_logging.handlers.console.stream=ext://antigravity.x"], "stream=ext://antigravity.x"),
        (["hydra.job_logging.handlers=${hydra.help}"], "hydra.job_logging.handlers=${hydra.help}: write out"),
        (["hydra/job_logging=default"], "hydra.job_logging.handlers.file.class=logging.FileHandler"),
        (["+hydra.job.env_set.LD_PRELOAD=evil.so"], "hydra.job.env_set.LD_PRELOAD=evil.so: only CUDA_VISIBLE_DEVICES"),
        (["hydra.searchpath=[pkg://antigravity]"], "hydra.searchpath=[pkg://antigravity]: must be folders"),
        (["+model.name2={_target_:shutil.copy,src:evil.pkl,dst:executed}"], "model.name2._target_=shutil.copy"),
        (["dataset._target_=numpy.load"], "dataset._target_=numpy.load: only classes under lampq.datasets. are"),
        (
            ["allocator._target_=lampq.launch.cells.Cell"],
            "allocator._target_=lampq.launch.cells.Cell: only classes under",
        ),
        (["+lampq.x={_target_:numpy.load}"], "lampq.x._target_=numpy.load"),
        (["--experimental-rerun", "evil.pkl"], "--experimental-rerun evil.pkl: would execute what the file holds"),
    ]:
        assert key in refused(run, mark, *arguments), (arguments, key)


def test_an_optuna_sampler_is_optunas(run, pipeline, mark):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    own = ("-m", "hydra/sweeper=optuna", "seed=range(0,3)")
    assert "sampler._target_=joblib.load" in refused(run, mark, *own, "hydra.sweeper.sampler._target_=joblib.load")
    space = refused(run, mark, *own, "hydra.sweeper.custom_search_space=joblib.load")
    assert "hydra.sweeper.custom_search_space=joblib.load: names a function to call" in space


def test_what_hydra_brings_is_accepted(run, pipeline):
    plain = ("hydra/job_logging=none", "hydra/hydra_logging=none", "+hydra.job.env_set.OMP_NUM_THREADS='1'")
    status, _, err = run(*PARTS, *plain)
    assert (status, err) == (0, [])


def test_a_variable_may_be_copied_from_the_users_own(run, pipeline, monkeypatch):
    monkeypatch.setenv("SITE", "here")
    assert run(*PARTS, "hydra.job.env_copy=[SITE]")[0] == 0


def test_only_a_part_of_its_kind_is_constructed():
    for target in [
        "builtins.eval",
        "lampq.modelsx.Part",
        "lampq.models",
        "lampq.limits.integer",
        "lampq.models.checkpoints.read_weights",  # no class
        "lampq.models.checkpoints.Path",  # a class from elsewhere
        "lampq.models.tensor_points.BlockWithTensors",  # no part
        "lampq.models.nothing.Here",
        "lampq.models.adapter.Nothing",
        "lampq.models.adapter.__loader__",
        3,
        None,
        ["lampq.models.timm_classifier.TimmClassifier"],
    ]:
        with pytest.raises(LampQError, match=r"^model\._target_"):
            construct("model", {"_target_": target})
            pytest.fail(f"accepted: {target}")


def test_an_abstract_class_is_no_part():
    assert not is_part("allocator", Allocator)
