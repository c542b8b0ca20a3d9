"""Scored once, solved for many budgets: `python -m experiments solve PLAN --bits 2.5 3 3.5`."""

import time
from fractions import Fraction
from pathlib import Path

from lampq.allocation.stored_scores import stored_scores
from lampq.errors import LampQError
from lampq.limits import integer
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import FULL_PRECISION_BITS
from lampq.plan.sites import LAYER_TYPES


def solve(path: Path, targets: list[str], bit_set: str | None, folder: Path) -> str:
    """Solve for every target, write a plan file for each, and tell of them in a table.

    Args:
        path: the plan whose scores are used.
        targets: average weight bits, as typed.
        bit_set: bits that a layer may get, with commas between them; None is the plan's own set.
        folder: where ``wBITS.json`` are written, for ``allocator=from_plan``.

    Raises:
        LampQError: the plan has no scores, a target or a bit-width is none, or no plan keeps a target.
    """
    scores = stored_scores(BitPlan.read(path))
    candidates = None if bit_set is None else tuple(integer("--bit-set", _whole(b), 1, 16) for b in bit_set.split(","))
    asked = [_target(text) for text in targets]
    rows = []
    for target in dict.fromkeys(asked):
        started = time.perf_counter()
        plan = scores.solve(target, candidates)
        seconds = time.perf_counter() - started
        rows.append((target, plan, seconds))
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{scores.metric}, scored in {path}; seconds are the solver's, without importing torch and reading the plan",
        "",
        f"{'bits':>6}  {'average':>8}  {'total cost':>11}  {'changed':>7}  "
        + "  ".join(f"{layer_type:>5}" for layer_type in LAYER_TYPES)
        + f"  {'seconds':>7}  plan",
    ]
    before = scores.plan
    for target, plan, seconds in rows:
        file = folder / f"w{float(target):.12g}.json"
        plan.write(file)
        layers = [s for s in plan.sites if s.allocated]
        changed = sum(s.weight_bits != before[s.name].weight_bits for s in layers)
        by_type = "  ".join(_average([s for s in layers if s.type == t]) for t in LAYER_TYPES)
        lines.append(
            f"{float(target):>6g}  {_average(layers, 8, 4)}  {plan.origin['objective']:>11.4e}  {changed:>7}  {by_type}"
            f"  {seconds:>7.3f}  {file}"
        )
        before = plan
    lines += [
        "",
        "average and qkv ... fc2: weight bits; changed: layers with other bits than in the line above (first: than in "
        "the plan).",
        f"python run.py allocator=from_plan allocator.plan={folder}/w{float(rows[0][0]):.12g}.json ... evaluates one.",
    ]
    return "\n".join(lines)


def _average(layers: list, width: int = 5, digits: int = 2) -> str:
    weights = sum(s.parameters for s in layers)
    average = (
        sum(s.parameters * (s.weight_bits or FULL_PRECISION_BITS) for s in layers) / weights
        if weights
        else float("nan")
    )
    return f"{average:>{width}.{digits}f}"


def _target(text: str) -> Fraction:
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 1 <= value <= 16:
        raise LampQError(f"--bits {text}: must be a number of bits from 1 to 16, for example 3.5")
    return value


def _whole(text: str) -> int | str:
    return int(text) if text.strip().isdigit() else text
