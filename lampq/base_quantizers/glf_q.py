"""GLF-Q: MLPs with ReLU, then weights and scales of each block trained straight through, by global and local features.

Sun et al., GLF-Q: Global-Local Feature-Based Quantization for Vision Transformers, arXiv 2609.34564, 2026. Its rotation
of the network is `lampq.transform.hadamard`, in front of any base quantizer.
"""

from dataclasses import replace
from typing import Literal

from lampq.base_quantizers.base import BaseQuantizer
from lampq.base_quantizers.block_reconstruction import BlockReconstruction
from lampq.base_quantizers.fima_q import FimaQ
from lampq.base_quantizers.mlp_reconstruction import MlpReconstruction
from lampq.base_quantizers.pd_quant import PDQuant
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.base_quantizers.uniform_search import UniformSearch
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.parts import fixed, same, setting
from lampq.reconstruction.losses.base import BlockLoss
from lampq.reconstruction.losses.fisher import FisherApproximation
from lampq.reconstruction.losses.global_feature import GlobalFeature
from lampq.reconstruction.losses.local_feature import LocalFeature
from lampq.reconstruction.losses.logit_divergence import LogitDivergence
from lampq.reconstruction.losses.normalized_sum import NormalizedSum
from lampq.reconstruction.mlp import MlpLoss, MlpRecipe, mean_squared
from lampq.reconstruction.straight_through_weights import StraightThroughWeights
from lampq.reconstruction.training import Recipe, TrainedBlock

LOSSES = ("global_local", "local", "global", "logits_local", "fima")
"""What blocks may be trained by."""

PERCENTILE = 0.99
"""Of the positive values between the layers of a full-precision MLP, on the first images: the bound that its twin is
taught to clip at."""


class GlfQ(MlpReconstruction):
    """From uniform formats over whole ranges on, weights and scales of activations are trained straight through.

    What is trained of a layer are its weights; scale and zero point of its rows, and its bias, stay. The paper gives
    rates for these two kinds alone, and does not say what becomes of them in the course of training: here weights keep
    theirs, and that of scales falls along a cosine, as in the other methods. Nor does it say what the head, which comes
    behind the features, is trained by, and at which bits: as in the other methods, by the divergence of class
    probabilities, and at those of the others.

    Args:
        weight_rate: learning rate of the weights.
        loss: what stem and blocks are trained by: ``global_local``, the published one; of its two terms ``global`` or
            ``local`` alone; ``logits_local``, with PD-Quant's difference of class probabilities in place of the global
            one; ``fima``, that of FIMA-Q.
        local_weight: lambda, weight of the local term beside the other one, each divided by its first value.
        mlp_reconstruction: whether MLPs are trained anew with ReLU, each by itself on what the full-precision network
            feeds it.
        mlp_iterations: steps an MLP.
        mlp_rate: learning rate of its weights.
        start: what training starts from: ``min_max``, the published one, whole ranges and one scale a tensor; or
            ``searched``, ours, what QDrop and APHQ-ViT start from, with reparameterized LayerNorms and scales a head,
            which comes further in few steps. On a Swin, whose residual stream is not rotated, the publication
            reparameterizes LayerNorms as well; here ``searched`` alone does.
        candidates, rounds: of that search, `UniformSearch`'s.

    and as `BlockReconstruction`.
    """

    iterations: int = same(BlockReconstruction, "iterations", default=3000)
    rounding_rate: float = fixed(1e-3)
    scale_rate: float = same(BlockReconstruction, "scale_rate", default=2e-4)
    regularization: float = fixed(0.0)
    warmup: float = fixed(0.0)
    weight_rate: float = setting(2e-5, above=0)
    loss: str = setting("global_local", options=LOSSES)
    local_weight: float = setting(2.0, above=0)
    mlp_reconstruction: bool = True
    mlp_iterations: int = setting(20_000, minimum=1)
    mlp_rate: float = setting(4e-5, above=0)
    start: Literal["min_max", "searched"] = "min_max"
    candidates: int = same(UniformSearch, "candidates")
    rounds: int = same(UniformSearch, "rounds")

    name = "glf_q"
    only_classifiers = True
    revision = 1

    def unused(self) -> set[str]:
        alone = {"local_weight"} if len(self.terms) == 1 else set()
        without_mlp = set() if self.mlp_reconstruction else {"mlp_iterations", "mlp_rate"}
        return alone | without_mlp | ({"candidates", "rounds"} if self.start == "min_max" else set())

    def check_model(self, adapter: ModelAdapter) -> None:
        super().check_model(adapter)
        if "global" in self.terms and type(adapter).penultimate is ModelAdapter.penultimate:
            raise LampQError(
                f"base_quantizer.loss={self.loss}: {adapter.name} says nothing of what its classifier reads; choose "
                "local, or a ViT, DeiT or Swin of timm"
            )

    @property
    def terms(self) -> list[str]:
        """What `loss` is the sum of."""
        return self.loss.split("_")

    def calibrated_by(self) -> BaseQuantizer:
        return self._calibration()

    def calibration_of_relu(self) -> BaseQuantizer:
        return self._calibration(rectified=True)

    def _calibration(self, rectified: bool = False) -> BaseQuantizer:
        # The least value behind a ReLU is 0: a range from minimum to maximum has its zero point there by itself.
        if self.start == "min_max":
            return RoundToNearest()
        return UniformSearch(self.candidates, self.rounds, rectified=rectified)

    def has_choice(self, bits: int | None) -> bool:
        return bits is not None

    def recipe(self) -> Recipe:
        return replace(super().recipe(), weight_rate=self.weight_rate, weights=StraightThroughWeights)

    def trained_by(self) -> BlockLoss:
        if self.loss == "fima":
            return FisherApproximation(FimaQ.temperature, FimaQ.rank, self.iterations, FimaQ.gradient_images)
        losses = {
            "global": (GlobalFeature(), 1.0),
            "logits": (LogitDivergence(PDQuant.temperature), 1.0),
            "local": (LocalFeature(), self.local_weight if len(self.terms) > 1 else 1.0),
        }
        return NormalizedSum(*(losses[term] for term in self.terms))

    def mlp_loss(self, block: TrainedBlock, loss: BlockLoss) -> MlpLoss:
        return MlpLoss(mean_squared)

    def mlp_recipe(self, bits: int | None) -> MlpRecipe:
        return MlpRecipe(self.mlp_iterations, self.batch_size, self.mlp_rate, PERCENTILE)

    def mlp_identity(self) -> dict:
        return {"method": self.name}
