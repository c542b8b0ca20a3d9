"""Pre-trained classifiers of timm, pinned to an exact weight tag."""

import logging

import torch

from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.models.base import Model
from lampq.parts import setting


class TimmClassifier(Model):
    """A timm model as ``model=...`` names it.

    Args:
        name: timm's architecture with its weight tag, for example ``deit_tiny_patch16_224.fb_in1k``.
        checkpoint: a local file (safetensors, or what PyTorch has saved), or None for timm's download.
        resize_weights: whether position embeddings (and patch embeddings, and tables of position biases) of a
            checkpoint may be resized where the model has others.
        published_top1: published full-precision top-1 on the full validation set, in percent, or None.

    Raises:
        LampQError: a value is none of these.
    """

    name: str
    checkpoint: str | None = None
    resize_weights: bool = False
    published_top1: float | None = setting(None, at_least=0, at_most=100)

    def build(self, device: torch.device) -> ModelAdapter:
        """Build the network with its weights.

        Raises:
            LampQError: unknown model, no file, no network, weights that do not fit, unsupported architecture.
        """
        import timm
        from timm.data import resolve_model_data_config

        from lampq.models.checkpoints import load_weights, read_weights
        from lampq.models.timm_adapters import adapt

        if not timm.is_model(self.name.partition(".")[0]):
            close = timm.list_models(f"*{self.name.partition('.')[0].split('_')[0]}*")[:3]
            raise LampQError(
                f"model.name={self.name}: timm has no such model; for example {', '.join(close) or 'deit_tiny'}"
            )
        try:
            published = timm.get_pretrained_cfg(self.name, allow_unregistered=False)
        except RuntimeError as error:
            tags = ", ".join(timm.list_pretrained(f"{self.name.partition('.')[0]}.*")) or "it has none"
            raise LampQError(f"model.name={self.name}: timm has no weights of this tag; choose from {tags}") from error
        if self.checkpoint is not None:
            state = read_weights(self.checkpoint)
            network = timm.create_model(self.name, pretrained=False)
            load_weights(network, state, self.checkpoint, _original_naming(network), self.resize_weights)
        elif not published or not published.has_weights:
            raise LampQError(
                f"model.name={self.name}: timm has no weights for it; give a file by model.checkpoint=FILE"
            )
        else:
            hub = logging.getLogger("huggingface_hub")
            level = hub.level
            hub.setLevel(logging.ERROR)  # it warns of every try; what matters is said once, below
            try:
                network = timm.create_model(self.name, pretrained=True)
            except Exception as error:
                raise LampQError(
                    f"model.name={self.name}: its weights could not be downloaded ({type(error).__name__}); connect to "
                    "the network once, or give a local file by model.checkpoint=FILE"
                ) from error
            finally:
                hub.setLevel(level)
        config = resolve_model_data_config(network)
        adapter = adapt(
            self.name,
            network.to(device),
            input_size=config["input_size"],
            data_config=config,
            published_top1=self.published_top1,
        )
        adapter.architecture = {"library": "timm", "name": self.name, "arguments": {}}
        return adapter


def _original_naming(network: torch.nn.Module):
    """timm's own converter of checkpoints in the original repositories' naming, where the architecture has one."""
    import sys

    return getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
