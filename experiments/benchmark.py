"""Times side by side, in one process: `python -m experiments benchmark`.

Machines are noisy and shared, so what counts is the ratio of two variants measured one after the other in the same
process. FLOPs are those of the matrix products that were really executed. Weights are random unless the environment
variable LAMPQ_DATA names a folder with the real DeiT-T.
"""

import csv
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lampq.errors import LampQError
from lampq.progress import progress
from lampq.runs.record import environment

SAVED_BITS, SAVED_IMAGES, SAVED_THREADS = (8, 4), (1, 32), (1, 2)
"""At which a saved model is run."""
TURNS = 3
"""Of which the fastest counts there."""

SEARCHES = (
    *("adalog", "lampq_without_update", "lampq", "lampq_plus", "output_fisher", "mptq_greedy", "vt_ptq"),
    *("lampq_context", "lampq_measured"),
)
"""Methods whose searches are timed, equal bits first."""

RUN = ("bits=3", "baseline=none", "force=true")
"""Settings of whole runs on the embedded ViT."""

IMAGES, TOKENS = 32, 197
"""What AdaLog calibrates DeiT on: 32 images of 197 tokens."""

SIZES = ("deit_tiny_patch16_224", "deit_small_patch16_224", "swin_small_patch4_window7_224")
"""What GLF-Q is trained on there."""

CHECKPOINT = "weights/deit_tiny_patch16_224.fb_in1k.safetensors"


@dataclass(frozen=True)
class Timing:
    """One timed variant.

    Attributes:
        measurement: what is compared.
        variant: which way.
        seconds: wall time.
        teraflops: floating point operations of its matrix products, in 10^12, where they were counted.
        ratio: seconds of the measurement's first variant divided by these (above 1: this one is faster), or of what
            the measurement compares with; None until it is known.
        note: what else the reader should know.
    """

    measurement: str
    variant: str
    seconds: float
    teraflops: float | None
    ratio: float | None = None
    note: str = ""


def benchmark(results: Path, only: list[str] | None = None, threads: int | None = None) -> Path:
    """Run the measurements and write ``results/benchmark.csv`` (rows of other measurements in it are kept).

    Raises:
        LampQError: a name that is not a measurement.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    names = only or list(MEASUREMENTS)
    for name in names:
        if name not in MEASUREMENTS:
            raise LampQError(f"--only {name}: no such measurement; there are {', '.join(MEASUREMENTS)}")
    path = results / "benchmark.csv"
    for name in progress(names, description="benchmark", unit="measurements"):
        timings = []
        for timing in _with_ratios(MEASUREMENTS[name]()):
            timings.append(timing)
            # At once, for one who stops it: the file has only what was measured to its end.
            print(
                f"{name:16} {timing.variant:44} {timing.seconds:9.4f} s  x{timing.ratio:.2f}  {timing.note}", flush=True
            )
        _write(path, name, timings)
    return path


def timed(measurement: str, variant: str, work: Callable[[], object], *, count: bool = False) -> tuple[Timing, object]:
    """Run `work` once and time it; with `count`, once more to count operations (counting slows it down)."""
    start = time.perf_counter()
    answer = work()
    seconds = time.perf_counter() - start
    operations = None
    if count:
        with FlopCounterMode(display=False) as counter:
            work()
        operations = counter.get_total_flops() / 1e12
    return Timing(measurement, variant, seconds, operations), answer


def weight_search() -> Iterator[Timing]:
    """One output-error search of qkv's weights at 3 bits, d = 384 (DeiT-S): replaying the layer, and Gram matrices."""
    from lampq.calibration.alternating_search import AlternatingSearch
    from lampq.calibration.candidate_formats import UniformFormat
    from lampq.calibration.candidates import uniform_grid, weight_zero_points
    from lampq.calibration.direct_search import DirectRowOutputError
    from lampq.calibration.row_output_error import RowOutputError

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(IMAGES * TOKENS, 384, generator=generator)
    weight = torch.randn(1152, 384, generator=generator) / 384**0.5
    grid = uniform_grid(weight.sort(dim=1).values, 3, weight_zero_points(3), 128)
    quantized = (inputs * 2).round() / 2
    found = []
    for variant, error in (("replaying the layer", DirectRowOutputError), ("Gram matrices", RowOutputError)):

        def search(error: type = error) -> tuple[Tensor, Tensor]:
            errors = error(UniformFormat(3), weight, inputs, quantized)
            return AlternatingSearch().search(errors, grid, None)

        timing, parameters = timed("weight_search", variant, search, count=True)
        found.append(parameters)
        exact = DirectRowOutputError(UniformFormat(3), weight.double(), inputs.double(), quantized.double())
        yield replace(timing, note=_agreement(found, exact))


