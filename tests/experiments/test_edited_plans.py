"""Plans edited by hand: every reader works on them, or refuses them in one line; none fails in another way."""

import json

import pytest

from experiments.diff import diff
from experiments.solve import solve
from lampq.allocation.from_plan import FromPlan
from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.report.explanation import explanation
from tests.experiments.results_folder import scored_plan

ODD = (None, "x", -1, 1e300, float("nan"), 10**400, [], {}, True)
"""What stands in place of each value."""


def scored_by(**origin):
    """A plan of one block with pins, ties and a history, and other scores where given."""
    plan = scored_plan(1, swaps=[_swap(True), _swap(False)]).to_json()
    plan["budget"] |= {"pins": [["blocks.0.fc2", 3]], "ties": [["blocks.0.qkv", "blocks.0.proj"]], "image_bits": 8}
    plan["origin"] |= {"judged": "top1", **origin}
    return plan


def unbound(**origin):
    """The same without pins and ties, which modules would contradict."""
    plan = scored_by(**origin)
    for name in ("pins", "ties"):
        plan["budget"].pop(name)
    return plan


def _swap(accepted):
    swap = {"up": "blocks.0.qkv", "down": "blocks.0.fc2", "accuracy": 0.5, "loss": 1.0, "accepted": accepted}
    return swap | {"accuracy_before": 0.25}


ROW = {"2": 4.0, "3": 3.0, "4": 2.0, "5": 1.0}
PLANS = {
    "omega": lambda: scored_by(),
    "by bits": lambda: scored_by(scores={f"blocks.0.{t}": dict(ROW) for t in ("qkv", "proj", "fc1", "fc2")}),
    "by module": lambda: unbound(omega={"0 MSA": dict(ROW), "0 MLP": dict(ROW)}),
}


def places(value, path=()):
    """Paths to every value of JSON, containers as well."""
    if path:
        yield path
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(each, (*path, key))


def edits(make):
    """The plan with one value replaced, one key left out, or one key too many; of alike layers, the first's."""
    for *path, last in places(make()):
        if {3, 4, "blocks.0.proj", "blocks.0.fc1", "3", "4"} & {*path, last}:
            continue
        for odd in (*ODD, "left out", "twice"):
            plan = target = make()
            for key in path:
                target = target[key]
            if odd == "left out":
                del target[last]
            elif odd == "twice":
                if isinstance(target, list):
                    target.append(target[last])
                else:
                    target[f"{last}_"] = target[last]
            else:
                target[last] = odd
            yield (*path, last, odd), plan


@pytest.mark.parametrize("kind", PLANS)
def test_every_edit_works_or_is_one_line(tmp_path, kind):
    path, whole = tmp_path / "plan.json", tmp_path / "whole.json"
    whole.write_text(json.dumps(PLANS[kind]()))
    readers = {
        "explain": lambda: explanation(BitPlan.read(path)),
        "solve": lambda: solve(path, ["3.5"], None, tmp_path / "solved"),
        "diff": lambda: diff(whole, path),
    }
    explanation(BitPlan.read(whole)), solve(whole, ["3.5"], None, tmp_path / "solved")
    refused = 0
    for edit, plan in edits(PLANS[kind]):
        path.write_text(json.dumps(plan))
        try:
            FromPlan(str(path))
        except LampQError as error:
            assert "\n" not in str(error) and len(str(error)) < 500, edit
            refused += 1
            continue
        for name, read in readers.items():
            try:
                read()
            except LampQError as error:
                assert "\n" not in str(error) and name != "explain", (edit, str(error))
            except Exception as error:
                pytest.fail(f"{name}, {edit}: {type(error).__name__}: {error}")
    assert refused > 300


@pytest.mark.parametrize("content", ["[" * 100_000, '{"sites":' * 5000, "1" + "0" * 5000, "NaN"])
def test_what_is_nested_too_deeply_or_too_long_is_one_line(tmp_path, content):
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(LampQError, match="is not a bit plan"):
        BitPlan.read(path)


def test_what_is_no_file_is_one_line(tmp_path):
    with pytest.raises(LampQError, match="is no file"):
        BitPlan.read(tmp_path)


@pytest.mark.parametrize("value", [None, 3, ["a"], ""])
def test_a_path_that_is_no_text_is_one_line(value):
    with pytest.raises(LampQError, match=r"allocator\.plan="):
        FromPlan(value)
