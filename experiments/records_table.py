"""The best of ours for each model and budget beside the best that is published, and what was tried in vain."""

import statistics
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lampq.report.summary import duration
from lampq.report.table import NOTHING, Table
from lampq.storage.fingerprint import fingerprint

from . import methods, paper
from .footnotes import OVERLAP, overlaps
from .frame import tidy, with_gain
from .method_table import source

NAME = "records"

PUBLISHED, SOURCE = "glf_q", "arXiv 2609.34564, table 1"
"""The file of published numbers with the best uniform bits, and what it was printed in."""

EQUAL_BITS = "equal bits"
BUDGETS = {"average_bits": "average bits", "packed_bytes": "bytes", "bops": "bit operations"}
"""What a searched plan was allowed to spend: as much as equal bits cost in this unit."""

REMARKS = [
    "Each row is the best of all that was measured at its budget, looked up on the validation images themselves: of "
    "many rows close to each other the best one is a little lucky. Retention: top-1 of the quantized model as a share "
    "of that in full precision on the same images; it compares with what is published on the whole validation set "
    "where top-1 does not. ±: standard error over images, or, of several seeds, standard deviation over seeds.",
    "Published: uniform bits, the best that is printed in the source named, on all 50,000 images.",
]


@dataclass(frozen=True)
class Entry:
    """One method with all its overrides at one budget of one model.

    Attributes:
        label: what it is called, with what differs.
        rows: the frame's rows of it, one a seed.
    """

    label: str
    rows: list[Any]

    def mean(self, name: str) -> float:
        return statistics.fmean(getattr(row, name) for row in self.rows)

    def with_error(self, name: str, form: str = "{:.2f}") -> str:
        """Mean over seeds, with the error over seeds, or of one seed over images."""
        values = [getattr(row, name) for row in self.rows]
        error = statistics.stdev(values) if len(values) > 1 else getattr(self.rows[0], f"{name}_standard_error")
        return f"{form.format(statistics.fmean(values))} ± {error:.2f}".replace("-", "−")

    @property
    def retention(self) -> float:
        """Top-1 as a share of full precision's, in percent."""
        return 100 * self.mean("top1") / self.mean("top1_full_precision")


def records_tables(rows: pd.DataFrame) -> list[Table]:
    """The records, and what did not help.

    Args:
        rows: of the frame, of all experiments.
    """
    entries = _entries(with_gain(rows))
    return [_best(entries), _in_vain(entries)]


def _entries(rows: pd.DataFrame) -> dict[tuple[str, str, str], list[Entry]]:
    """Everything that was measured on ImageNet, by model, bits and budget; a run that several cells led to once."""
    known = rows.model.isin(list(paper.MODELS)) & (rows.dataset == "imagenet") & rows.top1.notna()
    runs: dict[str, Any] = {}
    # Of the cells of one run the one with the fewest words; where they are as many, one that equal bits stand beside.
    cells = rows[known].itertuples(index=False)
    for row in sorted(cells, key=lambda row: (len(row.variation), pd.isna(row.uniform_difference))):
        runs.setdefault(row.fingerprint, row)
    found: dict[tuple[str, str, str], dict[str, list[Any]]] = {}
    for row in runs.values():
        # Runs of the time when there was no other unit do not name it.
        unit = "average_bits" if pd.isna(row.budget_unit) else row.budget_unit
        budget = EQUAL_BITS if row.allocator == "uniform" else BUDGETS[unit]
        found.setdefault((row.model, row.bits, budget), {}).setdefault(_setting(row), []).append(row)
    return {key: [Entry(_label(seeds[0]), seeds) for seeds in group.values()] for key, group in found.items()}


def _setting(row: Any) -> str:
    """What seeds of one method share: all but the seed, and which images it drew."""
    rest = {name: value for name, value in row.run.identity.items() if name not in ("seed", "images")}
    images = [None if pd.isna(number) else int(number) for number in (row.images, row.sample_images)]
    return fingerprint([row.method, row.variation, rest, images, overlaps(row.run)])


