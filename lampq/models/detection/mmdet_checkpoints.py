"""Detectors' weights from files: those of mmdet, and those of the authors of Swin."""

from pathlib import Path

from torch import Tensor, nn

from lampq.models.checkpoints import load_weights


def load_detector(network: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load a state dictionary strictly, of mmdet or in the naming of the authors of Swin.

    Raises:
        LampQError: names or shapes do not fit the architecture.
    """

    def converted(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        original = any(name.startswith("backbone.layers.") for name in state)
        # Position indices follow from the window's size; not every file has them.
        indices = {name: value for name, value in network.state_dict().items() if name.endswith("position_index")}
        return indices | (from_original(state) if original else state)

    load_weights(network, state, path, converted)


def from_original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the authors of Swin to those of mmdet, which also takes the channels of a patch merging in another
    order: mmdet's own converter of backbones. Neck and heads have had the same names since."""
    from mmdet.models.backbones.swin import swin_converter

    prefix = "backbone."
    backbone = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    rest = {name: value for name, value in state.items() if not name.startswith(prefix)}
    return {**swin_converter(backbone), **rest}
