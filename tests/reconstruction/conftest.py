"""What tests of trained weights share."""

import pytest
import torch


@pytest.fixture
def rows():
    """Weights ``[5, 40]`` of which some lie outside the range of their row's format."""
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([0.2, 0.3, 0.5, 0.7, 0.25])[:, None]
    zero_point = torch.tensor([3.0, 4, 2, 0, 7])[:, None]
    return weight, scale, zero_point
