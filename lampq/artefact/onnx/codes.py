"""Codes of quantized activations: those of the simulation, those inside an exported graph, and how many differ."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lampq.artefact.onnx.thresholds import logarithmic_thresholds
from lampq.models.adapter import ModelAdapter
from lampq.number_formats.adalog import AdaLogQuantizer
from lampq.number_formats.base import NumberFormat
from lampq.number_formats.log_sqrt2 import LogSqrt2Quantizer
from lampq.number_formats.twin_uniform import PostGELUQuantizer, ProbabilityQuantizer
from lampq.number_formats.uniform import SymmetricQuantizer
from lampq.quantized_modules.matmul import QuantizedMatMul

CHUNK = 8
"""Images whose codes are held at a time: of DeiT-T some 40 MB an image."""

Codes = dict[str, Tensor]
"""Integer codes by the activation's name, in the order of execution."""


@dataclass
class Flips:
    """Codes that differ from the simulation's.

    Attributes:
        differ, codes: how many differ, of how many.
        first: name of the activation that is quantized first.
        first_differ, first_codes: the same of this one.
        first_steps: by how many steps one of these differs at most.
    """

    differ: int = 0
    codes: int = 0
    first: str | None = None
    first_differ: int = 0
    first_codes: int = 0
    first_steps: int = 0

    @property
    def percent(self) -> float:
        return 100 * self.differ / self.codes if self.codes else 0.0


def formats(adapter: ModelAdapter) -> dict[str, NumberFormat]:
    """Number formats of a quantized network's activations, by the activations' names in an exported graph."""
    found: dict[str, NumberFormat | None] = {}
    for number, site in enumerate(adapter.sites):
        module = adapter.module(site.name)
        operands: dict[str, nn.Module | None] = {"input": getattr(module, "quantize_input", None)}
        if isinstance(module, NumberFormat):
            operands = {"tensor": module}
        elif isinstance(module, QuantizedMatMul):
            operands = {"a": module.quantize_a, "b": module.quantize_b, "output": module.quantize_output}
        found |= {f"site{number}/{operand}": of for operand, of in operands.items()}
    return {name: of for name, of in found.items() if of is not None}


@contextmanager
def watched(adapter: ModelAdapter) -> Iterator[Codes]:
    """Codes that a simulated network gives its activations while it runs in the block of ``with``."""
    seen: Codes = {}
    handles = [
        of.register_forward_pre_hook(lambda of, inputs, name=name: seen.update({name: of.codes(inputs[0])}))
        for name, of in formats(adapter).items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def simulated_codes(adapter: ModelAdapter, images: Tensor) -> Codes:
    """Codes of a simulated network on images ``[images, channels, height, width]``."""
    with watched(adapter) as seen:
        adapter.run(images)
    return seen


def code_flips(
    expected: Callable[[Tensor], Codes], found: Callable[[Tensor], Codes], images: Tensor, chunk: int = CHUNK
) -> Flips:
    """How many codes of the same images differ.

    Args:
        expected, found: codes of some images.
        chunk: how many at a time.
    """
    flips = Flips()
    with torch.inference_mode():
        for some in images.split(chunk):
            ours, theirs = expected(some), found(some)
            for name, codes in ours.items():
                steps = (theirs[name].long() - codes.long()).abs()
                differ = int((steps > 0).sum())
                flips.differ += differ
                flips.codes += steps.numel()
                flips.first = flips.first or name
                if name == flips.first:
                    flips.first_differ += differ
                    flips.first_codes += steps.numel()
                    flips.first_steps = max(flips.first_steps, int(steps.max()))
    return flips


def tensor_names(adapter: ModelAdapter) -> dict[str, list[str]]:
    """Names of the graph's tensors that tell an activation's codes, by the activation's name."""
    parts = {PostGELUQuantizer: 2, ProbabilityQuantizer: 3}
    return {
        name: [f"{name}.codes{part}" for part in range(parts.get(type(of), 1))] for name, of in formats(adapter).items()
    }


def codes_in(of: NumberFormat, tensors: list[Tensor]) -> Tensor:
    """The format's own codes, from the tensors of a graph that tell them (`lampq.artefact.onnx.sites`)."""
    first = tensors[0].long()
    if isinstance(of, AdaLogQuantizer | LogSqrt2Quantizer):  # ranks in the order of rising inputs
        return logarithmic_thresholds(of)[0][first]
    if isinstance(of, PostGELUQuantizer):
        return first + tensors[1].long()
    if isinstance(of, ProbabilityQuantizer):
        _, high, below = tensors
        return torch.where(below.bool(), first, high.long() + 2 ** (of.bits - 1))
    if isinstance(of, SymmetricQuantizer) and tensors[0].dtype == torch.uint8:
        return first - 2 ** (of.bits - 1)
    return first
