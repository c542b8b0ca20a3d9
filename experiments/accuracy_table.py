"""Tables of accuracies: methods by models, our number, its error, the paper's number and the difference."""

import contextlib
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lampq.launch.cells import NOT_AVAILABLE
from lampq.report.summary import duration
from lampq.report.table import Lines, Table, marked

from . import paper
from .measured import DAMAGED, Row, Run, measured, paired_difference, widest

TOLERANCE = 3.0
"""Points by which a drop may be worse than published before the table says that it is not reproduced."""

AUTHORS_CODE_TOLERANCE = 2.5
"""Points by which a method may differ from its authors' code on the same images before the table says so."""

ADALOG_SEARCH = {"candidates": 128, "rounds": 3, "steps": 6}
PUBLISHED_SEARCH = {name: {"candidates": 100, "rounds": 3} for name in ("ptq4vit", "apq_like")}
"""Settings of searches as published, by base quantizer; those of AdaLog for all others that have such settings."""

PUBLISHED_STEPS = 20_000
"""Steps in which block reconstruction trains a block, as published."""

CONTROL = "dataset.source="
"""What a row of other images than the paper's has in its name: no number of the paper is beside it."""

ACCURACY = (
    "Top-1 in percent, simulated quantization. ±: standard error over images, or, of several seeds, standard deviation "
    "over seeds. In brackets: ours minus the paper's. Against equal bits: the same base quantizer without a search, "
    "paired by image. Drop: to full precision on the same images, its error paired by image. Reweighted: our images "
    "weighed so that full precision is as often right as the paper prints; this is what to hold against the paper "
    "where only part of the validation images was used. Nothing is filled in from the paper."
)

BESIDE_THE_AUTHORS_CODE = (
    "Top-1 in percent, simulated quantization, in formats as literally those of the released code as base_quantizer."
    "literal=true has them. Code: what the authors' public code gave on DeiT-T with 32 calibration images that "
    "dataset.calibration_list names and 800 validation images, once, on two CPU cores; RepQ-ViT at 4 bits gave 68.1, "
    "69.9 and 69.3 with three other draws of 32. ±: standard error over images. In brackets: ours minus theirs. Drop: "
    "to full precision on the same images, paired. Nothing is filled in from theirs."
)


UniformRuns = dict[str, list[Run]]
"""See `uniform_runs`."""


@dataclass(frozen=True)
class Layout:
    """What a table of accuracies has.

    Attributes:
        experiment: name of the experiment, of the cells and of the files.
        title: of the table.
        rows: the paper's rows.
        models: column label by ``model=NAME``.
        full_precision: the paper's full-precision accuracy by model.
        paper_column: the paper's model whose numbers stand beside every model's (table 6 has only DeiT-S); None takes
            those of the model itself.
        legend: remark below it.
        source: where the numbers beside ours come from, in a word or two.
        common: overrides that every row has, so that they name none.
    """

    experiment: str
    title: str
    rows: Callable[[], list[paper.PaperRow]]
    models: dict[str, str]
    full_precision: Callable[[], dict[str, Any]]
    paper_column: str | None = None
    legend: str = ACCURACY
    source: str = "paper"
    common: tuple[str, ...] = ()

    def reproduced(self, ours: float, published: float) -> bool:
        """Whether an accuracy (percent) is what was published, up to the tolerance."""
        return ours >= published - TOLERANCE


class AuthorsCode(Layout):
    """A table with what the authors' code gives on the same images: a difference either way is one of mathematics."""

    def reproduced(self, ours: float, published: float) -> bool:
        return abs(ours - published) <= AUTHORS_CODE_TOLERANCE


