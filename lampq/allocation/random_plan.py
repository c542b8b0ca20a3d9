"""The control: random bits within the budget, what any search has to beat."""

import logging

import numpy as np
import torch

from lampq.allocation.base import Allocator, Search
from lampq.allocation.greedy_start import AllocationProblem
from lampq.budgets import Budget
from lampq.limits import integer
from lampq.plan import BitPlan

log = logging.getLogger(__name__)


class RandomPlan(Allocator):
    """A random plan that spends the budget, nothing measured.

    Each layer draws one bit-width of the bit set, all alike and independent of the other layers. While the plan is
    above the budget, one of the layers that still can, each as likely as another, goes down to its next smaller
    bit-width. Then, as long as some layer's next larger bit-width fits into what is left, one of these layers, each as
    likely as another, goes up to it. No layer can be raised any more in the plan that results; large and small layers
    are treated alike.

    It counts as a search, although it chooses by nothing: it uses the bit set, and its plan is scored on D, so that
    it stands beside the others with the same figures.

    Args:
        draw: number of the plan among those that a seed gives; each is drawn by itself.
    """

    name = "random"
    revision = 1

    def __init__(self, draw: int = 0) -> None:
        self.draw = integer("allocator.draw", draw, minimum=0, maximum=9999)

    def settings(self) -> dict:
        return {"draw": self.draw}

    def allocate(self, search: Search, budget: Budget) -> BitPlan:
        """Draw the plan.

        Raises:
            LampQError: no plan keeps the budget, or the base quantizer is not defined at a bit-width of the bit set.
        """
        search.bank.check_bits("bit_set", *budget.candidates)
        sizes = [s.parameters for s in search.layers]
        nothing = np.zeros((len(sizes), len(budget.candidates)))
        problem = AllocationProblem.checked(nothing, sizes, budget.candidates, budget.total(sizes))
        choice = random_choice(problem, generator_of(search.seed, self.draw))
        layer_bits = {s.name: b for s, b in zip(search.layers, problem.bits_of(choice), strict=True)}
        origin = {"allocator": self.name, "settings": self.settings()}
        plan = budget.plan(search.adapter.sites, layer_bits, origin)
        search.bank.calibrate(plan)
        score = search.evaluator.score(plan)
        origin |= {"accuracy": score.accuracy, "loss": score.mean_loss}
        log.info("random plan %d of seed %d: %.2f %% of D right", self.draw, search.seed, 100 * score.accuracy)
        return budget.plan(search.adapter.sites, layer_bits, origin)


def generator_of(seed: int, draw: int) -> torch.Generator:
    """Random numbers of draw number `draw` of a seed; those of other draws have nothing to do with them."""
    seeds = torch.randint(2**62, (draw + 1,), generator=torch.Generator().manual_seed(seed))
    return torch.Generator().manual_seed(int(seeds[draw]))


def random_choice(problem: AllocationProblem, generator: torch.Generator) -> list[int]:
    """A plan as `RandomPlan` says: the column of each layer, within the budget, with no room for a further step.

    Args:
        problem: its costs do not matter, but all bit-widths have to be allowed.
        generator: on the CPU.
    """
    layers, columns = problem.units.shape
    choice = torch.randint(columns, (layers,), generator=generator).numpy()
    every = np.arange(layers)

    def left() -> int:
        return problem.room - int(problem.units[every, choice].sum())

    def one_of(which: np.ndarray) -> int:
        return int(which[torch.randint(len(which), (), generator=generator)])

    while left() < 0:
        choice[one_of(np.flatnonzero(choice > 0))] -= 1
    while True:
        higher = np.minimum(choice + 1, columns - 1)
        price = problem.units[every, higher] - problem.units[every, choice]
        affordable = np.flatnonzero((price > 0) & (price <= left()))
        if not len(affordable):
            return choice.tolist()
        choice[one_of(affordable)] += 1
