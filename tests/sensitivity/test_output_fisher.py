"""Output scores: squared gradients times squared output errors, summed over images, each bit-width stored once."""

import copy
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from lampq.sensitivity.labels import labels_of
from lampq.sensitivity.output_fisher import OutputFisher, output_scores
from lampq.sensitivity.scores import falling
from tests.small_models import images, search_over, swin_adapter, vit_adapter


def budget(*candidates):
    return Budget(Fraction(3), Fraction(3), candidates, "fixed", (3, 3), "target")


@pytest.fixture(params=[vit_adapter, swin_adapter], ids=["vit", "swin"])
def search(request, tmp_path):
    return search_over(request.param(), tmp_path)


def modules_of(search, *bits):
    return {s.name: [search.bank.module(s, Bits(b, b)) for b in bits] for s in search.layers}


def by_autograd(search, name, module, pictures, labels):
    """One image at a time, the gradient at the layer's output from a perturbation that is added to it."""
    layer, total = search.adapter.module(name), 0.0
    for picture, label in zip(pictures, labels, strict=True):
        seen = {}

        def add(_, operands, output, seen=seen):
            seen["input"], seen["output"] = [operand.detach() for operand in operands], output.detach()
            seen["added"] = torch.zeros_like(output, requires_grad=True)
            return output + seen["added"]

        handle = layer.register_forward_hook(add)
        loss = F.cross_entropy(search.adapter.run(picture[None]), label[None])
        handle.remove()
        (gradient,) = torch.autograd.grad(loss, seen["added"])
        with torch.no_grad():
            error = module(*seen["input"]) - seen["output"]
        total += (gradient.double().square() * error.double().square()).sum().item()
    return total


def test_equals_gradients_and_errors_of_single_images(search):
    """For Swin too: windows, padding and all are the same elements in another order."""
    pictures = images(search.adapter, 5)
    labels = torch.tensor([0, 1, 2, 3, 4])
    modules = modules_of(search, 2, 4)
    scores = output_scores(search.adapter, modules, pictures, labels, chunk=2)
    assert scores.shape == (len(search.layers), 2) and scores.dtype == torch.float64 and (scores > 0).all()
    for row in (0, 1, 2, 3, len(search.layers) - 1):
        name = search.layers[row].name
        for column, module in enumerate(modules[name]):
            expected = by_autograd(search, name, module, pictures, labels)
            assert scores[row, column].item() == pytest.approx(expected, rel=1e-4)


def test_sites_that_are_no_layers_of_a_block_are_scored_at_their_outputs(search):
    sites = {s.type: s for s in search.adapter.sites if not s.allocated}
    options = {
        s.name: [Bits(None, 2), Bits(None, 4)] if s.is_matmul else [Bits(2, None), Bits(2, 4)] for s in sites.values()
    }
    scores = OutputFisher().site_scores(search, budget(2, 3), options)
    assert {s.name for s in sites.values()} == set(scores) and {"qk", "pv", "patch_embed", "head"} <= set(sites)
    pictures, labels = search.task.sample_images, search.task.sample_labels
    for name, row in scores.items():
        for bits, score in row.items():
            module = search.bank.module(search.adapter.site(name), bits)
            assert score == pytest.approx(by_autograd(search, name, module, pictures, labels), rel=1e-4)


def test_a_layers_score_is_the_same_among_sites_and_each_pair_is_stored_once(tmp_path):
    search = search_over(vit_adapter(), tmp_path)
    layer = search.layers[5].name
    row = OutputFisher().site_scores(search, budget(2, 3), {layer: [Bits(2, 2), Bits(3, 3)]})[layer]
    assert list(row.values()) == pytest.approx(
        list(OutputFisher().scores(search, budget(2, 3))[layer].values()), rel=1e-12
    )
    again = search_over(vit_adapter(), tmp_path)
    more = OutputFisher().site_scores(again, budget(2, 3), {layer: [Bits(3, 3), Bits(3, 2), Bits(2, 2)]})[layer]
    assert more.items() >= row.items() and more[3, 2] > more[3, 3]
    third = search_over(vit_adapter(), tmp_path)
    assert OutputFisher().site_scores(third, budget(2, 3), {layer: list(more)}) == {layer: more}
    assert not third.store.seconds_computed


def test_chunks_do_not_matter(search):
    pictures, labels, modules = images(search.adapter, 7), torch.arange(7), modules_of(search, 3)
    whole = output_scores(search.adapter, modules, pictures, labels, chunk=100)
    for chunk in (1, 3):
        torch.testing.assert_close(
            output_scores(search.adapter, modules, pictures, labels, chunk=chunk), whole, rtol=1e-4, atol=0
        )


