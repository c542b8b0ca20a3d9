"""How a grid becomes jobs: combinations, stand-ins, what is left out, what is not available yet."""

import json

import pytest

from lampq.launch.cells import DONE, FAILED, NOT_AVAILABLE, PLANNED, read_cells
from lampq.launch.sweeper import _matches

TABLE3 = ("experiment=table3", "scale=smoke", "base_quantizer=rtn")


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """The table is put together by code with tests of its own."""
    monkeypatch.setattr("lampq.launch.sweeper.CellSweeper._assemble", lambda self, experiment, results: None)


def cells(tmp_path, experiment="table3"):
    return read_cells(tmp_path / "results", experiment)


def by_state(tmp_path, state, *keys):
    return {tuple(cell.overrides[key] for key in keys) for cell in cells(tmp_path) if cell.state == state}


def test_an_experiment_is_a_grid_by_itself(run, pipeline, tmp_path):
    status, _, err = run(*TABLE3, "method=adalog,lampq")
    assert (status, err) == (0, [])
    done = by_state(tmp_path, DONE, "model", "method", "bits")
    assert done >= {("shapes_vit", "lampq", "3"), ("shapes_swin", "adalog", "4")}
    assert len(done) == len(pipeline.settings)
    assert all(cell.fingerprints == ["f"] for cell in cells(tmp_path) if cell.state == DONE)


def test_equal_cells_are_run_once(run, pipeline, tmp_path):
    run(*TABLE3, "method=adalog", "bits=3")
    models = [settings.model.name for settings in pipeline.settings]
    assert sorted(models) == ["shapes_swin", "shapes_vit"]  # of seven


def test_the_command_line_comes_in_place_of_an_axis(run, pipeline, tmp_path):
    run(*TABLE3, "model=deit_tiny", "bits=3", "method=adalog,lampq", "seed=5,6")
    seen = {(s.model.name, int(s.budget.weight_bits), s.allocator.name, s.seed) for s in pipeline.settings}
    assert seen == {("shapes_vit", 3, name, seed) for name in ("uniform", "lampq") for seed in (5, 6)}


def test_the_paper_has_no_row_for_some_methods_at_3_bits(run, pipeline, tmp_path):
    run(*TABLE3, "model=deit_tiny", "method=pd_quant,optq,erq,adalog")
    asked = {(cell.overrides["method"], cell.overrides["bits"]) for cell in cells(tmp_path)}
    assert asked == {*((name, "4") for name in ("pd_quant", "optq", "erq", "adalog")), ("adalog", "3")}


def test_what_does_not_exist_yet_is_listed_by_name_and_stops_nothing(run, pipeline, tmp_path):
    planned = "hydra.sweeper.params={model:'deit_tiny,deit_huge',method:'nobody,adalog'}"
    status, _, _ = run(*TABLE3, planned, "bits=4")
    assert status == 0 and len(pipeline.settings) == 1
    lacking = {cell.reason for cell in cells(tmp_path) if cell.state == NOT_AVAILABLE}
    assert lacking == {"method=nobody does not exist", "model=deit_huge does not exist"}


def test_what_was_typed_and_does_not_exist_is_refused(run, pipeline, tmp_path):
    status, _, err = run(*TABLE3, "model=deit_tiny", "bits=4", "method=adalog,adalogg")
    assert status == 1 and not pipeline.settings and not cells(tmp_path)
    assert "adalogg" in err[-1] and "did you mean adalog?" in err[-1]


def test_a_stand_in_may_bring_overrides_of_its_own(run, pipeline, tmp_path):
    status, _, err = run("experiment=table4", "scale=smoke", "method=adalog")
    assert status == 0, err
    (settings,) = pipeline.settings  # equal cells are run once
    assert (settings.model.name, settings.dataset.name) == ("shapes_mask_rcnn", "shapes_coco")
    assert settings.dataset.sample_images == 8