def accuracy_table(results: Path, layout: Layout) -> Table:
    """Put the table together from the cells in a results folder."""
    rows, printed_rows = [row for row in measured(results, layout.experiment) if row.method], layout.rows()
    known, uniform = {row.model for row in rows}, uniform_runs(rows)
    models = [m for m in layout.models if m in known] + sorted(m for m in known if m and m not in layout.models)
    body, notes, records = [_full_precision_cells(layout, models, rows)], [], []
    for (method, bits, variation), by_model in places_of(rows, printed_rows, layout.common).items():
        printed = next((p for p in printed_rows if (p.method, p.bits) == (method, bits)), None)
        label = (printed.label if printed else method) + (f", {variation}" if variation else "")
        cells: list[Lines] = [[label], [printed.printed_bits if printed else bits]]
        if CONTROL in variation:
            printed = None
        for model in models:
            chosen = widest(by_model.get(model, []))
            lines, cell_records = _cell(layout, chosen, model, printed, notes)
            for run, record in zip([row.run for row in chosen if row.run], cell_records, strict=False):
                record |= against_uniform(run, uniform)
            if len(chosen) == 1 and "uniform_difference" in cell_records[0]:
                ahead, error = (cell_records[0][f"uniform_difference{s}"] for s in ("", "_standard_error"))
                lines.insert(1, f"against equal bits {signed(ahead)} ± {error:.2f}")
            cells.append(lines)
            records += [
                {"method": label, "w/a": bits, "model": layout.models.get(model, model), **r} for r in cell_records
            ]
        body.append(cells)
    missing = sorted({f"`{row.cell.reason}`" for row in rows if row.state == NOT_AVAILABLE})
    remarks = [layout.legend]
    if layout.paper_column:
        remarks.append(
            f"The paper prints this table for {paper.MODELS[layout.paper_column]} alone; beside other models its "
            "numbers stand for orientation."
        )
    if missing:
        remarks.append(f"Not available: {', '.join(missing)}.")
    header = ["method", "W/A", *(layout.models.get(model, model) for model in models)]
    return Table(layout.experiment, layout.title, header, body, notes, remarks, run_lines(rows), records)


def places_of(
    rows: list[Row], printed_rows: list[paper.PaperRow], common: tuple[str, ...] = ()
) -> dict[tuple[str, str, str], dict[str, list[Row]]]:
    """Rows of a table by (method, bits, variation), the paper's first, and by model."""
    places: dict[tuple[str, str, str], dict[str, list[Row]]] = {(p.method, p.bits, ""): {} for p in printed_rows}
    for row in rows:
        place = row.method, bits_of(row), row.variation_from(common)
        places.setdefault(place, {}).setdefault(row.model, []).append(row)
    return places


def _full_precision_cells(layout: Layout, models: list[str], rows: list[Row]) -> list[Lines]:
    """The first row: full precision on the same images."""
    cells: list[Lines] = [["Full precision"], ["32/32"]]
    for model in models:
        runs = [r.run for r in widest(row for row in rows if row.model == model) if r.run and "images" in r.run.metrics]
        lines = ["–"]
        if runs:
            metrics = runs[0].metrics
            error = metrics["top1_full_precision_standard_error"]
            lines = [f"{metrics['top1_full_precision']:.2f} ± {error:.2f}"]
        published = layout.full_precision().get(model)
        if published is not None:
            number = f"{published:.2f}" if isinstance(published, float) else published
            lines.append(f"{layout.source} {number}")
        cells.append(lines)
    return cells


def _cell(
    layout: Layout, rows: list[Row], model: str, printed: paper.PaperRow | None, notes: list[str]
) -> tuple[Lines, list[dict[str, Any]]]:
    """What a cell says, and its records; footnotes are added to `notes`."""
    runs = [row.run for row in rows if row.run is not None and "top1" in row.run.metrics]
    published, beside = _published(layout, model, printed)
    if not runs:
        return [state_of(rows), *beside], [{"state": state_of(rows), "paper_top1": published}]
    full = layout.full_precision().get(model)
    records = [record_of(run, published, full) for run in runs]
    top1 = statistics.fmean(record["top1"] for record in records)
    seeds = f" ({len(runs)} seeds)" if len(runs) > 1 else ""
    spread = statistics.stdev(r["top1"] for r in records) if seeds else records[0]["top1_standard_error"]
    marks = "".join(marked(noted(notes, text)) for text in dict.fromkeys(map(footnote, runs)) if text)
    lines = [f"{top1:.2f} ± {spread:.2f}{seeds}{marks}"]
    drop = statistics.fmean(record["top1_difference"] for record in records)
    drop_error = "" if seeds else f" ± {records[0]['top1_difference_standard_error']:.2f}"
    lines.append(f"drop {signed(drop)}{drop_error}")
    if published is not None:
        lines[1:] = [
            f"{layout.source} {published:.2f} ({signed(top1 - published)})",
            f"{lines[1]}, {layout.source} {signed(published - full)}",
        ]
    else:
        lines += beside
    if full is not None:
        reweighted = statistics.fmean(record["top1_reweighted"] for record in records)
        if runs[0].on_a_subset and abs(reweighted - top1) >= 0.005:
            lines.append(f"reweighted {reweighted:.2f}")
        if published is not None and not layout.reproduced(reweighted, published):
            lines.append("not reproduced")
    searched = search_cost(runs)
    return lines + ([f"search: {searched}"] if searched else []), records


