"""What methods share that give every MLP a ReLU in place of its GELU before they train its block.

Wu et al., APHQ-ViT, CVPR 2025; `lampq.reconstruction.mlp` trains the MLP.
"""

from abc import abstractmethod

from torch import Tensor, nn

from lampq.base_quantizers.base import BaseQuantizer
from lampq.base_quantizers.block_reconstruction import BlockReconstruction
from lampq.calibration.segment import Segment, States
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.plan.bits import Bits
from lampq.plan.sites import Site
from lampq.reconstruction.losses.base import BlockLoss
from lampq.reconstruction.mlp import Mlp, MlpLoss, MlpRecipe, reconstruct_mlp
from lampq.reconstruction.training import TrainedBlock
from lampq.reparameterization.layernorm import transformed_layer
from lampq.workers import Workers


class MlpReconstruction(BlockReconstruction):
    """Block reconstruction from MLPs with ReLU on.

    An MLP is trained anew when its block's turn comes, and belongs to the block's realised state; independent states,
    which searches see by default, are those of the network with GELU (``search=block_bank search_steps=0`` has the
    MLPs that were trained anew, and no other training). An MLP of which a layer is not quantized at all stays what it
    is.

    Attributes:
        mlp_reconstruction: whether MLPs are trained anew; a setting of the methods, which declare it.
        mlp_iterations: steps of that.
    """

    mlp_reconstruction = True
    mlp_iterations = 0

    @abstractmethod
    def mlp_loss(self, block: TrainedBlock, loss: BlockLoss) -> MlpLoss:
        """What an MLP is trained by.

        Args:
            loss: what its block will be trained by.
        """

    @abstractmethod
    def mlp_recipe(self, bits: int | None) -> MlpRecipe:
        """How an MLP is trained whose fc2 has an input of these bits."""

    def mlp_identity(self) -> dict:
        """What a trained MLP depends on beside its inputs and its recipe (JSON-able)."""
        return {}

    def calibration_of_relu(self) -> BaseQuantizer:
        """The method that finds the state of an fc2 behind a ReLU."""
        return self.calibration

    def shortened(self, steps: int) -> "MlpReconstruction":
        other = super().shortened(steps)
        other.mlp_iterations = min(self.mlp_iterations, steps)
        return other

    @property
    def realisation_steps(self) -> int:
        return self.iterations + (self.mlp_iterations if self.mlp_reconstruction else 0)

    def check_model(self, adapter: ModelAdapter) -> None:
        super().check_model(adapter)
        for site in adapter.sites if self.mlp_reconstruction else ():
            activation = activation_name(site) if site.type == "fc2" else None
            if activation and not (site.after_gelu and activation in dict(adapter.network.named_modules())):
                raise LampQError(
                    f"base_quantizer.mlp_reconstruction=true: {adapter.name} has no GELU before {site.name}; set it to "
                    "false"
                )

    def realise_segment(self, segment: Segment) -> States:
        with Workers(segment.inputs.device) as workers:
            block = TrainedBlock(segment, workers)
            states, layers = segment.independent_states(), {}
            loss = self.loss_of(block)
            sites = {site.type: (site, bits) for site, bits in segment.sites}
            if self.mlp_reconstruction and {"fc1", "fc2"} <= sites.keys():
                layers = self._rectify(block, sites["fc1"], sites["fc2"], states, loss)
            found = self.reconstruct(block, states, layers, loss)
        for site, bits in segment.sites:
            if site.name in layers:
                weight, bias = transformed_layer(layers[site.name], found[site.name])
                found[site.name] |= {"bias": bias} if bits.weight is not None else {"weight": weight, "bias": bias}
        return found

    def _rectify(
        self, block: TrainedBlock, first: tuple[Site, Bits], second: tuple[Site, Bits], states: States, loss: BlockLoss
    ) -> dict[str, nn.Module]:
        """Train a block's MLP anew, put it into the block and into the states; its layers, by name."""
        (fc1, bits1), (fc2, bits2) = first, second
        segment = block.segment
        activation = activation_name(fc1)
        layers = [segment.full_precision.module(site.name) for site in (fc1, fc2)]
        gelu = segment.full_precision.module(activation)
        inputs = segment.observe(fc1.name, full_precision=True)[0].flatten(1, -2)
        recipe = self.mlp_recipe(bits2.activation)
        key = {name: segment.identity[name] for name in ("model", "weights", "images", "seed")}
        key |= {"mlp": fc1.name, "recipe": vars(recipe), "revision": self.revision} | self.mlp_identity()

        def train() -> dict[str, Tensor]:
            return vars(reconstruct_mlp(block, *layers, gelu, inputs, self.mlp_loss(block, loss), recipe))

        trained = segment.store.fetch("mlps", key, train, remember=False)
        mlp = Mlp(**{name: tensor.to(inputs.device) for name, tensor in trained.items()})
        made = dict(zip((fc1.name, fc2.name), mlp.layers(), strict=True))
        segment.quantized.replace_module(activation, nn.ReLU())
        few = inputs[: segment.identity["calibration"]["images"]]
        calibrations = (self.calibration, few, fc1, bits1), (self.calibration_of_relu(), mlp.hidden(few), fc2, bits2)
        for calibration, x, site, bits in calibrations:
            states[site.name] = calibration.calibrate(site, made[site.name], (x,), bits)
        return made

    def surrounding_modules(self, adapter: ModelAdapter, site: Site, state: dict[str, Tensor]) -> dict[str, nn.Module]:
        """An MLP that was trained anew has a ReLU between its layers."""
        return {activation_name(site): nn.ReLU()} if site.type == "fc1" and "bias" in state else {}


def activation_name(fc1: Site) -> str:
    """The module between fc1 and fc2."""
    return f"{fc1.name.rpartition('.')[0]}.act"
