"""`python -m experiments explain`: the reasons of a plan that is named in any way."""

from experiments.__main__ import main
from tests.experiments.results_folder import scored_plan


def test_the_command(results, capsys):
    run = results.run(plan=scored_plan())
    assert main(["explain", run.name, "--results", str(results.path)]) == 0
    assert "price of the budget" in capsys.readouterr().out
    assert main(["explain", "abcdef", "--results", str(results.path)]) == 1
    assert capsys.readouterr().err.startswith("error: abcdef: no plan")
