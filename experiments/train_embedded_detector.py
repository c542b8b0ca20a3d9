"""Train the embedded detector on drawn scenes: `python -m experiments.train_embedded_detector`.

Writes lampq/models/embedded/shapes_mask_rcnn.safetensors and its model card. One CPU thread; about three quarters of
an hour on an idle machine. Every scene is drawn anew. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from experiments.train_embedded import FOLDER, commit, learning_rate_share, start_from_patches
from lampq.datasets import shape_scenes
from lampq.datasets.shape_scenes import OUTLINES, SIZES, TRAINING_SEED, VALIDATION_SEED, Scene, draw_scenes
from lampq.models.detection.mmdet_import import import_mmdet
from lampq.models.embedded.detectors import SHAPES_MASK_RCNN, build_embedded_detector
from lampq.storage.atomic_write import write_whole
from lampq.tasks.average_precision import match, precisions, quietly

NAME = "shapes_mask_rcnn"
BATCH_SIZE = 8
START_SCENES = 300
"""Scenes of which those of one size tell what patches look like."""
WEIGHT_DECAY = 0.05
GRADIENT_NORM = 5.0
AVERAGE_STEPS = 300
"""The weights kept are an exponential average over about this many last steps."""
KEEP_STEPS = 250
"""The state is kept on disk, and a line printed, every so many steps."""
CHECK_STEPS, CHECK_SCENES = 1500, 60
"""The average is looked at now and then, on scenes of the training stream that training does not reach."""
CHECK_FIRST = 1 << 30
VALIDATION_SCENES = 300


def batch_of(scenes: list[Scene]) -> tuple[Tensor, list]:
    """Scenes of one size as mmdet takes them: pixels normalised and padded to a multiple of 32, and what they hold."""
    import_mmdet()
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    mean, std = (torch.tensor(SHAPES_MASK_RCNN["data_preprocessor"][key]).view(3, 1, 1) for key in ("mean", "std"))
    pixels = (torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2).float() - mean) / std
    height, width = pixels.shape[2:]
    pixels = nn.functional.pad(pixels, (0, -width % 32, 0, -height % 32))
    padded = tuple(pixels.shape[2:])
    samples = []
    for scene in scenes:
        sizes = {"img_shape": (height, width), "ori_shape": (height, width), "scale_factor": (1.0, 1.0)}
        sample = DetDataSample(metainfo={**sizes, "pad_shape": padded, "batch_input_shape": padded})
        masks = np.zeros((len(scene.labels), *padded), dtype=np.uint8)
        masks[:, :height, :width] = scene.masks
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(scene.boxes),
            labels=torch.from_numpy(scene.labels),
            masks=BitmapMasks(masks, *padded),
        )
        samples.append(sample)
    return pixels, samples


class Batches:
    """Batch k holds scenes of the size k modulo their number; all are drawn once, in order."""

    def __init__(self) -> None:
        self.group, self.scenes = -1, []

    def __getitem__(self, step: int) -> tuple[Tensor, list]:
        group, which = divmod(step, len(SIZES))
        if group != self.group:
            count = BATCH_SIZE * len(SIZES)
            self.group, self.scenes = group, draw_scenes(count, TRAINING_SEED, first=group * count)
        return batch_of(self.scenes[which :: len(SIZES)])


@torch.no_grad()
def initialize(model: nn.Module) -> None:
    """mmdet's start for the heads; in the backbone weights that keep a signal's size at these narrow widths."""
    model.init_weights()
    for name, module in model.backbone.named_modules():
        if isinstance(module, nn.Linear):
            gain = 0.25 if name.endswith((".proj", ".ffn.layers.1")) else 1.0  # ends of residual branches
            module.weight.normal_(0, gain / math.sqrt(module.in_features))
    images = torch.cat([batch_of([scene])[0] for scene in draw_scenes(START_SCENES, TRAINING_SEED)[:: len(SIZES)]])
    start_from_patches(model.backbone.patch_embed.projection, images)


@torch.no_grad()
def average_precision(model: nn.Module, count: int, seed: int, first: int = 0) -> tuple[float, float]:
    """AP of boxes and of masks in percent, as COCO defines it (IoU from 0.5 to 0.95), on scenes of a stream."""
    from pycocotools import mask as rle
    from pycocotools.coco import COCO

    def encoded(masks: np.ndarray) -> list[dict]:
        return [rle.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]

    def corner_and_size(box: np.ndarray) -> list[float]:
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

    model.eval()
    images, truth, found = [], [], []
    for image, scene in enumerate(draw_scenes(count, seed, first)):
        images.append({"id": image, "height": scene.image.shape[0], "width": scene.image.shape[1]})
        pixels, samples = batch_of([scene])
        result = model.predict(pixels, samples)[0].pred_instances
        for label, box, mask in zip(scene.labels, scene.boxes, encoded(scene.masks), strict=True):
            row = {"image_id": image, "category_id": int(label), "bbox": corner_and_size(box), "segmentation": mask}
            truth.append({**row, "id": len(truth) + 1, "iscrowd": 0, "area": float(rle.area(mask))})
        boxes, scores, labels = (result[key].numpy() for key in ("bboxes", "scores", "labels"))
        for label, score, box, mask in zip(labels, scores, boxes, encoded(result.masks.numpy()), strict=True):
            row = {"image_id": image, "category_id": int(label), "bbox": corner_and_size(box), "segmentation": mask}
            found.append({**row, "score": float(score)})
    model.train()
    if not found:
        return 0.0, 0.0
    annotated, classes = COCO(), list(range(len(OUTLINES)))
    categories = [{"id": number, "name": OUTLINES[number]} for number in classes]
    annotated.dataset = {"images": images, "annotations": truth, "categories": categories}
    with quietly():
        annotated.createIndex()
    box, mask = (match(annotated, found, list(range(count)), classes, kind) for kind in ("bbox", "segm"))
    return precisions(box)[""], precisions(mask)[""]


def train(
    steps: int, learning_rate: float, seed: int, state_file: Path, stop_after: int | None = None
) -> tuple[nn.Module, float]:
    """Train, or go on from the state file; returns the model with averaged weights, and the seconds of training.

    The learning rate follows `steps`, also where training ends before, after `stop_after` of them.
    """
    last = steps if stop_after is None else min(steps, stop_after)
    torch.manual_seed(seed)
    model = build_embedded_detector()
    initialize(model)
    model.train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)
    average = {key: value.detach().clone() for key, value in model.state_dict().items()}
    settings = {"steps": steps, "learning_rate": learning_rate, "seed": seed, "scenes": shape_scenes.REVISION}
    start, seconds = 0, 0.0
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        if state["settings"] != settings:
            raise SystemExit(f"{state_file} is of another run ({state['settings']}); remove it, or use --folder")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        average, start, seconds = state["average"], state["step"], state["seconds"]
        print(f"going on from step {start}", flush=True)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters", flush=True)
    batches, recent, began, before = Batches(), {}, time.monotonic() - seconds, start
    for step in range(start, last):
        pixels, samples = batches[step]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * learning_rate_share((step + 1) / steps)
        losses = model.loss(pixels, samples)
        parts = {
            key: sum(value) if isinstance(value, list) else value for key, value in losses.items() if "loss" in key
        }
        optimizer.zero_grad()
        sum(parts.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        decay = min(1 - 1 / AVERAGE_STEPS, (step + 1) / (step + 11))
        for key, value in model.state_dict().items():
            average[key].lerp_(value, 1 - decay) if value.is_floating_point() else average[key].copy_(value)
        for key, value in parts.items():
            recent.setdefault(key.removeprefix("loss_"), []).append(float(value.detach()))
        recent.setdefault("class acc", []).append(float(losses["acc"]))
        done = step + 1
        if done % KEEP_STEPS == 0 or done == last or done == before + 50:
            seconds = time.monotonic() - began
            left = seconds / done * (last - done)
            means = ", ".join(f"{key} {np.mean(values):.3f}" for key, values in recent.items())
            print(f"step {done} of {last}: {means}; {left / 60:.1f} min left", flush=True)
            recent = {}
            state = {"settings": settings, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"average": average, "step": done, "seconds": seconds, "random": torch.get_rng_state()}
            write_whole(state_file, lambda path, state=state: torch.save(state, path))
        if done % CHECK_STEPS == 0 and done < last:
            looked = time.monotonic()
            own = {key: value.clone() for key, value in model.state_dict().items()}
            random = torch.get_rng_state()
            model.load_state_dict(average)
            box, mask = average_precision(model, CHECK_SCENES, TRAINING_SEED, first=CHECK_FIRST)
            print(f"step {done}: AP of boxes {box:.1f}, of masks {mask:.1f}, on {CHECK_SCENES} scenes", flush=True)
            model.load_state_dict(own)
            torch.set_rng_state(random)
            began += time.monotonic() - looked
    model.load_state_dict(average)
    model.eval()
    return model, seconds


def card(rows: dict[str, object]) -> str:
    """The model card in Markdown: a heading, what the model is, and a table of how it was trained."""
    backbone = SHAPES_MASK_RCNN["backbone"]
    lines = [
        f"# {NAME}",
        "",
        f"Mask R-CNN of mmdet with a Swin backbone: `{backbone}`, a feature pyramid and heads of"
        f" {SHAPES_MASK_RCNN['neck']['out_channels']} channels, trained from scratch on drawn scenes (revision"
        f" {shape_scenes.REVISION}, {len(OUTLINES)} classes, {', '.join(f'{h} x {w}' for h, w in SIZES)} pixels, by"
        " `lampq/datasets/shape_scenes.py`).",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in rows.items()),
        "",
        "The weights are float32, averaged over the last steps, and load strictly into"
        " `lampq.models.embedded.detectors.build_embedded_detector()`.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6000, help=f"steps of {BATCH_SIZE} scenes (default 6000)")
    parser.add_argument("--stop-after", type=int, help="end after so many steps, before the learning rate is zero")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of AdamW at its highest (default 0.001)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where weights and card are written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    command = f"python -m experiments.train_embedded_detector --steps {arguments.steps}"
    command += f" --stop-after {arguments.stop_after}" if arguments.stop_after else ""
    command += f" --learning-rate {arguments.learning_rate} --seed {arguments.seed}"
    rows = {"command": f"`{command}`", "commit": commit(), "seed": arguments.seed}
    state_file = arguments.folder / f"{NAME}.training.pt"
    model, seconds = train(arguments.steps, arguments.learning_rate, arguments.seed, state_file, arguments.stop_after)
    rows |= {
        "steps, batch size": f"{min(arguments.steps, arguments.stop_after or arguments.steps)}, {BATCH_SIZE}",
        "seconds of training": f"{seconds:.0f}",
    }
    rows["device"] = f"CPU, one thread, {platform.machine()}, torch {torch.__version__}, float32"
    rows["parameters"] = f"{sum(p.numel() for p in model.parameters()):,}"
    box, mask = average_precision(model, VALIDATION_SCENES, VALIDATION_SEED)
    rows[f"AP of boxes, of masks on {VALIDATION_SCENES} validation scenes, percent"] = f"{box:.2f}, {mask:.2f}"
    print(f"AP of boxes {box:.2f}, of masks {mask:.2f}")
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    write_whole(arguments.folder / f"{NAME}.safetensors", lambda path: save_file(weights, path))
    text = card(rows)
    write_whole(arguments.folder / f"{NAME}.md", lambda path: path.write_text(text, encoding="utf-8"))
    state_file.unlink()


if __name__ == "__main__":
    main()
