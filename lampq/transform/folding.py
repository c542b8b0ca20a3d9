"""Linear maps folded into the parameters of the layers beside them, computed in float64."""

from collections.abc import Callable

from torch import Tensor, nn


def in_float64(module: nn.Module, **changes: Callable[[Tensor], Tensor]) -> None:
    """Replace parameters by what functions make of them; one that the module does not have stays away.

    Args:
        changes: by the parameter's name.
    """
    for name, change in changes.items():
        parameter = getattr(module, name)
        if parameter is not None:
            replace(module, name, change(parameter.detach().double()), parameter)


def replace(module: nn.Module, name: str, value: Tensor, like: Tensor) -> None:
    """Another parameter in place of a module's own, which is not written to.

    Args:
        like: has its precision and device.
    """
    setattr(module, name, nn.Parameter(value.to(like).contiguous(), requires_grad=False))