def test_a_key_of_some_options_alone_is_checked_where_they_are(run, pipeline, tmp_path):
    """The grid itself has the default base quantizer, which has no such key."""
    grid = ("-m", "scale=smoke", "bits=4", "base_quantizer.images=8")
    status, _, err = run(*grid, "method=qdrop,aphq_vit")
    assert (status, err) == (0, [])
    assert [(s.base_quantizer.name, s.base_quantizer.images) for s in pipeline.settings] == [
        ("qdrop", 8),
        ("aphq_vit", 8),
    ]
    status, _, err = run(*grid, "method=adalog,qdrop")
    assert status == 1 and len(pipeline.settings) == 2
    assert err[-1].startswith(
        "error: base_quantizer.images=8: there is no such key or group; there are base_quantizer."
    )
    assert err[-1].endswith("(1 of 2 jobs; none was started)")


def test_a_search_refuses_a_key_before_its_first_trial(run, pipeline):
    """Its trials are composed one by one."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    status, _, err = run("-m", "hydra/sweeper=optuna", "lampq.mu=choice(0.5,1)", "base_quantizer.imags=8")
    assert (status, pipeline.settings) == (1, []) and err[-1].startswith("error: base_quantizer.imags=8: ")


def test_a_missing_value_is_named_once_before_any_job(run, pipeline, tmp_path):
    status, _, err = run("experiment=table3", "base_quantizer=rtn", "method=adalog,lampq", "model=deit_tiny")
    assert (status, pipeline.settings, cells(tmp_path)) == (1, [], [])
    (line,) = err
    assert line.startswith("error: dataset.root is missing: add dataset.root=the folder that holds train/ and val/")


def test_a_computed_table_runs_nothing(run, pipeline, tmp_path):
    status, _, err = run("experiment=table2", "scale=smoke")
    assert (status, err, pipeline.settings, cells(tmp_path, "table2")) == (0, [], [], [])


def test_a_failure_is_in_its_cell_with_its_traceback_and_the_others_are_done(run, pipeline, tmp_path):
    pipeline.raises[4] = ValueError("odd")
    status, _, err = run(*TABLE3, "model=deit_tiny", "method=adalog")
    assert status == 1 and err[-1].startswith("error: ValueError: odd")
    (failed,) = [cell for cell in cells(tmp_path) if cell.state == FAILED]
    assert failed.overrides["bits"] == "4" and "odd" in failed.reason and "stand_in" in failed.traceback
    assert by_state(tmp_path, DONE, "bits") == {("3",)}


def test_a_batch_with_a_failure_does_not_stop_the_next(run, pipeline):
    pipeline.raises[3] = SystemExit(2)
    run("-m", "base_quantizer=rtn", "allocator=uniform", "bits=3,4,5", "hydra.sweeper.max_batch_size=1")
    assert [int(settings.budget.weight_bits) for settings in pipeline.settings] == [3, 4, 5]


def test_every_cell_is_planned_before_the_first_job(run, pipeline, tmp_path):
    states = []

    class Interrupting(dict):
        def get(self, key):
            states.append([cell.state for cell in cells(tmp_path)])
            raise KeyboardInterrupt

    pipeline.raises = Interrupting()
    status, _, err = run(*TABLE3, "model=deit_tiny", "method=adalog,lampq")
    assert status == 130 and err[-1].startswith("interrupted")
    assert states[0].count(PLANNED) == 3 and len(states) == 1


def test_cells_are_small_readable_files(run, pipeline, tmp_path):
    run(*TABLE3, "model=deit_tiny", "method=adalog", "bits=3")
    (path,) = (tmp_path / "results" / "experiments" / "table3").glob("*.json")
    stored = json.loads(path.read_text())
    assert stored["overrides"]["method"] == "adalog" and stored["command"].startswith("run.py experiment=table3")


def test_cells_lie_with_their_runs_under_the_home_folder_too(run, pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    places = ("paths.results='~/elsewhere'", "hydra.sweep.dir=sweep")
    status, _, err = run("-m", "base_quantizer=rtn", "seed=1,2", *places, results_here=False)
    assert (status, err) == (0, [])
    assert [s.results for s in pipeline.settings] == [tmp_path / "home" / "elsewhere"] * 2
    assert [c.state for c in read_cells(tmp_path / "home" / "elsewhere", "unnamed")] == [DONE, DONE]


def test_a_pattern_matches_one_value_or_one_of_several():
    values = {"bits": "3", "method": "optq"}
    assert _matches(values, {"bits": 3, "method": ["optq", "erq"]}) and _matches(values, {})
    assert not _matches(values, {"bits": 4, "method": ["optq"]}) and not _matches(values, {"model": "x"})
