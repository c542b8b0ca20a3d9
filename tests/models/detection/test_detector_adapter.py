"""mmdet's detectors cut into segments: the same function and the same losses, with the sites where they belong."""

from collections import Counter
from dataclasses import replace

import pytest
import timm.models.swin_transformer as timm_swin
import torch
from torch import nn

from lampq.base_quantizers.adalog import AdaLog
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter, declared
from lampq.models.detection.detector_adapter import BLOCK_SITES, SwinDetectorAdapter
from lampq.models.detection.pictures import Images, Instances
from lampq.plan.bits import Bits
from lampq.plan.sites import DETECTOR_TYPES
from lampq.quantized_modules.attention import ExplicitWindowAttention
from lampq.quantized_modules.linear import QuantizedLinear
from lampq.quantized_modules.matmul import MatMul
from tests.small_detectors import CLASSES, detector_adapter, detector_images, instances_in, small_detector


@pytest.fixture(scope="module", params=[False, True], ids=["mask_rcnn", "cascade"])
def pair(request):
    """mmdet's own network, and an adapter over the same one."""
    return small_detector(request.param), detector_adapter(request.param)


@pytest.fixture
def adapter(pair):
    return pair[1]


def data_sample(image, target=None):
    """What mmdet's own data pipeline would hand over."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    sample = DetDataSample(metainfo=image.meta)
    if target is not None:
        masks = BitmapMasks(target.masks.numpy().astype("uint8"), *image.meta["img_shape"])
        masks = masks.pad(image.meta["batch_input_shape"], pad_val=0)
        sample.gt_instances = InstanceData(bboxes=target.boxes.clone(), labels=target.labels, masks=masks)
    return sample


def test_detections_are_those_of_mmdet(pair):
    from pycocotools import mask as rle

    network, adapter = pair
    pictures = detector_images(2)
    for image, found in zip(pictures, adapter.run(pictures), strict=True):
        with torch.no_grad():
            expected = network.predict(image.x[None], [data_sample(image)])[0].pred_instances
        assert len(expected) > 3, "nothing to compare"
        assert torch.equal(found.boxes, expected.bboxes) and torch.equal(found.labels, expected.labels)
        assert torch.equal(found.scores, expected.scores)
        masks = torch.stack([torch.from_numpy(rle.decode(mask)) for mask in found.masks]).bool()
        assert torch.equal(masks, expected.masks) and masks.shape[1:] == image.meta["ori_shape"] and masks.any()


def test_features_of_the_backbone_are_those_of_mmdet_whatever_the_windows(pair):
    """Maps of 23 x 15, 12 x 8, 6 x 4 and 3 x 2 tokens: padded and shifted windows, and uneven maps to be merged."""
    network, adapter = pair
    pictures = detector_images(1, sizes=((92, 60),))
    with torch.no_grad():
        expected = network.backbone(pictures[0].x[None])
    state = adapter.run(pictures, stop=adapter.segments - 1)[0]
    stages = (*state.stages, (state.x, state.size))
    assert [size for _, size in stages] == [tuple(maps.shape[2:]) for maps in expected] == [
        (23, 15), (12, 8), (6, 4), (3, 2)
    ]  # fmt: skip
    for stage, maps in enumerate(expected):
        tokens = getattr(adapter.network.backbone, f"norm{stage}")(stages[stage][0])
        assert torch.equal(tokens, maps[0].flatten(1).T)


def test_an_absolute_position_embedding_belongs_to_the_stem():
    network, other = small_detector(), small_detector()
    pictures = detector_images(1)
    tokens = 24 * 16
    for one in (network, other):
        one.backbone.use_abs_pos_embed = True
        embedding = torch.randn(1, tokens, 16, generator=torch.Generator().manual_seed(0))
        one.backbone.absolute_pos_embed = nn.Parameter(embedding, requires_grad=False)
    adapter = SwinDetectorAdapter("positions", other, input_size=(3, 96, 64))
    state = adapter.run(pictures, stop=adapter.segments - 1)[0]
    plain = detector_adapter().run(pictures, stop=1)[0]
    assert torch.equal(adapter.run(pictures, stop=1)[0].x, plain.x + embedding[0])
    with torch.no_grad():
        expected = network.backbone(pictures[0].x[None])[-1]
    assert torch.equal(adapter.network.backbone.norm3(state.x), expected[0].flatten(1).T)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("size", [(8, 12), (7, 10)])
def test_explicit_window_attention_computes_what_mmdet_does(shift, size):
    from mmdet.models.backbones.swin import ShiftWindowMSA

    torch.manual_seed(0)
    attention = ShiftWindowMSA(16, num_heads=2, window_size=4, shift_size=2 if shift else 0)
    nn.init.normal_(attention.w_msa.relative_position_bias_table)
    x = torch.randn(2, size[0] * size[1], 16)
    expected = attention(x, size)
    attention.w_msa = ExplicitWindowAttention(attention.w_msa)
    assert torch.equal(attention(x, size), expected)


def test_images_of_one_size_run_as_a_batch_and_give_what_each_gives_alone(adapter):
    pictures = detector_images(5, sizes=((96, 64), (96, 64), (64, 96)))
    assert [len(group) for group in pictures.groups()] == [2, 1, 2]
    together = adapter.run(pictures, stop=adapter.segments - 1)
    alone = Images.cat(adapter.run(pictures[i : i + 1], stop=adapter.segments - 1) for i in range(5))
    for one, other in zip(together, alone, strict=True):
        assert one.meta is other.meta and one.size == other.size and len(one.stages) == len(other.stages) == 3
        torch.testing.assert_close(one.x, other.x, rtol=1e-4, atol=1e-5)
        for mine, theirs in zip(one.stages, other.stages, strict=True):
            torch.testing.assert_close(mine[0], theirs[0], rtol=1e-4, atol=1e-5)


def test_losses_are_those_of_mmdet(pair):
    network, adapter = pair
    pictures = detector_images(2)
    targets = instances_in(pictures)
    losses = adapter.losses(pictures, targets, start=0)
    assert losses.shape == (2,)
    for image, target, loss in zip(pictures, targets, losses, strict=True):
        torch.manual_seed(image.meta["img_id"])
        parts = network.loss(image.x[None], [data_sample(image, target)])
        expected, names = network.parse_losses(parts)
        assert len(names) > 5 and torch.equal(loss, expected)


def test_a_loss_depends_on_its_image_alone(adapter):
    pictures = detector_images(4)
    targets = instances_in(pictures)
    state = adapter.run(pictures, stop=adapter.segments - 1)
    torch.manual_seed(5)
    first = adapter.losses(state, targets)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1)), "the losses have moved the global generator"
    parts = [adapter.losses(state[i : i + 3], targets[i : i + 3]) for i in (0, 3)]
    assert torch.equal(torch.cat(parts), first)
    assert torch.equal(adapter.losses(state[[3, 1]], [targets[3], targets[1]]), first[[3, 1]])
    # Another number of the image is another draw.
    other = replace(state[0], meta={**state[0].meta, "img_id": 77})
    assert adapter.losses(Images([other]), targets[:1])[0] != first[0]


def test_an_image_without_instances_has_a_loss(adapter):
    pictures = detector_images(1)
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 91, 61, dtype=torch.bool))
    losses = adapter.losses(pictures, [nothing], start=0)
    assert torch.isfinite(losses).all() and losses[0] > 0


def test_gradients_reach_every_layer(pair):
    _, adapter = pair
    pictures = detector_images(2)
    network = adapter.network.requires_grad_(True)
    try:
        adapter.losses(pictures, instances_in(pictures), start=0).sum().backward()
        for site in adapter.sites:
            if not site.is_matmul:
                assert adapter.module(site.name).weight.grad.abs().max() > 0, site.name
    finally:
        network.requires_grad_(False)
        network.zero_grad(set_to_none=True)


def test_sites_are_all_layers_in_the_order_of_execution(adapter):
    layers = {name for name, module in adapter.network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    assert {site.name for site in adapter.sites if not site.is_matmul} == layers
    assert all(isinstance(adapter.module(site.name), MatMul) == site.is_matmul for site in adapter.sites)
    seen = []
    twin = adapter.clone()
    for site in twin.sites:
        twin.module(site.name).register_forward_pre_hook(lambda *_, name=site.name: seen.append((segment, name)))
    state = detector_images(1)
    for segment in range(twin.segments - 1):
        state = twin.run_segment(segment, state)
    segment = twin.segments - 1
    twin.observe_segment(segment, state)
    # What runs several times counts where it ran first.
    assert list(dict.fromkeys(seen)) == [(twin.segment_of(site), site.name) for site in twin.sites]


def test_types_and_blocks(adapter):
    counts = Counter(site.type for site in adapter.sites)
    assert adapter.blocks == 6 and adapter.segments == 8
    assert all(counts[type] == 6 for type in BLOCK_SITES.values())
    assert (counts["patch_embed"], counts["reduction"], counts["neck"], counts["rpn"]) == (1, 3, 8, 3)
    assert counts["roi"] == (36 if isinstance(adapter.network.roi_head.mask_head, nn.ModuleList) else 9)
    reductions = {site.name: site.block for site in adapter.sites if site.type == "reduction"}
    assert reductions == {
        f"backbone.stages.{stage}.downsample.reduction": block for stage, block in enumerate((2, 3, 5))
    }
    first = [site for site in adapter.sites if site.block == 3]
    assert [site.type for site in first] == ["reduction", "qkv", "qk", "pv", "proj", "fc1", "fc2"]
    tail = [site for site in adapter.sites if site.type in DETECTOR_TYPES]
    assert all(adapter.segment_of(site) == 7 and site.block is None and site.sees_rows for site in tail)
    assert adapter.task == "detection" and adapter.windows and adapter.classes == CLASSES


def test_neck_and_heads_can_stay_in_full_precision():
    whole, backbone = detector_adapter(), detector_adapter(quantize="backbone")
    assert [s for s in whole.sites if s.type not in DETECTOR_TYPES] == list(backbone.sites)
    assert len(whole.sites) - len(backbone.sites) == 20
    with pytest.raises(LampQError, match="quantize=neck"):
        detector_adapter(quantize="neck")


def test_sizes_are_those_of_a_run(adapter):
    """Counted without numbers; here with them, and some by hand."""
    sites = [declared(site.name, site.type, site.block) for site in adapter.sites]
    assert ModelAdapter._measure(adapter, sites) == adapter.sites
    site = adapter.site("backbone.stages.2.blocks.1.attn.w_msa.qkv")
    assert (site.parameters, site.macs) == (3 * 64 * 64, 8 * 4 * 3 * 64 * 64)  # 6 x 4 tokens in windows of 4 x 4
    product = adapter.site("backbone.stages.2.blocks.1.attn.w_msa.qk")
    assert (product.macs, product.second_input_elements) == (4 * 2 * 16 * 16 * 16, 8 * 4 * 64)  # 4 heads, 2 windows
    levels = 24 * 16 + 12 * 8 + 6 * 4 + 3 * 2 + 2 * 1
    rpn = adapter.site("rpn_head.rpn_conv")
    assert (rpn.macs, rpn.input_elements) == (levels * 9 * 16 * 16, levels * 16)
    boxes = [site for site in adapter.sites if site.name.endswith("fc_cls")]
    masks = [site for site in adapter.sites if site.name.endswith("conv_logits")]
    assert all(site.macs == 20 * 32 * (CLASSES + 1) for site in boxes)
    assert all(site.macs == 10 * 28 * 28 * 16 * CLASSES for site in masks)


def test_every_site_is_in_the_path_of_the_losses_and_a_clone_is_independent(adapter):
    pictures = detector_images(1)
    targets = instances_in(pictures)
    twin, before = adapter.clone(), adapter.losses(pictures, targets, start=0)
    assert torch.equal(twin.losses(pictures, targets, start=0), before)

    class Halved(nn.Module):
        def forward(self, *operands):
            return original(*operands) / 2

    for site in adapter.sites:
        original = twin.module(site.name)
        twin.replace_module(site.name, Halved())
        assert not torch.equal(twin.losses(pictures, targets, start=0), before), f"{site.name} is not in the path"
        twin.replace_module(site.name, original)
    assert torch.equal(adapter.losses(pictures, targets, start=0), before)


def test_a_clone_shares_every_tensor_and_no_module(adapter):
    twin = adapter.clone()
    for tensors in ("named_parameters", "named_buffers"):
        mine, theirs = (dict(getattr(a.network, tensors)()) for a in (adapter, twin))
        assert mine.keys() == theirs.keys() and all(mine[name] is theirs[name] for name in mine)
    assert not {id(m) for m in adapter.network.modules()} & {id(m) for m in twin.network.modules()}
    assert twin.weights_hash() == adapter.weights_hash() != detector_adapter(seed=3).weights_hash()
    assert adapter.parameters() == sum(p.numel() for p in adapter.network.parameters())
    assert not any(module.training for module in adapter.network.modules())


def tail_calls(adapter, pictures, method):
    """How often each site of the tail runs."""
    calls = Counter()
    twin = adapter.clone()
    tail = [site.name for site in adapter.sites if site.type in DETECTOR_TYPES]
    for name in tail:
        twin.module(name).register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
    state = twin.run(pictures, stop=twin.segments - 1)
    method(twin, state)
    return [calls[name] for name in tail]


def silent(adapter, boxes: bool, proposals: bool):
    """A copy that finds nothing: its classes are all background, or its proposals all beyond the image."""
    network = small_detector(isinstance(adapter.network.roi_head.mask_head, nn.ModuleList))
    heads = network.roi_head.bbox_head
    if boxes:
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            head.fc_cls.bias[-1] = 1e4
    if proposals:
        network.rpn_head.rpn_reg.bias[::4] = 1e5
    return SwinDetectorAdapter("silent", network, input_size=(3, 96, 64))


@pytest.mark.parametrize(("boxes", "proposals"), [(False, False), (True, False), (False, True), (True, True)])
def test_every_site_of_the_tail_sees_every_calibration_image(adapter, boxes, proposals):
    model = silent(adapter, boxes, proposals) if boxes or proposals else adapter
    pictures = detector_images(2)
    calls = tail_calls(model, pictures, lambda twin, state: twin.run_tail_for_calibration(state))
    assert min(calls) == 2
    if boxes or proposals:
        for found, image in zip(model.run(pictures), pictures, strict=True):
            assert len(found.boxes) == len(found.scores) == len(found.labels) == len(found.masks) == 0, image.meta
        assert min(tail_calls(model, pictures, lambda twin, state: twin.run(state, twin.segments - 1))) == 0


def test_observing_the_tail_runs_all_of_it(adapter):
    model = silent(adapter, True, True)
    assert min(tail_calls(model, detector_images(1), lambda a, state: a.observe_segment(a.segments - 1, state))) == 1


def test_tensors_by_themselves_are_refused_in_one_line():
    with pytest.raises(LampQError, match=r"model\.name=small_mask_rcnn: only products") as caught:
        detector_adapter().with_tensors()
    assert "\n" not in str(caught.value)


TIMM_NAMES = {"attn.w_msa": "attn", "ffn.layers.0.0": "mlp.fc1", "ffn.layers.1": "mlp.fc2"}


def timm_name(name):
    for theirs, ours in TIMM_NAMES.items():
        name = name.replace(theirs, ours)
    return name


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("method", [RoundToNearest(), AdaLog(candidates=32, rounds=1, steps=2)], ids=lambda m: m.name)
def test_a_quantized_block_computes_what_the_quantized_block_of_timm_does(method, shift):
    """The same weights, the states of one block's sites used in both."""
    from mmdet.models.backbones.swin import SwinBlock

    torch.manual_seed(0)
    height, width = (8, 12) if shift else (7, 10)  # timm shifts before it pads, so padded and shifted differ by design
    mine = SwinBlock(32, num_heads=2, feedforward_channels=128, window_size=4, shift=shift).eval()
    for parameter in mine.parameters():
        nn.init.normal_(parameter, std=0.3)
    block = timm_swin.SwinTransformerBlock(32, (height, width), num_heads=2, window_size=4, shift_size=2 * shift).eval()
    assert torch.equal(mine.attn.w_msa.relative_position_index, block.attn.relative_position_index)
    weights = {timm_name(name): value for name, value in mine.state_dict().items() if not name.endswith("_index")}
    block.load_state_dict(weights, strict=False)
    mine.attn.w_msa, block.attn = ExplicitWindowAttention(mine.attn.w_msa), ExplicitWindowAttention(block.attn)
    x = torch.randn(2, height, width, 32)

    def outputs():
        with torch.no_grad():
            return mine(x.flatten(1, 2), (height, width)).view(x.shape), block(x)

    full = outputs()
    torch.testing.assert_close(*full, rtol=1e-5, atol=1e-5)
    operands = {}
    for name in BLOCK_SITES:
        block.get_submodule(timm_name(name)).register_forward_pre_hook(
            lambda module, inputs, name=name: operands.update({name: inputs})
        )
    outputs()
    for name, type in BLOCK_SITES.items():
        site = declared(name, type, 0)
        original = block.get_submodule(timm_name(name))
        state = method.calibrate(site, original, operands[name], Bits(4, 4))
        for network, place in ((mine, name), (block, timm_name(name))):
            parent, _, child = place.rpartition(".")
            layer = network.get_submodule(place)
            module = method.quantized_module(site, layer, state, Bits(4, 4))
            setattr(network.get_submodule(parent), child, module)
    assert isinstance(mine.ffn.layers[1], QuantizedLinear)
    quantized = outputs()
    assert (quantized[0] - full[0]).abs().max() > 1e-2
    torch.testing.assert_close(*quantized, rtol=1e-4, atol=1e-4)


def test_what_a_segment_is_fed_is_in_one_place(adapter):
    """A changed input of a segment changes the losses, at the end of a stage, too."""
    pictures = detector_images(1)
    targets = instances_in(pictures)
    before = adapter.losses(pictures, targets, start=0)
    for segment in range(adapter.segments):
        state = adapter.run(pictures, stop=segment)
        moved = Images(replace(image, x=image.x.flip(-1)) for image in state)
        assert torch.equal(adapter.losses(state, targets, start=segment), before)
        assert (adapter.losses(moved, targets, start=segment) - before).abs() > 1e-3, segment
