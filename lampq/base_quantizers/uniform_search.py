"""Uniform formats at every site, their parameters searched on output errors as AdaLog's are.

Wu et al., APHQ-ViT, CVPR 2025: what its block reconstruction, and its re-runs of QDrop's, start from.
"""

from torch import Tensor

from lampq.base_quantizers.adalog import AdaLog, layer_state
from lampq.calibration.bound_search import BoundSearch
from lampq.calibration.candidate_formats import CandidateFormat
from lampq.calibration.candidates import CandidateGrid, activation_zero_points
from lampq.parts import fixed, setting
from lampq.plan.sites import Site


class UniformSearch(AdaLog):
    """AdaLog's searches without its logarithmic formats and without refinement of the coarse candidates.

    Weights: one scale a row. Inputs of linear layers: one scale a tensor, after a LayerNorm reparameterized from one
    scale a channel. Operands of attention matmuls, attention probabilities among them: one scale a head, found by its
    two ends. All asymmetric.

    Args:
        candidates: how many pairs of scale and zero point a search evaluates (and, with one more, values of an end).
        rounds: how often weights and inputs (or the two operands of a matmul) take turns.
        rectified: where the model has a GELU, inputs come from a ReLU: their zero point is 0, and only scales are
            searched.

    Raises:
        LampQError: a value out of its range.
    """

    name = "uniform_search"
    revision = 1

    steps: int = fixed(1)
    elitist: bool = fixed(False)
    one_bit: str = fixed("literal")
    precision: str = fixed("float32")
    rectified: bool = setting(False, identity="changed")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.bound_search = BoundSearch(self.alternating_search, self.candidates + 1)

    def weight_zero_points(self, bits: int) -> list[int]:
        return activation_zero_points(bits)

    def search_layer(
        self,
        site: Site,
        weight: Tensor,
        x: Tensor,
        weight_format: CandidateFormat | None,
        weight_grid: CandidateGrid | None,
        activation_bits: int | None,
    ) -> dict[str, Tensor]:
        zero_points = [0] if self.rectified and site.after_gelu else None
        arguments = (weight, x, weight_format, weight_grid, activation_bits, zero_points)
        return layer_state(*self.alternating_search.layer(*arguments), "zero_point")

    def search_matmul(self, site: Site, a: Tensor, b: Tensor, bits: int) -> dict[str, Tensor]:
        first, second = self.bound_search.product(a, b, bits)
        state = {"a_scale": first[0], "a_zero_point": first[1]}
        return state | {"b_scale": second[0], "b_zero_point": second[1]}
