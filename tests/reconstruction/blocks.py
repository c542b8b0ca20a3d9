"""A segment of a small model, its sites and independent states, to train by itself."""

from contextlib import contextmanager

import torch

from lampq.bank.realisation import features_in_chunks, run_in_chunks
from lampq.calibration.segment import Segment
from lampq.plan.bits import Bits
from lampq.reconstruction.training import Recipe, TrainedBlock
from lampq.workers import Workers
from tests.small_models import images, vit_adapter

QUICK = {"images": 48, "batch_size": 16, "rounding_rate": 0.05, "scale_rate": 2e-3, "candidates": 32, "rounds": 1}
"""Settings of a method with which a block of a small model is trained within a second."""


QUICK_STRAIGHT_THROUGH = {"images": 48, "batch_size": 16, "weight_rate": 5e-3, "scale_rate": 1e-2, "mlp_iterations": 3}
"""The same for a method that trains weights straight through."""


def recipe(**changes):
    values = {"iterations": 20, "batch_size": 16, "weight_rate": 0.05, "scale_rate": 2e-3}
    return Recipe(**{**values, "regularization": 0.01, "warmup": 0.2, **changes})


def segment_of(method, index=2, bits=3, adapter=None, noise=0.1, count=48, seed=0):
    """Segment `index` of a model; what the quantized network feeds it is what the full-precision one does, and noise.

    Args:
        bits: of every site, or {site type: (weight bits, activation bits)}; a type that is not among them is left out.
    """
    adapter = adapter or vit_adapter()
    with torch.no_grad():
        inputs = adapter.run(images(adapter, count), 0, index)
    generator = torch.Generator().manual_seed(3)
    quantized = inputs + noise * torch.randn(inputs.shape, generator=generator)
    sites = [site for site in adapter.sites if adapter.segment_of(site) == index]
    if not isinstance(bits, dict):
        bits = {site.type: (None if site.is_matmul else bits, bits) for site in sites}
    return Segment(
        index=index,
        sites=tuple((site, Bits(*bits[site.type])) for site in sites if site.type in bits),
        quantized=adapter.clone(),
        full_precision=adapter,
        inputs=quantized,
        full_precision_inputs=inputs,
        independent_states=dict,
        upstream_modules=dict,
        output_gradient=None,
        store=None,
        identity={"method": method},
        seed=seed,
        full_precision_outputs=lambda: run_in_chunks(adapter, index, inputs),
        full_precision_logits=lambda: run_in_chunks(adapter, index, inputs, adapter.segments),
        full_precision_features=lambda: features_in_chunks(adapter, index, inputs),
    )


def method_of(segment):
    return segment.identity["method"]


def independent_states(segment):
    method = method_of(segment)
    return {
        site.name: method.calibrate(
            site,
            segment.full_precision.module(site.name),
            segment.observe(site.name, images=8, full_precision=True),
            bits,
        )
        for site, bits in segment.sites
    }


@contextmanager
def block_of(segment, its_recipe=None, states=None):
    """The block, ready to be trained."""
    with Workers(torch.device("cpu")) as workers:
        block, method = TrainedBlock(segment, workers), method_of(segment)
        if its_recipe is not None:
            states = independent_states(segment) if states is None else states
            block.make_trainable(states, {}, its_recipe, method.quantized_module, method.has_choice)
        yield block


@torch.no_grad()
def error(segment, states, inputs=None):
    """Mean squared error of the segment's output when its sites have these states."""
    adapter = segment.full_precision.clone()
    for site, bits in segment.sites:
        layer = segment.full_precision.module(site.name)
        module = method_of(segment).quantized_module(site, layer, states[site.name], bits)
        adapter.replace_module(site.name, module)
        changed = method_of(segment).surrounding_modules(adapter, site, states[site.name])
        for name, other in changed.items():
            adapter.replace_module(name, other)
    output = adapter.run_segment(segment.index, segment.inputs if inputs is None else inputs)
    return (output - segment.full_precision_outputs()).square().mean().item()
