"""Labels that a classifier would give itself: drawn from its predictions."""

import torch
from torch import Tensor


def sample_labels(logits: Tensor, seed: int) -> Tensor:
    """One label for each image, drawn from the model's prediction softmax(logits) (Lemma 2's y ~ p(y|x)).

    Image number i is given the i-th uniform number of a CPU generator and the label where its cumulated probability
    passes it, so that the device, and how the logits were computed in chunks, do not matter.

    Args:
        logits: ``[images, classes]``, of all images.
        seed: of the generator.

    Returns:
        ``[images]`` int64 on the device of `logits`.
    """
    drawn = torch.rand(len(logits), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cumulated = logits.detach().to("cpu", torch.float64).softmax(1).cumsum(1)
    labels = torch.searchsorted(cumulated, (drawn * cumulated[:, -1])[:, None], right=True)[:, 0]
    return labels.clamp(max=logits.shape[1] - 1).to(logits.device)
