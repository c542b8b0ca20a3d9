"""VT-PTQ's metric, against singular values and errors computed one by one."""

from fractions import Fraction

import pytest
import torch

from lampq.bank.quantized_model import QuantizedModel
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.sensitivity.nuclear_norm import NuclearNorm, _nuclear_norm
from tests.small_models import search_over, swin_adapter, vit_adapter

BUDGET = Budget(Fraction(3), Fraction(3), (2, 3, 5), "fixed", (3, 3), "target")


def test_of_a_diagonal_matrix_it_is_the_sum_of_the_entries():
    maps = torch.diag(torch.tensor([3.0, 4.0])).expand(2, 3, 2, 2)  # 2 images, 3 heads
    assert _nuclear_norm(maps, 2, "MSA").tolist() == pytest.approx([7, 7])


def test_it_is_at_least_the_frobenius_norm_and_equals_it_at_rank_one():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 9, 6, generator=generator)
    assert (_nuclear_norm(features, 4, "MLP") > torch.linalg.matrix_norm(features).double()).all()
    rank_one = torch.randn(4, 9, 1, generator=generator) @ torch.randn(4, 1, 6, generator=generator)
    assert _nuclear_norm(rank_one, 4, "MLP") == pytest.approx(torch.linalg.matrix_norm(rank_one).double(), rel=1e-5)


def test_windows_belong_to_their_image_and_rows_of_a_grid_are_tokens():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2 * 4, 3, 5, 5, generator=generator)
    norms = torch.linalg.svdvals(maps).sum(-1).double().reshape(2, 12).mean(1)
    assert _nuclear_norm(maps, 2, "MSA") == pytest.approx(norms, rel=1e-6)
    grid = torch.randn(2, 3, 4, 6, generator=generator)
    assert _nuclear_norm(grid, 2, "MLP") == pytest.approx(_nuclear_norm(grid.reshape(2, 12, 6), 2, "MLP"))


@pytest.mark.parametrize("build", [vit_adapter, swin_adapter], ids=["vit", "swin"])
def test_a_modules_value_is_its_nuclear_norm_times_its_error(build, tmp_path):
    search = search_over(build(), tmp_path)
    omega = NuclearNorm().of_modules(search, BUDGET)
    adapter, images = search.adapter, search.task.calibration_images
    assert set(omega) == {f"{block} {module}" for block in range(adapter.blocks) for module in ("MSA", "MLP")}
    quantized = QuantizedModel(adapter, search.bank)
    block = adapter.blocks - 1
    sites = {s.type: s for s in adapter.sites if s.block == block}
    chosen = {sites[t].name: (3, 3) for t in ("fc1", "fc2")}
    seen = []
    for model in (adapter, quantized.apply(BitPlan.full_precision(adapter.sites).with_bits(chosen)).adapter):
        handle = model.module(sites["fc2"].name).register_forward_hook(lambda _, inputs, output: seen.append(output))
        model.run(images)
        handle.remove()
    expected = 0.0
    for before, after in zip(*seen, strict=True):
        features = before.reshape(-1, before.shape[-1]).double()
        expected += torch.linalg.svdvals(features).sum() * (after - before).double().square().sum()
    assert omega[f"{block} MLP"][3] == pytest.approx(float(expected) / len(images), rel=1e-4)


@pytest.mark.parametrize(("error", "type"), [("output", "proj"), ("map", "pv")])
def test_the_error_of_an_msa_is_that_of_its_output_or_of_its_map(error, type, tmp_path):
    search = search_over(vit_adapter(), tmp_path)
    adapter, images = search.adapter, search.task.calibration_images
    sites = {s.type: s for s in adapter.sites if s.block == 0}
    plan = BitPlan.full_precision(adapter.sites).with_bits(
        {sites[t].name: (None if sites[t].is_matmul else 3, 3) for t in ("qkv", "qk", "pv", "proj")}
    )
    seen = {"pv": [], "proj": []}
    for model in (adapter, QuantizedModel(adapter, search.bank).apply(plan).adapter):
        handles = [
            model.module(sites["pv"].name).register_forward_hook(
                lambda _, inputs, output: seen["pv"].append(inputs[0])
            ),
            model.module(sites["proj"].name).register_forward_hook(lambda _, inputs, y: seen["proj"].append(y)),
        ]
        model.run(images)
        for handle in handles:
            handle.remove()
    norms = torch.linalg.svdvals(seen["pv"][0]).sum(-1).mean(1).double()
    errors = (seen[type][1] - seen[type][0]).double().square().reshape(len(images), -1).sum(1)
    expected = float((norms * errors).mean())
    assert NuclearNorm(error).of_modules(search, BUDGET)["0 MSA"][3] == pytest.approx(expected, rel=1e-4)


def test_more_bits_hurt_less(tmp_path):
    for values in NuclearNorm().of_modules(search_over(vit_adapter(), tmp_path), BUDGET).values():
        assert values[2] > values[3] > values[5] > 0


def test_it_does_not_depend_on_the_chunk_and_is_computed_once(tmp_path, monkeypatch):
    search = search_over(vit_adapter(), tmp_path / "one")
    first = NuclearNorm().of_modules(search, BUDGET)
    monkeypatch.setattr("lampq.sensitivity.nuclear_norm.CHUNK", 3)
    other = NuclearNorm().of_modules(search_over(vit_adapter(), tmp_path / "other"), BUDGET)
    for module, values in first.items():
        assert other[module] == pytest.approx(values, rel=1e-5)
    before = dict(search.store.seconds_computed)
    assert NuclearNorm().of_modules(search, BUDGET) == first and search.store.seconds_computed == before
