"""The control: random bits within the budget, what any search has to beat."""

import logging

import numpy as np
import torch

from lampq.allocation.base import Allocator
from lampq.allocation.search_space import SearchSpace, together
from lampq.allocation.solvers.allocation_problem import AllocationProblem
from lampq.parts import setting
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.workbench import Workbench

log = logging.getLogger(__name__)


class RandomPlan(Allocator):
    """A random plan that spends the budget, nothing measured.

    Each layer (or group of tied layers) draws one bit-width of the bit set, all alike and independent of the others.
    While the plan is above the budget, one of the layers that still can, each as likely as another, goes down to its
    next smaller bit-width. Then, as long as some layer's next larger bit-width fits into what is left, one of these
    layers, each as likely as another, goes up to it. No layer can be raised any more in the plan that results; large
    and small layers are treated alike.

    It counts as a workbench, although it chooses by nothing: it uses the bit set, and its plan is scored on D, so that
    it stands beside the others with the same figures.

    Args:
        draw: number of the plan among those that a seed gives; each is drawn by itself.
    """

    name = "random"
    scores_inputs = True
    chooses_sites = True
    several_limits = True

    draw: int = setting(0, minimum=0, maximum=9999)

    def allocate(self, workbench: Workbench, budget: Budget) -> BitPlan:
        """Draw the plan.

        Raises:
            LampQError: no plan keeps the budget, or the base quantizer is not defined at a bit-width of the bit set.
        """
        workbench.bank.check_bits("bit_set", *budget.candidates, *budget.input_candidates)
        parts, generator = [], generator_of(workbench.seed, self.draw)
        for space in SearchSpace.each(workbench, budget):
            nothing = {name: dict.fromkeys(space.bits, 0.0) for name in space.options}
            problem = space.problem(space.costs(nothing))
            parts.append(space.pairs(problem.bits_of(random_choice(problem, generator))))
        chosen = together(parts)
        origin = {"allocator": self.name, "settings": self.settings()}
        plan = budget.plan_of(workbench.adapter.sites, chosen, origin)
        workbench.bank.calibrate(plan)
        score = workbench.evaluator.score(plan)
        origin |= {"accuracy": score.accuracy, "loss": score.mean_loss}
        log.info("random plan %d of seed %d: mean loss %.4f on D", self.draw, workbench.seed, score.mean_loss)
        return budget.plan_of(workbench.adapter.sites, chosen, origin)


def generator_of(seed: int, draw: int) -> torch.Generator:
    """Random numbers of draw number `draw` of a seed; those of other draws have nothing to do with them."""
    seeds = torch.randint(2**62, (draw + 1,), generator=torch.Generator().manual_seed(seed))
    return torch.Generator().manual_seed(int(seeds[draw]))


def random_choice(problem: AllocationProblem, generator: torch.Generator) -> list[int]:
    """A plan as `RandomPlan` says: the column of each layer, within the budget, with no room for a further step.

    Args:
        problem: its costs do not matter, but for those that are infinite: such bit-widths are not drawn.
        generator: on the CPU.
    """
    every = np.arange(len(problem.units))
    allowed = [np.flatnonzero(row) for row in np.isfinite(problem.costs)]
    counts = np.array([len(columns) for columns in allowed])
    # Positions among a layer's own columns; layers that have as many draw together.
    at = np.zeros_like(every)
    for count in sorted(set(counts.tolist()) - {1}):
        alike = np.flatnonzero(counts == count)
        at[alike] = torch.randint(count, (len(alike),), generator=generator).numpy()

    def units(positions: np.ndarray) -> np.ndarray:
        return problem.units[every, [columns[p] for columns, p in zip(allowed, positions, strict=True)]]

    def left() -> int:
        return problem.room - int(units(at).sum())

    def one_of(which: np.ndarray) -> int:
        return int(which[torch.randint(len(which), (), generator=generator)])

    while left() < 0:
        at[one_of(np.flatnonzero(at > 0))] -= 1
    while True:
        higher = np.minimum(at + 1, counts - 1)
        price = units(higher) - units(at)
        affordable = np.flatnonzero((higher > at) & (price <= left()))
        if not len(affordable):
            return [int(columns[p]) for columns, p in zip(allowed, at, strict=True)]
        at[one_of(affordable)] += 1
