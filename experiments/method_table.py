"""Tables of methods: rows by model and bits, a variant directly under its method, one figure a cell."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import pandas as pd

from lampq.launch.cells import NOT_AVAILABLE
from lampq.report.summary import duration
from lampq.report.table import NOTHING, Table, marked

from . import methods, paper
from .footnotes import OVERLAP, footnote, other_kernels, overlaps
from .frame import DAMAGED, MISSING, tidy, widest, with_gain

CONTROL = "dataset.source="
"""What a row of other images than the paper's has in its overrides: no number of the paper is beside it."""

COST = ("images", "evaluations", "evaluation_images", "sample_images", "average_weight_bits", "packed_bytes", "bops")
SECONDS = ("seconds_calibrate", "seconds_allocate", "seconds_total", "seconds_cold", "seed")
WHERE = ("device", "processor", "threads", "commit", "started", "command", "fingerprint")
"""What the CSV has of each run after its figures."""


@dataclass(frozen=True)
class Place:
    """A row of a table: a method, or a variant of it, at some bits of one model.

    Attributes:
        model: as in ``model=NAME``.
        bits: weight and activation bits, as 3/3.
        label: what the method is called.
        variant: what differs, in a word or two; empty where nothing does.
        rows: the frame's rows for it, one a seed.
        measured: those of them that have what the table shows.
        printed: the paper's number; None where there is none.
    """

    model: str
    bits: str
    label: str
    variant: str
    rows: list[Any]
    measured: list[Any]
    printed: Any = None

    def values(self, name: str) -> list[float]:
        """A column of the measured rows, without what is missing."""
        found = (getattr(row, name, None) for row in self.measured)
        return [value for value in found if not pd.isna(value)]

    def mean(self, name: str, form: Callable[[float], str] = "{:.2f}".format) -> str:
        """A column's mean over seeds; a dash where it is not measured."""
        values = self.values(name)
        return form(statistics.fmean(values)).replace("-", "−") if values else NOTHING

    def with_error(self, name: str, form: Callable[[float], str] = "{:.2f}".format) -> str:
        """A column's mean with its error: over images of one run, over seeds of several."""
        values, errors = self.values(name), self.values(f"{name}_standard_error")
        error = [statistics.stdev(values)] if len(values) > 1 else errors
        return self.mean(name, form) + (f" ± {error[0]:.2f}" if values and error else "")

    def plans(self) -> str:
        """How many plans a search has scored on D."""
        counts = self.values("evaluations")
        if not counts or self.measured[0].allocator == "uniform":
            return NOTHING
        return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


Column = Callable[[Place], str]
"""What a row says in a column."""


def signed(name: str) -> Column:
    """A column of differences in points with their errors."""
    return lambda place: place.with_error(name, "{:+.2f}".format)


def cost(place: Place) -> str:
    """A column of seconds with nothing on disk."""
    return place.mean("seconds_cold", "{:,.0f}".format)


