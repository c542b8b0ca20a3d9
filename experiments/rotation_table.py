"""Base quantizers on the network as it comes and on the rotated one: whether the rotation helps them."""

from typing import Any, ClassVar

import pandas as pd

from .accuracy_table import AccuracyLayout
from .measured import paired_difference
from .method_table import Column, cost, signed

LEGEND = (
    "Top-1 in percent on the validation images, simulated quantization, equal bits. ±: standard error over images, or, "
    "of several seeds, standard deviation over seeds. Drop: to full precision. Rotated − as it comes: the same method "
    "on the rotated network (transform=hadamard) against the network as it comes. Both are paired by image. Cost: "
    "seconds of a run that finds nothing on disk."
)


class RotationLayout(AccuracyLayout):
    """A table in which each method has a row with the rotation and one without."""

    figures: ClassVar[tuple[str, ...]] = (
        *AccuracyLayout.figures,
        *("rotation_difference", "rotation_difference_standard_error"),
    )

    def columns(self) -> dict[str, Column]:
        return {
            "top-1": lambda place: place.with_error("top1"),
            "drop": signed("top1_difference"),
            "rotated − as it comes": signed("rotation_difference"),
            "cost (s)": cost,
        }

    def label(self, method: str) -> str:
        return "round to nearest" if method == "rtn" else super().label(method)

    def rows(self, rows: pd.DataFrame) -> pd.DataFrame:
        measured = [row for row in rows.itertuples() if not pd.isna(row.top1)]
        as_it_comes = {_same(row): row.run for row in measured if "transform" not in row.run.metrics}
        found = {
            row.Index: paired_difference(row.run, as_it_comes[_same(row)])
            for row in measured
            if "transform" in row.run.metrics and _same(row) in as_it_comes
        }
        ends = ("rotation_difference", "rotation_difference_standard_error")
        columns = {
            end: pd.array([found[index][place] if index in found else None for index in rows.index], dtype="Float64")
            for place, end in enumerate(ends)
        }
        return super().rows(rows).assign(**columns)


def _same(row: Any) -> tuple:
    """What a run with the rotation and one without share: all that was asked for, and the images."""
    asked = tuple((key, value) for key, value in sorted(row.asked.items()) if key.partition(".")[0] != "transform")
    return asked, str(row.run.identity["images"]["validation"])
