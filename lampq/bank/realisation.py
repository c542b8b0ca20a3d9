"""Realising a plan with a method that looks at more than one site: states segment by segment, in order.

RepQ-ViT initialises a layer on what the already quantized network feeds it, OPTQ rounds a layer on inputs from
quantized earlier layers, block reconstruction trains a block at once. What such a method finds for a segment depends
on the bits of all sites up to there, so a plan is not a look-up any more. It is a chain: segment after segment, each
one an entry of the store, keyed by the bits so far. An interrupted run goes on at the first segment that is missing,
and a plan that differs from another one in a late block shares what lies before.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from lampq.bank.layer_bank import LayerBank
from lampq.base_quantizers.base import BaseQuantizer
from lampq.calibration.observation import CHUNK
from lampq.calibration.rows import built_module
from lampq.calibration.segment import Segment, States
from lampq.models.adapter import ModelAdapter
from lampq.models.detection.pictures import Pictures, join
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.plan.sites import Site
from lampq.progress import progress
from lampq.storage.fingerprint import fingerprint
from lampq.workers import Workers


class Realisation:
    """States and modules of whole plans, for a sequential base quantizer.

    At any time the inputs of one segment are in memory, twice: those of the quantized and of the full-precision
    network.

    Args:
        bank: independent states; knows the method, the full-precision model and the store.
        images: gives the images that the method works on ``[images, channels, height, width]``; asked only on a miss.
        images_identity: what identifies these images (JSON-able).
        seed: for everything random.
    """

    def __init__(self, bank: LayerBank, images: Callable[[], Tensor], images_identity: object, seed: int) -> None:
        method = bank.base_quantizer
        self.base_quantizer = method
        self.adapter = bank.adapter
        self.bank = bank
        self.identity = {
            **bank.identity,
            "sequential": [method.name, method.revision, method.settings()],
            "images": images_identity,
            "seed": seed,
        }
        self._images = images
        self._seed = seed
        self._modules: dict[str, dict[str, nn.Module]] = {}

    def by(self, method: BaseQuantizer) -> "Realisation":
        """The same with another method on the same independent states: one that trains less."""
        bank = copy.copy(self.bank)
        bank.base_quantizer = method
        return Realisation(bank, self._images, self.identity["images"], self._seed)

    def states(self, plan: BitPlan) -> States:
        """States of all quantized sites of a plan, computed on a miss, with progress.

        Raises:
            LampQError: the method is not defined at some bits of the plan.
        """
        return {name: state for part in self.parts(plan) for name, state in part.items()}

    def modules(self, plan: BitPlan) -> dict[str, nn.Module]:
        """Every module in which the realised model differs from the full-precision one, by its name."""
        parts, keys = self.parts(plan), [fingerprint(key) for key in self._keys(plan)]
        made = {}
        for index, (key, states) in enumerate(zip(keys, parts, strict=True)):
            made[key] = self._modules.get(key) or self.modules_of(plan, index, states)
        self._modules = made
        return {name: module for part in made.values() for name, module in part.items()}

    def site_module(self, plan: BitPlan, site: Site) -> nn.Module:
        """The module that a site has in the network of a plan, which is realised up to there."""
        index = self.adapter.segment_of(site)
        return self.modules_of(plan, index, self.parts(plan, index + 1)[index])[site.name]

    def modules_of(self, plan: BitPlan, index: int, states: States) -> dict[str, nn.Module]:
        """The modules of one segment at a plan's bits, made of given states."""
        method = self.bank.independent if self._keeps_independent_states(index) else self.base_quantizer
        return _modules_of(method, self.adapter, self.sites(plan, index), states, method.quantized_module)

    def independent_states(self, sites: tuple[tuple[Site, Bits], ...]) -> States:
        """What the bank holds for these sites, calibrated side by side where it is missing."""
        self.bank.prepare(list(sites))
        device = next(self.adapter.network.parameters()).device
        return {
            site.name: {key: value.to(device).clone() for key, value in self.bank.entry(site, bits).items()}
            for site, bits in sites
        }

    def quantizer_parameters(self, plan: BitPlan) -> int:
        """Number of scales, zero points and the like that a plan adds to the model."""
        return sum(self.base_quantizer.stored_parameters(state) for state in self.states(plan).values())

    def missing(self, plan: BitPlan, segments: int | None = None) -> int:
        """How many of a plan's segments (of the first so many) have never been realised."""
        store, keys = self.bank.store, self._keys(plan)[:segments]
        wanted = [key for index, key in enumerate(keys) if self.sites(plan, index)]
        return sum(not store.holds("realisation", key) for key in wanted)

    def sites(self, plan: BitPlan, index: int) -> tuple[tuple[Site, Bits], ...]:
        """What a plan quantizes in a segment, and the bits there."""
        pairs = zip(self.adapter.sites, plan.sites, strict=True)
        return tuple(
            (site, planned.bits)
            for site, planned in pairs
            if planned.bits.quantized and self.adapter.segment_of(site) == index
        )

    def _keeps_independent_states(self, index: int) -> bool:
        """Whether a segment's sites are seen one by one although the method is sequential: those of a detector's neck
        and heads, which run on maps and regions of any number."""
        return self.adapter.task == "detection" and index == self.adapter.segments - 1

    def _keys(self, plan: BitPlan) -> list[dict]:
        """Key of every segment: the method, the images and the bits up to and including the segment."""
        keys, bits = [], []
        for index in range(self.adapter.segments):
            bits = bits + [[site.name, *site_bits] for site, site_bits in self.sites(plan, index)]
            keys.append({**self.identity, "segment": index, "bits": bits})
        return keys

    @torch.inference_mode(False)
    def parts(self, plan: BitPlan, segments: int | None = None) -> list[States]:
        """States of every segment of a plan, computed on a miss, with progress; one without quantized sites has none.

        Args:
            segments: of the first so many; None for all.

        Raises:
            LampQError: the method is not defined at some bits of the plan.
        """
        plan.check_fits(self.adapter.sites)
        for site in plan.sites:
            self.bank.check_bits(site.name, *site.bits)
        store, steps, missing = self.bank.store, self.base_quantizer.realisation_steps, self.missing(plan, segments)
        bar = None
        if missing:
            if self.base_quantizer.starts_from_bank:
                self.bank.calibrate(plan)
            bar = progress(description=f"realising {self.base_quantizer.name}", total=missing * steps, unit="steps")
        walk = _Walk(self, plan)
        parts: list[States] = []
        for index, key in enumerate(self._keys(plan)[:segments]):
            if not self.sites(plan, index):
                parts.append({})
                continue
            before = bar.n if bar is not None else 0

            def realise(index: int = index, key: dict = key) -> dict[str, Tensor]:
                if self._keeps_independent_states(index):
                    return _flat({s.name: self.bank.entry(s, bits) for s, bits in self.sites(plan, index)})
                segment = walk.segment(index, parts, key, bar.update if bar is not None else lambda count: None)
                return _flat(self.base_quantizer.realise_segment(segment))

            held = store.holds("realisation", key)
            entry = store.fetch("realisation", key, realise, remember=False)
            if bar is not None and not held:
                bar.update(before + steps - bar.n)
            device = next(self.adapter.network.parameters()).device
            parts.append(_nested({name: tensor.to(device) for name, tensor in entry.items()}))
        if bar is not None:
            bar.close()
        return parts


