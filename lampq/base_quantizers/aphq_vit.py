"""APHQ-ViT: MLPs trained anew with ReLU, then block reconstruction by the average perturbation Hessian.

Wu et al., APHQ-ViT: Post-Training Quantization with Average Perturbation Hessian Based Reconstruction for Vision
Transformers, CVPR 2025.
"""

from torch import Tensor, nn

from lampq.base_quantizers.qdrop import QDrop
from lampq.base_quantizers.uniform_search import UniformSearch
from lampq.calibration.segment import Segment, States
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.parts import setting
from lampq.plan.bits import Bits
from lampq.plan.sites import Site
from lampq.reconstruction.block import Block
from lampq.reconstruction.losses.average_hessian import AveragePerturbation, average_perturbation
from lampq.reconstruction.mlp import Mlp, MlpRecipe, published_percentile, reconstruct_mlp
from lampq.reconstruction.training import TrainedBlock
from lampq.reparameterization.layernorm import transformed_layer
from lampq.workers import Workers


class APHQViT(QDrop):
    """QDrop with output errors weighed by the average perturbation Hessian, from MLPs with ReLU on.

    An MLP is trained anew when its block's turn comes, and belongs to the block's realised state; independent states,
    which searches see by default, are those of the network with GELU. The authors train all MLPs first and take the
    network with ReLU for the full-precision one; here the target of every block stays the original's output. The
    perturbation is random instead of constant (see `lampq.reconstruction.losses.average_hessian`).

    Args:
        temperature: T of the class probabilities.
        hessian_images: how many images the Hessian is averaged over.
        mlp_reconstruction: whether MLPs are trained anew.
        mlp_rate: learning rate of their weights.

    and as `QDrop`.
    """

    temperature: float = setting(20.0, above=0)
    hessian_images: int = setting(256, minimum=1)
    mlp_reconstruction: bool = True
    mlp_rate: float = setting(4e-5, above=0)

    name = "aphq_vit"
    only_classifiers = True
    revision = 1

    @property
    def realisation_steps(self) -> int:
        return self.iterations * (2 if self.mlp_reconstruction else 1)

    def check_model(self, adapter: ModelAdapter) -> None:
        super().check_model(adapter)
        for site in adapter.sites if self.mlp_reconstruction else ():
            activation = activation_name(site) if site.type == "fc2" else None
            if activation and not (site.after_gelu and activation in dict(adapter.network.named_modules())):
                raise LampQError(
                    f"base_quantizer.mlp_reconstruction=true: {adapter.name} has no GELU before {site.name}; set it to "
                    "false"
                )

    def loss(self) -> AveragePerturbation:
        return AveragePerturbation(self.temperature, self.hessian_images)

    def realise_segment(self, segment: Segment) -> States:
        with Workers(segment.inputs.device) as workers:
            block = TrainedBlock(segment, workers)
            states, layers = segment.independent_states(), {}
            loss = self.loss_of(block)
            sites = {site.type: (site, bits) for site, bits in segment.sites}
            if self.mlp_reconstruction and {"fc1", "fc2"} <= sites.keys():
                loss.weights = average_perturbation(block, self.temperature, self.hessian_images)
                layers = self._rectify(block, sites["fc1"], sites["fc2"], states, loss.weights)
            found = self.reconstruct(block, states, layers, loss)
        for site, bits in segment.sites:
            if site.name in layers:
                weight, bias = transformed_layer(layers[site.name], found[site.name])
                found[site.name] |= {"bias": bias} if bits.weight is not None else {"weight": weight, "bias": bias}
        return found

    def _rectify(
        self, block: Block, first: tuple[Site, Bits], second: tuple[Site, Bits], states: States, weights: Tensor
    ) -> dict[str, nn.Module]:
        """Train a block's MLP anew, put it into the block and into the states; its layers, by name."""
        (fc1, bits1), (fc2, bits2) = first, second
        segment = block.segment
        activation = activation_name(fc1)
        layers = [segment.full_precision.module(site.name) for site in (fc1, fc2)]
        gelu = segment.full_precision.module(activation)
        inputs = segment.observe(fc1.name, full_precision=True)[0].flatten(1, -2)
        percentile = published_percentile(8 if bits2.activation is None else bits2.activation)
        recipe = MlpRecipe(self.iterations, self.batch_size, self.mlp_rate, percentile)
        key = {name: segment.identity[name] for name in ("model", "weights", "images", "seed")}
        key |= {"mlp": fc1.name, "recipe": vars(recipe), "revision": self.revision}
        key |= {"hessian": [self.temperature, self.hessian_images]}
        trained = segment.store.fetch(
            "mlps", key, lambda: vars(reconstruct_mlp(block, *layers, gelu, inputs, weights, recipe)), remember=False
        )
        mlp = Mlp(**{name: tensor.to(inputs.device) for name, tensor in trained.items()})
        made = dict(zip((fc1.name, fc2.name), mlp.layers(), strict=True))
        segment.quantized.replace_module(activation, nn.ReLU())
        few = inputs[: segment.identity["calibration"]["images"]]
        calibrations = (self.calibration, few, fc1, bits1), (self._of_relu(), mlp.hidden(few), fc2, bits2)
        for calibration, x, site, bits in calibrations:
            states[site.name] = calibration.calibrate(site, made[site.name], (x,), bits)
        return made

    def _of_relu(self) -> UniformSearch:
        return UniformSearch(self.candidates, self.rounds, rectified=True)

    def surrounding_modules(self, adapter: ModelAdapter, site: Site, state: dict[str, Tensor]) -> dict[str, nn.Module]:
        """An MLP that was trained anew has a ReLU between its layers."""
        return {activation_name(site): nn.ReLU()} if site.type == "fc1" and "bias" in state else {}


def activation_name(fc1: Site) -> str:
    """The module between fc1 and fc2."""
    return f"{fc1.name.rpartition('.')[0]}.act"
