"""A stand-in for mmcv's compiled operators where mmcv was installed without them (mmcv-lite).

mmdet imports mmcv's Python side of every operator, which looks for its compiled side in the module ``mmcv._ext``. A
Mask R-CNN or Cascade Mask R-CNN calls three of them, and torchvision has the same ones. The others can be imported and
say what is missing when they are called.
"""

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

from lampq.errors import LampQError

NAME = "mmcv._ext"


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Numbers of the boxes that non-maximum suppression keeps, best first, ``[kept]``.

    Args:
        boxes: left, top, right, bottom ``[boxes, 4]``.
        scores: ``[boxes]``.
        iou_threshold: a box is dropped where its overlap with a better one, intersection over union, is above.
        offset: 1 where right and bottom belong to the box (mmdet before 2.0), else 0.
    """
    return torchvision_nms(boxes + boxes.new_tensor([0, 0, offset, offset]), scores.to(boxes.dtype), iou_threshold)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Average bilinear samples of each region of a feature map; written into `output`.

    Args:
        input: ``[images, channels, height, width]``.
        rois: image, left, top, right, bottom ``[regions, 5]``, in pixels of the image.
        output: ``[regions, channels, aligned_height, aligned_width]``, filled.
        argmax_y, argmax_x: used by the maximum only, which is not here.
        spatial_scale: pixels of the feature map for one of the image.
        sampling_ratio: samples in a bin and direction; 0 for as many as the region is large.
        pool_mode: 1 is the average, 0 the maximum.
        aligned: whether the centre of the first pixel is at 0.5.

    Raises:
        LampQError: the maximum is asked for.
    """
    if pool_mode != 1:
        _missing("roi_align with pool_mode=max")()
    pooled = torch.ops.torchvision.roi_align(
        input, rois.to(input.dtype), spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
    )
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """The gradient of `roi_align_forward` at its feature map, written into `grad_input`; arguments as there."""
    gradient = torch.ops.torchvision._roi_align_backward(
        grad_output,
        rois.to(grad_output.dtype),
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )
    grad_input.copy_(gradient)


def install_stand_in() -> bool:
    """Make these functions the compiled operators of mmcv, unless it has its own.

    To be called before the first import of mmdet, ``mmcv.cnn`` or ``mmcv.ops``.

    Returns:
        Whether mmcv works with the stand-in, now or since an earlier call.
    """
    if NAME in sys.modules:
        return isinstance(sys.modules[NAME], _StandIn)
    if importlib.util.find_spec(NAME) is not None:
        return False
    module = _StandIn(NAME)
    module.__spec__ = importlib.util.spec_from_loader(NAME, loader=None)
    for operator in (nms, roi_align_forward, roi_align_backward):
        setattr(module, operator.__name__, operator)
    sys.modules[NAME] = module
    return True


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Callable:
        if name.startswith("__"):
            raise AttributeError(name)
        return _missing(name)


def _missing(name: str) -> Callable:
    def operator(*args: object, **kwargs: object) -> None:
        raise LampQError(
            f"model: its operator {name} is missing in mmcv-lite; install mmcv 2.1.0 with compiled operators in its "
            "place"
        )

    return operator