class _Walk:
    """The inputs of one segment after another, under a plan and in full precision; moved on only when asked."""

    def __init__(self, realisation: Realisation, plan: BitPlan) -> None:
        self._realisation = realisation
        self._plan = plan
        self._index = 0
        self._inputs: Pictures | None = None
        self._full_precision_inputs: Pictures | None = None
        self._full_precision_outputs: Pictures | None = None
        self._logits: Tensor | None = None
        self._features: Tensor | None = None

    def _outputs(self) -> Tensor:
        if self._full_precision_outputs is None:
            adapter = self._realisation.adapter
            self._full_precision_outputs = run_in_chunks(adapter, self._index, self._full_precision_inputs)
        return self._full_precision_outputs

    def _full_precision_logits(self) -> Tensor:
        if self._logits is None:
            adapter = self._realisation.adapter
            self._logits = predictions_in_chunks(adapter, self._index, self._full_precision_inputs)
        return self._logits

    def _full_precision_features(self) -> Tensor:
        if self._features is None:
            adapter = self._realisation.adapter
            self._features = features_in_chunks(adapter, self._index, self._full_precision_inputs)
        return self._features

    def segment(self, index: int, parts: list[States], identity: dict, step: Callable[[int], object]) -> Segment:
        """The segment `index`, all before it realised by `parts`."""
        whole = self._realisation
        if self._inputs is None:
            # Whoever asked for them first may have been in inference mode; a method may need gradients.
            images = whole._images()
            images = images.clone() if images.is_inference() else images
            self._inputs = self._full_precision_inputs = images
        quantized = whole.adapter.clone()
        for earlier, states in enumerate(parts[:index]):
            sites = whole.sites(self._plan, earlier)
            method = whole.base_quantizer
            for name, module in _modules_of(method, whole.adapter, sites, states, method.upstream_module).items():
                quantized.replace_module(name, module)
        while self._index < index:
            # Until something is quantized, both are the very same tensor.
            same = self._inputs is self._full_precision_inputs and not any(parts[: self._index + 1])
            outputs = self._outputs()
            self._inputs = outputs if same else run_in_chunks(quantized, self._index, self._inputs)
            self._full_precision_inputs, self._full_precision_outputs = outputs, None
            self._index += 1
        sites, method, gradients = whole.sites(self._plan, index), whole.base_quantizer, whole.bank.gradients
        return Segment(
            index=index,
            sites=sites,
            quantized=quantized,
            full_precision=whole.adapter,
            inputs=self._inputs,
            full_precision_inputs=self._full_precision_inputs,
            independent_states=partial(whole.independent_states, sites),
            upstream_modules=lambda states: _modules_of(method, whole.adapter, sites, states, method.upstream_module),
            output_gradient=None if gradients is None else partial(gradients.at_segment, index),
            store=whole.bank.store,
            identity=identity,
            seed=whole._seed,
            full_precision_outputs=self._outputs,
            full_precision_logits=self._full_precision_logits,
            full_precision_features=self._full_precision_features,
            step=step,
        )


