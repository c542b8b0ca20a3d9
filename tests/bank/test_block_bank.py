"""Plans put together from blocks: what each layer's state comes from, and that no block is realised twice."""

import pytest
import torch

from lampq.allocation.uniform import Uniform
from lampq.bank.block_bank import BlockBank
from lampq.bank.quantized_model import QuantizedModel
from lampq.base_quantizers.aphq_vit import APHQViT
from lampq.base_quantizers.qdrop import QDrop
from lampq.errors import LampQError
from lampq.plan.bit_plan import BitPlan
from lampq.plan.budget import Budget
from lampq.reconstruction import training
from tests.bank.test_realisation import OneAfterAnother, uniform
from tests.small_models import BUDGET, images, search_over, swin_adapter, vit_adapter


def opened(tmp_path, method=None, build=vit_adapter):
    search = search_over(build(), tmp_path, base_quantizer=method or OneAfterAnother("block_bank"))
    return search, BlockBank(search.realisation, BUDGET)


def logits(search, plan, source):
    adapter = QuantizedModel(search.adapter, search.bank, source).apply(plan).adapter
    with torch.inference_mode():
        return adapter.run(images(search.adapter, 5, seed=7))


def scale(search, modules, name):
    """The scale of a layer's input."""
    return modules[name].quantize_input.scale.flatten()


@pytest.mark.parametrize("build", [vit_adapter, swin_adapter])
def test_equal_bits_at_the_target_are_the_realised_plan(tmp_path, build):
    search, blocks = opened(tmp_path, build=build)
    plan = uniform(search)
    assert torch.equal(logits(search, plan, blocks), logits(search, plan, search.realisation))


