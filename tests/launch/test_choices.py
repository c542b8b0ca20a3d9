"""Launchers and sweepers as they are chosen: what they are given, and one line where they lack something."""

import subprocess
import sys

import hydra
import pytest
import yaml

from lampq.launch.command_line import config_folder
from tests.launch.grids import CHECKOUT

PARTS = ("base_quantizer=rtn", "allocator=uniform")
NEEDS = {
    "hydra/launcher=slurm": ("submitit", "slurm", "hydra_submitit_launcher", "submitit_launcher"),
    "hydra/launcher=joblib": ("joblib", "sweep", "hydra_joblib_launcher", "joblib_launcher"),
    "hydra/sweeper=optuna": ("optuna", "sweep", "hydra_optuna_sweeper", "optuna_sweeper"),
}


def compose(*overrides):
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides), return_hydra_config=True).hydra


def test_slurm_is_one_flag():
    launcher = compose(
        "hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.cpus_per_task=8"
    ).launcher
    assert launcher.partition == "gpu"
    assert list(launcher.setup) == ["export OMP_NUM_THREADS=8"]
    assert list(launcher.srun_args) == ["--cpus-per-task=8"]
    assert launcher.timeout_min > 10, "submitit would take every preemption for a time-out"
    assert launcher.max_num_timeout > 0 and launcher.additional_parameters.requeue


def test_submitit_knows_every_key_of_slurm():
    submitit = pytest.importorskip("submitit")
    from submitit.slurm.slurm import _make_sbatch_string

    keys = yaml.safe_load((config_folder() / "hydra/launcher/slurm.yaml").read_text())
    known = submitit.AutoExecutor._typed_parameters().keys() | set(_make_sbatch_string.__annotations__)
    assert keys.keys() - {"_target_", "submitit_folder", "max_num_timeout"} <= known


def test_the_search_names_keys_and_options_that_exist():
    sweeper = compose("hydra/sweeper=optuna_lampq").sweeper
    assert sweeper.storage is None and sweeper.direction == "minimize" and sweeper.sampler.seed == 0
    lampq = yaml.safe_load((config_folder() / "lampq/default.yaml").read_text())
    assert {key.removeprefix("lampq.") for key in sweeper.params if "." in key} == lampq.keys()
    options = {path.stem for path in (config_folder() / "bit_set").glob("*.yaml")}
    assert set(sweeper.params.bit_set.removeprefix("choice(").removesuffix(")").split(",")) < options


@pytest.mark.parametrize("option", NEEDS)
@pytest.mark.parametrize("multirun", [True, False], ids=["grid", "single"])
def test_without_the_extra_one_line_says_what_to_install(option, multirun, tmp_path):
    package, extra, plugin, module = NEEDS[option]
    hidden = [package, f"hydra_plugins.{plugin}"]
    hidden += [f"hydra_plugins.{plugin}.{name}" for name in ("config", module)]
    arguments = [option, "bits=3", f"paths.results={tmp_path}", *(["--multirun"] if multirun else [])]
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden}))\n"
        f"sys.argv = ['run.py', *{arguments}]\n"
        "from lampq.launch.command_line import main\n"
        "main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, f"error: {option}: needs {package}: pip install 'lampq[{extra}]'\n")


def test_the_core_runs_without_any_extra(tmp_path):
    plugins = ["hydra_plugins", *(name for needs in NEEDS.values() for name in (needs[0], f"hydra_plugins.{needs[2]}"))]
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({plugins}))\n"
        f"sys.argv = ['run.py', '-m', 'allocator=uniform', 'bits=99', 'paths.results={tmp_path}']\n"
        "from lampq.launch.command_line import main\n"
        "main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "error: bits=99: must be a number between 1 and 16"


@pytest.mark.parametrize("option", [*NEEDS, "hydra/sweeper=optuna_lampq"])
def test_a_single_run_does_not_pass_over_a_launcher(run, pipeline, option):
    status, _, err = run(*PARTS, option)
    assert (status, pipeline.settings) == (1, [])
    assert err == [f"error: {option}: is for a grid; add --multirun, also for a grid of one run"]
