"""Table 10: how long quantization takes, each method from nothing."""

from typing import ClassVar

import pandas as pd

from lampq.report.summary import duration
from lampq.report.table import NOTHING

from .method_table import Column, Layout

LEGEND = (
    "Wall time of calibration and search in one process, nothing read from disk (`bank=fresh`), without the "
    "evaluation of the result. The paper's times are of an RTX 4090, ours of the device in table10.csv: compare "
    "ratios to AdaLog (paper: LampQ 1.96 on ViT-S, 1.74 on DeiT-S, 1.55 on Swin-S)."
)


class RuntimeLayout(Layout):
    """A table of times."""

    figures: ClassVar[tuple[str, ...]] = ("seconds", "times_adalog")

    def rows(self, rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows.assign(seconds=rows.seconds_calibrate + rows.seconds_allocate)
        adalog = rows[(rows.method == "adalog") & (rows.variation == "")].drop_duplicates(["model", "bits"])
        base = rows[["model", "bits"]].merge(adalog[["model", "bits", "seconds"]], how="left").seconds
        times = rows.seconds / base.set_axis(rows.index)
        return rows.assign(times_adalog=times.where(rows.method != "adalog"))

    def columns(self) -> dict[str, Column]:
        return {
            "time": lambda place: place.mean("seconds", duration),
            "times AdaLog": lambda place: place.mean("times_adalog"),
            "paper": lambda place: place.printed or NOTHING,
        }
