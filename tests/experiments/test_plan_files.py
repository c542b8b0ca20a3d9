"""Plans by what a user types."""

import pytest

from experiments.plan_files import find_plan, run_of
from lampq.errors import LampQError


def test_a_plan_is_found_by_its_path_its_folder_and_its_fingerprint(results):
    run = results.run()
    plan = run / "plan.json"
    for text in (str(plan), str(run), run.name):
        assert find_plan(text, results.path) == plan
    assert run_of(plan).fingerprint == run.name


def test_the_beginning_of_a_fingerprint_is_enough_where_it_is_the_only_one(results):
    first, other = results.run(), results.run()
    assert find_plan(first.name[:8], results.path).parent == first
    other.rename(other.with_name(first.name[:8] + other.name[8:]))
    with pytest.raises(LampQError, match="2 runs begin so"):
        find_plan(first.name[:8], results.path)


@pytest.mark.parametrize("text", ["abcdef", "0", "../x", "**", "nowhere/plan.json"])
def test_what_is_no_plan_is_one_line(results, text):
    results.run()
    with pytest.raises(LampQError, match="no plan; give a plan") as caught:
        find_plan(text, results.path)
    assert str(caught.value).startswith(f"{text}: ") and "\n" not in str(caught.value)


def test_a_plan_by_itself_or_of_an_unfinished_run_has_no_run(results, tmp_path):
    run = results.run()
    for file in ("digests.json", "metrics.json"):
        (run / file).unlink()
    assert run_of(run / "plan.json") is None
    (run / "plan.json").rename(tmp_path / "w3.json")
    assert run_of(tmp_path / "w3.json") is None
