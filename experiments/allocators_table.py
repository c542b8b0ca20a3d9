"""Every allocator beside each other: accuracy, the gain over equal bits, and what the search cost."""

import pandas as pd

from lampq.report.table import NOTHING

from . import methods
from .accuracy_table import AccuracyLayout
from .method_table import Column, Place, cost, signed

NAME = "allocators"

LEGEND = (
    "Top-1 in percent on the validation images, simulated quantization, one base quantizer throughout. ±: standard "
    "error over images, or, of several seeds, standard deviation over seeds. Drop: to full precision, gain: over equal "
    "bits, both paired by image. On D: what the search itself saw, the images that it chose by among them. Plans: "
    "scored on D in the search. Cost: seconds of a run that finds nothing on disk. Average bits: of the weights of the "
    "4N layers."
)


class AllocatorsLayout(AccuracyLayout):
    """The table of allocators, which the paper does not have."""

    def columns(self) -> dict[str, Column]:
        return {
            "top-1": lambda place: place.with_error("top1"),
            "drop": signed("top1_difference"),
            "gain": signed("uniform_difference"),
            "on D": lambda place: NOTHING if place.plans() == NOTHING else place.with_error("sample_top1"),
            "plans": Place.plans,
            "images a plan": _images_a_plan,
            "cost (s)": cost,
            "average bits": lambda place: place.mean("average_weight_bits"),
            "packed (MB)": lambda place: place.mean("packed_mb"),
        }

    def rows(self, rows: pd.DataFrame) -> pd.DataFrame:
        scored = rows.evaluation_images.fillna(rows.sample_images)
        return super().rows(rows).assign(packed_mb=rows.packed_bytes / 1e6, images_a_plan=scored)

    def label(self, method: str) -> str:
        return methods.label(method)


def _images_a_plan(place: Place) -> str:
    """Images of D that a plan was scored on in the search: all of them where nothing else is said."""
    return NOTHING if place.plans() == NOTHING else place.mean("images_a_plan", "{:,.0f}".format)
