"""Whole numbers and their products: exact in whatever type, whatever kernel takes them."""

import pytest
import torch

from lampq.artefact import whole_numbers
from lampq.artefact.whole_numbers import WholeNumbers, exact_kind, exact_product, int8_offset
from lampq.errors import LampQError
from tests.number_formats.test_every_format import FORMATS

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", FORMATS)
def test_numbers_are_the_formats_own_within_their_bounds(name):
    number_format, x = FORMATS[name]
    codes, made = number_format.codes(x.clone()), WholeNumbers(number_format)
    for part, (expected, step) in enumerate(number_format.integers(codes)):
        low, high = made.bounds[part]
        assert low <= expected.min() and expected.max() <= high and torch.equal(made.steps[part], step)
        for kind in (torch.float32, torch.float64, torch.int8):
            offset = int8_offset((low, high)) if kind == torch.int8 else 0
            if kind == torch.int8 and high - low > 255:
                continue
            found = made(codes, part, kind, offset)
            assert found.dtype == kind and torch.equal(found.double() + offset, expected.expand_as(found))


def test_bounds_are_reached():
    number_format, _ = FORMATS["affine"]
    assert WholeNumbers(number_format).bounds == [(-5, 10)]
    assert WholeNumbers(FORMATS["twin, post-GELU"][0]).bounds == [(-8, 0), (0, 7)]


@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("inner", [1, 50, 300])
@pytest.mark.parametrize("bounds", [(-7, 8), (-128, 127), (-200, 55), (0, 255), (-300, 300), (-(10**6), 10**6)])
@pytest.mark.parametrize("int8", [True, False])
def test_products_are_exact(bounds, inner, batch, int8, monkeypatch):
    monkeypatch.setattr(whole_numbers, "int8_is_exact", lambda: int8)
    low, high = bounds
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(low, high + 1, (*batch, 7, inner), generator=generator)
    b = torch.randint(low, high + 1, (*batch, inner, 5), generator=generator)
    a[..., 0, :] = b[..., 0] = high
    a[..., 1, :] = low
    kind = exact_kind(bounds, bounds, inner, CPU)
    assert (kind == torch.int8) == (int8 and high - low <= 255)
    offset = int8_offset(bounds) if kind == torch.int8 else 0
    found = exact_product((a - offset).to(kind), (b - offset).to(kind), offset, offset)
    assert torch.equal(found.double(), (a @ b).double())


def test_columns_may_have_offsets_of_their_own():
    a, b = torch.tensor([[3, -128, 127]]), torch.tensor([[-200, 300, 0], [-10, 250, 5], [-7, 77, -9]])
    offsets = torch.tensor([-80, 180, 0], dtype=torch.int32)
    assert exact_kind((-128, 127), (-200, 300), 3, CPU) == torch.float32
    assert exact_kind((-128, 127), (-200, 300), 3, CPU, width=223) == torch.int8
    found = exact_product(a.to(torch.int8), (b - offsets).to(torch.int8), 0, offsets)
    assert torch.equal(found.long(), a @ b)


def test_many_small_products_are_one_call():
    bounds = (-128, 127)
    assert exact_kind(bounds, bounds, 64, CPU, each=2**19) == torch.float32
    assert exact_kind(bounds, bounds, 64, CPU, each=2**21) == torch.int8


def test_sums_that_no_type_holds_are_refused():
    assert exact_kind((0, 2**20), (0, 2**20), 2**10, CPU) == torch.float64
    with pytest.raises(LampQError, match="too large to be exact"):
        exact_kind((0, 2**40), (0, 2**14), 1, CPU)