@dataclass(frozen=True)
class Layout:
    """What a table of methods has; the tables themselves say what they show.

    Attributes:
        name: of the experiment, of the cells and of the files.
        title: of the table.
        printed_rows: the paper's rows; they come first, in its order.
        legend: remark below it.
        models: names by ``model=NAME``, in their order; others follow.
        common: overrides that every row has, so that they name none.
    """

    figures: ClassVar[tuple[str, ...]] = ("top1",)
    """Columns that the CSV has first; the first one says whether a run has what the table shows."""

    name: str
    title: str
    printed_rows: Callable[[], list[paper.PaperRow]] = list
    legend: str = ""
    models: dict[str, str] = field(default_factory=lambda: paper.MODELS)
    common: tuple[str, ...] = ()

    def columns(self) -> dict[str, Column]:
        """What stands after a method's name, by heading. The first column has the states and the footnotes."""
        raise NotImplementedError

    def rows(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The frame's rows with columns of the table's own."""
        return rows

    def published(self, model: str, printed: paper.PaperRow) -> Any:
        """The paper's number for a model in a row; None where there is none."""
        return printed.values.get(model)

    def first_place(self, model: str, rows: list[Any]) -> Place | None:
        """Full precision on the most images of a model's measured rows, where the table has such a row."""
        return None

    def record(self, place: Place, row: Any) -> dict[str, Any]:
        """What the CSV has of a place, in one of its rows, besides the row's figures."""
        return {}

    def notes(self, place: Place) -> list[str]:
        """Footnotes of a place beside those of its runs."""
        return []

    def label(self, method: str) -> str:
        """What a method is called that the paper's rows do not have."""
        return paper.METHODS.get(method, methods.label(method))

    def remarks(self) -> list[str]:
        """What stands below."""
        return [self.legend]


def method_table(rows: pd.DataFrame, layout: Layout) -> Table:
    """Put a table together from the frame's rows of its experiment."""
    rows = with_gain(rows[rows.method.notna() & rows.model.notna()])
    rows["variation"] = pd.array([methods.variation(asked, layout.common) for asked in rows.asked], dtype="string")
    rows["older"] = [run is not None and overlaps(run) for run in rows.run]
    best = list(layout.rows(widest(rows, ["model", "bits", "method", "variation", "older"])).itertuples(index=False))
    printed_rows, known = layout.printed_rows(), set(rows.model)
    columns = layout.columns()
    body: list[list[str]] = []
    notes: list[str] = []
    records: list[dict[str, Any]] = []
    sources: dict[str, str] = {}
    for model in [m for m in layout.models if m in known] + sorted(known.difference(layout.models)):
        named, mine = layout.models.get(model, model), [row for row in best if row.model == model]
        whole = layout.first_place(model, _measured(layout, mine))
        if whole is not None:
            body.append([f"{named}, full precision", *(show(whole) for show in columns.values())])
        for older, bits in _sections(printed_rows, mine):
            group = [row for row in mine if row.older == older and row.bits == bits]
            places = _places(layout, group, model, bits, [p for p in printed_rows if p.bits == bits], older)
            heading = f"{named}, W{bits.replace('/', 'A')}"
            body += [[f"{heading}, older: {OVERLAP}" if older else heading]] if places else []
            for place in places:
                shown = [show(place) for show in columns.values()]
                told = [text for text in dict.fromkeys(footnote(row.run) for row in place.measured) if text]
                told += layout.notes(place)
                if len(place.measured) > 1:
                    told.append(f"{len(place.measured)} seeds: mean and standard deviation")
                notes += [text for text in told if text not in notes]
                shown[0] = shown[0] if place.measured else _state(place, places)
                shown[0] += "".join(marked(notes.index(text)) for text in told)
                body.append([f"{place.label}, {place.variant}" if place.variant else place.label, *shown])
                records += _records(layout, place, named)
                sources |= _sources(place, named)
    absent = sorted({f"`{reason}`" for reason in rows.reason[rows.state == NOT_AVAILABLE]})
    remarks = layout.remarks() + ([f"Not available: {', '.join(absent)}."] if absent else [])
    header, body = _without_empty_columns(["method", *columns], body)
    told = [*other_kernels(rows), *sources.values()]
    numbers = tidy(records).dropna(axis=1, how="all")
    return Table(layout.name, layout.title, header, body, numbers, notes, remarks, told)


def _sections(printed_rows: list[paper.PaperRow], rows: list[Any]) -> list[tuple[bool, str]]:
    """Older or not, and bits, of each section of a model: what is older stands below everything that is not."""
    named = dict.fromkeys([*(p.bits for p in printed_rows), *sorted({row.bits for row in rows})])
    return [(older, bits) for older in (False, True) for bits in named]


def _places(
    layout: Layout, rows: list[Any], model: str, bits: str, printed_rows: list[paper.PaperRow], older: bool
) -> list[Place]:
    """Rows of one section: the paper's methods first, each with its variants directly under it.

    Where the paper has a number and there is no cell, the method has a row all the same, unless a variant of it is
    measured, which stands in its place; not so among older rows.
    """
    printed = {p.method: p for p in printed_rows}
    best: dict[str, dict[str, list[Any]]] = {}
    for row in sorted(rows, key=lambda row: (len(row.variation), row.variation)):
        best.setdefault(row.method, {}).setdefault(row.variation, []).append(row)
    found = []
    for method in dict.fromkeys([*printed, *methods.in_order(set(best))]):
        row, variants = printed.get(method), best.get(method, {})
        value = None if row is None else layout.published(model, row)
        stands_in = any(CONTROL not in variation and _measured(layout, group) for variation, group in variants.items())
        if value is not None and not stands_in and not older:
            variants = {"": []} | variants
        words = methods.in_words({v: [row.run for row in group if row.run] for v, group in variants.items()})
        label = layout.label(method) if row is None else row.label
        for variation, group in variants.items():
            number = None if CONTROL in variation else value
            found.append(Place(model, bits, label, words[variation], group, _measured(layout, group), number))
    return found


def _measured(layout: Layout, rows: list[Any]) -> list[Any]:
    return [row for row in rows if not pd.isna(getattr(row, layout.figures[0]))]


def _state(place: Place, places: list[Place]) -> str:
    """Why nothing is measured in a place, and which variants of it are."""
    below = [p.variant for p in places if p.label == place.label and p.variant and p.measured]
    state = state_of({row.state for row in place.rows})
    return f"{state}; see {', '.join(below)}" if below else state


def state_of(states: Iterable[str]) -> str:
    """Why nothing is measured, in a word or two, given the states of all cells for it."""
    order = ("running", "failed", "interrupted", DAMAGED, MISSING, NOT_AVAILABLE)
    return next((state for state in order if state in set(states)), MISSING)


def _without_empty_columns(header: list[str], body: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The table without columns that have no figure in any row but the method and the first, which has states."""
    kept = [i for i in range(len(header)) if i < 2 or any(row[i] != NOTHING for row in body if len(row) > 1)]
    return [header[i] for i in kept], [[row[i] for i in kept] if len(row) > 1 else row for row in body]


def _records(layout: Layout, place: Place, named: str) -> list[dict[str, Any]]:
    """The CSV's rows of a place: one a run, or one with its state."""
    said = {"method": place.label, "variant": place.variant, "w/a": place.bits, "model": named}
    said["overrides"] = place.rows[0].variation if place.rows else ""
    nothing = SimpleNamespace(state=state_of({row.state for row in place.rows}))
    names = ("state", *layout.figures, *COST, *SECONDS, *WHERE)
    return [
        said | {name: getattr(row, name, None) for name in names} | layout.record(place, row)
        for row in place.measured or [nothing]
    ]


def _sources(place: Place, named: str) -> dict[str, str]:
    """A line a run, by fingerprint."""
    variant = f", {place.variant} (`{place.rows[0].variation}`)" if place.variant else ""
    label = f"{place.label}{variant}, {named} W{place.bits.replace('/', 'A')}"
    return {row.fingerprint: source(row, label) for row in place.rows if row.run}


def source(row: Any, label: str) -> str:
    """A run in one line: what it is, its fingerprint, command, commit, seed, device and time."""
    return (
        f"{label}: `{row.fingerprint}`: `{row.command}`; commit {row.commit}, seed {row.seed}, {row.device}, "
        f"{row.processor}, {row.threads} threads, {row.started}, {duration(row.seconds_total)} "
        f"({duration(row.seconds_cold)} with nothing on disk)"
    )
