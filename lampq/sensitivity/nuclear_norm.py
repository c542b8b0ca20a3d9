"""VT-PTQ's metric: how much information a module's output holds, times how far quantization moves it.

``Omega = (sum_j sigma_j(Y)) ||Y^ - Y||_F^2`` (Liu et al., NeurIPS 2021, section Mixed-precision quantization),
``sigma_j`` being the singular values of Y: of the attention map for an MSA module, of the output features for an MLP.
What the paper leaves open is read as follows: the map is the softmax's, each head's by itself; ``Y^`` is what the
module gives with all its layers and operands at the bits in question, everything else in full precision; nuclear norms
are averaged over heads (and windows), errors summed over an image, and the product averaged over images. Of what the
error of an MSA is taken, there are two readings: the formula has one Y, so that it would be the map, whose
entries are about 1 / tokens; then an MSA's Omega is orders of magnitude below an MLP's, every MSA gets the fewest
bits, and models collapse. With the error of the module's output, modules compare.
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from lampq.models.adapter import ModelAdapter
from lampq.models.detection.pictures import Pictures, batches
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from lampq.plan.sites import MODULES, Site, module_of
from lampq.progress import progress
from lampq.sensitivity.metric import Metric
from lampq.sensitivity.scores import Scores
from lampq.workbench import Workbench

CHUNK = 8
"""Images run at once; fixed, so that values do not depend on a user's batch size."""


class NuclearNorm(Metric):
    """Omega of the module that a layer belongs to, over the calibration images: half of it for each of its two layers.

    Args:
        error: of what the error of an MSA is taken: of its ``output``, or of its attention ``map``.
    """

    name = "nuclear_norm"

    error: Literal["output", "map"] = "output"

    def scores(self, workbench: Workbench, budget: Budget) -> Scores:
        omega = self.of_modules(workbench, budget)
        return {s.name: {b: value / 2 for b, value in omega[module_of(s)].items()} for s in workbench.layers}

    def of_modules(self, workbench: Workbench, budget: Budget) -> Scores:
        """Omega of every module (`lampq.plan.sites.module_of`), whole."""
        parts: dict[str, list[Site]] = {}
        for site in workbench.adapter.sites:
            if any(site.type in types for types in MODULES.values()):
                parts.setdefault(module_of(site), []).append(site)
        bits = list(budget.candidates)
        inputs = [budget.input_bits(b) for b in bits]
        key = {**workbench.scored_from.identity, "bits": bits, "inputs": inputs, "error": self.error, "revision": 2}

        def compute() -> dict[str, Tensor]:
            return {"omega": torch.stack(_measure(workbench, budget, list(parts.values()), self.error))}

        stored = workbench.store.fetch("nuclear_norm", key, compute)["omega"].tolist()
        return {part: dict(zip(bits, row, strict=True)) for part, row in zip(parts, stored, strict=True)}


@torch.inference_mode()
def _measure(workbench: Workbench, budget: Budget, parts: list[list[Site]], error: str) -> list[Tensor]:
    """``[candidates]`` float64 of every module, block by block from the full-precision model's states."""
    full_precision = BitPlan.full_precision(workbench.adapter.sites)
    wanted = [(s, _bits(s, b, budget)) for sites in parts for s in sites for b in budget.candidates]
    workbench.prepare(wanted)
    original, quantized = workbench.adapter.clone(), workbench.scored_model()
    states = [original.run_segment(0, chunk) for chunk in batches(workbench.task.calibration_images, CHUNK)]
    omega = []
    for sites in progress(parts, description="nuclear norms of modules", unit="modules"):
        segment = sites[0].block + 1
        of = {s.type: s.name for s in sites}
        module = "MSA" if "pv" in of else "MLP"
        informative = of["pv" if module == "MSA" else "fc2"]
        moving = informative if error == "map" else of["proj" if module == "MSA" else "fc2"]
        images, sums = 0, torch.zeros(len(budget.candidates), dtype=torch.float64)
        for index, state in enumerate(states):
            seen, after = _run(original, segment, (informative, moving), state)
            information = _nuclear_norm(seen[informative], len(state), module)
            images += len(state)
            for column, bits in enumerate(budget.candidates):
                plan = full_precision.with_bits({s.name: _bits(s, bits, budget) for s in sites})
                moved, _ = _run(quantized.apply(plan).adapter, segment, (moving,), state)
                squares = (moved[moving] - seen[moving]).double().square().reshape(len(state), -1).sum(1)
                sums[column] += (information * squares).sum().cpu()
            if module == "MLP":  # the last module of its block
                states[index] = after
        omega.append(sums / images)
    return omega


def _bits(site: Site, bits: int, budget: Budget) -> Bits:
    """(weight bits, activation bits) of a module's site when the module has `bits`."""
    return Bits(None if site.is_matmul else bits, budget.input_bits(bits))


def _run(
    adapter: ModelAdapter, segment: int, names: tuple[str, ...], state: Pictures
) -> tuple[dict[str, Tensor], Pictures]:
    """What the named sites give in one block, and the block's output; of a matmul, its first operand: the map."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, operands: tuple[Tensor, ...], output: Tensor) -> None:
        seen[name] = operands[0] if adapter.site(name).is_matmul else output

    handles = [adapter.module(name).register_forward_hook(partial(keep, name)) for name in set(names)]
    try:
        after = adapter.run_segment(segment, state)
    finally:
        for handle in handles:
            handle.remove()
    return seen, after


def _nuclear_norm(output: Tensor, images: int, module: str) -> Tensor:
    """Sum of singular values, ``[images]`` float64: of each head's (and window's) map, averaged, or of the features.

    Args:
        output: ``[images * windows, heads, tokens, tokens]``, or features with channels last.
    """
    shape = (-1, *output.shape[-2:]) if module == "MSA" else (1, -1, output.shape[-1])
    matrices = output.reshape(images, *shape)
    return torch.linalg.svdvals(matrices).double().sum(-1).mean(1)
