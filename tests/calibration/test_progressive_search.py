"""The progressive search: which scales it asks for, and what it keeps."""

import pytest
import torch

from lampq.calibration.candidates import CandidateGrid
from lampq.calibration.progressive_search import first_best, progressive_search, survivors


def grid(families=4, members=32, groups=1):
    scales = torch.arange(1.0, members + 1, dtype=torch.float64).expand(groups, families, members)
    partners = torch.arange(float(families)).expand(groups, families)
    return CandidateGrid(scales, partners, torch.ones(groups), torch.full((groups,), 2.0**-10))


def test_refined_scales_of_a_survivor():
    asked = []

    def errors(scales, partners, keep):
        asked.append((scales.clone(), partners.clone(), keep))
        return (scales - 10).abs() + partners[..., None]

    progressive_search(errors, grid(), keep=16, steps=3)
    scales, partners, keep = asked[1]
    assert scales.shape == (1, 16, 8) and keep == 16 and asked[2][2] == 1
    assert partners[0, 0] == 0
    expected = [9.5, 9.642857, 9.785714, 9.928571, 10.071429, 10.214286, 10.357143, 10.5]
    assert scales[0, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert asked[2][0][0, 0].diff().tolist() == pytest.approx([1 / 7.5 / 7] * 7)


def test_every_group_finds_its_own_minimum():
    optimum = torch.tensor([[3.21], [17.77]], dtype=torch.float64)
    partner = torch.tensor([[2.0], [1.0]])

    def errors(scales, partners, keep):
        return (scales - optimum[..., None]).square() + (partners - partner)[..., None].square()

    scale, found = progressive_search(errors, grid(groups=2), keep=16, steps=6)
    assert found.tolist() == [2, 1]
    assert scale.tolist() == pytest.approx(optimum.flatten().tolist(), abs=1e-3)


def test_scales_stay_positive():
    seen = []

    def errors(scales, partners, keep):
        seen.append(scales.min().item())
        return scales.clone() + 0 * partners[..., None]

    coarse = grid(families=1, members=128)
    narrow = CandidateGrid(coarse.scales * 0.1, coarse.partners, torch.ones(1), coarse.smallest_scale)
    progressive_search(errors, narrow, keep=16, steps=6)
    assert min(seen) == 2.0**-10


def test_elitist_search_keeps_the_best_it_has_seen():
    # A spike exactly on a coarse scale: no refined scale ever hits it again.
    def errors(scales, partners, keep):
        return torch.where(scales == 7, 0.0, 1 + (scales - 20).abs()) + partners[..., None]

    assert progressive_search(errors, grid(), 16, 6)[0].item() != 7
    assert progressive_search(errors, grid(), 16, 6, elitist=True)[0].item() == 7
    incumbent = (torch.tensor([7.0]), torch.tensor([0.0]))
    shifted = CandidateGrid(grid().scales + 0.25, grid().partners, torch.ones(1), torch.ones(1))
    assert progressive_search(errors, shifted, 16, 6, incumbent, elitist=True)[0].item() == 7


def test_ties_go_to_the_first():
    errors = torch.tensor([[3.0, 1.0 + 1e-7, 1.0, 2.0], [1.0, 1.0, 1.0, 0.9]])
    assert first_best(errors).tolist() == [1, 3]
    assert survivors(torch.tensor([[2.0, 1.0, 1.0, 2.0, 0.5]]), 4).tolist() == [[4, 1, 2, 0]]
