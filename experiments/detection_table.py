"""Table 4: methods by detectors, average precision of boxes and of masks, the paper's beside ours."""

from typing import Any, ClassVar

from lampq.report.table import NOTHING

from . import paper
from .accuracy_table import full_precision
from .method_table import Column, Layout, Place, cost, signed

AP = {"box_ap": "AP box", "mask_ap": "AP mask"}
ENDINGS = (
    *("", "_standard_error", "50", "75", "_small", "_medium", "_large", "_difference", "_difference_standard_error"),
    *("_uniform_difference", "_uniform_difference_standard_error"),
)
LEGEND = (
    "AP in percent, simulated quantization. ±: standard error by resampling images. Drop: to full precision. Gain: "
    "over the same base quantizer with equal bits. Both on the same images, paired by draw. Plans: scored on D in the "
    "search. Cost: seconds of a run that finds nothing on disk. Nothing is filled in from the paper."
)


class DetectionLayout(Layout):
    """A table of average precisions."""

    figures: ClassVar[tuple[str, ...]] = tuple(f"{ap}{end}" for ap in ("box_ap", "mask_ap") for end in ENDINGS)

    def columns(self) -> dict[str, Column]:
        found: dict[str, Column] = {}
        for number, (name, called) in enumerate(AP.items()):
            found[called] = lambda place, name=name: place.with_error(name)
            found[f"paper: {called}"] = lambda place, number=number: _printed(place, number)
        for ap, called in AP.items():
            found[f"drop: {called}"] = signed(f"{ap}_difference")
        for ap, called in AP.items():
            found[f"gain: {called}"] = signed(f"{ap}_uniform_difference")
        return found | {"plans": Place.plans, "cost (s)": cost}

    def first_place(self, model: str, rows: list[Any]) -> Place:
        return full_precision(model, rows, tuple(AP), paper.detection_full_precision().get(model))

    def record(self, place: Place, row: Any) -> dict[str, Any]:
        return {"paper": place.printed}


def _printed(place: Place, number: int) -> str:
    return NOTHING if place.printed is None else place.printed.split(" / ")[number]
