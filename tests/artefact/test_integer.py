"""Integer execution: the same codes, exact sums, and outputs that differ from the simulation by the scaling alone."""

import pytest
import torch

from lampq.artefact import integer
from lampq.artefact.integer import exact_product, integer_module, to_integers
from lampq.base_quantizers.adalog import AdaLog
from lampq.base_quantizers.ptq4vit import PTQ4ViT
from lampq.errors import LampQError
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


def test_each_site_gives_what_the_simulation_gives(quantized):
    adapter, seen = quantized
    for site in adapter.sites:
        made = integer_module(adapter.module(site.name))
        if site.type == "patch_embed":  # its image is in full precision
            assert made is None
            continue
        inputs, output = seen[site.name]
        with torch.no_grad():
            found = made(*inputs)
        torch.testing.assert_close(found, output, rtol=0, atol=2e-6 * float(output.abs().max()), msg=site.name)


def test_a_whole_model_is_told_what_stays_simulated(quantized):
    adapter, _ = quantized
    twin = adapter.clone()
    assert to_integers(twin) == ["patch_embed.proj"]
    with torch.no_grad():
        found, expected = (each.run(images(adapter, 16, seed=3)).argmax(1) for each in (twin, adapter))
    assert (found == expected).float().mean() >= 0.9  # a last bit may flip a code


def test_sums_are_exact_whatever_kernel_takes_them(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    for largest, inner in ((100, 300), (100, 1), (4_000, 50), (10**6, 1000)):
        a, b = (torch.randint(-largest, largest + 1, (7, inner), generator=generator).double() for _ in range(2))
        assert torch.equal(exact_product(a, b.T), (a.long() @ b.T.long()).double())
        monkeypatch.setattr(integer, "int8_is_exact", lambda device: False)
    with pytest.raises(LampQError, match="too large to be exact"):
        exact_product(tensor([[2.0**40]]).double(), tensor([[2.0**40]]).double())


def test_zeros_around_a_map_are_zeros_whatever_their_code():
    layer = torch.nn.Conv2d(3, 5, 3, stride=2, padding=1)
    rows = layer.weight.detach().flatten(1)
    coded = WeightFormat(SymmetricQuantizer, 4, rows.abs().amax(1, keepdim=True) / 7)
    quantize = AffineQuantizer(tensor(0.4), tensor(3.0), 3)
    simulated = QuantizedConvolution(coded.quantize(layer.weight), layer, quantize, weight_format=coded)
    x = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(integer_module(simulated)(x), simulated(x), rtol=0, atol=1e-5)
