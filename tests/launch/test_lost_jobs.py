"""What SLURM may do to jobs, with stand-ins for its commands; tests/launch/test_slurm.py has a real cluster."""

import pytest

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")

import lampq.launch.slurm
from lampq.launch.cells import read_cells
from lampq.launch.slurm import _states

SLURM = ("-m", "hydra/launcher=slurm", "base_quantizer=rtn", "allocator=uniform")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Put scripts in the place of SLURM's commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    for name in ("LOOK", "ASK", "LATE"):
        monkeypatch.setattr(lampq.launch.slurm, name, 0.01)

    def command(name, script):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    command("srun", "exit 0")
    command("sbatch", "echo Submitted batch job 12")
    return command


def test_lost_jobs_are_named_with_their_end(run, slurm, tmp_path):
    slurm("squeue", r"printf '12_0 CANCELLED 13\n12_1 OUT_OF_MEMORY 14\n'")
    status, out, err = run(*SLURM, "bits=3,4,5")
    assert status == 1
    assert "3 jobs are with SLURM as 12; what they say is in " in out
    assert err[-1].startswith(
        "error: 3 jobs failed, the first: its SLURM job 12_0 ended as CANCELLED without an answer"
    )
    cells = {cell.overrides["bits"]: cell for cell in read_cells(tmp_path / "results", "unnamed")}
    assert [cell.state for cell in cells.values()] == ["failed"] * 3
    assert "12_1 ended as OUT_OF_MEMORY" in cells["4"].reason
    assert "12_2 is gone without an answer" in cells["5"].reason  # SLURM has forgotten it


def test_a_job_that_is_queued_again_is_waited_for(run, slurm, tmp_path):
    # preempted, then in the queue again, then running, then gone
    slurm(
        "squeue",
        f"echo >> {tmp_path}/asked; case $(wc -l < {tmp_path}/asked) in\n"
        "1) echo 12_N/A PREEMPTED 12;; 2) echo 12_N/A PENDING 12;; 3) echo 12_N/A RUNNING 12;;\n"
        "*) echo slurm_load_jobs error: Invalid job id specified >&2; exit 1;; esac",
    )
    lampq.launch.slurm.LATE = 0.1
    _, _, err = run(*SLURM, "bits=3")
    assert err[-1].startswith("error: its SLURM job 12 is gone without an answer")
    assert len((tmp_path / "asked").read_text().splitlines()) > 4


def test_a_controller_that_does_not_answer_loses_no_job(slurm):
    slurm("squeue", "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1")
    assert _states("12") is None
    slurm("squeue", "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1")
    assert _states("12") == {}


def test_a_refusal_is_one_line(run, slurm):
    slurm("sbatch", "echo sbatch: error: invalid partition specified: gpu >&2; exit 1")
    status, _, err = run(*SLURM, "hydra.launcher.partition=gpu", "bits=3,4")
    assert status == 1
    assert err == ["error: hydra/launcher=slurm: invalid partition specified: gpu; --cfg hydra shows what is asked for"]


def test_a_key_that_submitit_does_not_know_is_one_line(run, slurm):
    status, _, err = run(*SLURM, "+hydra.launcher.colour=red", "bits=3,4")
    assert status == 1
    assert len(err) == 1 and err[0].startswith("error: hydra.launcher: ") and "colour" in err[0]


def test_without_a_cluster_one_line_says_so(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, err = run(*SLURM, "bits=3,4")
    assert status == 1
    assert len(err) == 1 and err[0].startswith("error: hydra/launcher=slurm: there is no sbatch here; ")
