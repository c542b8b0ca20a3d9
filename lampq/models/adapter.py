"""A model as the framework sees it: a chain of segments (stem, ordered blocks, tail) with typed sites."""

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lampq.errors import LampQError
from lampq.models.feeds import Feeds, Source, fed_by, source_of
from lampq.plan.sites import STEM_TENSORS, USUALLY_FED_BY, Site
from lampq.storage.fingerprint import fingerprint


class ModelAdapter(ABC):
    """A network cut into segments: 0 is the stem, 1 to N are the blocks, N + 1 is the tail.

    The input of segment k + 1 is the output of segment k, one tensor with images on its first axis, so that a model
    whose first change is in block b can be evaluated again from the stored input of that block.

    Attributes:
        task: what the model does: ``classification`` or ``detection`` (see `lampq.tasks`).
        name: the architecture's name.
        network: the model in evaluation mode, attention matmuls as modules.
        sites: quantized sites in the order of execution.
        prefix_tokens: tokens in front of those of the patches (class and distillation tokens).
        windows: whether attention stays within windows of patches.
        tensors: whether these include tensors that are no operand of a product (see `with_tensors`).
        input_size: (channels, height, width) of one image.
        data_config: the model's own preprocessing (timm's keys), or an empty dictionary.
        published_top1: published full-precision top-1 in percent, or None.
        architecture: what builds the network again, without weights (`lampq.models.architectures`).
        transform: what was made of the network before (`lampq.transform`): its identity, JSON-able; None for nothing.
        weights_before: `weights_hash` of the network that it was made of.
    """

    task = "classification"
    prefix_tokens = 0
    windows = False
    tensors = False
    transform: dict[str, Any] | None = None
    weights_before = ""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        input_size: tuple[int, int, int],
        data_config: dict | None = None,
        published_top1: float | None = None,
    ) -> None:
        self.name = name
        self.network = network.eval().requires_grad_(False)
        self.input_size = tuple(input_size)
        self.data_config = data_config or {}
        self.published_top1 = published_top1
        self.architecture: dict[str, Any] = {"library": "own", "name": name}
        self.sites = self._measure(self.declare_sites())

    @property
    @abstractmethod
    def blocks(self) -> int:
        """Number of blocks, N of the paper."""

    @property
    def classes(self) -> int:
        """Number of classes: outputs of the head, 0 without one."""
        heads = [site for site in self.sites if site.type == "head"]
        return len(self.module(heads[-1].name).weight) if heads else 0

    @abstractmethod
    def declare_sites(self) -> list[Site]:
        """The sites in the order of execution; parameters, MACs and elements are filled in by `_measure`."""

    @abstractmethod
    def run_segment(self, index: int, state: Tensor) -> Tensor:
        """Run segment `index` on its input."""

    def predictions(self, state: Tensor, start: int) -> Tensor:
        """What the network predicts, to be compared as class probabilities: logits ``[images, classes]``.

        Args:
            start: segment whose input `state` is.
        """
        return self.run(state, start)

    def features(self, state: Tensor, start: int) -> Tensor:
        """What the classifier reads, behind the last norm: the class token, or the mean of the tokens, as the network
        has it; ``[images, channels]``.

        Args:
            start: segment whose input `state` is.
        """
        return self.penultimate(self.run(state, start, self.segments - 1))

    def penultimate(self, state: Tensor) -> Tensor:
        """`features` from the input of the tail on; architectures that have them say how."""
        raise NotImplementedError

    def observe_segment(self, index: int, state: Tensor) -> None:
        """Run a segment on calibration images so that each of its sites runs at least once."""
        self.run_segment(index, state)

    @property
    def segments(self) -> int:
        """Number of segments, N + 2."""
        return self.blocks + 2

    def segment_of(self, site: Site) -> int:
        """Which segment runs the site."""
        if site.block is not None:
            return site.block + 1
        return 0 if site.type in ("patch_embed", *STEM_TENSORS) else self.blocks + 1

    def run(self, state: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run segments start, ..., stop - 1 (default: to the end, which gives logits ``[images, classes]``)."""
        for index in range(start, self.segments if stop is None else stop):
            state = self.run_segment(index, state)
        return state

    def site(self, name: str) -> Site:
        return next(site for site in self.sites if site.name == name)

    def module(self, name: str) -> nn.Module:
        """The module at a site."""
        return self.network.get_submodule(name)

    def replace_module(self, name: str, module: nn.Module) -> None:
        """Put another module at a site."""
        parent, _, child = name.rpartition(".")
        setattr(self.network.get_submodule(parent), child, module)

    def clone(self) -> "ModelAdapter":
        """An adapter over a copy of the module tree that shares every parameter and buffer with this one."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        twin = copy.copy(self)
        twin.network = copy.deepcopy(self.network, memo={id(tensor): tensor for tensor in tensors})
        return twin

    def converted(self, precision: torch.dtype) -> "ModelAdapter":
        """The same model in another floating point precision, with tensors of its own."""
        twin = copy.copy(self)
        twin.network = copy.deepcopy(self.network).to(precision)
        return twin

    def with_tensors(self) -> "ModelAdapter":
        """The same model, as `clone`, in which tensors that are no operand of a product are sites too: the image,
        embeddings, residual sums, outputs of layers (`lampq.plan.sites.TENSOR_TYPES`).

        Raises:
            LampQError: an architecture that has no points for them.
        """
        twin = self.clone()
        twin.tensors = True
        twin.add_points()
        twin.sites = twin._measure(twin.declare_sites())
        return twin

    def add_points(self) -> None:
        """Give the network a point for each of these tensors; `declare_sites` names them from then on."""
        raise LampQError(
            f"model.name={self.name}: only products can be quantized in it, no tensors by themselves; choose another "
            "base_quantizer"
        )

    def weights_hash(self) -> str:
        """Hash over names and values of all parameters and persistent buffers, and over what feeds a layer where it is
        not what usually does: the layer is then quantized in another way. Of a transformed network: over what it was
        made of, and how."""
        if self.transform is not None:
            return fingerprint([self.weights_before, self.transform])
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for site in self.sites:
            if site.fed_by != USUALLY_FED_BY.get(site.type, site.fed_by):
                digest.update(f"{site.name} fed by {site.fed_by}".encode())
        return digest.hexdigest()[:16]

    def unquantized(self) -> dict[str, int]:
        """Parts with weights of their own, and no site in them, that stay in full precision whatever the plan: their
        numbers of parameters, by name. Norms, biases, embeddings and the like always do, and are no such parts."""
        return dict(self._unquantized("", self.network, {site.name for site in self.sites}))

    def told_unquantized(self) -> str | None:
        """A line on these parts and their share of the model's bytes; None where there are none."""
        stays = self.unquantized()
        if not stays:
            return None
        names = ", ".join([*list(stays)[:4], *([f"{len(stays) - 4} more"] if len(stays) > 4 else [])])
        share = 100 * sum(stays.values()) / self.parameters()
        return f"stays in full precision, whatever the plan: {names} ({share:.3g} % of the model's bytes)"

    def _unquantized(self, path: str, module: nn.Module, sites: set[str]) -> Iterator[tuple[str, int]]:
        for name, child in module.named_children():
            inner = f"{path}{name}"
            if inner in sites:
                continue
            if any(site.startswith(f"{inner}.") for site in sites):
                yield from self._unquantized(f"{inner}.", child, sites)
            elif any(_has_weights(part) for part in child.modules()):
                yield inner, sum(p.numel() for p in child.parameters())

    def parameters(self) -> int:
        """Number of parameters of the full-precision model."""
        return sum(p.numel() for p in self.network.parameters())

    def _measure(self, declared: list[Site]) -> tuple[Site, ...]:
        """Fill in parameters, MACs, operand elements and what feeds a site from one forward pass of one blank image.

        Returns:
            The sites in the order in which they ran; what runs more than once counts as often.
        """
        measured: dict[str, Site] = {}
        sources: dict[str, list[Source | None]] = {}
        handles = []
        for site in declared:

            def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, site: Site = site) -> None:
                before = measured.get(site.name, site)
                sizes = {"input_elements": before.input_elements + inputs[0].numel()}
                sources.setdefault(site.name, []).append(source_of(inputs[0]))
                if site.is_matmul:
                    a, b = inputs
                    sizes["macs"] = before.macs + a.numel() * b.shape[-1]
                    sizes["second_input_elements"] = before.second_input_elements + b.numel()
                elif not site.is_tensor:
                    weights = module.weight.numel()
                    positions = output.numel() // module.weight.shape[0]
                    sizes |= {"parameters": weights, "macs": before.macs + positions * weights}
                measured[site.name] = replace(before, **sizes)

            handles.append(self.module(site.name).register_forward_hook(hook))
        try:
            with torch.inference_mode(False), torch.no_grad(), Feeds():
                self.run_blank_image()
        finally:
            for handle in handles:
                handle.remove()
        unused = [site.name for site in declared if site.name not in measured]
        if unused:
            raise RuntimeError(f"{self.name}: declared as sites, but not run: {', '.join(unused)}")
        return tuple(replace(site, fed_by=fed_by(sources[site.name])) for site in measured.values())

    def run_blank_image(self) -> None:
        """One forward pass in which every site runs as often as for one image."""
        self.run(torch.zeros(1, *self.input_size, device=next(self.network.parameters()).device))


def _has_weights(module: nn.Module) -> bool:
    """Whether a module multiplies with weights, as a layer does and a norm does not."""
    return any(name.endswith("weight") and p.dim() > 1 for name, p in module.named_parameters(recurse=False))


def declared(name: str, type: str, block: int | None = None) -> Site:
    """A site whose sizes are not measured yet."""
    return Site(name, type, block, parameters=0, macs=0, input_elements=0)


class InSegments(nn.Module):
    """A network that also rounds tensors between its layers, which its own forward pass does not know of."""

    def __init__(self, adapter: ModelAdapter) -> None:
        super().__init__()
        self.network = adapter.network
        self._adapter = adapter

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[images, channels, height, width]`` to logits ``[images, classes]``."""
        return self._adapter.run(images)
