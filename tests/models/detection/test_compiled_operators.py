"""mmcv's operators on torchvision's: the same numbers, and nothing where mmcv has its own."""

import importlib.util
import sys
from types import ModuleType

import pytest
import torch
import torchvision

from lampq.errors import LampQError
from lampq.models.detection import compiled_operators
from lampq.models.detection.compiled_operators import NAME, install_stand_in
from lampq.models.detection.mmdet_import import import_mmdet


@pytest.fixture(scope="module", autouse=True)
def mmcv():
    import_mmdet()
    assert install_stand_in(), "a compiled mmcv is installed: its own operators are what runs here"


def boxes_and_scores(count=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = 100 * torch.rand(count, 2, generator=generator)
    size = 5 + 40 * torch.rand(count, 2, generator=generator)
    return torch.cat([corner, corner + size], 1), torch.rand(count, generator=generator)


def suppressed_one_by_one(boxes, scores, threshold, offset):
    """Non-maximum suppression as it is defined."""
    kept = []
    for index in scores.argsort(descending=True).tolist():
        for other in kept:
            a, b = boxes[index].double(), boxes[other].double()
            inner = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2]) + offset).clamp(min=0).prod()
            union = (a[2:] - a[:2] + offset).prod() + (b[2:] - b[:2] + offset).prod() - inner
            if inner / union > threshold:
                break
        else:
            kept.append(index)
    return kept


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_suppression(threshold, offset):
    from mmcv.ops import nms

    boxes, scores = boxes_and_scores()
    kept = nms(boxes, scores, threshold, offset=offset)[1].tolist()
    assert kept == suppressed_one_by_one(boxes, scores, threshold, offset)
    if not offset:
        assert kept == torchvision.ops.nms(boxes, scores, threshold).tolist()
        assert kept != suppressed_one_by_one(boxes, scores, threshold, 1)
    limited = nms(boxes, scores, threshold, offset=offset, score_threshold=0.5, max_num=3)[1].tolist()
    assert limited == kept[:3]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 2])
def test_region_features_and_their_gradient(aligned, samples):
    from mmcv.ops import RoIAlign

    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(2, 3, 20, 24, generator=generator)
    boxes, _ = boxes_and_scores(11)
    regions = torch.cat([torch.arange(11)[:, None] % 2, boxes], 1)
    weights = torch.randn(11, 3, 7, 5, generator=generator)
    one, other = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    ours = RoIAlign((7, 5), 0.25, samples, "avg", aligned)(one, regions)
    theirs = torchvision.ops.roi_align(other, regions, (7, 5), 0.25, samples or -1, aligned)
    assert torch.equal(ours, theirs)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    assert torch.equal(one.grad, other.grad) and one.grad.abs().sum() > 1


def test_the_average_of_a_region_of_a_ramp_is_its_middle():
    from mmcv.ops import RoIAlign

    ramp = torch.arange(32.0).expand(1, 1, 16, 32) + 0.5  # pixel x has its centre at x + 0.5
    regions = torch.tensor([[0.0, 4.0, 3.0, 20.0, 9.0]])
    pooled = RoIAlign(1, 1.0, 0, "avg", True)(ramp, regions)
    torch.testing.assert_close(pooled.flatten(), torch.tensor([12.0]))


def test_what_is_missing_says_so_when_it_is_called():
    from mmcv.ops import RoIAlign, RoIPool

    maps, regions = torch.zeros(1, 1, 8, 8), torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
    for layer, named in ((RoIPool(2), "roi_pool_forward"), (RoIAlign(2, pool_mode="max"), "pool_mode=max")):
        with pytest.raises(LampQError, match=named) as caught:
            layer(maps, regions)
        assert "\n" not in str(caught.value) and "mmcv 2.1.0" in str(caught.value)


def test_compiled_operators_are_left_alone(monkeypatch):
    compiled = ModuleType(NAME)
    monkeypatch.setitem(sys.modules, NAME, compiled)
    assert not install_stand_in() and sys.modules[NAME] is compiled
    monkeypatch.delitem(sys.modules, NAME)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert not install_stand_in() and NAME not in sys.modules
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert install_stand_in() and sys.modules[NAME].nms is compiled_operators.nms
