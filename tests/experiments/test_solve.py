"""Scored once, solved for many budgets: plan files that can be applied, a table, mistakes in one line."""

import pytest

from experiments.__main__ import main
from lampq.allocation.from_plan import FromPlan
from lampq.allocation.stored_scores import stored_scores
from lampq.plan.bit_plan import BitPlan
from tests.experiments.results_folder import scored_plan


@pytest.fixture
def solved(results, capsys):
    """Runs the command on a scored plan: its exit status, output and errors."""
    run = results.run(plan=scored_plan(blocks=4))

    def command(*arguments):
        status = main(["solve", run.name, "--results", str(results.path), *arguments])
        return status, *capsys.readouterr()

    return command


def test_a_plan_a_target_within_its_budget(solved, results):
    status, out, _ = solved("--bits", "2.5", "3", "3.75")
    assert status == 0
    folder = next((results.path / "solved").iterdir())
    averages = []
    for name, target in (("w2.5", 2.5), ("w3", 3), ("w3.75", 3.75)):
        plan = FromPlan(str(folder / f"{name}.json")).plan
        layers = [s for s in plan.sites if s.allocated]
        averages.append(sum(s.parameters * s.weight_bits for s in layers) / sum(s.parameters for s in layers))
        assert averages[-1] <= target and plan.budget["weight_bits"] == target
        assert f"{averages[-1]:.4f}" in out and str(folder / f"{name}.json") in out
    assert averages == sorted(averages) and averages[-1] > 3.5
    assert BitPlan.read(folder / "w3.json").layer_bits() == scored_plan(blocks=4).layer_bits()
    assert "allocator=from_plan" in out and "without importing torch" in out


def test_each_budget_takes_less_than_a_second(solved):
    _, out, _ = solved("--bits", "2.5", "3", "3.5", "4")
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert len(rows) == 4 and all(float(row[8]) < 1 for row in rows)


def test_bit_set_and_folder_are_taken(solved, tmp_path):
    status, _, _ = solved("--bits", "3", "--bit-set", "2,4", "--out", str(tmp_path / "plans"))
    assert status == 0
    assert set(BitPlan.read(tmp_path / "plans" / "w3.json").layer_bits().values()) == {2, 4}


def test_a_solved_plan_is_explained_by_the_same_scores(solved, tmp_path, capsys):
    solved("--bits", "4", "--out", str(tmp_path))
    price = stored_scores(BitPlan.read(tmp_path / "w4.json")).price()
    assert main(["explain", str(tmp_path / "w4.json")]) == 0
    assert f"{price:.3e} a weight bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bits", "many"], "--bits many: must be a number of bits"),
        (["--bits", "0.5"], "--bits 0.5: must be a number of bits"),
        (["--bits", "1.5"], "below the smallest achievable average"),
        (["--bits", "6"], "cannot be spent on bit_set=[2, 3, 4, 5]"),
        (["--bits", "3", "--bit-set", "2,x"], "--bit-set"),
        (["--bits", "3", "--bit-set", "2,17"], "--bit-set"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(solved, results, arguments, words):
    status, out, err = solved(*arguments)
    assert status == 1 and out == "" and err.startswith("error: ") and words in err and err.count("\n") == 1
    assert not (results.path / "solved").exists()


def test_a_plan_without_scores_is_refused(results, capsys):
    run = results.run()
    plan = BitPlan.read(run / "plan.json")
    BitPlan(plan.sites, plan.budget, {"allocator": "random"}).write(run / "plan.json")
    assert main(["solve", run.name, "--results", str(results.path), "--bits", "3"]) == 1
    assert "allocator=random left none" in capsys.readouterr().err
