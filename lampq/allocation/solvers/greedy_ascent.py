"""The bit allocation problem solved greedily: the control that an exact solver has to beat."""

from lampq.allocation.solvers.allocation_problem import AllocationProblem
from lampq.allocation.solvers.dynamic_program import Allocation, optimal_plan
from lampq.allocation.solvers.relaxation import Relaxation


def solve_greedy(problem: AllocationProblem) -> Allocation:
    """From the fewest bits up, always the step that lowers the cost most for what it spends, while it fits.

    Steps lead along the lower convex hull of each layer's costs. What it leaves unspent at the end, because no next
    step fits, an exact solver may use; `Allocation.gap` tells how much that costs.
    """
    choice = Relaxation(problem).greedy_plan
    found, optimum = problem.objective(choice), problem.objective(optimal_plan(problem))
    gap = max(0.0, (found - optimum) / abs(optimum)) if optimum else float(found > optimum)
    return Allocation(problem.bits_of(choice), found, f"greedy ascent ({gap:.2%} above the optimum)", gap)
