"""Whether an exported file computes what the simulation does."""

from pathlib import Path

import torch
from torch import Tensor

from lampq.artefact.onnx.codes import CHUNK, Flips, code_flips, formats, simulated_codes
from lampq.artefact.onnx.runtimes import graph_codes, network
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter

AGREEMENT = 0.9
"""Share of images whose first class has to be the simulation's. With few bits, one flipped code may change an image."""

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
    agreement = float((expected.argmax(1) == found.argmax(1)).float().mean()) if classifier else 1.0
    classes = f"the class is the simulation's on {100 * agreement:.1f} %, " if classifier else ""
    told = (
        f"{path}: {size_on_disk(path):,} bytes; on {len(images)} calibration images {classes}{flips.percent:.4f} % of "
        f"the activations' codes differ, {'logits' if classifier else 'features'} differ by "
        f"{float((expected - found).abs().max()):.2e} at most"
    )
    bits = formats(quantized)[flips.first].bits if flips.first else 0
    wrong = _wrong(agreement, flips, bits)
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


def _wrong(agreement: float, flips: Flips, bits: int) -> str | None:
    if flips.first_steps > 1 or flips.first_differ > A_FEW + FLIPPED * 2**bits * flips.first_codes:
        return (
            f"{flips.first_differ} of {flips.first_codes:,} codes of the first quantized activation differ, by up to "
            f"{flips.first_steps} steps: more than last bits can"
        )
    if agreement < AGREEMENT:
        return f"fewer than {100 * AGREEMENT:.0f} % of the classes are the simulation's"
    return None
