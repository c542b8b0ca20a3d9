"""Total variation by hand."""

import math

import torch

from lampq.datasets.psaq.smoothness import target_for, total_variation


def test_a_constant_image_has_none_and_a_finite_gradient():
    image = torch.full((2, 3, 5, 5), 0.3, requires_grad=True)
    variation = total_variation(image)
    variation.backward()
    assert variation == 0 and image.grad.abs().max() == 0


def test_four_directions_by_hand():
    image = torch.tensor([[[[0.0, 1.0], [3.0, 7.0]]]])
    expected = math.hypot(1, 4) + math.hypot(3, 6) + 7 + 2
    assert math.isclose(total_variation(image).item(), expected, rel_tol=1e-6)


def test_the_norm_is_taken_over_all_images():
    image = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(total_variation(image.repeat(4, 1, 1, 1)), 2 * total_variation(image))


def test_the_target_grows_with_the_root_of_the_values():
    assert target_for(2600, torch.empty(32, 3, 224, 224)) == 2600
    assert target_for(2600, torch.empty(8, 3, 224, 224)) == 1300
    assert target_for(2600, torch.empty(32, 3, 112, 112)) == 1300
