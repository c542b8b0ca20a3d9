"""A file's words on a transform give the structure again, and nothing else than a known transform."""

import pytest
import torch

from lampq.errors import LampQError
from lampq.transform.hadamard import Hadamard
from lampq.transform.rebuilding import transformed_again
from tests.small_models import images, vit_adapter


@pytest.mark.parametrize("settings", [{}, {"residual": False}], ids=str)
def test_weights_of_the_one_fit_the_other(settings):
    made = Hadamard(seed=5, **settings).apply(vit_adapter(init_values=0.5, qkv_bias=False))
    again = transformed_again(vit_adapter(seed=9, init_values=0.5, qkv_bias=False), made.transform)
    again.network.load_state_dict(made.network.state_dict())
    pictures = images(made, 2)
    assert torch.equal(again.run(pictures), made.run(pictures)) and again.transform == made.transform


def test_no_transform_is_the_network_itself():
    adapter = vit_adapter()
    assert transformed_again(adapter, None) is adapter


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        ({"name": "fourier"}, r"^transform=fourier: .*take the lampq that saved the model$"),
        ({"name": ["hadamard"]}, r"^transform=\['hadamard'\]: "),
        ("hadamard", r"^transform=None: "),
        ({"name": "hadamard", "revision": 1, "angle": 3}, r"^transform.angle=3: Hadamard has no such key"),
        ({"name": "hadamard", "seed": -1}, r"^transform.seed=-1: "),
    ],
    ids=str,
)
def test_what_is_not_known_is_refused_in_one_line(identity, words):
    with pytest.raises(LampQError, match=words) as caught:
        transformed_again(vit_adapter(), identity)
    assert "\n" not in str(caught.value)