def _label(row: Any) -> str:
    """What a row is called, with what differs from the method of that name."""
    words = [paper.METHODS.get(row.method, methods.label(row.method))]
    words += [methods.in_words({row.variation: [row.run]})[row.variation]] if row.variation else []
    fixed = row.run.identity.get("budget", {}).get("fixed_site_bits")
    if fixed is not None and fixed != [row.weight_bits, row.activation_bits]:
        words.append(f"all else at {fixed[0]:g} bits")
    return ", ".join(words + ([OVERLAP] if overlaps(row.run) else []))


def _best(entries: dict[tuple[str, str, str], list[Entry]]) -> Table:
    whole, published = paper.full_precision(PUBLISHED), paper.accuracy_rows(PUBLISHED, paper.GLF_Q)
    ours = ["best of ours", "top-1", "retention %", "cost"]
    header = ["model", "bits", "budget", *ours, "best published", "its top-1", "its retention %"]
    body, records, sources = [], [], []
    order = {name: place for place, name in enumerate([*paper.MODELS, EQUAL_BITS, *BUDGETS.values()])}
    for model, bits, budget in sorted(entries, key=lambda key: (order[key[0]], key[1], order[key[2]])):
        best = max(entries[model, bits, budget], key=lambda entry: (entry.retention, -entry.mean("seconds_cold")))
        rivals = [row for row in published if row.bits == bits and model in row.values]
        printed = max(rivals, key=lambda row: row.values[model], default=None)
        theirs = [NOTHING] * 3
        record = {"model": model, "w/a": bits, "budget": budget, "method": best.label, "top1": best.mean("top1")}
        record |= {"retention": best.retention, "seeds": len(best.rows), "seconds_cold": best.mean("seconds_cold")}
        if printed is not None:
            top1 = printed.values[model]
            kept = 100 * top1 / whole[model]
            theirs = [f"{printed.label} ({SOURCE})", f"{top1:.2f}", f"{kept:.1f}"]
            record |= {"published": printed.label, "published_top1": top1}
            record |= {"published_retention": kept, "published_source": SOURCE}
        named, width = paper.MODELS[model], f"W{bits.replace('/', 'A')}"
        ours = [best.label, best.with_error("top1"), f"{best.retention:.1f}", duration(best.mean("seconds_cold"))]
        body.append([named, width, budget, *ours, *theirs])
        records.append(record)
        sources += [source(row, f"{best.label}, {named} {width}") for row in best.rows]
    title = "Records: the best of ours at each budget, and the best that is published"
    return Table(NAME, title, header, body, tidy(records), remarks=REMARKS, sources=sources)


def _in_vain(entries: dict[tuple[str, str, str], list[Entry]]) -> Table:
    """Searched plans that were not better than equal bits of the same base quantizer by a standard error."""
    header = ["model", "bits", "budget", "tried", "top-1", "gain over equal bits", "cost"]
    body, records, sources = [], [], []
    for (model, bits, budget), group in sorted(entries.items()):
        for entry in group:
            gains = [row.uniform_difference for row in entry.rows]
            if any(pd.isna(gain) for gain in gains):
                continue
            gain, error = statistics.fmean(gains), entry.rows[0].uniform_difference_standard_error
            if gain >= error:
                continue
            named, width = paper.MODELS[model], f"W{bits.replace('/', 'A')}"
            told = [entry.label, entry.with_error("top1"), entry.with_error("uniform_difference", "{:+.2f}")]
            body.append([named, width, budget, *told, duration(entry.mean("seconds_cold"))])
            record = {"model": model, "w/a": bits, "budget": budget, "method": entry.label}
            records.append(record | {"gain": gain, "gain_standard_error": error, "seeds": len(gains)})
            sources += [source(row, f"{entry.label}, {named} {width}") for row in entry.rows]
    remarks = ["Paired by image; what gains less than a standard error over equal bits at the same budget is listed."]
    title = "Tried, and no better than equal bits"
    return Table(f"{NAME}_in_vain", title, header, body, tidy(records), remarks=remarks, sources=sources)
