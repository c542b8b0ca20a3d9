"""The weighted error's winners are those of evaluating every candidate on all of the output."""

import pytest
import torch

from lampq.calibration import weighted_output_error
from lampq.calibration.weighted_output_error import WeightedOutputError


@pytest.fixture(params=[2**16, 40], ids=["one piece", "many pieces"])
def pieces(request, monkeypatch):
    monkeypatch.setattr(weighted_output_error, "PIECE_ELEMENTS", request.param)


def problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    target, noise = torch.randn(50, 6, generator=generator), torch.randn(50, 6, generator=generator)
    outputs = torch.stack([target + noise * factor for factor in (2.0, 0.5, 0.4, 0.7, 3.0, 1.0)])
    outputs[3, :, 2] = target[:, 2]
    return target, outputs, torch.randn(50, 6, generator=generator)


def best(target, outputs, weights):
    error = WeightedOutputError(target, weights)
    columns = error.best_of_columns(len(outputs), lambda index, place: outputs[index, place].clone())
    return error.best(len(outputs), lambda index, place: outputs[index, place].clone()), columns.tolist()


def test_winners_are_those_of_the_whole_error(pieces):
    for seed in range(4):
        target, outputs, weights = problem(seed)
        weights[:, 2] *= 20  # so that the candidate that is exact in this column wins
        errors = ((outputs - target) * weights).square().double()
        assert best(target, outputs, weights) == (
            errors.sum((1, 2)).argmin().item(),
            errors.sum(1).argmin(0).tolist(),
        ), seed
        assert best(target, outputs, weights)[0] == 3, seed
        plain = (outputs - target).square().double()
        assert best(target, outputs, None) == (plain.sum((1, 2)).argmin().item(), plain.sum(1).argmin(0).tolist()), seed
        assert best(target, outputs, None)[0] == 2, seed


def test_only_ratios_of_weights_count_and_no_weight_at_all_counts_as_equal_ones(pieces):
    target, outputs, weights = problem()
    assert best(target, outputs, 1e-25 * weights) == best(target, outputs, weights)
    assert best(target, outputs, 0 * weights) == best(target, outputs, None)
    assert best(target, outputs, torch.full_like(target, 0.3)) == best(target, outputs, None)


def test_of_equally_good_candidates_the_first_is_taken(pieces):
    target, outputs, weights = problem()
    twice = torch.cat([outputs, outputs])
    assert best(target, twice, weights) == best(target, outputs, weights)
