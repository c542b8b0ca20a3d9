"""A grid names every mistake in any of its jobs before the first one runs."""

from types import SimpleNamespace

import pytest

from lampq.launch.cells import read_cells
from lampq.launch.grid_check import mistakes

PARTS = ("base_quantizer=rtn", "allocator=uniform")


def nothing_was_begun(pipeline, tmp_path):
    return pipeline.settings == [] and not list(tmp_path.glob("results/experiments/**/*"))


def test_all_mistakes_are_named_and_no_job_runs(run, pipeline, tmp_path):
    status, _, err = run("-m", *PARTS, "bits=3,99,98", "seed=0,-1")
    assert status == 1 and nothing_was_begun(pipeline, tmp_path)
    assert "wrong: bits=3, seed=-1: seed=-1: must be an integer between 0 and 4294967295" in err
    assert "wrong: bits=98, seed=0: bits=98: must be a number between 1 and 16" in err
    assert len([line for line in err if line.startswith("wrong: ")]) == 5
    assert err[-1].startswith("error: 5 of 6 jobs cannot run, so none was started; the first: seed=-1: must be")


def test_a_mistake_of_all_jobs_is_one_line(run, pipeline, tmp_path):
    status, _, err = run("-m", "base_quantizer=rtn", "lampq.mu=7", "bits=3,4")
    assert (status, len(err)) == (1, 1) and err[0].startswith("error: lampq.mu=7: must be a fraction")


def test_of_many_jobs_each_mistake_is_named_once(run, pipeline):
    _, _, err = run("-m", *PARTS, "bits=3,99", "seed=range(0,30)")
    assert err == ["error: bits=99: must be a number between 1 and 16 (30 of 60 jobs; none was started)"]
    _, _, err = run("-m", *PARTS, "bits=98,99", "seed=range(0,30)")
    assert err[0] == "wrong: bits=98, seed=0: bits=98: must be a number between 1 and 16 (and 29 jobs more)"


def test_what_cannot_be_composed_is_named_with_the_rest(run, pipeline, tmp_path):
    _, _, err = run("-m", "base_quantizer=rtn,rtm", "bits=3,99")
    assert nothing_was_begun(pipeline, tmp_path)
    assert any("base_quantizer=rtm: no such option; did you mean rtn?" in line for line in err)
    assert any("bits=99: must be a number" in line for line in err)


def test_the_number_of_a_job_may_be_its_seed(run, pipeline, tmp_path):
    status, _, err = run("-m", *PARTS, "seed=${hydra:job.num}", "bits=3,4")
    assert (status, err) == (0, [])
    assert [(s.seed, int(s.budget.weight_bits)) for s in pipeline.settings] == [(0, 3), (1, 4)]
    assert {cell.overrides["seed"] for cell in read_cells(tmp_path / "results", "unnamed")} == {"0", "1"}


@pytest.mark.parametrize(
    ("axis", "line"),
    [
        ("seed=range(0,0)", "error: seed=range(0,0): no value to try; range(0,3) stands for 0, 1 and 2"),
        ("experiment.name=a,b", "error: experiment.name=a,b: the jobs of a grid share one; give the command once for"),
        ("experiment.name=../x", "error: experiment.name=../x: must be a word of letters"),
    ],
)
def test_an_axis_that_makes_no_grid(run, pipeline, tmp_path, axis, line):
    status, _, err = run("-m", *PARTS, "bits=3", axis)
    assert status == 1 and nothing_was_begun(pipeline, tmp_path) and err[-1].startswith(line)


def test_where_jobs_run_elsewhere_their_files_and_devices_are_not_looked_for(monkeypatch):
    from lampq.errors import LampQError

    def refuse(line):
        monkeypatch.setattr(
            "lampq.configuration.settings.check_values", lambda values: (_ for _ in ()).throw(LampQError(line))
        )

    refuse("dataset.root=/scratch: has no folder train/")
    assert mistakes([{}], elsewhere=True) == [None]
    assert mistakes([{}], elsewhere=False) == ["dataset.root=/scratch: has no folder train/"]
    refuse("bits=99: must be a number")
    assert mistakes([{}], elsewhere=True) == ["bits=99: must be a number"]


def test_a_big_grid_composes_each_option_once(run, pipeline, monkeypatch):
    from lampq.configuration.composition import CheckedLoader

    composed = []
    whole = CheckedLoader.load_sweep_config
    count = SimpleNamespace(load=lambda self, *a: composed.append(a) or whole(self, *a))
    monkeypatch.setattr(CheckedLoader, "load_sweep_config", count.load)
    run("-m", *PARTS, "bits=99", "seed=range(0,40)", "bit_set=auto,b2345")
    assert len(composed) == 2
