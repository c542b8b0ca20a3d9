"""Greedy descent: from the most bits down, always the layer whose bits cost least loss for what they save."""

import logging
import math
from collections.abc import Sequence

from lampq.allocation.base import Allocator
from lampq.allocation.search_space import SearchSpace
from lampq.parts import setting
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.plan.groups import Group
from lampq.progress import progress
from lampq.sensitivity.metric import metric_name, metrics
from lampq.sensitivity.scores import Scores, by_text
from lampq.workbench import Workbench

log = logging.getLogger(__name__)


def ranked_steps(groups: Sequence[Group], bits: dict[str, int], scores: Scores) -> list[Group]:
    """The groups that can go down, those first whose score rises least for what they save of the budget.

    Args:
        bits: of each group now, by its name.
        scores: the screen's, by layer and bits.
    """

    def price(group: Group) -> float:
        now = bits[group.name]
        low = group.next_less(now)
        rise = math.fsum(scores[s.name][low] - scores[s.name][now] for s in group.layers)
        return per_unit(rise, group.spending[now] - group.spending[low])

    return sorted((g for g in groups if g.next_less(bits[g.name]) is not None), key=price)


def per_unit(rise: float, saved: int) -> float:
    """A rise for each unit of the budget saved; infinite where nothing is saved or the loss is not a number."""
    return math.inf if math.isnan(rise) or not saved else rise / saved


class Greedy(Allocator):
    """Lower one layer after another until the budget holds.

    All layers start at the most bits of the bit set. In each step every layer (or group of tied layers) that can goes
    down to its next smaller bit-width on trial, and the one with the least ``(loss increase) / (weight bits saved)``
    (or bytes, or bit operations, whatever is limited) keeps it. To measure the
    loss increase of every layer in every step takes thousands of passes over D, so a screen that was measured once
    puts the layers in order, and only the first few are tried on D.

    MPTQ-ViT (Tai & Wu 2024) allocates by such a descent, "Greedy MP", under a measure of performance and
    compressibility; its abstract says no more, the ratio, the screen and the steps are our reading of it.

    Args:
        screen: the metric that puts the layers in order, by its increase per weight bit saved.
        evaluate: layers of the screen that are tried on D in each step; 1 leaves the choice to the screen.
        max_evaluations: plans scored on D after the first one, at most; None is no limit. When they are used up, the
            descent goes on by the screen alone.
    """

    name = "greedy"

    screen: str = setting("output_fisher", check=metric_name)
    evaluate: int = setting(3, minimum=1)
    max_evaluations: int | None = setting(None, minimum=0, key="max_evaluations", identity="changed")

    @property
    def chooses_sites(self) -> bool:
        return metrics()[self.screen].scores_sites

    @property
    def only_layers(self) -> str:
        return f"orders layers by allocator.screen={self.screen}, which scores nothing else (output_fisher does)"

    def unused(self) -> set[str]:
        return {"max_evaluations"} if self.evaluate == 1 else set()

    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Descend from the most bits.

        Raises:
            LampQError: no plan keeps the budget, or the base quantizer is not defined at a bit-width of the bit set.
        """
        workbench.bank.check_bits("bit_set", *budget.candidates)
        space = SearchSpace.open(workbench, budget)
        scores = space.scored(metrics()[self.screen](), workbench, budget)

        bits = {group.name: group.bits[-1] for group in space.groups}
        spent, steps = space.spent(bits), []
        bar = progress(description="greedy descent", total=max(spent - space.room, 0), unit=space.unit)
        while spent > space.room:
            ranked = ranked_steps(space.groups, bits, scores)
            group, losses = self._choose(workbench, budget, space, bits, ranked, steps)
            low = group.next_less(bits[group.name])
            saved = group.spending[bits[group.name]] - group.spending[low]
            bits[group.name] = low
            spent -= saved
            steps.append({"layer": group.name, "bits": low, "saved": saved, "losses": losses})
            bar.update(saved)
        bar.close()
        alone = sum(not step["losses"] for step in steps)
        log.info("greedy: %d steps, %d of them by the screen alone", len(steps), alone)
        origin = {"allocator": self.name, "settings": self.settings(), "screen": by_text(scores)}
        origin |= {"steps": steps, "steps_by_the_screen_alone": alone}
        plan = budget.plan(workbench.adapter.sites, space.layer_bits(list(bits.values())), origin)
        return plan.with_scores(space.comparable(scores, budget))

    def _choose(
        self,
        workbench: Workbench,
        budget: Budget,
        space: SearchSpace,
        bits: dict[str, int],
        ranked: list[Group],
        steps: list[dict],
    ) -> tuple[Group, dict[str, float]]:
        """The group of the next step, and the mean losses on D (nats) of those that were tried, if any."""
        count = min(self.evaluate, len(ranked))
        if self.max_evaluations is not None:
            count = min(count, self.max_evaluations - sum(len(step["losses"]) for step in steps))
        if count < 2:  # nothing to compare
            return ranked[0], {}
        if steps:
            now = steps[-1]["losses"][steps[-1]["layer"]]
        else:
            (now,) = self._losses(workbench, budget, space, bits, [{}])
        # The screen's favourite last: the evaluator holds on to what the last plan scored left behind.
        tried = ranked[:count][::-1]
        changes = [{g.name: g.next_less(bits[g.name])} for g in tried]
        after = self._losses(workbench, budget, space, bits, changes)
        losses = {g.name: loss for g, loss in zip(tried, after, strict=True)}

        def price(group: Group) -> float:
            now_bits = bits[group.name]
            saved = group.spending[now_bits] - group.spending[group.next_less(now_bits)]
            return per_unit(losses[group.name] - now, saved)

        return min(ranked[:count], key=price), losses

    def _losses(
        self,
        workbench: Workbench,
        budget: Budget,
        space: SearchSpace,
        bits: dict[str, int],
        changes: list[dict[str, int]],
    ) -> list[float]:
        """Mean loss on D, in nats, of plans that differ from `bits` by each of the changes (bits of groups)."""
        sites, losses = workbench.adapter.sites, []

        def plan_of(group_bits: dict[str, int]) -> BitPlan:
            return budget.plan(sites, space.layer_bits(list(group_bits.values())))

        workbench.evaluator.set_base(plan_of(bits))
        for change in changes:
            plan = plan_of({**bits, **change})
            workbench.bank.calibrate(plan)
            losses.append(workbench.evaluator.score(plan, keep=True).mean_loss)
        return losses
