"""The grid over hyperparameters: ranked on D alone, what it cost, its winner as a preset."""

import csv

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from experiments.frame import frame
from experiments.grid import grid_table, searches, write_preset
from lampq.launch.cells import FAILED
from lampq.launch.command_line import config_folder
from tests.experiments.results_folder import searched_plan


def point(results, overrides="", model="deit_tiny", bits="bits=3", **changes):
    """A finished point of the grid, mu=0.5, bit set b2345, gamma=4, beta=2 unless overridden."""
    values = {"lampq.mu": "0.5", "bit_set": "b2345", "lampq.gamma": "4", "lampq.beta": "2"}
    values |= dict(o.split("=") for o in overrides.split())
    asked = " ".join(f"{key}={value}" for key, value in values.items())
    return results.measured("grid", f"model={model} {bits} {asked}", outcomes=None, **changes)


def only_search(results):
    (search,) = searches(frame(results.path, ["grid"]))
    return search


def test_points_are_ranked_by_accuracy_on_d_and_then_by_loss(results):
    point(results, "lampq.gamma=2", sample_top1=60.0, sample_loss=1.5)
    point(results, "lampq.gamma=4", sample_top1=61.0, sample_loss=1.9)
    point(results, "lampq.gamma=6", sample_top1=61.0, sample_loss=1.8)
    point(results, "lampq.gamma=8", sample_top1=59.0, sample_loss=1.0)
    search = only_search(results)
    assert search.rows["lampq.gamma"].tolist() == ["6", "4", "2", "8"]
    table = grid_table(search)
    assert [row[3] for row in table.body] == ["6", "4", "2", "8"]
    assert [row[0] for row in table.body] == ["1", "2", "3", "4"]
    assert table.body[0][5:7] == ["61.00", "1.8000"]


def test_validation_accuracy_does_not_matter(results):
    for gamma, top1, sample_top1 in (("2", 90.0, 50.0), ("4", 10.0, 51.0)):
        folder = results.run(sample_top1=sample_top1, top1=top1)
        overrides = f"model=deit_tiny bits=3 lampq.mu=1 bit_set=b2345 lampq.beta=2 lampq.gamma={gamma}"
        results.cell("grid", overrides, run=folder.name)
    assert only_search(results).best.asked["lampq.gamma"] == "4"


def test_readers_see_ten_points_and_programs_all(results):
    for gamma in range(12):
        point(results, f"lampq.gamma={gamma}", sample_top1=50.0 + gamma)
    table = grid_table(only_search(results))
    assert [row[3] for row in table.body] == [str(gamma) for gamma in range(11, 1, -1)]
    table.write(results.path)
    rows = list(csv.DictReader((results.path / "grid_deit_tiny_w3.csv").open()))
    assert [row["lampq.gamma"] for row in rows] == [str(gamma) for gamma in range(11, -1, -1)]


def test_only_the_largest_sample_set_counts(results):
    point(results, "lampq.gamma=2 scale=smoke", sample_images=64, sample_top1=99.0)
    point(results, "lampq.gamma=4 scale=full", sample_images=1024, sample_top1=60.0)
    point(results, "lampq.gamma=6 scale=full", sample_images=1024, sample_top1=61.0)
    table = grid_table(only_search(results))
    assert [row[3] for row in table.body] == ["6", "4"]
    assert table.title.endswith("D of 1024 images")


def test_what_failed_or_did_not_search_is_no_point(results):
    results.cell("grid", "model=deit_tiny bits=3 lampq.gamma=2", FAILED, reason="no card")
    assert searches(frame(results.path, ["grid"])) == []


def test_a_run_that_two_cells_led_to_is_one_point(results):
    run = point(results, "scale=full")
    asked = "model=deit_tiny bits=3 lampq.mu=0.5 bit_set=b2345 lampq.gamma=4 lampq.beta=2 scale=other"
    results.cell("grid", asked, run=run.name)
    table = grid_table(only_search(results))
    assert len(table.body) == len(table.records) == 1
    assert any("1 different points" in remark for remark in table.remarks)


