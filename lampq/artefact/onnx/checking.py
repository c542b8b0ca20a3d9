"""Whether an exported file computes what the simulation does."""

from pathlib import Path

import torch
from torch import Tensor

from lampq.artefact.onnx.codes import CHUNK, Flips, code_flips, formats, simulated_codes
from lampq.artefact.onnx.runtimes import graph_codes, network
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter

AGREEMENT = 0.9
"""Share of images whose first class has to be the simulation's, where its last bits alone do not change more. With few
bits, one flipped code may change an image: the simulation in double precision then tells how many that may be."""

FLIPPED, A_FEW = 1e-5, 5
"""At the first quantized activation, nothing but last bits of the layers before it may differ. A last bit, 1e-7 to 1e-6
of the range, takes a value across a border between two of 2^bits codes with a probability of 2^bits times that. Refused
are ten times as many codes, and A_FEW more."""

BATCH = 32
"""Images in one forward pass."""


def check_export(quantized: ModelAdapter, path: Path, images: Tensor, force: bool) -> str:
    """Compare a file with the simulation on real images.

    Args:
        quantized: the simulation.
        images: ``[images, channels, height, width]``.
        force: say what is wrong instead of refusing the file.

    Returns:
        A line with its size, the agreement of classes, the share of codes that differ, and by how much logits do.

    Raises:
        LampQError: codes differ where nothing but last bits may, or too many classes do; the file is removed.
    """
    run, classifier = network(path), quantized.task == "classification"
    batch, chunk = (BATCH, CHUNK) if classifier else (1, 1)
    with torch.inference_mode():
        expected, found = (torch.cat([f(some) for some in images.split(batch)]) for f in (quantized.run, run))
    flips = code_flips(lambda some: simulated_codes(quantized, some), graph_codes(path, quantized), images, chunk)
    same = expected.argmax(1) == found.argmax(1) if classifier else torch.ones(len(images), dtype=torch.bool)
    agreement = float(same.float().mean())
    classes = f"the class is the simulation's on {100 * agreement:.1f} %, " if classifier else ""
    told = (
        f"{path}: {size_on_disk(path):,} bytes; on {len(images)} calibration images {classes}{flips.percent:.4f} % of "
        f"the activations' codes differ, {'logits' if classifier else 'features'} differ by "
        f"{float((expected - found).abs().max()):.2e} at most"
    )
    bits = formats(quantized)[flips.first].bits if flips.first else 0
    wrong = _wrong_codes(flips, bits)
    if wrong is None and agreement < AGREEMENT:
        wrong = _wrong_classes(same, _same_in_double_precision(quantized, images, expected))
    if wrong is None:
        return told
    if force:
        return f"{told}; kept, though {wrong}"
    for file in files_of(path):
        file.unlink()
    raise LampQError(f"{told}; not kept, as {wrong}; --force keeps it")


def files_of(path: Path) -> list[Path]:
    """The files of an exported model: OpenVINO has two."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def size_on_disk(path: Path) -> int:
    """Bytes of an exported model."""
    return sum(file.stat().st_size for file in files_of(path))


def _wrong_codes(flips: Flips, bits: int) -> str | None:
    if flips.first_steps > 1 or flips.first_differ > A_FEW + FLIPPED * 2**bits * flips.first_codes:
        return (
            f"{flips.first_differ} of {flips.first_codes:,} codes of the first quantized activation differ, by up to "
            f"{flips.first_steps} steps: more than last bits can"
        )
    return None


def _same_in_double_precision(quantized: ModelAdapter, images: Tensor, expected: Tensor) -> Tensor:
    """For which images the class stays when the simulation computes in float64, ``[images]``."""
    exact = quantized.converted(torch.float64)
    with torch.inference_mode():
        found = torch.cat([exact.run(some.double()) for some in images.split(BATCH)])
    return found.argmax(1) == expected.argmax(1)


def _wrong_classes(same: Tensor, same_in_double_precision: Tensor) -> str | None:
    """Refuse a file that changes more classes than last bits do, by more than two standard errors of the difference.

    Args:
        same: for which images the file's class is the simulation's, ``[images]``.
        same_in_double_precision: for which images that of the simulation in double precision is.
    """
    lost = int((same_in_double_precision & ~same).sum())
    gained = int((same & ~same_in_double_precision).sum())
    if lost - gained <= 2 * (lost + gained) ** 0.5:
        return None
    last_bits = 100 * float(same_in_double_precision.float().mean())
    return (
        f"fewer than {100 * AGREEMENT:.0f} % of the classes are the simulation's, which in double precision keeps "
        f"{last_bits:.1f} %"
    )
