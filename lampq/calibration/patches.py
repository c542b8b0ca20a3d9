"""A convolution as a linear layer: every place it looks at becomes one row."""

from torch import Tensor, nn
from torch.nn import functional

from lampq.errors import LampQError
from lampq.plan.sites import Site


def patches(site: Site, convolution: nn.Conv2d, images: Tensor) -> Tensor:
    """What the convolution's kernel covers, place by place, ``[images * places, channels * height * width]``.

    The output is this times the flattened weight ``[out channels, channels * height * width]``, transposed.

    Raises:
        LampQError: a convolution with groups, or with padding given by name.
    """
    if convolution.groups != 1 or isinstance(convolution.padding, str):
        raise LampQError(f"site {site.name}: only ungrouped convolutions with numeric padding can be quantized")
    size = convolution.kernel_size
    unfolded = functional.unfold(images, size, convolution.dilation, convolution.padding, convolution.stride)
    return unfolded.mT.flatten(0, 1)