def run_in_chunks(adapter: ModelAdapter, start: int, inputs: Pictures, stop: int | None = None) -> Pictures:
    """Output of a segment (or of segments `start` to `stop` - 1) for all images, ``[images, ...]``: a fixed number of
    images at a time, several times side by side."""

    @torch.no_grad()
    def run(chunk: Tensor) -> Tensor:
        return adapter.run(chunk, start, start + 1 if stop is None else stop)

    with Workers(inputs.device) as workers:
        return join(workers.map(run, inputs.split(CHUNK)))


def predictions_in_chunks(adapter: ModelAdapter, start: int, inputs: Pictures) -> Tensor | list[Tensor]:
    """`ModelAdapter.predictions` of all images, as `run_in_chunks`."""

    @torch.no_grad()
    def run(chunk: Pictures) -> Tensor | list[Tensor]:
        return adapter.predictions(chunk, start)

    with Workers(inputs.device) as workers:
        parts = workers.map(run, inputs.split(CHUNK))
    return torch.cat(parts) if isinstance(parts[0], Tensor) else [one for part in parts for one in part]


def features_in_chunks(adapter: ModelAdapter, start: int, inputs: Tensor) -> Tensor:
    """`ModelAdapter.features` of all images, as `run_in_chunks`."""

    @torch.no_grad()
    def run(chunk: Tensor) -> Tensor:
        return adapter.features(chunk, start)

    with Workers(inputs.device) as workers:
        return torch.cat(workers.map(run, inputs.split(CHUNK)))


def _modules_of(
    method: BaseQuantizer,
    adapter: ModelAdapter,
    sites: tuple[tuple[Site, Bits], ...],
    states: States,
    build: Callable[..., nn.Module],
) -> dict[str, nn.Module]:
    """Modules that `build` makes of those sites that have a state, and what else these states change."""
    device = next(adapter.network.parameters()).device
    modules = {}
    for site, bits in sites:
        if site.name in states:
            layer, state = adapter.module(site.name), states[site.name]
            modules[site.name] = built_module(build, site, layer, state, bits)
            modules |= method.surrounding_modules(adapter, site, state)
    return {name: module.eval().requires_grad_(False).to(device) for name, module in modules.items()}


def _flat(states: States) -> dict[str, Tensor]:
    return {f"{site}/{name}": tensor for site, state in states.items() for name, tensor in state.items()}


def _nested(entry: dict[str, Tensor]) -> States:
    states: States = {}
    for path, tensor in entry.items():
        site, name = path.split("/")
        states.setdefault(site, {})[name] = tensor
    return states
