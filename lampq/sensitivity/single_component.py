"""What one component costs by itself: a layer, a module or a block at few bits, everything else left alone.

Figures 1, 6 and 8 of the paper. Measured on the sample set D, since that is what a search may look at.
"""

from dataclasses import dataclass
from typing import Any

from lampq.errors import LampQError
from lampq.limits import integer, optional, shown
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from lampq.plan.sites import LAYER_TYPES, MATMUL_TYPES, MODULES, Site
from lampq.progress import progress
from lampq.sensitivity.measurement import Measurement
from lampq.tasks.score import mean_and_error
from lampq.workbench import Workbench

UNITS = ("layers", "modules", "blocks")


@dataclass(frozen=True)
class Component:
    """A part of the model that is quantized by itself.

    Attributes:
        unit: ``layers``, ``modules`` or ``blocks``.
        type: qkv, proj, fc1 or fc2; MSA or MLP; block.
        block: index of its block.
        sites: names of its sites.
    """

    unit: str
    type: str
    block: int
    sites: tuple[str, ...]


class SingleComponents(Measurement):
    """Quantize one component at a time and see what accuracy and loss on D become.

    Args:
        units: which kinds of component: layers, modules, blocks.
        bits: bits of the component.
        types: only these layer types; None is all.
        first_block_bits: the first block is at these bits throughout (figure 6); None leaves it in full precision.

    Raises:
        LampQError: a value is out of range.
    """

    name = "single_components"
    revision = 1
    searches = True
    uses_budget = True
    at_a_plan = False

    def __init__(
        self, units: list[str], bits: int, types: list[str] | None = None, first_block_bits: int | None = None
    ) -> None:
        self.units = _some_of("sensitivity.units", units, UNITS)
        self.bits = integer("sensitivity.bits", bits, minimum=1, maximum=16)
        self.types = optional(_some_of, "sensitivity.types", types, LAYER_TYPES)
        self.first_block_bits = optional(
            integer, "sensitivity.first_block_bits", first_block_bits, minimum=1, maximum=16
        )

    def settings(self) -> dict:
        """Settings that change what is measured."""
        return dict(vars(self))

    def target(self, budget: Budget) -> tuple[float, float]:
        return float(self.bits), float(self.bits)

    def components(self, sites: tuple[Site, ...]) -> list[Component]:
        """The components in the order of measuring: layers, then modules, then blocks, each from the first block on."""
        inner = [s for s in sites if s.type in (*LAYER_TYPES, *MATMUL_TYPES)]
        blocks = sorted({s.block for s in inner})
        found = {
            "layers": [
                Component("layers", s.type, s.block, (s.name,))
                for s in inner
                if s.allocated and s.type in (self.types or LAYER_TYPES)
            ],
            "modules": [
                Component("modules", name, b, tuple(s.name for s in inner if s.block == b and s.type in types))
                for b in blocks
                for name, types in MODULES.items()
            ],
            "blocks": [Component("blocks", "block", b, tuple(s.name for s in inner if s.block == b)) for b in blocks],
        }
        return [component for unit in UNITS if unit in self.units for component in found[unit]]

    def measure(self, workbench: Workbench, budget: Budget) -> list[dict[str, Any]]:
        """Accuracy and loss on D with each component quantized by itself.

        Returns:
            A row a component: `unit`, `type`, `block`, `bits`; `top1` (percent) and `top1_drop` (points) with its
            paired standard error against the model without it; `loss_increase` (nats) with its own. The first row, of
            unit ``none``, is that model.
        """
        workbench.bank.check_bits("sensitivity.bits", self.bits)
        workbench.bank.check_bits("sensitivity.first_block_bits", self.first_block_bits)
        sites = workbench.adapter.sites
        context = BitPlan.full_precision(sites)
        if self.first_block_bits is not None:
            first = next(c for c in replaced(self, units=["blocks"]).components(sites) if c.block == 0)
            context = self._quantized(context, first, self.first_block_bits, sites, budget)
        components = self.components(sites)
        plans = [self._quantized(context, component, self.bits, sites, budget) for component in components]
        for plan in [context, *plans]:
            workbench.bank.calibrate(plan)
        workbench.evaluator.set_base(context)
        workbench.task.only_classifiers("sensitivity=components")
        base = workbench.evaluator.score(context)
        rows: list[dict[str, Any]] = [{"unit": "none", "top1": 100 * base.accuracy, "loss": base.mean_loss}]
        steps = zip(components, plans, strict=True)
        for component, plan in progress(
            steps, description=f"single components at {self.bits} bits on D", total=len(plans), unit="components"
        ):
            score = workbench.evaluator.score(plan)
            drop, drop_error = mean_and_error(100 * (base.correct - score.correct))
            increase, increase_error = mean_and_error(score.loss - base.loss)
            rows.append(
                {
                    "unit": component.unit,
                    "type": component.type,
                    "block": component.block,
                    "bits": self.bits,
                    "top1": 100 * score.accuracy,
                    "loss": score.mean_loss,
                    "top1_drop": drop,
                    "top1_drop_standard_error": drop_error,
                    "loss_increase": increase,
                    "loss_increase_standard_error": increase_error,
                }
            )
        return rows

    def metrics(self, rows: list[dict[str, Any]], workbench: Workbench) -> dict[str, float]:
        """Of the rows: accuracy (percent) and loss (nats) on D of the model without a component, and how many there
        are."""
        whole, *components = rows
        images = {"sample_images": len(workbench.task.sample_images), "components": len(components)}
        return {"sample_top1": whole["top1"], "sample_loss": whole["loss"], **images}

    def _quantized(
        self, plan: BitPlan, component: Component, bits: int, sites: tuple[Site, ...], budget: Budget
    ) -> BitPlan:
        inputs = budget.input_bits(bits)
        chosen = {s.name: Bits(None if s.is_matmul else bits, inputs) for s in sites if s.name in component.sites}
        return plan.with_bits(chosen)


def replaced(measurement: SingleComponents, **changes: Any) -> SingleComponents:
    """The same measurement with other settings."""
    return SingleComponents(**{**measurement.settings(), **changes})


def _some_of(key: str, values: Any, options: tuple[str, ...]) -> list[str]:
    good = isinstance(values, list | tuple) and values and all(v in options for v in values)
    if not good:
        raise LampQError(f"{key}={shown(values)}: must be a list of some of {', '.join(options)}")
    return [option for option in options if option in values]
