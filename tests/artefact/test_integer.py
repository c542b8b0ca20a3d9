"""Integer execution: the same codes, exact sums, and outputs that differ from the simulation by the scaling alone."""

import pytest
import torch

from lampq.artefact import whole_numbers
from lampq.artefact.integer import integer_module, to_integers
from lampq.base_quantizers.adalog import AdaLog
from lampq.base_quantizers.ptq4vit import PTQ4ViT
from lampq.number_formats.uniform import AffineQuantizer, SymmetricQuantizer
from lampq.number_formats.weights import WeightFormat
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.quantized_modules.convolution import QuantizedConvolution
from tests.small_models import images, search_over, swin_adapter, vit_adapter

tensor = torch.tensor


@pytest.fixture(scope="module", params=[(AdaLog, vit_adapter), (AdaLog, swin_adapter), (PTQ4ViT, vit_adapter)])
def quantized(request, tmp_path_factory):
    """A model at 3 bits, and what each of its sites is fed and gives on a few images."""
    method, make = request.param
    adapter = make()
    workbench = search_over(adapter, tmp_path_factory.mktemp("store"), base_quantizer=method(candidates=32))
    bits = {s.name: Bits(None if s.is_matmul else 3, 3) for s in adapter.sites}
    plan = BitPlan.full_precision(adapter.sites).with_bits(bits)
    twin = workbench.quantized_model().apply(plan).adapter
    seen = {}
    for site in twin.sites:
        twin.module(site.name).register_forward_hook(
            lambda module, inputs, output, name=site.name: seen.update({name: (inputs, output)})
        )
    with torch.no_grad():
        twin.run(images(adapter, 4))
    return twin, seen


def by_definition(site, module, inputs):
    """Whole numbers in float64, their products in float64, and then the scaling."""
    if site.is_matmul:
        pairs = [(f, f.codes(x)) for f, x in zip((module.quantize_a, module.quantize_b), inputs, strict=True)]
        one, other = (f.integers(codes) for f, codes in pairs)
        return sum((a @ b).float() * (step * beside) for a, step in one for b, beside in other)
    (x,) = inputs
    if module.channel_scale is not None:
        x = x / module.channel_scale - module.channel_shift
    of = module.weight_format.of_every_weight(len(module.weight))
    ((weights, scale),) = of.integers(module.weight_format.codes(module.weight))
    parts = module.quantize_input.integers(module.quantize_input.codes(x))
    total = sum((numbers @ weights.T).float() * (step * scale[:, 0]) for numbers, step in parts)
    return total if module.bias is None else total + module.bias


@pytest.mark.parametrize("int8", [True, False])
def test_each_site_gives_what_whole_numbers_give(quantized, int8, monkeypatch):
    adapter, seen = quantized
    monkeypatch.setattr(whole_numbers, "int8_is_exact", lambda: int8)
    for site in adapter.sites:
        module = adapter.module(site.name)
        made = integer_module(module)
        if site.type == "patch_embed":  # its image is in full precision
            assert made is None
            continue
        inputs, output = seen[site.name]
        with torch.no_grad():
            found = made(*inputs)
            assert torch.equal(found, by_definition(site, module, inputs)), site.name
        torch.testing.assert_close(found, output, rtol=0, atol=2e-6 * float(output.abs().max()), msg=site.name)
        if not site.is_matmul:
            assert int8 == any(kind == torch.int8 for kind, _ in made.weights.kernels)


def test_a_whole_model_is_told_what_stays_simulated(quantized):
    adapter, _ = quantized
    twin = adapter.clone()
    assert to_integers(twin) == ["patch_embed.proj"]
    with torch.no_grad():
        found, expected = (each.run(images(adapter, 16, seed=3)).argmax(1) for each in (twin, adapter))
    assert (found == expected).float().mean() >= 0.9  # a last bit may flip a code


def test_zeros_around_a_map_are_zeros_whatever_their_code():
    layer = torch.nn.Conv2d(3, 5, 3, stride=2, padding=1)
    rows = layer.weight.detach().flatten(1)
    coded = WeightFormat(SymmetricQuantizer, 4, rows.abs().amax(1, keepdim=True) / 7)
    quantize = AffineQuantizer(tensor(0.4), tensor(3.0), 3)
    simulated = QuantizedConvolution(coded.quantize(layer.weight), layer, quantize, weight_format=coded)
    x = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(integer_module(simulated)(x), simulated(x), rtol=0, atol=1e-5)
