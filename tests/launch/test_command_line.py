"""The command line as a user meets it: help, completion, grids, and one line for every failure."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lampq.errors import LampQError
from lampq.launch import failures
from lampq.launch.command_line import config_folder
from lampq.launch.failures import explain_failure
from lampq.launch.job import Outcome
from lampq.progress import progress

CHECKOUT = Path(__file__).resolve().parents[2]
GROUPS = {
    folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in sorted(config_folder().iterdir())
    if any(folder.glob("*.yaml"))
}


PARTS = ("base_quantizer=rtn", "allocator=lampq")


def test_a_run_reaches_the_pipeline_and_leaves_nothing_behind(run, pipeline, tmp_path):
    status, _, err = run(*PARTS, "bits=4", "seed=3")
    assert (status, err) == (0, [])
    assert [s.seed for s in pipeline.settings] == [3]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_mistake_is_one_line(run, pipeline):
    for arguments, line in [
        (
            ["model=vit_smal"],
            "model=vit_smal: no such option; did you mean vit_small? one of cascade_mask_rcnn_swin_small, ",
        ),
        (["-m", "model=deit_tiny,vit_smal"], "model=vit_smal: no such option; did you mean vit_small?"),
        (["method=lamp"], "method=lamp: no such option; did you mean lampq? one of adalog, "),
        (["bit_set=2345"], "bit_set=2345: no such option; did you mean b2345?"),
        (["model=2"], "model=2: no such option; one of cascade_mask_rcnn_swin_small"),
        (["model=null"], "model=null: no such option; one of cascade_mask_rcnn_swin_small"),
        (
            ["hardware=int8", "bit_set=b2345"],
            "bit_set=b2345: hardware=int8 has a bit set of its own; leave one of them",
        ),
        (["sensitivity=components", "experiment=table3"], "sensitivity=components: experiment=table3 quantizes models"),
        (["~hydra"], "~hydra: is part of every run; leave it out"),
        (["="], "an override without a key or a group"),
        (["--config-name", "nothing"], "Cannot find primary config 'nothing'"),
        (["--package", "lampq"], "--package lampq: goes with --cfg"),
        (["--run", "-m"], "Only one of --run, --multirun, --cfg, --info and --shell_completion can be"),
        (["hydra.verbose=3"], "hydra.verbose=3: must be true, false, or names of loggers"),
        (["-m", "hydra/sweeper=basic", "bits=3,4"], "choose by hydra/sweeper: cells, optuna or optuna_lampq"),
        (["-m", "hydra.sweeper.max_batch_size=0"], "hydra.sweeper.max_batch_size=0: must be an integer of at least 1"),
        (["-m", "hydra.sweeper.params=3"], "hydra.sweeper.params=3: must be values by key"),
        (["-m", "bits=interval(3,4)"], "bits=interval(3,4): an interval is for hydra/sweeper=optuna"),
        (["-m", "seed=range(0,5,0)"], "seed=range(0,5,0): range() arg 3 must not be zero"),
        (["-m", "seed=range(0,10000000)"], "seed=range(0,10000000): makes a grid of more than 100000 jobs"),
        (["-m", "experiment.without=[3]", "seed=1,2"], "experiment.without=[3]: must be a list of keys and values"),
        (["effort.rounding_rate=-1"], "effort.rounding_rate=-1: must be a number above 0 and at most 1"),
        (["~logger"], "~logger: groups are not deleted; leave it out, or choose an option by logger=OPTION"),
        (["~method"], "~method: groups are not deleted; leave it out"),
        (["model=[deit_tiny,vit_small]"], "takes one option; for a grid write --multirun model=A,B"),
        (["hydra/launcher=slrm"], "hydra/launcher=slrm: no such option"),
        (["modl=deit_tiny"], "modl=deit_tiny: there is no such key or group; did you mean model?"),
        (["bit=4"], "bit=4: there is no such key or group; did you mean bits?"),
        (["-m", "bit=3,4"], "bit=3,4: there is no such key or group; did you mean bits?"),
        (["lampq.muu=1"], "lampq.muu=1: there is no such key or group; did you mean lampq.mu?"),
        (["gamma=3"], "gamma=3: there is no such key or group; did you mean"),
        (["dataset.root=/x"], "dataset.root=/x: there is no such key or group; there are dataset.calibration_images"),
        (
            ["dataset=imagenet", "dataset.rot=/x"],
            "dataset.rot=/x: there is no such key or group; did you mean dataset.r",
        ),
        (["hydra.run.dirr=x"], "hydra.run.dirr=x: there is no such key or group; --hydra-help lists"),
        (["~sed"], "~sed: there is no such key or group; did you mean seed?"),
        (["+bits=3"], "+bits: is there already; leave out the +"),
        (["+model=deit_tiny"], "+model: the group has its option already; leave out the +"),
        (["experiment=tabel3", "bits=3,4"], "experiment=tabel3: no such option; did you mean table3?"),
        (["experiment=own", "bits=3,4", "--config-dir", "."], "bits=3,4: several values are a grid; add --multirun"),
        (["bits=3,4", "hydra/launcher=joblib"], "bits=3,4: several values are a grid; add --multirun"),
        (["bits=3,4"], "bits=3,4: several values are a grid; add --multirun, or write a list as [A,B]"),
        (["bits=[3,"], "bits=[3,: cannot be read; write KEY=VALUE or GROUP=OPTION"),
        (["-m", "bits=3,4,"], "bits=3,4,: cannot be read; write KEY=VALUE or GROUP=OPTION"),
        (["bits"], "bits: cannot be read; write KEY=VALUE or GROUP=OPTION"),
        (["=3"], "an override without a key or a group; write KEY=VALUE or GROUP=OPTION"),
        (["--bits=3"], "--bits=3: there is no such flag; keys are written KEY=VALUE, without dashes"),
        (["--info", "nonsense"], "argument --info/-i: invalid choice: 'nonsense'"),
        (["-cd", "/nowhere"], "Additional config directory '/nowhere' not found; give the folder that holds"),
        (["bits=${nowhere}"], "Interpolation key 'nowhere' not found"),
        (["hydra.run.dir=${nowhere}"], "hydra.run.dir: Interpolation key 'nowhere' not found"),
        (["hydra.run.dir=/proc/nowhere"], "/proc/nowhere: No such file or directory; choose another folder"),
        (["bits=99"], "bits=99: must be a number between 1 and 16"),
        (["lampq.mu=6"], "lampq.mu=6: must be a fraction of the blocks in (0, 1], for example 0.5"),
        (["dataset=imagenet"], "dataset.root is missing: add dataset.root=the folder that holds train/ and val/"),
        (["+nonsense=1"], "nonsense=1: there is no such key; known: model, dataset"),
    ]:
        status, _, err = run(*PARTS, *arguments)
        assert status == 1, (arguments, line)
        assert len(err) == 1 and err[0].startswith("error: ") and line in err[0], (arguments, line)
        assert pipeline.settings == [], (arguments, line)


def test_a_full_folder_for_temporary_files_is_named_as_such(monkeypatch, tmp_path):
    free = {"/": 5, str(tmp_path): 0}
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(failures.shutil, "disk_usage", lambda path: SimpleNamespace(free=free.get(str(path), 5)))
    full = OSError(errno.ENOSPC, "No space left on device")
    assert explain_failure(full, ["/results", "/cache"], "").startswith(f"TMPDIR={tmp_path}: the disk is full; make")
    free[str(tmp_path)] = 5
    assert explain_failure(full, ["/results", "/cache"], "").startswith("/results: the disk is full; make")


def test_a_failure_at_work_is_one_line(run, pipeline):
    for error, line in [
        (LampQError("dataset.root=/x: two\n lines"), "error: dataset.root=/x: two lines"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/full/plan.json"),
            "error: /full/plan.json: the disk is full;",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "the disk is full; make room and run the same command again",
        ),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full; make room"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/r/runs"),
            "error: /r/runs: Permission denied; choose other",
        ),
        (MemoryError(), "error: out of memory: lower dataset.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "error: out of memory: lower dataset.batch_size"),
        (ModuleNotFoundError("x", name="wandb"), "error: the package wandb is not installed: pip install wandb"),
        (SystemExit(3), "error: SystemExit: 3 (unexpected; traceback in results/hydra/traceback-"),
        (ValueError("odd\nthing"), "error: ValueError: odd thing (unexpected; traceback in results/hydra/traceback-"),
    ]:
        pipeline.raises["always"] = error
        status, _, err = run(*PARTS)
        assert status == 1, (error, line)
        assert len(err) == 1 and line in err[0], (error, line)


def test_out_of_gpu_memory(run, pipeline):
    import torch

    pipeline.raises["always"] = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    status, _, err = run(*PARTS)
    assert (status, err) == (
        1,
        [
            "error: out of GPU memory: lower dataset.batch_size, prefix_memory_gib or observation_memory_gib, "
            "or use device=cpu"
        ],
    )


def test_the_traceback_of_the_unexpected_is_kept_and_can_be_shown(run, pipeline, tmp_path, monkeypatch):
    pipeline.raises["always"] = ValueError("odd")
    run(*PARTS)
    (written,) = (tmp_path / "results").rglob("traceback-*.txt")
    assert "stand_in" in written.read_text() and "ValueError: odd" in written.read_text()
    monkeypatch.setenv("LAMPQ_TRACEBACK", "1")
    _, _, err = run(*PARTS)
    assert any("stand_in" in line for line in err) and err[-1].startswith("error: ValueError: odd")


def test_an_interrupted_run_says_how_to_go_on(run, pipeline):
    pipeline.raises["always"] = KeyboardInterrupt()
    assert run(*PARTS)[::2] == (130, ["interrupted; run the same command again to resume"])


def test_no_progress_bar_stands_in_front_of_the_last_line(run, pipeline):
    bar = progress(total=3, description="working")
    pipeline.raises["always"] = KeyboardInterrupt()
    assert run(*PARTS)[2][-1] == "interrupted; run the same command again to resume"
    assert bar.disable  # closed


def test_flags_may_stand_between_overrides(run, pipeline):
    status, _, err = run("base_quantizer=rtn", "-m", "bits=3,4", "allocator=uniform")
    assert (status, err) == (0, [])
    assert [int(s.budget.weight_bits) for s in pipeline.settings] == [3, 4]


def test_of_an_override_given_twice_the_last_holds_and_it_is_said(run, pipeline):
    status, _, err = run(*PARTS, "bits=3", "bits=4")
    assert (status, err) == (0, ["note: bits=4 holds, bits=3 is given before it and has no effect"])
    assert pipeline.settings[0].budget.weight_bits == 4


def test_paths_are_taken_from_where_the_command_was_typed(run, pipeline, tmp_path, monkeypatch):
    import os

    seen = []
    monkeypatch.setattr(
        "lampq.launch.command_line.perform", lambda *a, **k: seen.append(os.getcwd()) or Outcome([], None, "")
    )
    assert run(*PARTS, "hydra.job.chdir=true")[0] == 0
    assert seen == [str(tmp_path)]


def test_a_failure_is_forgotten_by_the_next_run(run, pipeline):
    pipeline.raises["always"] = LampQError("wrong")
    assert run(*PARTS)[0] == 1
    pipeline.raises.clear()
    assert run(*PARTS)[::2] == (0, [])


def test_a_grid_runs_every_combination(run, pipeline):
    status, _, err = run("-m", "allocator=lampq,uniform", "base_quantizer=rtn", "seed=range(2)")
    assert (status, err) == (0, [])
    seen = [(s.allocator.name, s.seed) for s in pipeline.settings]
    assert seen == [("lampq", 0), ("lampq", 1), ("uniform", 0), ("uniform", 1)]


@pytest.mark.parametrize("error", [LampQError("no room"), SystemExit(1), ValueError("odd")], ids=str)
def test_a_failing_job_leaves_the_others_of_its_grid_alone(run, pipeline, error):
    pipeline.raises[4] = error
    status, _, err = run("-m", *PARTS, "bits=3,4,5")
    assert status == 1
    assert [int(s.budget.weight_bits) for s in pipeline.settings] == [3, 4, 5]
    assert err[0].startswith("failed: ") and "bits=4" in err[0]
    assert [line for line in err if line.startswith("error: ")] == [err[-1]]


def test_the_last_line_of_a_grid_counts_its_failures(run, pipeline):
    pipeline.raises |= {3: LampQError("first"), 5: LampQError("second")}
    _, _, err = run("-m", *PARTS, "bits=3,4,5")
    assert err[-1] == "error: 2 jobs failed, the first: first"


def test_help_lists_every_group_with_its_meaning_and_options(run, capsys):
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for group, options in GROUPS.items():
        assert f"\n  {group} " in text, f"--help does not say what {group} is"
        assert f"\n{group}: {', '.join(options)}\n" in text
    assert "$" not in text.replace("$(python", "").replace("${", "")


def test_completion_of_groups_and_keys(run, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "python run.py model=swin")
    assert run("-sc", "query=bash")[1].split() == ["model=swin_base", "model=swin_small", "model=swin_tiny"]
    monkeypatch.setenv("COMP_LINE", "python run.py lampq.")
    assert run("-sc", "query=bash")[1].split() == ["lampq.beta=", "lampq.gamma=", "lampq.mu="]
    assert "complete -o nospace" in run("-sc", "install=bash")[1]


def test_every_folder_of_python_files_is_a_package():
    # else it would be missing once installed
    for top in ("lampq", "conf", "experiments"):
        for path in (CHECKOUT / top).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path


def _process(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(CHECKOUT / "run.py"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_as_a_process_the_configuration_is_shown(tmp_path):
    shown = _process("--cfg", "job", "--resolve", "bits=4", LAMPQ_CACHE=str(tmp_path / "cache"))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "weight_bits: 4\n" in shown.stdout and f"cache: {tmp_path}/cache\n" in shown.stdout


def test_as_a_process_a_mistake_is_one_line(tmp_path):
    failed = _process("model=vit_smal", f"paths.results={tmp_path}")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.startswith("error: model=vit_smal: no such option") and failed.stderr.count("\n") == 1


def test_as_a_process_a_wrong_value_is_one_line(tmp_path):
    failed = _process(*PARTS, "device=gpu", f"paths.results={tmp_path}")
    assert failed.returncode == 1
    assert failed.stderr == "error: device=gpu: must be auto, cpu, cuda or cuda:N; did you mean cuda?\n"


def test_composition_and_tables_import_no_pytorch():
    program = (
        "import sys; sys.argv = ['run.py', '--cfg', 'job', '--resolve']\n"
        "from lampq.launch.command_line import command_line\n"
        "assert command_line() == 0\n"
        "assert not {'torch', 'timm', 'wandb', 'pandas'} & set(sys.modules)\n"
        "import experiments.report\n"
        "assert not {'torch', 'timm', 'wandb'} & set(sys.modules)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr


def test_a_reader_that_has_gone_is_no_failure(tmp_path):
    command = f"{sys.executable} {CHECKOUT / 'run.py'} --cfg job | head -c 1"
    piped = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert piped.stderr == ""
