"""Python's door: one's own network and images in, a quantized network with the best bits for each layer out."""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from lampq import __version__
from lampq.allocation.base import Allocator
from lampq.allocation.search_space import SearchSpace
from lampq.artefact.saving import save
from lampq.base_quantizers.base import BaseQuantizer
from lampq.configuration.settings import device_name
from lampq.configuration.typed_settings import typed_settings
from lampq.datasets.given import BATCH, GivenImages, check_images, check_labels, pairs_in
from lampq.errors import LampQError
from lampq.limits import shown
from lampq.models.adapter import InSegments, ModelAdapter
from lampq.models.architectures import architecture_of, network_name
from lampq.models.timm_adapters import adapt
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget, realised_costs
from lampq.progress import progress
from lampq.report.bit_allocation import bits_grid
from lampq.report.explanation import explanation
from lampq.report.summary import cost_lines
from lampq.runs.preparation import prepared_for, workbench_of
from lampq.storage.store import Store
from lampq.tasks.classification import accuracy_metrics
from lampq.tasks.score import Score
from lampq.transform.base import Transform
from lampq.transform.base import told as transform_words
from lampq.workbench import Workbench

ANSWERED_BY_THE_CALL = (
    *("model", "dataset", "seed", "device", "bits", "budget", "allocate", "paths", "scale", "experiment"),
    *("sensitivity", "logger", "bank", "force", "validate", "baseline", "threads", "hydra"),
)
"""Keys and groups of the command line that the arguments of `quantize` take the place of, or that a run alone has."""

OF_A_BUDGET = (
    *("weight_bits", "activation_bits", "activation_rule", "fixed_site_bits", "operand_bits", "bit_set", "hardware"),
    *("budget_limit", "ties", "pins"),
)
"""Keys and groups that a `Budget` given as an object answers."""

TOLERANCE = 1e-4
"""Largest difference, relative to the largest logit, between a network's own forward pass and its parts in order."""


def quantize(
    network: nn.Module,
    calibration: Tensor | Iterable[Any],
    sample: tuple[Tensor, Tensor] | Iterable[Any] | None = None,
    bits: float = 3,
    *,
    transform: str | Transform = "none",
    base_quantizer: str | BaseQuantizer = "adalog",
    allocator: str | Allocator = "lampq",
    budget: str | Budget = "average_bits",
    allocate: str | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
    device: str | torch.device | None = None,
    cache: str | Path | None = None,
) -> "QuantizedNetwork":
    """Quantize a classifier, layer by layer at the bits that the allocator finds best (simulated quantization).

    Nothing typed in says what was computed before: calibrated layers and scores are kept in the same store as those of
    the command line, by the values of weights and images. The given network is not changed.

    Args:
        network: timm's VisionTransformer or SwinTransformer, a subclass, one with another head: anything that does in
            its forward pass what these do.
        calibration: images that the base quantizer is calibrated on, ``[images, channels, height, width]``, normalised
            as the network takes them; or a DataLoader of such. 32 are usual.
        sample: D, the sample set that plans are scored on: (images, classes), or a DataLoader of such pairs. Some
            hundred at least. Not needed with ``allocator="uniform"``.
        bits: target b_t, for weights and inputs; a fraction where an allocator chooses.
        transform: what becomes of the network before it is quantized: ``none`` or ``hadamard``, or an object.
        base_quantizer: name, as on the command line, or an object.
        allocator: name, as on the command line, or an object.
        budget: what is limited: ``average_bits``, ``packed_bytes`` or ``bops``; or a `Budget`, in place of `bits`.
        allocate: what bits are chosen for: ``layers`` (the default; the 4N layers), ``layers_and_operands`` or ``all``.
        overrides: further settings as one types them on the command line, for example ``["lampq.gamma=6",
            "bit_set.bits=[2,3,4]", "activation_bits=8"]``.
        seed: of every random choice.
        device: where to compute; None is where the network is.
        cache: folder of the store; None is the command line's (``LAMPQ_CACHE``, else ``~/.cache/lampq``).

    Returns:
        The quantized network, its plan, and what they can be asked.

    Raises:
        LampQError: a mistake, in one line, as on the command line.
    """
    listed = isinstance(overrides, Sequence) and not isinstance(overrides, str)
    if not listed or not all(isinstance(each, str) for each in overrides):
        raise LampQError(
            f'overrides={shown(overrides)}: must be a list of texts as typed on the command line, as ["lampq.gamma=6"]'
        )
    given = {
        name: part
        for name, part, kind in (
            ("transform", transform, Transform),
            ("base_quantizer", base_quantizer, BaseQuantizer),
            ("allocator", allocator, Allocator),
            ("budget", budget, Budget),
        )
        if isinstance(part, kind)
    }
    if allocate is not None and "budget" in given:
        raise LampQError(f"allocate={allocate}: has no effect on a budget given as an object; set it there")
    named = {"transform": transform, "base_quantizer": base_quantizer, "allocator": allocator, "budget": budget}
    named |= {"bits": bits, "seed": seed}
    named |= {} if allocate is None else {"allocate": allocate}
    typed = [f"{key}={value}" for key, value in named.items() if key not in given]
    _check_effect(overrides, given)
    settings = typed_settings([*typed, *overrides], **given)
    images = GivenImages(calibration, sample)
    if settings.allocator.searches and sample is None:
        raise LampQError(
            f"sample=None: allocator={settings.allocator.name} scores plans on a sample set; give "
            'sample=(images, classes), or allocator="uniform"'
        )
    adapter = adapter_of(network, images.calibration(seed), device)
    prepared = prepared_for(settings, adapter, images, next(adapter.network.parameters()).device)
    if settings.allocator.searches:
        prepared.task.check_scored(settings.evaluation_images)
        SearchSpace.check(prepared.adapter, settings.budget, settings.allocator.ties)
    store = Store(settings.cache if cache is None else Path(cache))
    workbench = workbench_of(settings, prepared, store, settings.evaluation_images)
    plan = settings.allocator.choose(workbench, settings.budget)
    workbench.build(plan)
    return QuantizedNetwork(workbench, plan, searched=settings.allocator.searches)