def test_a_layer_is_taken_from_its_block_at_the_layers_bits_behind_equal_bits(tmp_path):
    search, blocks = opened(tmp_path)
    plan = uniform(search).with_bits({"blocks.0.attn.qkv": (2, 2), "blocks.2.mlp.fc1": (4, 4)})
    modules = blocks.modules(plan)
    block = {f"blocks.2.{name}": (4, 4) for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    trained = search.realisation.states(uniform(search).with_bits(block))
    at_target = search.realisation.states(uniform(search))
    exact = search.realisation.states(plan)
    fc1, fc2 = "blocks.2.mlp.fc1", "blocks.2.mlp.fc2"
    assert torch.equal(scale(search, modules, fc1), trained[fc1]["input_scale"].flatten())
    assert torch.equal(scale(search, modules, fc2), at_target[fc2]["input_scale"].flatten())
    assert not torch.equal(scale(search, modules, fc1), exact[fc1]["input_scale"].flatten())
    assert modules.keys() == {site.name for site in search.adapter.sites}


def test_a_block_is_realised_once_for_each_bit_width_that_a_search_meets(tmp_path):
    method = OneAfterAnother("block_bank")
    search, blocks = opened(tmp_path, method)
    plan = uniform(search)
    blocks.modules(plan)
    assert method.realised == [0, 1, 2, 3, 4]
    method.realised.clear()
    blocks.modules(plan.with_bits({"blocks.1.mlp.fc1": (4, 4)}))
    assert method.realised == [2], "not the blocks behind it"
    blocks.modules(plan.with_bits({"blocks.1.attn.qkv": (4, 4), "blocks.0.attn.qkv": (2, 2)}))
    assert method.realised == [2, 1]
    again, others = opened(tmp_path, OneAfterAnother("block_bank"))
    others.modules(plan.with_bits({"blocks.1.attn.qkv": (4, 4), "blocks.0.attn.qkv": (2, 2)}))
    assert again.bank.base_quantizer.realised == [], "from the store"


def test_scores_are_neither_those_of_the_surrogate_nor_exact(tmp_path):
    losses = []
    for kind in ("surrogate", "block_bank", "exact"):
        search = search_over(vit_adapter(), tmp_path, base_quantizer=OneAfterAnother(kind))
        plan = uniform(search).with_bits({"blocks.0.attn.qkv": (2, 2), "blocks.2.mlp.fc1": (4, 4)})
        losses.append(search.evaluator.score(plan).loss)
    assert not torch.equal(losses[0], losses[1]) and not torch.equal(losses[1], losses[2])


def test_what_has_no_bits_is_left_alone(tmp_path):
    search, blocks = opened(tmp_path)
    full_precision = BitPlan.full_precision(search.adapter.sites)
    assert blocks.modules(full_precision) == {}
    assert blocks.modules(full_precision.with_bits({"blocks.1.attn.qkv": (2, 2)})).keys() == {"blocks.1.attn.qkv"}


def test_operands_that_follow_qkv_come_from_where_it_does(tmp_path):
    search, _ = opened(tmp_path)
    budget = Budget(3, 3, (2, 3, 4), "fixed", (3, 3), "follow_qkv")
    blocks, layer_bits = BlockBank(search.realisation, budget), dict.fromkeys((s.name for s in search.layers), 3)
    plan = budget.plan(search.adapter.sites, {**layer_bits, "blocks.1.attn.qkv": 2})
    of_block = {**layer_bits, **{name: 2 for name in layer_bits if name.startswith("blocks.1.")}}
    trained = search.realisation.modules(budget.plan(search.adapter.sites, of_block))
    made = blocks.modules(plan)
    for name in ("blocks.1.attn.qkv", *(s.name for s in search.adapter.sites if s.is_matmul and s.block == 1)):
        mine, theirs = made[name].state_dict(), trained[name].state_dict()
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_bits_at_which_it_is_not_defined_are_refused(tmp_path):
    search, blocks = opened(tmp_path)
    with pytest.raises(LampQError, match="17 bits"):
        blocks.modules(uniform(search).with_bits({"blocks.0.attn.qkv": (17, 3)}))


def test_the_target_is_part_of_the_identity(tmp_path):
    search, blocks = opened(tmp_path)
    other = BlockBank(search.realisation, Budget(4, 4, (3, 4, 5), "fixed", (4, 4), "target"))
    assert blocks.identity != other.identity != search.realisation.identity


def test_mlps_that_were_trained_anew_keep_their_relu(tmp_path):
    method = APHQViT(iterations=2, images=6, batch_size=4, candidates=32, rounds=1, search="block_bank")
    search, blocks = opened(tmp_path, method)
    plan = uniform(search).with_bits({"blocks.1.mlp.fc1": (2, 2), "blocks.1.mlp.fc2": (4, 4)})
    modules = blocks.modules(plan)
    assert isinstance(modules["blocks.1.mlp.act"], torch.nn.ReLU)
    assert logits(search, plan, blocks).isfinite().all()
    assert torch.equal(
        logits(search, Uniform().allocate(search, BUDGET), blocks), logits(search, uniform(search), search.realisation)
    )


TRAINED = {"images": 6, "batch_size": 4, "rounding_rate": 0.05, "candidates": 32, "rounds": 1}


def scored_by(tmp_path, method):
    return search_over(vit_adapter(), tmp_path, base_quantizer=method)


def mixed_bits(search):
    return uniform(search).with_bits({"blocks.1.mlp.fc1": (2, 2), "blocks.1.mlp.fc2": (4, 4)})


@pytest.mark.parametrize("kind", ["block_bank", "exact"])
def test_blocks_that_plans_are_scored_with_may_be_trained_for_fewer_steps(kind, tmp_path):
    """And the plan that is built is trained for all of them."""

    def losses(**settings):
        search = scored_by(tmp_path, QDrop(**TRAINED, search=kind, **settings))
        return search.evaluator.score(mixed_bits(search)).loss

    fewer, few, many = losses(iterations=8, search_steps=2), losses(iterations=2), losses(iterations=8)
    assert torch.equal(fewer, few) and not torch.equal(fewer, many)
    built = scored_by(tmp_path, QDrop(**TRAINED, iterations=8, search=kind, search_steps=2)).realisation.identity
    assert built == scored_by(tmp_path, QDrop(**TRAINED, iterations=8)).realisation.identity


def test_a_search_says_for_how_many_steps_its_blocks_are_trained(tmp_path):
    few = scored_by(tmp_path, QDrop(**TRAINED, iterations=8, search="block_bank", search_steps=2))
    assert few.looked_at["search_steps"] == 2 and few.told_of_search.endswith("trained for 2 steps there")
    for steps in (None, 8, 9):
        every = scored_by(tmp_path, QDrop(**TRAINED, iterations=8, search="block_bank", search_steps=steps))
        assert "search_steps" not in every.looked_at and "steps" not in every.told_of_search


@pytest.mark.parametrize("kind", ["block_bank", "exact"])
def test_blocks_of_no_steps_are_what_training_starts_from(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(training.TrainedBlock, "_gradients", None)
    method = QDrop(**TRAINED, iterations=8, search=kind, search_steps=0)
    search, surrogate = scored_by(tmp_path, method), scored_by(tmp_path, QDrop(**TRAINED, iterations=8))
    plan = mixed_bits(search)
    before = surrogate.evaluator.score(plan)
    assert torch.allclose(search.evaluator.score(plan).loss, before.loss, atol=1e-4)


def test_mlps_of_a_search_without_block_training_are_those_of_the_plan_that_is_built(tmp_path):
    """They are trained once, with ReLU; what a search sees of them is not what it sees of the MLPs with GELU."""
    settings = {**TRAINED, "iterations": 3, "mlp_rate": 1e-3}
    search = scored_by(tmp_path, APHQViT(**settings, search="block_bank", search_steps=0))
    plan = mixed_bits(search)
    modules = search.scored_by.modules(plan)
    assert isinstance(modules["blocks.1.mlp.act"], torch.nn.ReLU)
    trained = sorted((tmp_path / "mlps").rglob("*"))
    search.realisation.states(plan)
    assert sorted((tmp_path / "mlps").rglob("*")) == trained, "none was trained for the plan itself"
    surrogate = scored_by(tmp_path, APHQViT(**settings))
    assert not torch.equal(search.evaluator.score(plan).loss, surrogate.evaluator.score(plan).loss)


def test_steps_of_a_search_that_trains_no_block_are_refused():
    with pytest.raises(LampQError, match=r"base_quantizer\.search_steps=5: .*base_quantizer\.search=block_bank"):
        QDrop(search_steps=5)
    with pytest.raises(LampQError, match=r"base_quantizer\.search_steps=-1: "):
        QDrop(search="exact", search_steps=-1)
