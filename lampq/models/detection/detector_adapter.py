"""mmdet's two-stage detectors with a Swin backbone (Mask R-CNN, Cascade Mask R-CNN) as segments with typed sites."""

import copy
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from lampq.limits import choice
from lampq.models.adapter import ModelAdapter, declared
from lampq.models.detection.pictures import Detections, Images, ImageState, Instances, Stage
from lampq.plan.sites import Site
from lampq.quantized_modules.attention import ExplicitWindowAttention

BLOCK_SITES = {
    "attn.w_msa.qkv": "qkv",
    "attn.w_msa.qk": "qk",
    "attn.w_msa.pv": "pv",
    "attn.w_msa.proj": "proj",
    "ffn.layers.0.0": "fc1",
    "ffn.layers.1": "fc2",
}
"""Sites of a block in mmdet's names, and their types."""

TAIL_PARTS = {"neck": "neck", "rpn_head": "rpn", "roi_head": "roi"}
"""Parts of a detector behind its backbone, and the types of their sites."""


class SwinDetectorAdapter(ModelAdapter):
    """A detector cut into segments: stem, the blocks of all stages in one row, and everything behind the backbone.

    A patch merging runs with the block after it. Images have sizes of their own, so what goes from segment to segment
    is `Images`; the tail gives a list of `Detections`.

    Args:
        name: what the model is called.
        network: mmdet's detector with its weights; changed (its window attention becomes explicit).
        quantize: ``detector`` (convolutions and linear layers of neck and heads are sites too) or ``backbone``.
        published_ap: published average precision of boxes and of masks in full precision, in percent, or None.
        input_size: (channels, height, width) of the image for which MACs are counted; images may have any other size.

    Attributes:
        classes: number of classes.

    Raises:
        LampQError: `quantize` is neither.
    """

    task = "detection"
    windows = True

    def __init__(
        self,
        name: str,
        network: nn.Module,
        quantize: str = "detector",
        published_ap: tuple[float, float] | None = None,
        input_size: tuple[int, int, int] = (3, 800, 1216),
    ) -> None:
        self.quantize = choice("model.quantize", quantize, ("detector", "backbone"))
        self.published_ap = published_ap
        self._places = []
        for number, stage in enumerate(network.backbone.stages):
            for position, block in enumerate(stage.blocks):
                block.attn.w_msa = ExplicitWindowAttention(block.attn.w_msa)
                self._places.append((number, position))
        super().__init__(name, network, input_size)

    @property
    def blocks(self) -> int:
        return len(self._places)

    @property
    def classes(self) -> int:
        return _listed(self.network.roi_head.bbox_head)[-1].num_classes

    def declare_sites(self) -> list[Site]:
        sites = [declared("backbone.patch_embed.projection", "patch_embed")]
        for index, (stage, block) in enumerate(self._places):
            if block == 0 and stage > 0:
                sites.append(declared(f"backbone.stages.{stage - 1}.downsample.reduction", "reduction", index))
            prefix = f"backbone.stages.{stage}.blocks.{block}"
            sites += [declared(f"{prefix}.{name}", type, index) for name, type in BLOCK_SITES.items()]
        for part, type in TAIL_PARTS.items() if self.quantize == "detector" else ():
            for name, module in self.network.get_submodule(part).named_modules(prefix=part):
                # mmcv's layers are subclasses of PyTorch's; a transposed convolution is neither of the two.
                if isinstance(module, nn.Conv2d | nn.Linear):
                    sites.append(declared(name, type))
        return sites

    def run_segment(self, index: int, state: Images) -> "Images | list[Detections]":
        """Run segment `index` on its input; images of one size as a batch, behind the backbone each by itself."""
        if index > self.blocks:
            return [self._detect(image) for image in state]
        return Images.cat(self._run_batch(index, group) for group in state.groups())

    def predictions(self, state: Images, start: int) -> list[Tensor]:
        """Of every image, logits of something and of nothing at each anchor, ``[anchors, 2]``: the one prediction of a
        detector that has the same places whatever is found."""
        found = []
        for image in self.run(state, start, self.segments - 1):
            scores = [level.flatten() for level in self.network.rpn_head(self._features(image))[0]]
            something = torch.cat(scores)
            found.append(torch.stack([something, torch.zeros_like(something)], dim=1))
        return found

    def observe_segment(self, index: int, state: Images) -> None:
        if index > self.blocks:
            self.run_tail_for_calibration(state)
        else:
            self.run_segment(index, state)

    def losses(self, images: Images, targets: list[Instances], start: int | None = None) -> Tensor:
        """mmdet's training loss of every image by itself, in evaluation mode: what the region proposals, boxes, classes
        and masks lose, in a cascade those of all stages with their weights; differentiable.

        Which proposals are looked at is drawn by mmdet at random; here the draw depends on the image's number only.

        Args:
            images: inputs of segment `start`.
            targets: what is to be found in each of them.
            start: the segment they are at; None for the tail.

        Returns:
            ``[images]``
        """
        tail = self.segments - 1
        state = self.run(images, tail if start is None else start, tail)
        return torch.stack([self._loss(image, target) for image, target in zip(state, targets, strict=True)])

    @torch.no_grad()
    def run_tail_for_calibration(self, images: Images) -> None:
        """Run neck and heads so that each of their layers runs for every image, whatever is found in it.

        Boxes of any score are handed to the mask heads; where there are none at all, the proposals are, and where
        there are none of these either, the whole image.
        """
        network = self.network
        any_score = copy.deepcopy(network.test_cfg.rcnn)
        any_score.score_thr = 0.0
        for image in images:
            sample, features = _sample(image), self._features(image)
            proposals = network.rpn_head.predict(features, [sample], rescale=False)
            if len(proposals[0]) == 0:
                proposals = [_whole_image(image)]
            boxes = proposals[0].bboxes.clone()
            found = network.roi_head.predict_bbox(features, [sample.metainfo], proposals, any_score, rescale=False)
            boxes = found[0].bboxes if len(found[0]) else boxes[: any_score.max_per_img]
            self._run_mask_heads(features, boxes)

    def run_blank_image(self) -> None:
        """The backbone, the neck and the proposals' head on an image of `input_size`; boxes and masks for as many
        regions as there are at most: what would be found in a blank image is chance."""
        network = self.network
        height, width = self.input_size[1:]
        meta = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), (height, width))
        blank = torch.zeros(self.input_size, device=next(network.parameters()).device)
        state = self.run(Images([ImageState(blank, (height, width), meta)]), stop=self.segments - 1)
        features = self._features(state[0])
        network.rpn_head(features)
        heads, settings = network.roi_head, network.test_cfg
        for head, extractor, regions in (
            (heads.bbox_head, heads.bbox_roi_extractor, settings.rpn.max_per_img),
            (heads.mask_head, heads.mask_roi_extractor, settings.rcnn.max_per_img),
        ):
            for one, cut in zip(_listed(head), _listed(extractor), strict=True):
                one(features[0].new_zeros(regions, cut.out_channels, *cut.roi_layers[0].output_size))

    def _measure(self, declared: list[Site]) -> tuple[Site, ...]:
        # On PyTorch's meta device tensors have shapes and no numbers: counting takes neither time nor memory, and is
        # as exact as a run. The twin has the layers of this network with such tensors in them.
        twin = copy.copy(self)
        empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), False) for p in self.network.parameters()}
        empty |= {id(b): torch.empty_like(b, device="meta") for b in self.network.buffers()}
        twin.network = copy.deepcopy(self.network, memo=empty)
        return super(SwinDetectorAdapter, twin)._measure(declared)

    def _run_batch(self, index: int, images: Images) -> Images:
        """A segment of the backbone on images of one size.

        `x` is the only thing that a segment hands to the next: what a stage gave joins `stages` when the next one
        begins, and of the last one it stays `x`.
        """
        backbone = self.network.backbone
        x, size = torch.stack([image.x for image in images]), images[0].size
        leaves = False
        if index == 0:
            x, size = backbone.patch_embed(x)
            if backbone.use_abs_pos_embed:
                x = x + backbone.absolute_pos_embed
            x = backbone.drop_after_pos(x)
        else:
            stage, position = self._places[index - 1]
            leaves = position == 0 and stage > 0
            if leaves:
                x, size = backbone.stages[stage - 1].downsample(x, size)
            x = backbone.stages[stage].blocks[position](x, size)
        return Images(
            replace(image, x=tokens, size=size, stages=_finished(image) if leaves else image.stages)
            for image, tokens in zip(images, x, strict=True)
        )

    def _features(self, image: ImageState) -> tuple[Tensor, ...]:
        """Maps of the feature pyramid ``[1, channels, height, width]``, finest first."""
        backbone, stages = self.network.backbone, _finished(image)
        maps = []
        for stage in backbone.out_indices:
            tokens, (height, width) = stages[stage]
            tokens = getattr(backbone, f"norm{stage}")(tokens)
            maps.append(tokens.view(1, height, width, -1).permute(0, 3, 1, 2).contiguous())
        return self.network.neck(maps)

    @torch.no_grad()
    def _detect(self, image: ImageState) -> Detections:
        from mmdet.structures.mask import encode_mask_results

        sample, features = _sample(image), self._features(image)
        proposals = self.network.rpn_head.predict(features, [sample], rescale=False)
        found = self.network.roi_head.predict(features, proposals, [sample], rescale=True)[0]
        return Detections(found.bboxes, found.scores, found.labels, encode_mask_results(found.masks.cpu().numpy()))

    def _loss(self, image: ImageState, target: Instances) -> Tensor:
        network, features = self.network, self._features(image)
        # A proposal is of something or of nothing, whatever its class.
        proposing = _sample(image, replace(target, labels=torch.zeros_like(target.labels)))
        settings = network.train_cfg.get("rpn_proposal", network.test_cfg.rpn)
        with torch.random.fork_rng(devices=()):
            # mmdet draws on the CPU, whatever the device.
            torch.default_generator.manual_seed(int(image.meta["img_id"]))
            losses, proposals = network.rpn_head.loss_and_predict(features, [proposing], proposal_cfg=settings)
            parts = [*losses.items(), *network.roi_head.loss(features, proposals, [_sample(image, target)]).items()]
        # As mmdet sums them: what else there is, an accuracy, has another name.
        return sum(_total(value) for name, value in parts if "loss" in name)

    def _run_mask_heads(self, features: tuple[Tensor, ...], boxes: Tensor) -> None:
        from mmdet.structures.bbox import bbox2roi

        heads, regions = self.network.roi_head, bbox2roi([boxes])
        if isinstance(heads.mask_head, nn.ModuleList):
            for stage in range(len(heads.mask_head)):
                heads._mask_forward(stage, features, regions)
        else:
            heads._mask_forward(features, regions)


