"""Tables of accuracies: our number and its error, beside it the paper's, the drops, the gain and the cost."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar

import pandas as pd

from lampq.report.table import NOTHING

from . import paper
from .method_table import Column, Layout, Place, cost, signed

TOLERANCE = 3.0
"""Points by which a drop may be worse than published before the table says that it is not reproduced."""

AUTHORS_CODE_TOLERANCE = 2.5
"""Points by which a method may differ from its authors' code on the same images before the table says so."""

LEGEND = (
    "Top-1 in percent, simulated quantization. ±: standard error over images, or, of several seeds, standard deviation "
    "over seeds. Drop: to full precision on the same images, paired by image. Gain: over the same base quantizer with "
    "equal bits, paired by image. Reweighted: our images weighed so that full precision is as often right as the paper "
    "prints; this is what to hold against the paper where only part of the validation images was used. Plans: scored "
    "on D in the search. Cost: seconds of a run that finds nothing on disk. Nothing is filled in from the paper."
)
GLF_Q = (
    f"{LEGEND} Published: Sun et al., GLF-Q, arXiv 2609.34564, 2026, tables 1, 3 and 4, on 50,000 validation images; "
    "*: run again there. LF and GF: its local and global term alone; DPLR-FIM: FIMA-Q's loss; Logits + LF: PD-Quant's "
    "difference of class probabilities and the local term; all four with ReLU and rotation. MR: MLPs with ReLU."
)
BESIDE_THE_AUTHORS_CODE = (
    "Top-1 in percent, simulated quantization, in formats as literally those of the released code as base_quantizer."
    "literal=true has them. Code: what the authors' public code gave on DeiT-T with 32 calibration images that "
    "dataset.calibration_list names and 800 validation images, once, on two CPU cores; RepQ-ViT at 4 bits gave 68.1, "
    "69.9 and 69.3 with three other draws of 32. ±: standard error over images. Drop: to full precision on the same "
    "images, paired. Nothing is filled in from theirs."
)


@dataclass(frozen=True)
class AccuracyLayout(Layout):
    """A table of top-1 accuracies.

    Attributes:
        full_precision: the paper's full-precision accuracy (percent) by model.
        paper_column: the paper's model whose numbers stand beside every model's (table 6 has only DeiT-S); None takes
            those of the model itself.
        source: where the numbers beside ours come from, in a word.
    """

    figures: ClassVar[tuple[str, ...]] = (
        *("top1", "top1_standard_error", "top1_difference", "top1_difference_standard_error", "top1_full_precision"),
        *("sample_top1", "top1_reweighted", "uniform_difference", "uniform_difference_standard_error"),
    )

    legend: str = LEGEND
    full_precision: Callable[[], dict[str, float]] = dict
    paper_column: str | None = None
    source: str = "paper"

    @cached_property
    def full(self) -> dict[str, float]:
        return self.full_precision()

    def columns(self) -> dict[str, Column]:
        named = self.source + (f", {paper.MODELS[self.paper_column]}" if self.paper_column else "")
        return {
            "top-1": lambda place: place.with_error("top1"),
            "reweighted": _reweighted,
            named: lambda place: _number(place.printed),
            "drop": signed("top1_difference"),
            f"{named}: drop": lambda place: _number(self._paper_drop(place), "{:+.2f}"),
            "gain": signed("uniform_difference"),
            "plans": Place.plans,
            "cost (s)": cost,
        }

    def published(self, model: str, printed: paper.PaperRow) -> float | str | None:
        return printed.values.get(self.paper_column or model) if model in self.models else None

    def first_place(self, model: str, rows: list[Any]) -> Place:
        published = self.full.get(self.paper_column or model) if model in self.models else None
        return full_precision(model, rows, ("top1",), published)

    def rows(self, rows: pd.DataFrame) -> pd.DataFrame:
        full = self.full
        known = rows.top1.notna() & rows.model.isin(list(full))
        weighed = [run.top1_at(full[m]) if k else None for run, m, k in zip(rows.run, rows.model, known, strict=True)]
        return rows.assign(top1_reweighted=pd.array(weighed, dtype="Float64"))

    def record(self, place: Place, row: Any) -> dict[str, Any]:
        record = {"paper_full_precision": self.full.get(place.model)}
        if self._direct(place):
            record |= {"paper_top1": place.printed, "paper_drop": self._paper_drop(place)}
            record["difference_to_paper"] = row.top1 - place.printed if place.measured else None
        return record

    def notes(self, place: Place) -> list[str]:
        weighed = place.values("top1_reweighted") if self._direct(place) else []
        return ["not reproduced"] if weighed and not self.reproduced(statistics.fmean(weighed), place.printed) else []

    def _direct(self, place: Place) -> bool:
        """Whether the number beside ours is of this very model."""
        return isinstance(place.printed, float) and self.paper_column in (None, place.model)

    def reproduced(self, ours: float, published: float) -> bool:
        """Whether an accuracy (percent) is what was published, up to the tolerance."""
        return ours >= published - TOLERANCE

    def remarks(self) -> list[str]:
        if self.paper_column is None:
            return [self.legend]
        alone = paper.MODELS[self.paper_column]
        return [
            self.legend,
            f"The paper prints this table for {alone} alone; beside other models its numbers stand for orientation.",
        ]

    def _paper_drop(self, place: Place) -> float | None:
        full = None if place.bits == "32/32" else self.full.get(self.paper_column or place.model)
        return place.printed - full if isinstance(place.printed, float) and full is not None else None


class AuthorsCode(AccuracyLayout):
    """A table with what the authors' code gives on the same images: a difference either way is one of mathematics."""

    def columns(self) -> dict[str, Column]:
        found = super().columns()
        return {name: found[name] for name in found if name != "reweighted"} | {
            "ours − code": lambda place: place.mean("difference", "{:+.2f}".format)
        }

    def rows(self, rows: pd.DataFrame) -> pd.DataFrame:
        printed = {(p.method, p.bits, model): v for p in self.printed_rows() for model, v in p.values.items()}
        theirs = [printed.get(place) for place in zip(rows.method, rows.bits, rows.model, strict=True)]
        return super().rows(rows).assign(difference=rows.top1 - pd.array(theirs, dtype="Float64"))

    def reproduced(self, ours: float, published: float) -> bool:
        return abs(ours - published) <= AUTHORS_CODE_TOLERANCE


def full_precision(model: str, rows: list[Any], names: tuple[str, ...], published: Any) -> Place:
    """The row of the model as it is, on the images of its measured rows, the most where these differ.

    Args:
        names: accuracies.
    """
    whole = []
    if rows:
        run = max(rows, key=lambda row: row.images)
        ends = ("", "_standard_error")
        of_run = {f"{name}{end}": getattr(run, f"{name}_full_precision{end}", None) for name in names for end in ends}
        whole.append(SimpleNamespace(**of_run, allocator="uniform"))
    return Place(model, "32/32", "full precision", "", [], whole, published)


def _reweighted(place: Place) -> str:
    """Nothing where all validation images were used."""
    return place.mean("top1_reweighted") if any(row.run.on_a_subset for row in place.rows if row.run) else NOTHING


def _number(value: float | str | None, form: str = "{:.2f}") -> str:
    return NOTHING if value is None else form.format(value).replace("-", "−") if isinstance(value, float) else value
