"""Layer-wise relevance propagation: how much of the predicted class's logit passes through each layer.

The logit is the relevance that leaves the model. Going back from output to input, every layer hands what it gets to its
own inputs, by how much each contributed, so that sums are kept (Bach et al., PLoS ONE 2015). The rules:

- linear layer ``y = W x + b``: ``R_j = sum_i x_j W_ij R_i / (y_i + epsilon sign(y_i))``, the epsilon rule of Bach et
  al.; what belongs to the bias stays there. Convolution, residual sums, pooling, reshaping: the same with epsilon = 0,
  so a residual sum splits by what each branch adds;
- LayerNorm: its standard deviation counts as a constant, which leaves a linear layer (Ali et al., ICML 2022); so does
  the root mean square of an RMSNorm;
- attention ``A V``: the probabilities A count as constants, so relevance goes on through V (Ali et al.). Chefer et al.
  (CVPR 2021) split it between A and V in halves, and AttnLRP (Achtibat et al., ICML 2024) goes through the softmax,
  where part of it is lost; with constant A nothing is, and softmax and ``q k^T`` need no rule;
- GELU and other functions of single numbers: ``R_x = R_y``, the identity rule (Chefer et al.; AttnLRP).

With these rules the relevance at any tensor x is ``x`` times the gradient of the logit in a model whose standard
deviations, attention probabilities and ratios ``GELU(x) / x`` are held fixed, so one backward pass serves all layers.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.progress import progress
from lampq.workbench import Workbench

CHUNK = 16
"""Images run at once; fixed, so that relevances do not depend on a user's batch size."""

EPSILON = 1e-6
"""Of the epsilon rule, in the units of a layer's output: keeps relevance finite where an output is zero."""

POINTWISE = (nn.GELU, nn.ReLU, nn.SiLU, nn.Tanh)
"""Functions of single numbers that are zero at zero."""


class ConstantDeviationNorm(nn.Module):
    """A LayerNorm whose standard deviation has no derivative.

    Args:
        norm: the LayerNorm.
    """

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """``[..., channels] -> [..., channels]``"""
        axes = tuple(range(-len(self.norm.normalized_shape), 0))
        centred = x - x.mean(axes, keepdim=True)
        deviation = (centred.square().mean(axes, keepdim=True) + self.norm.eps).sqrt().detach()
        y = centred / deviation
        y = y if self.norm.weight is None else y * self.norm.weight
        return y if self.norm.bias is None else y + self.norm.bias


class ConstantSizeNorm(nn.Module):
    """An RMSNorm without parameters whose root mean square has no derivative.

    Args:
        norm: the RMSNorm.
    """

    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """``[..., channels] -> [..., channels]``"""
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt().detach()


class ConstantRatio(nn.Module):
    """A function of single numbers, as its input times a ratio without derivative.

    Args:
        function: zero at zero.
    """

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        with torch.no_grad():
            # At zero both are zero, and any ratio does.
            ratio = torch.where(x == 0, torch.zeros_like(x), self.function(x.clone()) / x)
        return x * ratio


