"""Plans of models of several depths."""

import random

from lampq.plan.bit_plan import BitPlan, SitePlan
from lampq.plan.sites import LAYER_TYPES

PARAMETERS = {"qkv": 3, "proj": 1, "fc1": 4, "fc2": 4}


def example_plan(blocks: int, *, candidates: tuple[int, ...] = (2, 3, 4, 5), activation_bits: int = 0) -> BitPlan:
    """A plan of a model with `blocks` blocks and bits drawn from the candidates.

    Args:
        activation_bits: of all inputs; 0 means that each layer's input has its layer's bits.
    """
    draw = random.Random(blocks)
    sites = [SitePlan("patch_embed", "patch_embed", None, 7, candidates[-1], None, False)]
    for block in range(blocks):
        for kind in LAYER_TYPES:
            bits = draw.choice(candidates)
            inputs = bits if activation_bits == 0 else activation_bits
            sites.append(SitePlan(f"blocks.{block}.{kind}", kind, block, PARAMETERS[kind] * 192**2, bits, inputs, True))
        sites.append(SitePlan(f"blocks.{block}.qk", "qk", block, 0, None, candidates[-1], False))
    return BitPlan(tuple(sites), {"candidates": list(candidates)}, {"allocator": "lampq"})
