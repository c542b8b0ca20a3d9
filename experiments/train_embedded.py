"""Train an embedded model on the shapes: `python -m experiments.train_embedded vit|swin`.

Writes lampq/models/embedded/shapes_vit.safetensors (or shapes_swin) and its model card. One CPU thread; six to
fifteen minutes on an idle machine.
"""

from __future__ import annotations

import argparse
import math
import platform
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from lampq.datasets import shapes
from lampq.models.embedded import architectures
from lampq.models.embedded.architectures import EMBEDDED, build_embedded
from lampq.storage.atomic_write import write_whole

FOLDER = Path(architectures.__file__).parent
RISING, FALLING = shapes.TEXTURES.index("rising"), shapes.TEXTURES.index("falling")
BATCH_SIZE = 64
LEARNING_RATE = {"vit": 8e-4, "swin": 1e-3}
WEIGHT_DECAY = 0.05
WARM_UP = 0.04
LABEL_SMOOTHING = 0.05
CLEAR_IMAGES, CLEAR_UNTIL = 20_000, 0.15
"""Training begins with this many clearer images, for this share of the whole."""
AVERAGE_STEPS = 400
"""The weights kept are an exponential average over about this many last steps."""


def augment(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One random mirror, order of colours and shift for a batch uint8 `[images, size, size, 3]`."""
    mirror = int(torch.randint(0, 2, (1,), generator=generator))
    shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
    images = images[..., torch.randperm(3, generator=generator)]
    images = torch.roll(images, shift, dims=(1, 2))
    if mirror:  # a mirrored rising stripe falls
        images, texture = images.flip(2), labels % 10
        swapped = torch.where(texture == RISING, FALLING, torch.where(texture == FALLING, RISING, texture))
        labels = labels - texture + swapped
    return images, labels


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the class, and of outline and texture alone, which tells the model more an image."""
    logarithms = functional.log_softmax(logits, dim=1).unflatten(1, (10, 10))
    outline = functional.nll_loss(logarithms.logsumexp(2), labels // 10)
    texture = functional.nll_loss(logarithms.logsumexp(1), labels % 10)
    return functional.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING) + outline + texture


@torch.no_grad()
def initialize(model: nn.Module) -> None:
    """Weights that keep a signal's size at these narrow widths, and positions as strong as the content of a patch."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            gain = 0.25 if name.endswith((".proj", ".fc2", "head", "head.fc")) else 1.0  # ends of residual branches
            module.weight.normal_(0, gain / math.sqrt(module.in_features))
    if hasattr(model, "pos_embed"):
        model.pos_embed.normal_(0, 0.5)


@torch.no_grad()
def start_from_patches(projection: nn.Conv2d, images: Tensor) -> None:
    """Begin with a patch embedding that whitens: the strongest principal components of patches, at equal size.

    Without it the colour of a patch drowns its texture, and for thousands of steps nothing is learned. Images are
    normalised, `[images, 3, height, width]`.
    """
    side, width = projection.kernel_size[0], projection.out_channels
    patches = images.unfold(2, side, side).unfold(3, side, side)
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2).double()
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    kept = min(width, len(values))
    filters = vectors[:, -kept:].T / (values[-kept:, None] + 0.02).sqrt()
    if width > kept:  # more channels than components: mix them
        filters = torch.randn(width, kept, dtype=torch.float64) @ filters / math.sqrt(kept)
    projection.weight.copy_(filters.reshape(projection.weight.shape))
    projection.bias.copy_(-(filters @ patches.mean(0)))


def learning_rate_share(progress: float) -> float:
    """A linear warm-up, then half a cosine down to zero; progress in [0, 1]."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


@torch.no_grad()
def accuracy(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Percent top-1 and its standard error."""
    right = 0
    for start in range(0, len(labels), 250):
        batch = shapes.normalize(images[start : start + 250])
        right += int((model(batch).argmax(1) == torch.from_numpy(labels[start : start + 250])).sum())
    share = right / len(labels)
    return 100 * share, 100 * math.sqrt(share * (1 - share) / len(labels))


def train(name: str, pool: int, images_seen: int, seconds: float | None, seed: int) -> tuple[nn.Module, int, float]:
    """Train one model; returns it with averaged weights, the steps and the seconds of training."""
    kind = EMBEDDED[name]["kind"]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    print(f"drawing {pool} training images")
    drawn, drawn_labels = (torch.from_numpy(array) for array in shapes.generate_shapes(pool, shapes.TRAINING_SEED))
    clear, clear_labels = (
        torch.from_numpy(array)
        for array in shapes.generate_shapes(CLEAR_IMAGES, shapes.TRAINING_SEED, first=pool, difficulty=0.2)
    )
    model = build_embedded(name)
    initialize(model)
    start_from_patches(model.patch_embed.proj, shapes.normalize(drawn[:4000]))
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # twice as fast on a CPU at these sizes
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)
    average = {key: value.detach().clone() for key, value in model.state_dict().items()}
    steps, began, step, recent = images_seen // BATCH_SIZE, time.monotonic(), 0, []
    while True:
        elapsed = time.monotonic() - began
        progress = max(step / steps, elapsed / seconds if seconds else 0.0)
        if progress >= 1:
            break
        place = step % (pool // BATCH_SIZE)
        if place == 0:
            order = torch.randperm(pool, generator=generator)
        if progress < CLEAR_UNTIL:
            chosen = torch.randint(0, CLEAR_IMAGES, (BATCH_SIZE,), generator=generator)
            images, labels = augment(clear[chosen], clear_labels[chosen], generator)
        else:
            chosen = order[place * BATCH_SIZE : (place + 1) * BATCH_SIZE]
            images, labels = augment(drawn[chosen], drawn_labels[chosen], generator)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE[kind] * learning_rate_share(progress)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(shapes.normalize(images))
        loss = loss_of(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(1 - 1 / AVERAGE_STEPS, step / (step + 10))
        for key, value in model.state_dict().items():
            average[key].lerp_(value, 1 - decay) if value.is_floating_point() else average[key].copy_(value)
        answers = logits.argmax(1)
        right = (answers == labels, answers // 10 == labels // 10, answers % 10 == labels % 10)
        recent.append([float(loss.detach()), *(100 * float(each.float().mean()) for each in right)])
        if step % 200 == 0:
            left = (time.monotonic() - began) * (1 - progress) / max(progress, 1e-9)
            mean_loss, both, outline, texture = np.mean(recent, axis=0)
            print(
                f"step {step}: loss {mean_loss:.3f}; right: {both:.1f} % (outline {outline:.1f} %, texture"
                f" {texture:.1f} %); {left / 60:.1f} min left",
                flush=True,
            )
            recent = []
    trained_seconds = time.monotonic() - began
    model.load_state_dict(average)
    return model.eval(), step, trained_seconds


def commit() -> str:
    """The commit that is trained with, "changed" where the working tree differs from it."""
    command = ["git", "describe", "--always", "--dirty=, changed"]
    found = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def card(name: str, rows: dict[str, object]) -> str:
    """The model card in Markdown: a heading, what the model is, and a table of how it was trained."""
    lines = [
        f"# {name}",
        "",
        f"timm {EMBEDDED[name]['kind']}: `{EMBEDDED[name]}`, trained from scratch on the shapes"
        f" (revision {shapes.REVISION}, 100 classes, {shapes.IMAGE_SIZE} x {shapes.IMAGE_SIZE} pixels, drawn by"
        " `lampq/datasets/shapes.py`).",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in rows.items()),
        "",
        "The weights are float32, averaged over the last steps, and load strictly into"
        f" `lampq.models.embedded.architectures.build_embedded({name!r})`.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("vit", "swin"))
    parser.add_argument("--pool", type=int, default=80_000, help="different training images drawn (default 80000)")
    parser.add_argument("--images", type=int, default=260_000, help="training images seen in all (default 260000)")
    parser.add_argument("--seconds", type=float, help="end after this time at the latest; the schedule follows it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where weights and card are written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    name = f"shapes_{arguments.model}"
    command = (
        f"python -m experiments.train_embedded {arguments.model} --pool {arguments.pool} --images {arguments.images}"
    )
    command += f" --seconds {arguments.seconds:.0f}" if arguments.seconds else ""
    rows = {"command": f"`{command} --seed {arguments.seed}`", "commit": commit(), "seed": arguments.seed}
    model, steps, seconds = train(name, arguments.pool, arguments.images, arguments.seconds, arguments.seed)
    rows |= {"steps, batch size": f"{steps}, {BATCH_SIZE}", "seconds of training": f"{seconds:.0f}"}
    rows["device"] = f"CPU, one thread, {platform.machine()}, torch {torch.__version__}, bfloat16 autocast"
    for of, count, stream in (("D", 1024, shapes.SAMPLE_SEED), ("the test images", 4000, shapes.TEST_SEED)):
        top1, error = accuracy(model, *shapes.generate_shapes(count, stream))
        rows[f"top-1 on {of} ({count} images), percent"] = f"{top1:.2f} ± {error:.2f} (standard error)"
        print(f"{top1:.2f} ± {error:.2f} % on {of}")
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    write_whole(arguments.folder / f"{name}.safetensors", lambda path: save_file(weights, path))
    text = card(name, rows)
    write_whole(arguments.folder / f"{name}.md", lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
