"""Fisher traces: exact per-image gradients in one backward pass, and a model that is left as it was."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lampq.errors import LampQError
from lampq.sensitivity import fisher
from lampq.sensitivity.fisher import GradientNorms, fisher_traces, squared_gradient_norms

# torch.func's own remark on the attention kernel, in the oracle only.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")

LAYERS = ("qkv", "proj", "fc1", "fc2")


def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=7, mlp_ratio=4
    ).eval()


def swin() -> nn.Module:
    """Shifted windows of 4 x 4 on maps of 14 x 14 and 7 x 7: both are padded."""
    torch.manual_seed(0)
    return timm.models.SwinTransformer(
        img_size=56, patch_size=4, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=7
    ).eval()


def layers_of(model: nn.Module) -> list[str]:
    return [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.rpartition(".")[2] in LAYERS]


def sample(images: int, size: int, classes: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(images, 3, size, size, generator=generator, dtype=torch.float64),
        torch.randint(classes, (images,), generator=generator),
    )


def per_image_oracle(model: nn.Module, names: list[str], images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``[images, layers]``: one gradient for each image and weight, by torch.func."""
    frozen = {k: p.detach() for k, p in model.named_parameters()}
    weights = {f"{n}.weight": frozen.pop(f"{n}.weight") for n in names}

    def loss(weights, image, label):
        logits = torch.func.functional_call(model, {**frozen, **weights}, (image[None],))
        return nn.functional.cross_entropy(logits, label[None])

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, images, labels)
    return torch.stack([gradients[f"{n}.weight"].flatten(1).square().sum(1) for n in names], dim=1)