def activation_search() -> Iterator[Timing]:
    """One output-error search of qkv's input at 3 bits, d = 192 (DeiT-T)."""
    from lampq.calibration.alternating_search import AlternatingSearch
    from lampq.calibration.candidate_formats import UniformFormat
    from lampq.calibration.candidates import activation_zero_points, uniform_grid
    from lampq.calibration.direct_search import DirectTensorOutputError
    from lampq.calibration.operand import Operand
    from lampq.calibration.tensor_output_error import TensorOutputError

    generator = torch.Generator().manual_seed(0)
    heavy_tailed = torch.randn(IMAGES * TOKENS, 192, generator=generator)
    heavy_tailed *= torch.rand(192, generator=generator) * 3
    weight = torch.randn(192, 576, generator=generator) / 192**0.5
    quantized = (weight * 40).round() / 40
    found = []
    for variant, error in (("replaying the layer", DirectTensorOutputError), ("exact short cuts", TensorOutputError)):

        def search(error: type = error) -> tuple[Tensor, Tensor]:
            operand = Operand(heavy_tailed.unsqueeze(0), UniformFormat(3))
            grid = uniform_grid(operand.ascending.unsqueeze(0), 3, activation_zero_points(3), 128)
            errors = error(operand, quantized.unsqueeze(0), weight.unsqueeze(0))
            return AlternatingSearch().search(errors, grid, None)

        timing, parameters = timed("activation_search", variant, search, count=True)
        found.append(parameters)
        operand = Operand(heavy_tailed.double().unsqueeze(0), UniformFormat(3))
        exact = DirectTensorOutputError(operand, quantized.double().unsqueeze(0), weight.double().unsqueeze(0))
        yield replace(timing, note=_agreement(found, exact))


