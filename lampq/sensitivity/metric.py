"""What every metric says: what it costs that a layer has so many bits. One file a metric, in this folder."""

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from lampq.limits import choice
from lampq.parts import Part
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from lampq.sensitivity.scores import Scores, SiteScores, falling, falling_in_both
from lampq.workbench import Workbench


class Metric(Part, ABC):
    """A measure of what fewer bits cost each layer.

    A file of this folder with a subclass is all that a new one takes. Allocators know it by its name:
    ``allocator.metric=NAME`` of LampQ, ``allocator.screen=NAME`` of the greedy descent, and ``metric: NAME`` in a file
    of conf/allocator that names `lampq.allocation.least_score.LeastScore`, which makes an allocator of it.

    Attributes:
        name: as above.
        revision: raised whenever its scores change.
        scores_inputs: whether it scores the bits of inputs by themselves (`input_scores`).
        scores_sites: whether it scores what is no layer of a block too, and weight bits and input bits in any pair
            (`site_scores`).
        at_plans: whether `scores` takes a ``plan``: measured in the model at that plan, straight through.
        labels: of a loss whose gradients are taken; a setting of some metrics.
    """

    group = "allocator"
    name: ClassVar[str]
    revision: ClassVar[int] = 1
    scores_inputs: ClassVar[bool] = False
    scores_sites: ClassVar[bool] = False
    at_plans: ClassVar[bool] = False
    labels = "dataset"

    @abstractmethod
    def scores(self, workbench: Workbench, budget: Budget) -> Scores:
        """What adds up over layers, by layer (in the order of execution) and bits of the bit set, as measured.

        Noise may let it rise with more bits; see `costs`. Where the budget is `Budget.independent`, of weights whose
        layers' inputs are in full precision.
        """

    def input_scores(self, workbench: Workbench, budget: Budget) -> Scores:
        """The same of inputs, weights in full precision, for `scores_inputs`."""
        raise NotImplementedError(f"{self.name} does not score inputs by themselves")

    def site_scores(self, workbench: Workbench, budget: Budget, options: Mapping[str, Sequence[Bits]]) -> SiteScores:
        """The same of any sites, for `scores_sites`.

        Args:
            options: (weight bits, input bits) that each is scored at, by name; None is full precision. Of a matmul, the
                input bits are those of both operands.
        """
        raise NotImplementedError(f"{self.name} scores layers alone")

    def costs(self, scores: Scores) -> Scores:
        """Scores as a solver adds them up: a layer with more bits costs no more (see `falling`)."""
        return {name: falling(row) for name, row in scores.items()}

    def site_costs(self, scores: SiteScores) -> SiteScores:
        """The same of `site_scores`: more bits of weights and inputs cost no more."""
        return {name: falling_in_both(row) for name, row in scores.items()}

    def notes(self, workbench: Workbench) -> dict[str, Any]:
        """What else a plan's origin tells of the layers (JSON-able)."""
        return {}


@cache
def metrics() -> dict[str, type[Metric]]:
    """Every metric by its name: the classes that the files of this folder declare."""
    modules = [
        importlib.import_module(f"{__package__}.{file.name}")
        for file in pkgutil.iter_modules([str(Path(__file__).parent)])
    ]
    return {
        found.name: found
        for module in modules
        for found in vars(module).values()
        if inspect.isclass(found) and issubclass(found, Metric) and not inspect.isabstract(found)
    }


def metric_name(key: str, value: Any) -> str:
    """The name of a metric.

    Raises:
        LampQError: there is none of this name.
    """
    return choice(key, value, metrics())


def metrics_of_sites() -> list[str]:
    """Names of those that score what is no layer of a block too."""
    return [name for name, metric in metrics().items() if metric.scores_sites]


def metric_with(name: str, **given: Any) -> Metric:
    """The metric of a name, with those of the given settings that it has and that are not None."""
    own = settings_of(name)
    return metrics()[name](**{key: value for key, value in given.items() if key in own and value is not None})


def settings_of(name: str) -> set[str]:
    """Names of a metric's settings."""
    return {declared.name for declared in fields(metrics()[name])}
