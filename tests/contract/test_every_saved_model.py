"""Every base quantizer's model is saved, loaded and run in integers."""

import math
from functools import partial

import pytest
import torch

from lampq.artefact.files import TENSORS
from lampq.artefact.integer import to_integers
from lampq.artefact.loading import load, load_adapter
from lampq.artefact.saving import save
from lampq.models.architectures import network_name
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.transform.hadamard import Hadamard
from tests.contract.test_every_base_quantizer import NAMES, QUICK, quantizer
from tests.small_models import images, search_over, swin, swin_adapter, vision_transformer, vit_adapter

MODELS = {
    "vit": (vision_transformer, vit_adapter),
    "swin": (swin, swin_adapter),
    "rotated vit": (partial(vision_transformer, 1), lambda: Hadamard().apply(vit_adapter(1))),
    "rotated swin": (swin, lambda: Hadamard().apply(swin_adapter())),
}


def mixed(adapter, method):
    """A plan of 2, 3 and 4 bits in turn, outside the blocks 8, as far as the method is defined at them."""
    lowest = max(2, method.minimum_bits)
    bits = {}
    for number, site in enumerate(adapter.sites):
        of = lowest + number % 3 if site.block is not None else 8
        bits[site.name] = Bits(None if site.is_matmul or site.is_tensor else of, of)
    return BitPlan.full_precision(adapter.sites).with_bits(bits)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        *((name, model) for name in NAMES for model in ("vit", "rotated vit")),
        *((name, "swin") for name in ("adalog", "erq", "psaq_vit")),
        ("adalog", "rotated swin"),
    ],
)
def test_a_saved_model_is_the_simulated_one(name, model, tmp_path):
    make, make_adapter = MODELS[model]
    method = quantizer(name, *QUICK)
    workbench = search_over(make_adapter(), tmp_path / "store", base_quantizer=method)
    adapter = workbench.adapter
    plan = mixed(adapter, method)
    workbench.build(plan)
    quantized = workbench.quantized_model().apply(plan).adapter
    adapter.architecture |= {"library": "own", "name": network_name(make())}
    save(tmp_path / "model", adapter, quantized, plan, {})
    x = images(adapter, 5)
    with torch.no_grad():
        expected = quantized.run(x)
        assert torch.equal(load(tmp_path / "model", network=make(seed=9))(x), expected)
    size = (tmp_path / "model" / TENSORS).stat().st_size
    packed = workbench.sizes(plan)["packed_bytes"]
    assert packed <= size <= packed + max(0.02 * packed, 65_536)

    loaded, _ = load_adapter(tmp_path / "model", network=make(seed=9))
    left = to_integers(loaded)
    assert set(left) <= {
        s.name for s in adapter.sites if s.type in ("patch_embed", "qk", "pv") or name in ("psaq_vit",)
    }
    with torch.no_grad():
        found = loaded.run(x)
    assert math.isclose(float((found - expected).abs().max()), 0, abs_tol=1e-4 * float(expected.abs().max()))
