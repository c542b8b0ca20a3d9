"""The metrics of allocators beside each other, and beside what each layer really costs alone."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from lampq.errors import LampQError
from lampq.launch.cells import NOT_AVAILABLE
from lampq.plan.bit_plan import BitPlan, SitePlan
from lampq.plan.sites import LAYER_TYPES
from lampq.report.changes import predictions_in
from lampq.report.table import NOTHING, Table
from lampq.runs.record import read_sensitivity

from . import paper
from .frame import first, latest, tidy, widest
from .measured import Run
from .method_table import source
from .methods import in_order, label

NAME = "metrics"
FILES = ("plan.json", "sensitivity.csv")
USUAL_BITS = 2
"""Bits at which scores by bits are shown where no single layer was measured."""

TRACES = {"fisher_traces": "Fisher trace", "hessian_traces": "Hessian trace", "importance": "relevance"}
"""What allocators note of each layer beside its scores, and what it is called."""


@dataclass(frozen=True)
class Metric:
    """One number a layer.

    Attributes:
        name: what it is, with its bits where it has any.
        values: by layer.
        errors: standard errors by layer, where it was measured with noise that is known.
    """

    name: str
    values: dict[str, float]
    errors: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Gathered:
    """What the runs of one model say of its layers.

    Attributes:
        layers: the 4N layers, in the order of execution.
        metrics: what allocators go by.
        costs: what single layers were measured to cost: increase of the mean loss on D, in nats.
        rows: the frame's rows that it comes from.
    """

    layers: list[SitePlan]
    metrics: list[Metric]
    costs: list[Metric]
    rows: list[Any]


def gathered(rows: pd.DataFrame) -> Gathered | None:
    """The metrics in the plans of the experiment's runs; None where no plan is there."""
    mine = rows[rows.run.notna() & (rows.model == getattr(latest(rows), "model", None))]
    has = {name: pd.Series([(run.folder / name).is_file() for run in mine.run], mine.index, bool) for name in FILES}
    plans = mine[has["plan.json"] & mine.method.notna()]
    if plans.empty:
        return None
    measured = mine[has["sensitivity.csv"]]
    alone = measured[pd.Series([bool(_measured(run, "layers")) for run in measured.run], measured.index, bool)]
    alone = alone.assign(measured_bits=[int(_measured(run, "layers")[0]["bits"]) for run in alone.run])
    chosen = {bits: first(widest(group)) for bits, group in alone.groupby("measured_bits")}
    found, used = [], []
    for method in in_order(set(plans.method)):
        row = first(widest(plans[plans.method == method]))
        # What an allocator makes of its scores, after the comma, is no matter here.
        of_row = metrics_of(row.run.plan, label(method).partition(",")[0], sorted(chosen) or [USUAL_BITS])
        found += [metric for metric in of_row if metric.name not in {m.name for m in found}]
        used.append(row)
    layers = [site for site in used[0].run.plan.sites if site.allocated]
    costs = [_cost(row.run, layers) for row in chosen.values()]
    return Gathered(layers, found, costs, [*used, *chosen.values()])


def metrics_of(plan: BitPlan, named: str, bits: list[int]) -> list[Metric]:
    """What a plan's allocator knows of each layer: traces, and its scores.

    Args:
        named: what the allocator is called.
        bits: bit-widths at which scores by bits are taken, where they were scored.
    """
    from lampq.allocation.stored_scores import stored_scores  # late: PyTorch, which other tables do without

    origin, found = plan.origin, []
    for key, name in TRACES.items():
        if key in origin:
            found.append(Metric(name, dict(origin[key])))
    try:
        scores = stored_scores(plan)
    except LampQError:
        return found
    if scores.by_bits is None:
        return [*found, Metric(f"{named}: Ω", scores.omega)]
    for value in bits:
        if value in scores.scored_bits:
            found.append(Metric(f"{named} at {value} bits", {name: row[value] for name, row in scores.by_bits.items()}))
    return found


def _measured(run: Run, unit: str) -> list[dict[str, Any]]:
    """Rows of a measurement of one kind."""
    return [r for r in read_sensitivity(run.folder) if r["unit"] == unit]


def _cost(run: Run, layers: list[SitePlan]) -> Metric:
    """Increase of the mean loss on D, in nats, by each single layer at few bits."""
    names = {(s.type, s.block): s.name for s in layers}
    place = [(names[r["type"], int(r["block"])], r) for r in _measured(run, "layers")]
    return Metric(
        f"loss increase at {place[0][1]['bits']:g} bits",
        {name: r["loss_increase"] for name, r in place},
        {name: r["loss_increase_standard_error"] for name, r in place},
    )


def tables(rows: pd.DataFrame) -> list[Table]:
    """Rank correlations: of each metric with what layers cost alone, of the metrics with each other, and of predictions
    with what single changes did in the quantized model."""
    missing = sorted({f"`{reason}`" for reason in rows.reason[rows.state == NOT_AVAILABLE]})
    remarks = [f"Not available: {', '.join(missing)}."] if missing else []
    found, changes = gathered(rows), _with_changes(rows)
    if found is None:
        return [replace(changes, remarks=changes.remarks + remarks)]
    model = paper.MODELS.get(found.rows[0].model, found.rows[0].model)
    return [_with_costs(found, model, remarks), _with_each_other(found, model, remarks), changes]


