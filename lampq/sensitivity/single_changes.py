"""What single changes of bits do to the loss in the quantized model, beside what metrics say that they do.

From equal bits, each layer in turn gets one bit more and one bit less, and the plan is scored on D: the truth that the
order of swaps, or a plan's predicted loss, stands or falls with.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lampq.errors import LampQError
from lampq.limits import choice, shown
from lampq.parts import Part, setting
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from lampq.plan.groups import pinned
from lampq.plan.sites import Site
from lampq.sensitivity.context import Context, equal_bits
from lampq.sensitivity.expected_error import cost_of_less_bits, expected_ratios, gain_of_more_bits
from lampq.sensitivity.measured_changes import measured_changes
from lampq.sensitivity.measurement import Measurement
from lampq.sensitivity.metric import metrics
from lampq.sensitivity.reconstruction_error import errors_at
from lampq.tasks.score import mean_and_error
from lampq.workbench import Workbench

SWAPS = "reconstruction_with_rho"
"""What Algorithm 1 orders its swaps by: L_recon in the model at the plan, and the ratios rho of Lemma 3."""

Changes = Mapping[tuple[Site, int], BitPlan]
"""Plans with one layer at other bits, by the layer and these."""


def some_predictors(key: str, value: Any) -> list[str]:
    """Names of metrics, or `SWAPS`, each once.

    Raises:
        LampQError: no list, or a name of none.
    """
    if isinstance(value, str) or not value:
        raise LampQError(f"{key}={shown(value)}: must be a list of metrics, for example [context, output_fisher]")
    return list(dict.fromkeys(choice(key, name, [*metrics(), SWAPS]) for name in value))


class SingleChanges(Part, Measurement):
    """Score equal bits on D, then each layer with its next more and its next fewer bits of the bit set.

    Args:
        predicted_by: what foretells each change: metrics by name (the layer's score at its new bits less that at its
            old ones; where a metric can be taken in the model at the plan, that comes beside it), ``reconstruction``
            being L_recon in the model at the plan, or ``reconstruction_with_rho`` (see `SWAPS`).
        change_images: the first so many images of D that changes are scored on; None: all.
    """

    group = "sensitivity"
    name = "single_changes"
    revision = 1
    searches = True
    uses_budget = True
    at_a_plan = True

    predicted_by: list[str] = setting(
        ("reconstruction", SWAPS, "fisher", "output_fisher", "context"), check=some_predictors
    )
    change_images: int | None = setting(None, minimum=1)

    def target(self, budget: Budget) -> tuple[float, float]:
        return float(budget.weight_bits), float(budget.activation_bits)

    def measure(self, workbench: Workbench, budget: Budget) -> list[dict[str, Any]]:
        """Change of the loss by each single change, and what was foretold.

        Returns:
            A row a change: `unit` (``changes``), `name`, `type`, `block`, `bits_before`, `bits`; `loss_increase` (nats,
            below 0 where the loss falls) with its paired standard error; then each prediction, in its own unit.

        Raises:
            LampQError: equal bits are not in the bit set, or every layer is pinned.
        """
        plan, sites = equal_bits(workbench, budget), workbench.adapter.sites
        target, pins = int(budget.weight_bits), pinned(budget.chosen(sites), budget.pins)
        if target not in budget.candidates:
            raise LampQError(
                f"bit_set.bits={list(budget.candidates)}: sensitivity=changes starts from equal bits, and {target} are "
                "not among these; add them, or choose another target"
            )
        bits, others = plan.layer_bits(), {}
        for site in workbench.layers:
            if site.name in pins:
                continue
            place = budget.candidates.index(bits[site.name])
            for near in (place - 1, place + 1):
                if 0 <= near < len(budget.candidates):
                    b = budget.candidates[near]
                    others[site, b] = budget.plan(sites, {**bits, site.name: b})
        if not others:
            raise LampQError("pins: keep every layer, and sensitivity=changes has nothing to change; pin fewer")
        measured = measured_changes(workbench, plan, others, self.change_images)
        predictions: dict[str, Mapping[tuple[Site, int], float]] = {}
        for name in self.predicted_by:
            predictions |= _predictions(name, workbench, budget, plan, others)
        rows = []
        for (site, b), change in measured.items():
            increase, error = mean_and_error(change)
            row = {"unit": "changes", "name": site.name, "type": site.type, "block": site.block}
            row |= {"bits_before": bits[site.name], "bits": b}
            row |= {"loss_increase": increase, "loss_increase_standard_error": error}
            rows.append(row | {name: of[site, b] for name, of in predictions.items()})
        return rows

    def metrics(self, rows: list[dict[str, Any]], workbench: Workbench) -> dict[str, float]:
        """How many images of D, and how many changes."""
        return {"sample_images": workbench.evaluator.on_first(self.change_images).images, "changes": len(rows)}


def _predictions(
    name: str, workbench: Workbench, budget: Budget, plan: BitPlan, others: Changes
) -> dict[str, dict[tuple[Site, int], float]]:
    """What a metric says of each change, by what the column is called."""
    bits = plan.layer_bits()
    if name in ("reconstruction", SWAPS):
        return {name: _by_errors(name == SWAPS, workbench, budget, plan, others)}

    def differences(scores: Callable[..., Mapping[str, Mapping[int, float]]], *given: Any) -> dict:
        found = scores(workbench, budget, *given)
        return {(site, b): found[site.name][b] - found[site.name][bits[site.name]] for site, b in others}

    metric = metrics()[name]()
    if name == Context.name:
        return {name: differences(metric.scores, plan)}
    at_plan = {}
    if "plan" in inspect.signature(metric.scores).parameters:
        at_plan = {f"{name}_at_the_plan": differences(metric.scores, plan)}
    return {name: differences(metric.scores)} | at_plan


def _by_errors(
    expected: bool, workbench: Workbench, budget: Budget, plan: BitPlan, others: Changes
) -> dict[tuple[Site, int], float]:
    """By L_recon in the model at the plan: at both bits, or at those of the plan with rho."""
    bits, ratios = plan.layer_bits(), expected_ratios()
    wanted: dict[Site, list[Bits]] = {}
    for (site, _), other in others.items() if not expected else ():
        wanted.setdefault(site, []).append(other[site.name].bits)
    errors = errors_at(plan, workbench, budget, workbench.scored_model(), wanted)
    changes = {}
    for (site, b), other in others.items():
        now, before = errors[site.name][0], bits[site.name]
        if not expected:
            changes[site, b] = errors[site.name][1 + wanted[site].index(other[site.name].bits)] - now
        elif b > before:
            changes[site, b] = -gain_of_more_bits(now, before, b, ratios)
        else:
            changes[site, b] = cost_of_less_bits(now, before, b, ratios)
    return changes
