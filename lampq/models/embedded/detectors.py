"""What the embedded detector looks like: the arguments of mmdet's classes."""

from __future__ import annotations

import copy

from torch import nn

SIDE = 128
"""Longest side in pixels of the scenes that it was trained on."""
WIDTH = 48
"""Channels of the feature pyramid and of the heads."""

SHAPES_MASK_RCNN = {
    "type": "MaskRCNN",
    "data_preprocessor": {
        "type": "DetDataPreprocessor",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "bgr_to_rgb": True,
        "pad_mask": True,
        "pad_size_divisor": 32,
    },
    # Maps of 24 x 32, 12 x 16, 6 x 8 and 3 x 4 tokens for an image of 96 x 128; the last two do not fill their windows.
    "backbone": {
        "type": "SwinTransformer",
        "embed_dims": 32,
        "depths": (2, 2, 2, 1),
        "num_heads": (2, 4, 8, 16),
        "window_size": 4,
        "mlp_ratio": 4,
        "drop_path_rate": 0.0,
    },
    "neck": {"type": "FPN", "in_channels": [32, 64, 128, 256], "out_channels": WIDTH, "num_outs": 4},
    "rpn_head": {
        "type": "RPNHead",
        "in_channels": WIDTH,
        "feat_channels": WIDTH,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": [4.0, 5.6],
            "ratios": [0.5, 1.0, 2.0],
            "strides": [4, 8, 16, 32],
        },
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
        "loss_bbox": {"type": "L1Loss"},
    },
    "roi_head": {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": {
            "type": "SingleRoIExtractor",
            "roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 2},
            "out_channels": WIDTH,
            "featmap_strides": [4, 8, 16],
            "finest_scale": 24,
        },
        "bbox_head": {
            "type": "Shared2FCBBoxHead",
            "in_channels": WIDTH,
            "fc_out_channels": 128,
            "roi_feat_size": 7,
            "num_classes": 10,
            "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]},
            "loss_cls": {"type": "CrossEntropyLoss"},
            "loss_bbox": {"type": "L1Loss"},
        },
        "mask_roi_extractor": {
            "type": "SingleRoIExtractor",
            "roi_layer": {"type": "RoIAlign", "output_size": 14, "sampling_ratio": 2},
            "out_channels": WIDTH,
            "featmap_strides": [4, 8, 16],
            "finest_scale": 24,
        },
        "mask_head": {
            "type": "FCNMaskHead",
            "num_convs": 2,
            "in_channels": WIDTH,
            "conv_out_channels": WIDTH,
            "num_classes": 10,
            "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True},
        },
    },
    "train_cfg": {
        "rpn": {
            "assigner": {
                "type": "MaxIoUAssigner",
                "pos_iou_thr": 0.6,
                "neg_iou_thr": 0.3,
                "min_pos_iou": 0.3,
                "match_low_quality": True,
            },
            "sampler": {"type": "RandomSampler", "num": 128, "pos_fraction": 0.5, "add_gt_as_proposals": False},
            "allowed_border": -1,
            "pos_weight": -1,
        },
        "rpn_proposal": {"nms_pre": 200, "max_per_img": 100, "nms": {"type": "nms", "iou_threshold": 0.7}},
        "rcnn": {
            "assigner": {
                "type": "MaxIoUAssigner",
                "pos_iou_thr": 0.5,
                "neg_iou_thr": 0.5,
                "min_pos_iou": 0.5,
                "match_low_quality": False,
            },
            "sampler": {"type": "RandomSampler", "num": 48, "pos_fraction": 0.4, "add_gt_as_proposals": True},
            "mask_size": 28,
            "pos_weight": -1,
        },
    },
    "test_cfg": {
        "rpn": {"nms_pre": 200, "max_per_img": 100, "nms": {"type": "nms", "iou_threshold": 0.7}},
        "rcnn": {
            "score_thr": 0.05,
            "nms": {"type": "nms", "iou_threshold": 0.5},
            "max_per_img": 50,
            "mask_thr_binary": 0.5,
        },
    },
}


def build_embedded_detector() -> nn.Module:
    """The embedded Mask R-CNN with random weights, in training mode.

    Raises LampQError where the packages of the extra `detection` are missing.
    """
    from lampq.models.detection.mmdet_import import import_mmdet

    import_mmdet()
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict

    return MODELS.build(ConfigDict(copy.deepcopy(SHAPES_MASK_RCNN)))