def search_cost(runs: list[Run]) -> str:
    """How many plans a search has scored, and on how many images of D; empty where none was made."""
    counts = [run.metrics["evaluations"] for run in runs if run.metrics.get("evaluations") is not None]
    if not counts or runs[0].metrics["allocator"] == "uniform":
        return ""
    plans = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return f"{plans} plans scored on {scored_images(runs[0]):,} images"


def scored_images(run: Run) -> int:
    """Images of D that a plan was scored on in the search: all of them where nothing else is said."""
    return run.metrics.get("evaluation_images") or run.metrics["sample_images"]


def _published(layout: Layout, model: str, printed: paper.PaperRow | None) -> tuple[float | None, Lines]:
    """The paper's number for this very model, and what stands where there is none of ours or none for this model."""
    value = printed.values.get(layout.paper_column or model) if printed else None
    if value is None or (layout.paper_column and model not in layout.models):
        return None, []
    if layout.paper_column in (None, model):
        return (value if isinstance(value, float) else None), [f"{layout.source} {value}"]
    drop = value - layout.full_precision()[layout.paper_column]
    return None, [f"paper, {paper.MODELS[layout.paper_column]}: {value:.2f}, drop {signed(drop)}"]


def against_uniform(run: Run, uniform: UniformRuns) -> dict[str, float]:
    """Points by which a searched plan is ahead of equal bits, paired by image, where both were measured alike."""
    for other in equal_bits(run, uniform):
        if "top1" in other.metrics:
            with contextlib.suppress(ValueError):  # on other images
                difference, error = paired_difference(run, other)
                return {"uniform_difference": difference, "uniform_difference_standard_error": error}
    return {}


def uniform_runs(rows: list[Row]) -> UniformRuns:
    """The runs of equal bits among rows, each once, by what a search must share to be compared with them."""
    runs = {row.run.fingerprint: row.run for row in rows if row.run is not None and is_uniform(row.run)}
    found: UniformRuns = {}
    for run in runs.values():
        found.setdefault(_setting(run), []).append(run)
    return found


def equal_bits(run: Run, uniform: UniformRuns) -> list[Run]:
    """Runs of the same model and base quantizer, calibrated on the same images, with as many bits everywhere as a
    searched plan has on average."""
    return [] if is_uniform(run) else uniform.get(_setting(run), [])


def is_uniform(run: Run) -> bool:
    return run.metrics["allocator"] == "uniform"


def _setting(run: Run) -> str:
    asked = [run.identity.get(key) for key in ("model", "weights", "base_quantizer", "seed")]
    bits = [float(run.metrics[key]) for key in ("weight_bits", "activation_bits")]
    return json.dumps([asked, run.identity["images"].get("calibration"), bits], sort_keys=True)


def record_of(run: Run, published: float | None = None, full: float | None = None) -> dict[str, Any]:
    """The numbers of one run in long form, the paper's beside them where it has any."""
    metrics, environment = run.metrics, run.environment
    record: dict[str, Any] = {"state": "done"}
    for name in (
        "top1",
        "top1_standard_error",
        "top1_difference",
        "top1_difference_standard_error",
        "top1_full_precision",
        "images",
        "sample_images",
        "sample_top1",
        "evaluations",
        "evaluation_images",
        "average_weight_bits",
        "packed_bytes",
        "bops",
        "seconds_allocate",
        "seconds_total",
        "seconds_cold",
        "seed",
    ):
        record[name] = metrics.get(name)
    record |= {"paper_top1": published, "paper_full_precision": full}
    if full is not None:
        record["top1_reweighted"] = run.top1_at(full)
    if published is not None:
        record |= {"difference_to_paper": metrics["top1"] - published, "paper_drop": published - full}
    for name in ("device", "processor", "threads", "commit", "started", "command"):
        record[name] = environment.get(name)
    return {**record, "fingerprint": run.fingerprint}