def _with_costs(found: Gathered, model: str, remarks: list[str]) -> Table:
    """A row a metric, a column for all layers and for each type."""
    counts = {kind: len(names) for kind, names in _kinds(found).items()}
    header = ["metric", "measured", *(f"{kind} ({count})" for kind, count in counts.items())]
    body, records = [], []
    for cost in found.costs:
        for metric in found.metrics:
            body.append([metric.name, cost.name, *(_text(_rho(metric, cost, n)) for n in _kinds(found).values())])
            records += _records(metric, cost, found)
    told = [
        "Spearman's rank correlation of each metric with what a layer costs when it alone has few bits, the others in "
        "full precision: the increase of the mean loss on D. Over all layers, and within each layer type, in brackets "
        "how many. Without any relation its standard error is 1/√(n − 1): "
        + ", ".join(f"{1 / math.sqrt(n - 1):.2f} for {n}" for n in sorted(set(counts.values()), reverse=True) if n > 1)
        + ". Layers of a module share VT-PTQ's value."
    ]
    if any(metric.name.startswith(label("mix_qvit")) for metric in found.metrics):
        told.append("Mix-QViT's scores contain this very measurement, on the same images: theirs is no test.")
    for cost in found.costs:
        noisy = sum(abs(value) < 2 * cost.errors[name] for name, value in cost.values.items())
        told.append(
            f"{cost.name.capitalize()}: {noisy} of {len(cost.values)} layers are within two standard errors of zero; "
            "their ranks are noise, which keeps every correlation below 1."
        )
    if not found.costs:
        told.append("What single layers cost is not measured: run `method=single_layers` under this experiment.")
    title = f"Metrics against what layers cost alone: {model}"
    sources = [source(row, f"`{row.overrides}`") for row in found.rows]
    return Table(NAME, title, header, body, tidy(records), remarks=told + remarks, sources=sources)


def _with_each_other(found: Gathered, model: str, remarks: list[str]) -> Table:
    """Rank correlations of all pairs, over all layers."""
    names = list(_kinds(found).values())
    every = names[0]
    header = ["metric", *(metric.name for metric in found.metrics)]
    body = [[one.name, *(_text(_rho(one, other, every)) for other in found.metrics)] for one in found.metrics]
    pairs = [(a, b) for i, a in enumerate(found.metrics) for b in found.metrics[i + 1 :]]
    records = [record for one, other in pairs for record in _records(one, other, found)]
    told = ["Spearman's rank correlation over all layers; the CSV has them within each layer type as well."]
    title = f"Metrics against each other: {model}"
    return Table(f"{NAME}_pairs", title, header, body, tidy(records), remarks=told + remarks)


def _with_changes(rows: pd.DataFrame) -> Table:
    """A row a prediction, a column a kind of change."""
    measured = [row for row in rows[rows.run.notna()].itertuples() if (row.run.folder / "sensitivity.csv").is_file()]
    body, records, noise, sources = [], [], [], []
    for row in measured:
        changes = pd.DataFrame(_measured(row.run, "changes"))
        if changes.empty:
            continue
        model, bits = paper.MODELS.get(row.model, row.model), f"W{row.weight_bits:g}A{row.activation_bits:g}"
        kinds = {
            "all": changes,
            "one bit more": changes[changes.bits > changes.bits_before],
            "one bit less": changes[changes.bits < changes.bits_before],
        }
        for name in predictions_in(changes.to_dict("records")):
            rhos = {kind: float(of[name].corr(of.loss_increase, "spearman")) for kind, of in kinds.items()}
            body.append([model, bits, name.replace("_", " "), *map(_text, rhos.values())])
            of_run = {"model": row.model, "bits": bits, "seed": row.seed, "metric": name}
            records += [{**of_run, "changes": k, "count": len(kinds[k]), "spearman": rho} for k, rho in rhos.items()]
        noisy = int((changes.loss_increase.abs() < 2 * changes.loss_increase_standard_error).sum())
        noise.append(f"{model}, {bits}: {noisy} of {len(changes)} changes are within two standard errors of 0.")
        sources.append(source(row, f"`{row.overrides}`"))
    told = [
        "Spearman's rank correlation of predictions with what one bit more or less of a layer does to the mean loss on "
        'D in the model at equal bits. "At the plan": the metric taken in that model instead of in full precision; '
        "reconstruction is L_recon there, with rho what Algorithm 1 orders its swaps by (Lemma 3)."
    ]
    header = ["model", "bits", "predicted by", "all changes", "one bit more", "one bit less"]
    title = "Predictions against single changes in the quantized model"
    return Table(f"{NAME}_changes", title, header, body, tidy(records), remarks=told + noise, sources=sources)


def _kinds(found: Gathered) -> dict[str, list[str]]:
    """Names of all layers, and of those of each type."""
    every = {"all layers": [s.name for s in found.layers]}
    return every | {kind: [s.name for s in found.layers if s.type == kind] for kind in LAYER_TYPES}


def _rho(one: Metric, other: Metric, layers: list[str]) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank; NaN where one side has a single value."""
    ranks = pd.DataFrame({"one": one.values, "other": other.values}).reindex(layers).dropna().rank()
    return float(ranks.one.corr(ranks.other))


def _records(one: Metric, other: Metric, found: Gathered) -> list[dict[str, Any]]:
    return [
        {"metric": one.name, "against": other.name, "layers": kind, "count": len(n), "spearman": _rho(one, other, n)}
        for kind, n in _kinds(found).items()
    ]


def _text(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:+.2f}".replace("-", "−")
