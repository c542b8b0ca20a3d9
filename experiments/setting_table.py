"""Methods with a setting and without it: whether it helps them."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from .accuracy_table import AccuracyLayout
from .measured import paired_difference
from .method_table import Column, cost, signed

LEGEND = (
    "Top-1 in percent on the validation images, simulated quantization. ±: standard error over images, or, of several "
    "seeds, standard deviation over seeds. Drop: to full precision. Both differences are paired by image. Cost: "
    "seconds of a run that finds nothing on disk."
)
ROTATION = (
    f"{LEGEND} Equal bits. Rotated − as it comes: the same method on the rotated network (transform=hadamard) against "
    "the network as it comes."
)
OUT_OF_DOMAIN = (
    f"{LEGEND} Other − own images: the same method calibrated, and its blocks trained, on images of another data set "
    "(dataset.calibration_root) against those of ImageNet. D and the validation images are ImageNet's in both."
)


@dataclass(frozen=True)
class SettingLayout(AccuracyLayout):
    """A table in which each method has a row with a setting and one without, on the same images.

    Attributes:
        setting: the key of its override; what stands under it (``transform.seed``) belongs to it.
        without: the value of the row without.
        difference: name of the column with the paired difference.
    """

    figures: ClassVar[tuple[str, ...]] = (
        *AccuracyLayout.figures,
        *("setting_difference", "setting_difference_standard_error"),
    )

    setting: str = ""
    without: str = ""
    difference: str = ""

    def columns(self) -> dict[str, Column]:
        return {
            "top-1": lambda place: place.with_error("top1"),
            "drop": signed("top1_difference"),
            self.difference: signed("setting_difference"),
            "cost (s)": cost,
        }

    def rows(self, rows: pd.DataFrame) -> pd.DataFrame:
        measured = [row for row in rows.itertuples() if not pd.isna(row.top1)]
        plain = {self._same(row): row.run for row in measured if not self._with(row)}
        found = {
            row.Index: paired_difference(row.run, plain[self._same(row)])
            for row in measured
            if self._with(row) and self._same(row) in plain
        }
        ends = ("setting_difference", "setting_difference_standard_error")
        columns = {
            end: pd.array([found[index][place] if index in found else None for index in rows.index], dtype="Float64")
            for place, end in enumerate(ends)
        }
        return super().rows(rows).assign(**columns)

    def _with(self, row: Any) -> bool:
        return row.asked.get(self.setting, self.without) != self.without

    def _same(self, row: Any) -> tuple:
        """What a run with the setting and one without share: all else that was asked for, and the images."""
        asked = {key: value for key, value in row.asked.items() if not f"{key}.".startswith(f"{self.setting}.")}
        return tuple(sorted(asked.items())), str(row.run.identity["images"]["validation"])