def test_a_single_run_under_the_experiments_name_is_no_point(results):
    results.measured("grid", "model=deit_tiny bits=3 lampq.gamma=2", outcomes=None)
    assert searches(frame(results.path, ["grid"])) == []


def test_models_and_targets_are_searches_of_their_own(results):
    point(results)
    point(results, model="deit_small")
    point(results, bits="bits=4")
    point(results, bits="weight_bits=4 activation_bits=8")
    found = {search.name for search in searches(frame(results.path, ["grid"]))}
    assert found == {"deit_tiny_w3", "deit_small_w3", "deit_tiny_w4", "deit_tiny_w4a8"}


def test_the_cost_is_told_beside_that_of_one_run(results):
    one, other = searched_plan(2), searched_plan(3)
    point(results, "lampq.gamma=2", seconds_total=100.0, seconds_plans=80.0, seconds_cold=100.0, plan=one)
    point(results, "lampq.gamma=4", seconds_total=10.0, seconds_plans=0.0, seconds_cold=90.0, plan=one)
    point(results, "lampq.gamma=6", seconds_total=40.0, seconds_plans=20.0, seconds_cold=110.0, plan=other)
    cost = "\n".join(grid_table(only_search(results)).remarks)
    assert "3 different points" in cost and "2 different plans" in cost
    assert "2 min 30 s for all points together, of which 1 min 40 s went into measuring plans" in cost
    assert "0.5 times one LampQ run with nothing on disk (90.0 s to 1 min 50 s, median 1 min 40 s)" in cost
    assert "would have taken 5 min 00 s, 2.0 times as long" in cost
    assert "an abacus" in cost and "commit abcdef123456" in cost


@pytest.mark.parametrize(
    ("bits", "told"), [("bits=3", "bits=3"), ("weight_bits=4 activation_bits=8", "weight_bits=4 activation_bits=8")]
)
def test_the_command_of_the_preset_is_told(results, bits, told, monkeypatch):
    point(results, bits=bits)
    search = only_search(results)
    for folder, typed in ((results.path, "."), (results.path.parent, "results"), (results.path / "runs", results.path)):
        monkeypatch.chdir(folder)
        presets = "presets" if typed == "." else f"{typed}/presets"
        command = f"`python run.py --config-dir {presets} lampq={search.name} model=deit_tiny {told}`"
        assert any(command in remark for remark in grid_table(search).remarks)


@pytest.mark.parametrize(
    ("bits", "name"), [("bits=3", "w3"), ("bits=3.5", "w3.5"), ("weight_bits=4 activation_bits=8", "w4a8")]
)
def test_the_winner_is_a_preset_that_hydra_composes(results, bits, name):
    point(results, "lampq.mu=0.25 lampq.gamma=15 lampq.beta=3 bit_set=b1234", bits=bits, sample_top1=70.0)
    point(results, bits=bits, sample_top1=60.0)
    path = write_preset(only_search(results), results.path)
    assert path == results.path / "presets" / "lampq" / f"deit_tiny_{name}.yaml"
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        searchpath = f"hydra.searchpath=[file://{results.path / 'presets'}]"
        cfg = hydra.compose("config", overrides=[searchpath, f"lampq=deit_tiny_{name}"])
        plain = hydra.compose("config")
    assert dict(cfg.lampq) == {"mu": 0.25, "beta": 3, "gamma": 15}
    assert cfg.bit_set.bits == [1, 2, 3, 4]
    allocator = OmegaConf.to_container(cfg.allocator, resolve=True)
    assert (allocator["mu"], allocator["beta"], allocator["gamma"]) == (0.25, 3, 15)
    assert cfg.model == plain.model and cfg.bits == plain.bits, "nothing else changes"


def test_a_preset_says_where_it_comes_from(results):
    run = point(results, sample_top1=61.5)
    text = write_preset(only_search(results), results.path).read_text()
    assert run.name in text and "61.50 %" in text and set(yaml.safe_load(text)) == {"defaults", "lampq"}