def test_nothing_moved_is_no_score(search):
    pictures, labels = images(search.adapter, 3), torch.arange(3)
    same = {s.name: [copy.deepcopy(search.adapter.module(s.name))] for s in search.layers}
    assert not output_scores(search.adapter, same, pictures, labels).any()


def test_scores_grow_with_the_squares_of_error_and_gradient(tmp_path):
    search = search_over(vit_adapter(), tmp_path)
    adapter, name = search.adapter, "blocks.1.mlp.fc1"
    pictures, labels = images(adapter, 4), torch.arange(4)

    def moved_by(distance):
        layer = copy.deepcopy(adapter.module(name))
        layer.bias.data += distance
        return layer

    once, thrice = output_scores(adapter, {name: [moved_by(0.5), moved_by(1.5)]}, pictures, labels)[0].tolist()
    assert thrice == pytest.approx(9 * once, rel=1e-4)
    # A small temperature of the head: logits, and with them every gradient before it, are a fifth at equal errors.
    linear = {name: [moved_by(0.5)]}
    gradients = []
    for factor in (1.0, 0.5):
        twin = vit_adapter()
        head = twin.module("head")
        head.weight.data *= factor * 1e-3
        head.bias.data *= 0
        gradients.append(output_scores(twin, linear, pictures, labels).item())
    assert gradients[0] == pytest.approx(4 * gradients[1], rel=1e-2), "softmax is flat: gradients halve with the head"


def test_the_model_is_left_as_it_was_even_after_an_error(search):
    with pytest.raises(IndexError):
        output_scores(search.adapter, modules_of(search, 3), images(search.adapter, 2), torch.tensor([0, 99]))
    network = search.adapter.network
    assert not any(m._forward_hooks for m in network.modules())
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())


def test_each_bit_width_is_stored_once(tmp_path):
    first = search_over(vit_adapter(), tmp_path)
    few = OutputFisher().scores(first, budget(2, 3))
    second = search_over(vit_adapter(), tmp_path)
    more = OutputFisher().scores(second, budget(2, 3, 4))
    assert all({b: more[name][b] for b in (2, 3)} == few[name] for name in few)
    assert second.store.seconds_read["output_fisher"] > 0 and second.store.seconds_computed["output_fisher"] > 0
    third = search_over(vit_adapter(), tmp_path)
    assert OutputFisher().scores(third, budget(4, 2)) == {n: {4: row[4], 2: row[2]} for n, row in more.items()}
    assert not third.store.seconds_computed and third.task.dataset.reads["sample"] == 0
    # All together are the same as one after another.
    assert OutputFisher().scores(search_over(vit_adapter(), tmp_path / "other"), budget(2, 3, 4)) == more


def test_a_spoilt_entry_is_computed_again(tmp_path):
    expected = OutputFisher().scores(search_over(vit_adapter(), tmp_path), budget(2, 3))
    victim = sorted((tmp_path / "output_fisher").rglob("*.safetensors"))[0]
    victim.write_bytes(b"nothing")
    assert OutputFisher().scores(search_over(vit_adapter(), tmp_path), budget(2, 3)) == expected


def test_input_bits_belong_to_the_score(tmp_path):
    search = search_over(vit_adapter(), tmp_path)
    plain = OutputFisher().scores(search, budget(2, 3))
    wide = Budget(Fraction(3), Fraction(8), (2, 3), "fixed", (3, 8), "target")
    more = OutputFisher().scores(search, wide)
    assert all(more[name][2] < plain[name][2] for name in plain)


def test_labels_are_the_data_sets_or_the_models(tmp_path):
    search = search_over(vit_adapter(), tmp_path)
    assert torch.equal(labels_of(search, "dataset"), search.task.sample_labels)
    drawn = labels_of(search, "sampled")
    assert not torch.equal(drawn, search.task.sample_labels)
    given, sampled = (OutputFisher(kind).scores(search, budget(3)) for kind in ("dataset", "sampled"))
    expected = output_scores(search.adapter, modules_of(search, 3), search.task.sample_images, drawn)
    assert [row[3] for row in sampled.values()] == expected[:, 0].tolist()
    assert all(given[name] != sampled[name] for name in given)


def test_more_bits_score_no_higher():
    assert falling({4: 2.0, 2: 5.0, 3: 6.0, 5: 1.0}) == {2: 5.0, 3: 5.0, 4: 2.0, 5: 1.0}
    spoilt = falling({2: 5.0, 3: float("nan"), 4: 1.0})
    assert spoilt[3] != spoilt[3], "not a number is not hidden"