def _listed(modules: nn.Module) -> Iterable[nn.Module]:
    """The heads of all stages of a cascade, or the only one."""
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]


def _finished(image: ImageState) -> tuple[Stage, ...]:
    """What all stages have given so far, at the end of one."""
    return (*image.stages, (image.x, image.size))


def _total(loss: Tensor | list[Tensor]) -> Tensor:
    return sum(part.mean() for part in loss) if isinstance(loss, list) else loss.mean()


def _sample(image: ImageState, target: Instances | None = None):
    """mmdet's description of an image, and of what is to be found in it."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    sample = DetDataSample(metainfo=image.meta)
    if target is not None:
        device = image.x.device
        masks = target.masks.cpu().numpy().astype("uint8")
        masks = BitmapMasks(masks, *masks.shape[1:]).pad(image.meta["batch_input_shape"])
        sample.gt_instances = InstanceData(bboxes=target.boxes.to(device), labels=target.labels.to(device), masks=masks)
    return sample


def _whole_image(image: ImageState):
    """The image as its only proposal."""
    from mmengine.structures import InstanceData

    height, width = image.meta["img_shape"]
    box = image.x.new_tensor([[0, 0, width, height]])
    return InstanceData(bboxes=box, scores=box.new_ones(1), labels=box.new_zeros(1, dtype=torch.int64))