class ConstantProbabilities(nn.Module):
    """A matmul whose first operand has no derivative."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """``[..., rows, inner] @ [..., inner, columns] -> [..., rows, columns]``"""
        return a.detach() @ b


def relevance_model(adapter: ModelAdapter, epsilon: float = EPSILON) -> ModelAdapter:
    """A model that computes the same, in which ``x`` times the gradient of a logit is the relevance of x.

    Returns:
        An adapter of its own over the same tensors.

    Raises:
        LampQError: a part of the model that there is no rule for.
    """
    twin = adapter.clone()
    for name, module in list(twin.network.named_modules()):
        if isinstance(module, nn.LayerNorm):
            twin.replace_module(name, ConstantDeviationNorm(module))
        elif isinstance(module, nn.RMSNorm) and module.weight is None:
            twin.replace_module(name, ConstantSizeNorm(module))
        elif isinstance(module, POINTWISE):
            twin.replace_module(name, ConstantRatio(module))
        elif isinstance(module, nn.Linear):
            module.register_forward_hook(_epsilon_rule(epsilon))
        elif getattr(module, "gate", None) is not None:
            raise LampQError(f"allocator.importance=relevance: no rule for the gate of {name}; choose importance=none")
    for site in adapter.sites:
        if site.type == "pv":
            twin.replace_module(site.name, ConstantProbabilities())
    return twin


def _check_rules(twin: ModelAdapter) -> None:
    """See, on one image of noise, that whatever has no rule needs none: twice the input gives twice the output, so
    that the input times the gradient is the output.

    Raises:
        LampQError: names the module that needs one.
    """
    ruled = (nn.Linear, ConstantDeviationNorm, ConstantSizeNorm, ConstantRatio)
    sites = {site.name for site in twin.sites}

    def check(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, operands: tuple[Tensor, ...], output: Tensor) -> None:
            if not torch.allclose(module.forward(2 * operands[0]), 2 * output, rtol=1e-4, atol=1e-6):
                raise LampQError(
                    f"allocator.importance=relevance: no rule for {name} ({type(module).__name__}); choose "
                    "importance=none"
                )

        return hook

    handles = [
        module.register_forward_hook(check(name))
        for name, module in twin.network.named_modules()
        if name not in sites
        and not any(True for _ in module.children())
        and not isinstance(module, ruled)
        and not isinstance(twin.network.get_submodule(name.rpartition(".")[0]), ruled)
    ]
    weight = next(twin.network.parameters())
    noise = torch.randn(1, *twin.input_size, generator=torch.Generator().manual_seed(0)).to(weight)
    try:
        with torch.no_grad():
            twin.run(noise)
    finally:
        for handle in handles:
            handle.remove()


def _epsilon_rule(epsilon: float) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(module: nn.Module, operands: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            size = output.detach().abs()
            output.register_hook(lambda gradient: gradient * (size / (size + epsilon)))

    return hook


def layer_relevances(
    adapter: ModelAdapter,
    names: list[str],
    images: Tensor,
    *,
    chunk: int = CHUNK,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """How much relevance of the predicted class each layer's output holds, as a share of what all of them hold.

    Args:
        adapter: the full-precision model; left as it was.
        names: linear layers.
        images: ``[images, channels, height, width]``.
        chunk: images in one pass; the result does not depend on it beyond rounding.
        progress: called after each chunk with its number of images.

    Returns:
        ``[images, layers]`` float64: ``sum |R|`` over the layer's output, divided by the sum over layers.

    Raises:
        LampQError: a part of the model that there is no rule for.
    """
    model = relevance_model(adapter)
    _check_rules(model)
    device = next(adapter.network.parameters()).device
    found: dict[str, Tensor] = {}
    count = 0

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def on_forward(layer: nn.Module, operands: tuple[Tensor, ...], output: Tensor) -> None:
            value = output.detach()

            def on_gradient(gradient: Tensor) -> None:
                size = (value * gradient).abs().double()
                found[name] = size.reshape(count, -1).sum(1).cpu()

            output.register_hook(on_gradient)

        return on_forward

    # Before the epsilon rule's own hook, whose factor belongs to what goes on to the inputs.
    for name in names:
        model.module(name).register_forward_hook(watch(name), prepend=True)
    shares = []
    for start in range(0, len(images), chunk):
        batch = images[start : start + chunk].to(device).clone().requires_grad_()
        count = len(batch)
        with torch.enable_grad():
            logits = model.run(batch)
            torch.autograd.grad(logits.max(1).values.sum(), batch)
        sizes = torch.stack([found[name] for name in names], dim=1)
        shares.append(sizes / sizes.sum(1, keepdim=True).clamp(min=1e-30))
        if progress is not None:
            progress(len(batch))
    return torch.cat(shares)


def relevance_importance(workbench: Workbench, images: int) -> dict[str, float]:
    """I_i of every layer: its share of the relevance, averaged over the first `images` images of D; sums to 1.

    Stored by what it depends on; the base quantizer is none of it.
    """
    workbench.task.only_classifiers("allocator.importance=relevance")
    names = [s.name for s in workbench.layers]
    key = {
        "model": workbench.bank.identity["model"],
        "weights": workbench.bank.identity["weights"],
        "sample": workbench.task.identity["sample"],
        "images": images,
        "epsilon": EPSILON,
        "revision": 1,
    }

    def compute() -> dict[str, Tensor]:
        pictures = workbench.task.sample_images[:images]
        with progress(description="relevance over D", total=len(pictures), unit="images") as bar:
            shares = layer_relevances(workbench.adapter, names, pictures, progress=lambda done: bar.update(done))
        return {"importance": shares.mean(0)}

    stored = workbench.store.fetch("relevance", key, compute)["importance"].tolist()
    return dict(zip(names, stored, strict=True))
