"""Small detectors of mmdet with random weights, images of different sizes, and made-up instances in them."""

import torch
from torch import nn

from lampq.models.detection.detector_adapter import SwinDetectorAdapter
from lampq.models.detection.mmdet_detector import build_network, detector_config, fill_randomly
from lampq.models.detection.pictures import Images, ImageState, Instances

WIDTH, EMBED, WINDOW, CLASSES = 16, 16, 4, 5
SIZES = ((96, 64), (64, 96))
"""Heights and widths of the images, multiples of 32: with windows of 4, maps of 24 x 16, 12 x 8, 6 x 4 and 3 x 2."""


def small_config(cascade: bool = False, classes: int = CLASSES):
    """The published architecture with few channels, blocks and proposals."""
    config = detector_config("cascade_mask_rcnn_swin_tiny" if cascade else "mask_rcnn_swin_tiny")
    # Shifted windows in the first stage and, padded, in the third; a stage of one block between.
    config.backbone.update(embed_dims=EMBED, depths=(2, 1, 2, 1), num_heads=(1, 2, 4, 8), window_size=WINDOW)
    config.neck.update(in_channels=[EMBED, 2 * EMBED, 4 * EMBED, 8 * EMBED], out_channels=WIDTH)
    # Anchors of 8 pixels on the finest map and regions on more than one of them: the images are small.
    config.rpn_head.update(in_channels=WIDTH, feat_channels=WIDTH)
    config.rpn_head.anchor_generator.scales = [2]
    heads = config.roi_head
    for extractor in (heads.bbox_roi_extractor, heads.mask_roi_extractor):
        extractor.update(out_channels=WIDTH, finest_scale=8)
    heads.mask_head.update(in_channels=WIDTH, conv_out_channels=WIDTH, num_classes=classes)
    for head in heads.bbox_head if cascade else [heads.bbox_head]:
        head.update(in_channels=WIDTH, fc_out_channels=2 * WIDTH, num_classes=classes)
        if cascade:
            head.conv_out_channels = WIDTH
    config.train_cfg.rpn.allowed_border = -1  # anchors of the coarsest map are as large as the image
    config.train_cfg.rpn_proposal.update(nms_pre=40, max_per_img=30)
    for stage in config.train_cfg.rcnn if cascade else [config.train_cfg.rcnn]:
        stage.sampler.num = 16
    config.test_cfg.rpn.update(nms_pre=40, max_per_img=20)
    config.test_cfg.rcnn.max_per_img = 10
    return config


def small_detector(cascade: bool = False, classes: int = CLASSES, seed: int = 0) -> nn.Module:
    """mmdet's own network in evaluation mode, every parameter random."""
    network = build_network(small_config(cascade, classes))
    fill_randomly(network, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.LayerNorm | nn.SyncBatchNorm):
                module.weight.copy_(1 + 0.2 * torch.randn(module.weight.shape, generator=generator))
                module.bias.copy_(0.2 * torch.randn(module.bias.shape, generator=generator))
            if isinstance(module, nn.SyncBatchNorm):
                module.running_mean.copy_(0.2 * torch.randn(module.running_mean.shape, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
        for name, module in network.named_modules():
            if name.endswith("fc_cls"):
                module.weight.mul_(3)  # scores of some classes are clearly above the threshold
    return network.eval().requires_grad_(False)


def detector_adapter(cascade: bool = False, classes: int = CLASSES, seed: int = 0, **options) -> SwinDetectorAdapter:
    """The same with an adapter."""
    name = "small_cascade" if cascade else "small_mask_rcnn"
    return SwinDetectorAdapter(name, small_detector(cascade, classes, seed), input_size=(3, *SIZES[0]), **options)


def detector_images(count: int = 2, seed: int = 1, sizes: tuple[tuple[int, int], ...] = SIZES) -> Images:
    """Images of these sizes in turn, the last 5 rows and 3 columns of each padding, originals half as large again."""
    states = []
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        generator = torch.Generator().manual_seed(1000 * seed + number)
        pixels = torch.randn(3, height, width, generator=generator)
        pixels[:, height - 5 :], pixels[:, :, width - 3 :] = 0, 0
        meta = {
            "img_id": 100 * seed + number,
            "img_shape": (height - 5, width - 3),
            "ori_shape": (round(1.5 * (height - 5)), round(1.5 * (width - 3))),
            "scale_factor": ((width - 3) / round(1.5 * (width - 3)), (height - 5) / round(1.5 * (height - 5))),
            "pad_shape": (height, width),
            "batch_input_shape": (height, width),
        }
        states.append(ImageState(pixels, (height, width), meta))
    return Images(states)


def instances_in(images: Images, count: int = 3, classes: int = CLASSES, seed: int = 2) -> list[Instances]:
    """Boxes anywhere in each image, each with the ellipse inside it as its mask."""
    targets = []
    for number, image in enumerate(images):
        generator = torch.Generator().manual_seed(1000 * seed + number)
        height, width = image.meta["img_shape"]
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([width - 24.0, height - 24.0])
        boxes = torch.cat([corner, corner + 12 + 12 * torch.rand(count, 2, generator=generator)], dim=1)
        centre, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        x = (torch.arange(width) + 0.5 - centre[:, :1]) / radius[:, :1]
        y = (torch.arange(height) + 0.5 - centre[:, 1:]) / radius[:, 1:]
        masks = x[:, None, :] ** 2 + y[:, :, None] ** 2 <= 1
        targets.append(Instances(boxes, torch.randint(classes, (count,), generator=generator), masks))
    return targets


ORDER = [0, 2, 1, 3]
"""The four patches that are merged: the authors take them column by column, mmdet row by row."""


def original_names(state):
    """The weights of a detector as the authors of Swin keep them."""
    named = {}
    for name, value in state.items():
        if name.startswith("backbone."):
            if "downsample" in name:
                # mmdet goes through channels first, then patches; the authors through patches, then channels.
                value = value.unflatten(-1, (-1, 4))[..., ORDER].transpose(-1, -2).flatten(-2)
            for theirs, authors in (
                ("backbone.stages", "backbone.layers"),
                ("attn.w_msa.", "attn."),
                ("ffn.layers.0.0.", "mlp.fc1."),
                ("ffn.layers.1.", "mlp.fc2."),
                ("patch_embed.projection", "patch_embed.proj"),
            ):
                name = name.replace(theirs, authors)
        named[name] = value.contiguous()
    return named