def fisher() -> Iterator[Timing]:
    """Fisher traces of all 48 layers of DeiT-T over 32 images: against one plain pass, and per-sample gradients."""
    from lampq.sensitivity.fisher import fisher_traces

    adapter = _deit_tiny()
    network, names = adapter.network, [s.name for s in adapter.sites if s.allocated]
    images = torch.randn(IMAGES, *adapter.input_size, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(IMAGES)

    def plain() -> None:
        network.requires_grad_(True)
        for chunk in zip(images.split(16), labels.split(16), strict=True):
            torch.nn.functional.cross_entropy(network(chunk[0]), chunk[1], reduction="sum").backward()
        network.requires_grad_(False)
        for parameter in network.parameters():
            parameter.grad = None

    def per_sample() -> Tensor:
        weights = {f"{name}.weight": network.get_submodule(name).weight for name in names}

        def loss(chosen: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
            logits = torch.func.functional_call(network, chosen, (image.unsqueeze(0),))
            return torch.nn.functional.cross_entropy(logits, label.unsqueeze(0))

        gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
        sums = torch.zeros(len(names), dtype=torch.float64)
        for image, label in zip(images.split(8), labels.split(8), strict=True):
            found = gradients(weights, image, label)
            sums += torch.stack([found[f"{name}.weight"].double().square().sum() for name in names])
        return sums / IMAGES

    plain()
    timing, _ = timed("fisher", "one plain forward and backward pass", plain, count=True)
    yield timing
    timing, ours = timed("fisher", "Fisher traces", lambda: fisher_traces(network, names, images, labels).trace)
    yield timing
    timing, oracle = timed("fisher", "per-sample gradients by torch.func", per_sample)
    difference = ((ours - oracle).abs() / oracle).max().item()
    yield replace(timing, note=f"largest relative difference of the traces {difference:.1e}")


def adalog() -> Iterator[Timing]:
    """The whole AdaLog calibration of DeiT-T at W3A3, the published search unabridged, on an empty bank."""
    from lampq.base_quantizers.adalog import AdaLog

    adapter = _deit_tiny()
    with tempfile.TemporaryDirectory() as folder:
        workbench, budget = _workbench(adapter, AdaLog(), 3, folder)
        plan = budget.plan(adapter.sites, {site.name: 3 for site in workbench.layers})
        timing, _ = timed("adalog", "all 74 sites", lambda: workbench.build(plan))
        yield replace(timing, note="real weights and images" if "LAMPQ_DATA" in os.environ else "random weights")


def lampq_run() -> Iterator[Timing]:
    """LampQ on the embedded ViT at 3 bits: with nothing on disk, with calibrated sites on disk, with everything."""
    with tempfile.TemporaryDirectory() as folder:
        run = _prepared("lampq", folder)
        for variant in ("nothing on disk", "bank on disk", "bank, traces and scores on disk"):
            if variant == "bank on disk":
                for kind in ("fisher_traces", "scores", "validation"):
                    shutil.rmtree(Path(folder) / "cache" / kind)
            timing, metrics = timed("lampq_run", variant, run)
            parts = ", ".join(
                f"{part} {metrics[f'seconds_{part}']:.1f} s" for part in ("calibrate", "allocate", "evaluate")
            )
            yield replace(timing, note=parts)


def searches() -> Iterator[Timing]:
    """Calibration and search of each allocator on the embedded ViT at 3 bits, with nothing on disk, beside equal
    bits; validation is left out. A ratio of 0.5 is a search that makes the run twice as long."""
    for method in progress(SEARCHES, description="searches", unit="searches"):
        with tempfile.TemporaryDirectory() as folder:
            metrics = _prepared(method, folder)()
        seconds = metrics["seconds_calibrate"] + metrics["seconds_allocate"]
        plans = metrics.get("evaluations")
        told = "" if plans is None else f"{plans} plans scored on {metrics['sample_images']:,} images"
        yield Timing("searches", method, seconds, None, None, told)


def _prepared(method: str, folder: str) -> Callable[[], dict[str, Any]]:
    """A run of a method on the embedded ViT at 3 bits, to be timed: it keeps what it finds in a folder and gives its
    metrics."""
    from hydra import compose, initialize_config_dir

    from lampq.configuration.settings import check
    from lampq.launch.command_line import config_folder
    from lampq.pipeline import run

    paths = [f"paths.results={folder}/results", f"paths.cache={folder}/cache"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("config", overrides=[f"method={method}", *paths, *RUN])
    settings = check(cfg)
    return lambda: run(settings)[-1].metrics


def synthesis() -> Iterator[Timing]:
    """A step of making images from DeiT-T as PSAQ-ViT does: how its time grows with the number of images."""
    from lampq.datasets.psaq.image_batch import Draws, PixelRange, make_batch
    from lampq.datasets.psaq.recipe import Recipe

    adapter = _deit_tiny()
    published = {"warmup": 0.2, "jitter": (15, 30), "flip": 0.5, "learning_rate": 0.2, "betas": (0.5, 0.9)}
    published |= {"entropy_weight": 1.0, "class_weight": 1.0, "smoothness_weight": 0.05, "smoothness": (2500, 3000)}
    recipe = Recipe(steps=1, **published, bandwidth=0.01, density_points=10, dropped=1)
    pixels = PixelRange(*(tuple(adapter.data_config[key]) for key in ("mean", "std")))
    for images in (4, 8, 16, 32):
        draws = Draws(0, 0, (images, *adapter.input_size), 1000)
        timing, _ = timed("synthesis", f"{images} images", lambda d=draws: make_batch(adapter, recipe, pixels, d, "it"))
        yield replace(timing, seconds=timing.seconds / recipe.total_steps, note="a step")


def reconstruction() -> Iterator[Timing]:
    """A step of training a block of DeiT-T at W4A4 on 32 images, by each method of block reconstruction."""
    from lampq.base_quantizers.adalog_recon import AdaLogReconstruction
    from lampq.base_quantizers.aphq_vit import APHQViT
    from lampq.base_quantizers.fima_q import FimaQ
    from lampq.base_quantizers.glf_q import LOSSES, GlfQ
    from lampq.base_quantizers.pd_quant import PDQuant
    from lampq.base_quantizers.qdrop import QDrop
    from lampq.plan.bit_plan import BitPlan

    adapter, steps = _deit_tiny(), (2, 10)
    middle = [s for s in adapter.sites if s.block == adapter.blocks // 2]
    bits = {s.name: (4 if s.parameters else None, 4) for s in middle}
    plan = BitPlan.full_precision(adapter.sites).with_bits(bits)
    # Where training starts from does not matter to its time: a short search.
    short, batch = {"candidates": 32, "rounds": 1}, {"images": IMAGES, "batch_size": IMAGES}
    methods = {cls.name: partial(cls, **short) for cls in (AdaLogReconstruction, QDrop, PDQuant, APHQViT, FimaQ)}
    methods |= {f"glf_q, loss={loss}": partial(GlfQ, loss=loss, mlp_reconstruction=False) for loss in LOSSES}
    for name, method in methods.items():
        timings = []
        for iterations in steps:
            quantizer = method(iterations=iterations, **batch)
            with tempfile.TemporaryDirectory() as folder:
                workbench, _ = _workbench(adapter, quantizer, 4, folder)
                workbench.bank.calibrate(plan)
                timing, _ = timed("reconstruction", name, lambda it=workbench: it.build(plan))
                timings.append(timing)
        # What is done once a block is left out.
        seconds = (timings[1].seconds - timings[0].seconds) / (steps[1] - steps[0])
        yield replace(timings[1], seconds=seconds, note="a step")


def glf_q() -> Iterator[Timing]:
    """GLF-Q at W3A3 on 32 images, on models of several sizes with random weights: a step of an MLP and of a block in
    the middle of the rotated network, and the memory of the whole process meanwhile."""
    from lampq.base_quantizers.glf_q import GlfQ
    from lampq.plan.bit_plan import BitPlan
    from lampq.transform.hadamard import Hadamard

    # Where training starts from does not matter to its time: a short search.
    short = {"images": IMAGES, "batch_size": IMAGES, "candidates": 32, "rounds": 1}
    for name in SIZES:
        adapter = Hadamard(seed=0).apply(_random_model(name))
        middle = [s for s in adapter.sites if s.block == adapter.blocks // 2]
        bits = {s.name: (3 if s.parameters else None, 3) for s in middle}
        plan = BitPlan.full_precision(adapter.sites).with_bits(bits)
        found: dict[tuple[int, int], tuple[float, str]] = {}
        for mlp, block in ((1, 1), (5, 1), (1, 5)):
            quantizer = GlfQ(**short, mlp_iterations=mlp, iterations=block)
            with tempfile.TemporaryDirectory() as folder:
                workbench, _ = _workbench(adapter, quantizer, 3, folder, random=True, images=IMAGES)
                workbench.bank.calibrate(plan)
                with peak_memory() as memory:
                    timing, _ = timed("glf_q", name, partial(workbench.build, plan))
                found[mlp, block] = timing.seconds, memory.told
        once, _ = found[1, 1]  # what is done once is left out
        for part, steps in (("a step of an MLP", (5, 1)), ("a step of a block", (1, 5))):
            seconds, memory = found[steps]
            yield Timing("glf_q", f"{name}: {part}", (seconds - once) / 4, None, None, memory)


@contextmanager
def peak_memory() -> Iterator[SimpleNamespace]:
    """The most memory that this process held meanwhile, in words; where the system does not tell it, none."""
    peak, reset = SimpleNamespace(told=""), Path("/proc/self/clear_refs")
    with suppress(OSError):  # not everybody may; then it is the most that was held so far
        reset.write_text("5")
    yield peak
    if reset.exists():
        held = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        peak.told = f"{int(held[1]) / 2**20:.2f} GiB at most"


def scoring() -> Iterator[Timing]:
    """A plan of AdaLog W3A3 on images of D beside the full-precision model: few at once, which a CPU's cache holds, and
    many."""
    from lampq.base_quantizers.adalog import AdaLog
    from lampq.plan.bit_plan import BitPlan
    from lampq.tasks.sample_evaluation import CHUNK, CHUNK_ON_CPU

    adapter = _deit_tiny()
    plan = BitPlan.full_precision(adapter.sites).with_bits(
        {s.name: (3 if s.parameters else None, 3) for s in adapter.sites}
    )
    x = torch.randn(CHUNK, *adapter.input_size, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        # What the formats' parameters are does not matter to their time: a short search.
        workbench, _ = _workbench(adapter, AdaLog(candidates=32, rounds=1, steps=1), 3, folder, random=True)
        workbench.build(plan)
        quantized = workbench.quantized_model().apply(plan).adapter
        fastest: dict[tuple[str, int], float] = {}
        for turn in range(1 + TURNS):
            for chunk in (CHUNK_ON_CPU, CHUNK):
                for variant, model in (("full precision", adapter), ("AdaLog W3A3", quantized)):
                    start = time.perf_counter()
                    for images in x.split(chunk):
                        model.run(images)
                    if turn:  # the first one touches memory for the first time
                        seconds = (time.perf_counter() - start) / len(x)
                        fastest[variant, chunk] = min(seconds, fastest.get((variant, chunk), seconds))
    for (variant, chunk), seconds in fastest.items():
        ratio = fastest["full precision", chunk] / seconds
        yield Timing("scoring", f"{variant}, {chunk} images at once", seconds, None, ratio, "an image")


def saved_model() -> Iterator[Timing]:
    """DeiT-T with random weights, rounded to nearest, saved: to load it, and to run it in every way, beside full
    precision in the same runtime."""
    from lampq.artefact.loading import load_adapter
    from lampq.artefact.onnx import PACKAGES, need
    from lampq.artefact.saving import save
    from lampq.base_quantizers.rtn import RoundToNearest
    from lampq.plan.bit_plan import BitPlan

    need(*PACKAGES)
    adapter, threads = _random_deit_tiny(), torch.get_num_threads()
    for bits in SAVED_BITS:
        with tempfile.TemporaryDirectory() as name, torch.inference_mode():
            folder, called = Path(name), f"W{bits}A{bits}"
            workbench, _ = _workbench(adapter, RoundToNearest(), bits, name, random=True)
            sites = {s.name: (bits if s.parameters else None, bits) for s in adapter.sites}
            plan = BitPlan.full_precision(adapter.sites).with_bits(sites)
            simulated = workbench.quantized_model().apply(plan).adapter
            save(folder / "model", adapter, simulated, plan, {})
            timing, (loaded, _) = timed("saved_model", f"{called}, load", lambda at=folder: load_adapter(at / "model"))
            yield replace(timing, ratio=1.0)
            for count in SAVED_THREADS:
                torch.set_num_threads(count)
                try:
                    for images in SAVED_IMAGES:
                        yield from _side_by_side(adapter, loaded, folder, called, images)
                finally:
                    torch.set_num_threads(threads)


def _side_by_side(adapter, loaded, folder: Path, called: str, images: int) -> Iterator[Timing]:
    """Seconds an image: the fastest of some turns, in which all ways come one after another."""
    from lampq.artefact.integer import to_integers
    from lampq.artefact.onnx.export import export_onnx
    from lampq.artefact.onnx.openvino import convert
    from lampq.artefact.onnx.runtimes import network

    integer = loaded.clone()
    to_integers(integer)
    ways = {"PyTorch": {"full precision": adapter.run, "simulation": loaded.run, "integers": integer.run}}
    for of, model in (("full precision", adapter), ("quantized", loaded)):
        file = folder / f"{of}.onnx"
        if not file.is_file():
            export_onnx(model, file)
            convert(file, file.with_suffix(".xml"))
        for runtime, ending in (("onnxruntime", ".onnx"), ("OpenVINO", ".xml")):
            ways.setdefault(runtime, {})[of] = network(file.with_suffix(ending))
    x = torch.randn(images, *adapter.input_size, generator=torch.Generator().manual_seed(0))
    fastest: dict[tuple[str, str], float] = {}
    for turn in range(1 + TURNS):
        for runtime, variants in ways.items():
            for variant, run in variants.items():
                start = time.perf_counter()
                run(x)
                if turn:  # some prepare their kernels in the first one
                    seconds = (time.perf_counter() - start) / images
                    fastest[runtime, variant] = min(seconds, fastest.get((runtime, variant), seconds))
    threads = torch.get_num_threads()
    for (runtime, variant), seconds in fastest.items():
        where = f"{called}, {images} images, {threads} threads: {runtime}, {variant}"
        yield Timing("saved_model", where, seconds, None, fastest[runtime, "full precision"] / seconds, "an image")


MEASUREMENTS: dict[str, Callable[[], Iterator[Timing]]] = {
    "weight_search": weight_search,
    "activation_search": activation_search,
    "fisher": fisher,
    "adalog": adalog,
    "lampq_run": lampq_run,
    "searches": searches,
    "synthesis": synthesis,
    "reconstruction": reconstruction,
    "glf_q": glf_q,
    "scoring": scoring,
    "saved_model": saved_model,
}


def _deit_tiny():
    from lampq.models.timm_classifier import TimmClassifier

    if "LAMPQ_DATA" not in os.environ:
        return _random_deit_tiny()
    checkpoint = str(Path(os.environ["LAMPQ_DATA"]) / CHECKPOINT)
    return TimmClassifier("deit_tiny_patch16_224.fb_in1k", checkpoint).build(torch.device("cpu"))


def _random_deit_tiny():
    return _random_model("deit_tiny_patch16_224")


def _random_model(name: str):
    import timm

    from lampq.models.timm_adapters import adapt

    torch.manual_seed(0)
    adapter = adapt(name, timm.create_model(name), input_size=(3, 224, 224))
    adapter.architecture = {"library": "timm", "name": name, "arguments": {}}
    return adapter


def _workbench(adapter, base_quantizer, bits: int, folder: str, random: bool = False, images: int = 2):
    """A workbench on the calibration images (or on so many random ones), and a budget of equal bits."""
    from lampq.datasets.given import GivenImages
    from lampq.plan.budget import Budget
    from lampq.storage.store import Store
    from lampq.tasks.classification import ClassificationTask
    from lampq.workbench import open_workbench

    given = torch.randn(images, *adapter.input_size) if random else _calibration_images(adapter)
    task = ClassificationTask(adapter, GivenImages(given), 0, torch.device("cpu"))
    budget = Budget(bits, bits, (bits,), "fixed", (bits, bits), "target")
    return open_workbench(adapter, task, base_quantizer, Store(Path(folder)), budget), budget


def _calibration_images(adapter) -> Tensor:
    if "LAMPQ_DATA" not in os.environ:
        return torch.randn(IMAGES, *adapter.input_size, generator=torch.Generator().manual_seed(0))
    from lampq.datasets.imagenet import ImageNet

    dataset = ImageNet(str(Path(os.environ["LAMPQ_DATA"]) / "imagenet_subset"))
    dataset.bind(adapter)
    return dataset.calibration(0)


def _agreement(found: list[tuple[Tensor, Tensor]], exact: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    """Whether two searches chose the same, and by how much the errors of what they chose differ in float64."""
    if len(found) < 2:
        return ""
    same = torch.isclose(found[0][0], found[1][0], rtol=1e-6, atol=0) & (found[0][1] == found[1][1])
    first, second = (exact(s.double()[:, None, None], p.double()[:, None], 1).flatten() for s, p in found)
    excess = ((second - first) / first).abs().max().item()
    return f"same candidate for {int(same.sum())} of {same.numel()}, errors differ by at most {excess:.1e} (relative)"


def _with_ratios(timings: Iterator[Timing]) -> Iterator[Timing]:
    first = None
    for timing in timings:
        first = first or timing.seconds
        yield timing if timing.ratio is not None else replace(timing, ratio=first / timing.seconds)


def _write(path: Path, name: str, timings: list[Timing]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    runtimes = ("onnxruntime", "openvino") if name == "saved_model" else ()
    here = environment("cpu", torch.get_num_threads(), ("torch", "timm", *runtimes))
    packages = " ".join(f"{key}={value}" for key, value in here["packages"].items())
    where = {"device": here["processor"], "threads": here["threads"], "packages": packages}
    where |= {"commit": here["commit"], "started": here["started"]}
    columns = [*Timing.__dataclass_fields__, *where]
    kept = []
    if path.is_file():
        with path.open(newline="") as file:
            kept = [row for row in csv.DictReader(file) if row["measurement"] != name]
    rows = [
        {
            **vars(t),
            "seconds": f"{t.seconds:.3f}" if t.seconds >= 1 else f"{t.seconds:.5f}",
            "teraflops": "" if t.teraflops is None else f"{t.teraflops:.4f}",
            "ratio": f"{t.ratio:.2f}",
            **where,
        }
        for t in timings
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(kept + rows)