class QuantizedNetwork:
    """A network with every layer at the bits of a plan, and what led to it.

    Attributes:
        network: an ordinary `nn.Module`, images ``[images, channels, height, width]`` to logits ``[images, classes]``;
            its products are of values that the plan's bits allow, multiplied in floating point.
        plan: the bits of every site; can be written to a file and read back.
    """

    def __init__(self, workbench: Workbench, plan: BitPlan, searched: bool) -> None:
        self.plan = plan
        self._workbench = workbench
        self._searched = searched
        self._quantized = workbench.quantized_model().apply(plan).adapter
        self.network: nn.Module = InSegments(self._quantized) if self._quantized.tensors else self._quantized.network

    @property
    def costs(self) -> dict[str, float]:
        """What the plan costs: average bits, bit operations, bytes (see `realised_costs` and `packed_bytes`)."""
        return {**realised_costs(self._workbench.adapter.sites, self.plan), **self._workbench.sizes(self.plan)}

    def sample_score(self) -> Score | None:
        """What the plan scores on D, image by image; None where nothing was searched."""
        return self._workbench.evaluator.score_on_all(self.plan) if self._searched else None

    def summary(self) -> str:
        """The plan in a few lines: bits, size, result on D, and the bits of each layer."""
        costs, console = self.costs, Console(width=120, record=True, quiet=True, no_color=True)
        told = cost_lines(costs)
        if (transform := self._workbench.adapter.transform) is not None:
            told.append(transform_words(transform))
        if (stays := self._workbench.adapter.told_unquantized()) is not None:
            told.append(stays)
        if (score := self.sample_score()) is not None:
            told.append(f"on D: top-1 {100 * score.accuracy:.2f} %, mean loss {score.mean_loss:.4f} (simulated)")
        with console.capture() as grid:
            console.quiet = False
            console.print(bits_grid(self.plan))
        return "\n".join([*told, grid.get().rstrip()])

    def explain(self, layer: str | None = None) -> str:
        """Why a layer has its bits: its score, what one bit less or more would cost, the swaps that touched it.

        Args:
            layer: its name, as in `plan`; None for all.

        Raises:
            LampQError: there is no such layer.
        """
        return explanation(self.plan, layer, costs=self.costs)

    @torch.inference_mode()
    def evaluate(self, data: tuple[Tensor, Tensor] | Iterable[Any]) -> dict[str, float]:
        """Accuracy on validation images, beside full precision on the same ones.

        Args:
            data: (images, classes), or a DataLoader of such pairs.

        Returns:
            ``top1``, ``top5`` in percent with ``top1_standard_error``; ``top1_full_precision``; ``top1_difference`` in
            points with its paired ``top1_difference_standard_error``; ``images``, how many.

        Raises:
            LampQError: these are no images and classes of the network.
        """
        adapter, task = self._workbench.adapter, self._workbench.task
        results: dict[str, list[dict[str, Tensor]]] = {"quantized": [], "full_precision": []}
        batches = _batches(data)
        for batch in progress(batches, description="evaluating", unit="batches", delay=2):
            images, labels = self._checked(batch)
            images, labels = images.to(task.device), labels.to(task.device)
            results["quantized"].append(task.outcome(self.network(images), labels))
            results["full_precision"].append(task.outcome(adapter.run(images), labels))
        if not results["quantized"]:
            raise LampQError("evaluate: no images; give (images, classes), or a DataLoader of such pairs")
        joined = {
            which: {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            for which, parts in results.items()
        }
        return accuracy_metrics(joined["quantized"], joined["full_precision"])

    def save(self, folder: str | Path) -> None:
        """Write the network, packed at its bits; `lampq.load` reads it.

        Args:
            folder: of its own; a model that was saved there before is replaced.

        Raises:
            LampQError: the folder holds something else.
        """
        method, allocator = self._workbench.bank.base_quantizer.name, self.plan.origin["allocator"]
        about = {"made": f"lampq {__version__}: {method}, {allocator}", "metrics": self.costs}
        save(folder, self._workbench.adapter, self._quantized, self.plan, about)

    def _checked(self, batch: Any) -> tuple[Tensor, Tensor]:
        images, labels = pairs_in("evaluate", batch)
        check_images("evaluate", images, self._workbench.adapter)
        check_labels("evaluate", labels, self._workbench.adapter)
        return images, labels


def adapter_of(network: nn.Module, images: Tensor, device: str | torch.device | None = None) -> ModelAdapter:
    """The adapter of a copy of a network.

    Args:
        images: of the size that it takes, ``[images, channels, height, width]``; forward passes are compared on one.
        device: where the copy is put; None is where the network is.

    Raises:
        LampQError: an architecture that is not supported, or a forward pass of its own.
    """
    if not isinstance(network, nn.Module) or next(network.parameters(), None) is None:
        raise LampQError(f"network={type(network).__name__}: must be a network with weights, for example of timm")
    own = copy.deepcopy(network).eval()
    place = next(own.parameters()).device if device is None else torch.device(device_name(str(device)))
    own = own.to(place, torch.float32)
    image, name, plain = images[:1].to(place), network_name(own), copy.deepcopy(own)
    try:
        adapter = adapt(name, own, input_size=tuple(images.shape[1:]))
        with torch.inference_mode():
            expected = plain(image)
    except (AssertionError, RuntimeError) as error:  # what timm and PyTorch raise of sizes that do not fit
        shape = list(images.shape[1:])
        raise LampQError(
            f"calibration: {type(network).__name__} does not take images {shape} ({error}); resize them"
        ) from error
    if adapter.classes == 0:
        raise LampQError("network: has no classifier head; give one with it, so that its answers can be scored")
    with torch.inference_mode():
        found = adapter.run(image)
    limit = TOLERANCE * float(expected.abs().max())
    if found.shape != expected.shape or float((found - expected).abs().max()) > limit:
        raise LampQError(
            f"network={type(network).__name__}: its forward pass does something else than timm's stem, blocks and head "
            "in order; give a network with timm's own forward pass"
        )
    adapter.architecture = architecture_of(plain, adapter.classes, tuple(images.shape[2:]))
    return adapter


def _check_effect(overrides: Sequence[str], given: dict[str, Any]) -> None:
    """Refuse overrides that would have no effect.

    Raises:
        LampQError: names the first one.
    """
    for override in overrides:
        first = override.lstrip("+~").partition("=")[0].partition(".")[0].partition("/")[0]
        if first in ANSWERED_BY_THE_CALL:
            raise LampQError(f"overrides=[{override}]: has no effect here; see the arguments of lampq.quantize")
        part = "budget" if first in OF_A_BUDGET else first
        if part in given:
            raise LampQError(f"overrides=[{override}]: has no effect on a {part} given as an object; set it there")


def _batches(data: Any) -> Iterable[Any]:
    """A pair of tensors in pieces; batches as they are."""
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        images, labels = pairs_in("evaluate", data)
        return list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    if isinstance(data, Iterable) and not isinstance(data, Tensor | str | bytes | dict):
        return data
    raise LampQError(f"evaluate={type(data).__name__}: must be (images, classes), or a DataLoader of such pairs")