def footnote(run: Run) -> str:
    """What was less than the paper's setting in a run: images, search; empty where nothing was."""
    metrics, parts = run.metrics, []
    if run.on_a_subset:
        full = metrics.get("full_validation_images")
        parts.append(f"{metrics['images']} of {f'{full:,} ' if full else 'the '}validation images")
    if metrics.get("sample_images", 1024) < 1024:
        parts.append(f"D of {metrics['sample_images']} images")
    parts += overlap(run)
    scored = metrics.get("evaluation_images")
    if scored is not None and scored < metrics.get("sample_images", scored):
        parts.append(f"plans scored on the first {scored} of them in the search")
    limit = run.origin.get("settings", {}).get("max_evaluations")
    if limit is not None:
        parts.append(f"at most {limit} further plans scored in the search")
    name, _, search = run.identity["base_quantizer"]
    if any(search.get(key, value) != value for key, value in PUBLISHED_SEARCH.get(name, ADALOG_SEARCH).items()):
        parts.append("shortened search of the base quantizer")
    if search.get("iterations", PUBLISHED_STEPS) < PUBLISHED_STEPS:
        parts.append(
            f"blocks trained in {search['iterations']:,} steps (published: 20,000) on {search['images']:,} images"
        )
    return "; ".join(parts)


def overlap(run: Run) -> list[str]:
    """A word on a run whose D was drawn before D left the calibration images out: it is to be measured again."""
    sample = run.identity["images"].get("sample", {})
    apart = "drawn" in sample or "dataset" in sample or "preprocessing" not in sample
    return [] if apart else ["D began with the calibration images"]


def noted(notes: list[str], text: str) -> int:
    """Number of a footnote, which is added where it is new."""
    if text not in notes:
        notes.append(text)
    return notes.index(text)


def state_of(rows: list[Row]) -> str:
    """Why nothing is measured in a place of a table, in a word or two."""
    states = {row.state for row in rows}
    for state in ("running", "failed", "interrupted", DAMAGED, "planned", NOT_AVAILABLE):
        if state in states:
            return "missing" if state == "planned" else state
    return "missing"


def bits_of(row: Row) -> str:
    """Weight and activation bits, as 3/3: of the run, or as asked."""
    if row.run is not None:
        return f"{row.run.metrics['weight_bits']:g}/{row.run.metrics['activation_bits']:g}"
    asked = row.cell.overrides
    weight = asked.get("weight_bits", asked.get("bits", "?"))
    return f"{weight}/{asked.get('activation_bits', asked.get('bits', '?'))}"


def run_lines(rows: list[Row]) -> list[str]:
    """A line a run: fingerprint, command, commit, seed, device and time; first which kernels, where they differ."""
    lines = {}
    for row in rows:
        if row.run is not None:
            metrics, where = row.run.metrics, row.run.environment
            lines[row.run.fingerprint] = (
                f"`{row.run.fingerprint}`: `{where['command']}`; commit {where['commit']}, seed {metrics['seed']}, "
                f"{where['device']}, {where['processor']}, {where['threads']} threads, {where['started']}, "
                f"{duration(metrics['seconds_total'])} ({duration(metrics['seconds_cold'])} with nothing on disk)"
            )
    return [*other_kernels([row.run for row in rows if row.run is not None]), *lines.values()]


def other_kernels(runs: list[Run]) -> list[str]:
    """One line where runs that stand beside each other were computed with different kernels; none where with the same.

    The first-named kernels are those of most runs; the fingerprints of the others are listed.
    """
    by_kernels: dict[str, set[str]] = {}
    for run in runs:
        by_kernels.setdefault(run.kernels, set()).add(run.fingerprint)
    if len(by_kernels) < 2:
        return []
    most, *others = sorted(by_kernels, key=lambda words: (-len(by_kernels[words]), words))
    told = "; ".join(f"{words}: {', '.join(f'`{name}`' for name in sorted(by_kernels[words]))}" for words in others)
    return [
        f"Not all computed with the same kernels, with which a result moves (see README). Most: {most}. Others: {told}"
    ]


def signed(value: float) -> str:
    """A difference in points, with its sign."""
    return f"{value:+.2f}".replace("-", "−")