@pytest.mark.parametrize(("build", "size"), [(vit, 32), (swin, 56)])
def test_equals_one_gradient_for_each_image(build, size):
    model = build().double()
    images, labels = sample(5, size)
    names = layers_of(model)
    result = fisher_traces(model, names, images, labels, chunk=3)
    expected = per_image_oracle(model, names, images, labels)
    assert result.squared_norms.dtype == torch.float64
    torch.testing.assert_close(result.squared_norms, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(result.trace, expected.mean(0), rtol=1e-10, atol=0)
    torch.testing.assert_close(result.standard_error, expected.std(0) / 5**0.5, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("build", "size"), [(vit, 32), (swin, 56)])
def test_single_precision_is_as_good(build, size):
    images, labels = sample(4, size)
    exact = build().double()
    expected = per_image_oracle(exact, layers_of(exact), images, labels)
    model = build()
    result = fisher_traces(model, layers_of(model), images.float(), labels)
    torch.testing.assert_close(result.squared_norms, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_chunks_do_not_matter(chunk):
    model = vit().double()
    images, labels = sample(7, 32)
    names = layers_of(model)
    whole = fisher_traces(model, names, images, labels, chunk=100).squared_norms
    torch.testing.assert_close(
        fisher_traces(model, names, images, labels, chunk=chunk).squared_norms, whole, rtol=1e-11, atol=0
    )


def test_is_not_the_squared_gradient_of_the_mean_loss():
    model = vit().double()
    images, labels = sample(6, 32)
    names = layers_of(model)
    trace = fisher_traces(model, names, images, labels).trace
    nn.functional.cross_entropy(model(images), labels).backward()
    of_the_mean = torch.stack([model.get_parameter(f"{n}.weight").grad.square().sum() for n in names])
    assert (of_the_mean < 0.75 * trace).all()


def test_linear_softmax_layer_has_the_known_trace():
    """For logits W x, averaging over labels gives ``||x||^2 (1 - sum p^2)``, the trace of the Hessian as well."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5)).double().eval()
    x = torch.randn(4, 6, dtype=torch.float64)
    p = model(x).detach().softmax(1)
    over_labels = torch.stack(
        [fisher_traces(model, ["0"], x, torch.full((4,), y)).squared_norms[:, 0] for y in range(5)], dim=1
    )
    torch.testing.assert_close(
        (p * over_labels).sum(1), x.square().sum(1) * (1 - p.square().sum(1)), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("shape", [(9, 4, 6), (3, 20, 30), (12, 12, 12)])
def test_both_forms_of_the_norm_agree_with_the_plain_one(shape):
    rows, columns_in, columns_out = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, rows, columns_in, generator=generator, dtype=torch.float64)
    g = torch.randn(3, rows, columns_out, generator=generator, dtype=torch.float64)
    expected = torch.einsum("nro,nri->noi", g, x).square().sum((1, 2))
    torch.testing.assert_close(squared_gradient_norms(x, g), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("rows", "form"), [(9, "rows"), (90, "weights")])
def test_the_cheaper_form_of_the_norm_is_used(rows, form):
    with FlopCounterMode(display=False) as counter:
        squared_gradient_norms(torch.ones(2, rows, 24), torch.ones(2, rows, 72))
    multiplications = {"rows": rows**2 * (24 + 72), "weights": rows * 24 * 72}
    assert counter.get_total_flops() == 2 * 2 * multiplications[form] == 2 * 2 * min(multiplications.values())


def test_half_precision_is_summed_in_higher_precision():
    x, g = torch.full((1, 40, 8), 100.0), torch.full((1, 40, 8), 100.0)
    expected = squared_gradient_norms(x, g)
    assert squared_gradient_norms(x.half(), g.half()) == expected == 64 * (40 * 100.0**2) ** 2


def test_backward_computes_no_weight_gradients(monkeypatch):
    """The pass costs less than a forward pass and as much again; weight gradients would make it three times."""
    monkeypatch.setattr(fisher, "squared_gradient_norms", lambda x, g: torch.zeros(len(x), dtype=torch.float64))
    model = vit()
    images, labels = sample(2, 32)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(images.float())
    with FlopCounterMode(display=False) as both:
        fisher_traces(model, layers_of(model), images.float(), labels)
    # Attention's two products have two gradients each: beyond twice only by their share.
    with FlopCounterMode(display=False) as plain:
        nn.functional.cross_entropy(model(images.float()), labels).backward()
    linear = 2 * 2 * 17 * 12 * 24**2 * 2  # multiply and add, images, tokens, weights of a block, blocks
    assert plain.get_total_flops() - both.get_total_flops() >= linear
    assert both.get_total_flops() < 2.3 * forward.get_total_flops()


def test_model_is_left_as_it_was():
    model = vit()
    model.blocks[0].attn.qkv.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = {k: (p.requires_grad, p.detach().clone()) for k, p in model.named_parameters()}
    images, labels = sample(3, 32)
    with torch.no_grad():
        fisher_traces(model, layers_of(model), images.float(), labels)
        assert not torch.is_grad_enabled()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == before[name][0]
        assert torch.equal(parameter, before[name][1])
        assert (parameter.grad is not None) == (name == "head.weight")
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert not any(m._forward_hooks for m in model.modules())


def test_model_is_left_as_it_was_after_an_error():
    model = vit()
    with pytest.raises(AssertionError):  # the wrong image size
        fisher_traces(model, layers_of(model), torch.zeros(2, 3, 31, 32), torch.zeros(2, dtype=torch.int64))
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_outputs_may_be_changed_in_place():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 5)).double().eval()
    x, labels = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    result = fisher_traces(model, ["0", "2"], x, labels).squared_norms
    torch.testing.assert_close(result, per_image_oracle(model, ["0", "2"], x, labels), rtol=1e-12, atol=0)


def test_progress_counts_images():
    model = vit()
    images, labels = sample(5, 32)
    seen = []
    fisher_traces(
        model, layers_of(model), images.float(), labels, chunk=2, progress=lambda done, of: seen.append((done, of))
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]


class RunsTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.once, self.twice, self.never = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.twice(self.twice(self.once(x)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("twice", "layer twice runs more than once"),
        ("never", "layer never did not take part"),
        ("no.such", "layer no.such is not a linear layer"),
        ("", "is not a linear layer"),
    ],
)
def test_layers_that_have_no_trace(name, message):
    model = RunsTwice().eval()
    with pytest.raises(LampQError, match=message):
        fisher_traces(model, ["once", name], torch.randn(2, 4), torch.tensor([0, 1]))
    assert not any(m._forward_hooks for m in model.modules())


def test_wrong_use():
    with pytest.raises(ValueError, match="evaluation mode"):
        fisher_traces(vit().train(), [], torch.zeros(1, 3, 32, 32), torch.zeros(1))
    with pytest.raises(ValueError, match="2 images but 1 labels"):
        fisher_traces(vit(), [], torch.zeros(2, 3, 32, 32), torch.zeros(1))


def test_gradient_norms_serve_any_summed_loss():
    model = vit().double()
    images, _ = sample(3, 32)
    names = layers_of(model)
    with GradientNorms(model, names, 3) as norms:
        model(images).square().sum().backward()
    weight = model.get_parameter(f"{names[2]}.weight")
    gradient = torch.autograd.grad(model(images[1:2]).square().sum(), weight)[0]
    torch.testing.assert_close(norms.squared[1, 2], gradient.square().sum(), rtol=1e-10, atol=0)
