"""Pins and ties: which layers words name, which groups come of it, and what is refused."""

import pytest

from lampq.errors import LampQError
from lampq.plan.bits import Bits
from lampq.plan.groups import Group, check_bound, checked_pins, checked_ties, group_names, pinned, tied
from tests.small_models import swin_adapter, vit_adapter


@pytest.fixture(scope="module")
def layers():
    return [s for s in vit_adapter(2).sites if s.allocated]


def names(groups):
    return [[s.name for s in group] for group in groups]


def test_what_is_one_step_away_is_the_next_bits_of_weights_of_inputs_or_of_both(layers):
    pairs = dict(enumerate([Bits(2, 2), Bits(2, 4), Bits(4, 2), Bits(2, 8), Bits(4, 4), Bits(4, 8)], 1))
    group = Group("fc1", tuple(layers[:1]), dict.fromkeys(pairs, 0), False, pairs)
    assert {group.told(n) for n in group.next_to(1)} == {"W2A4", "W4A2", "W4A4"}
    assert {group.told(n) for n in group.next_to(5)} == {group.told(n) for n in pairs} - {"W4A4"}
    alike = {b: Bits(b, b) for b in (2, 3, 5)}
    group = Group("fc1", tuple(layers[:1]), dict.fromkeys(alike, 0), False, alike)
    assert group.next_to(3) == [2, 5] and group.next_to(2) == [3] and group.told(3) == 3
    inputs = dict(enumerate([Bits(1, 1), Bits(1, 2)], 1))  # numbers that are input bits by chance
    assert Group("fc1", tuple(layers[:1]), dict.fromkeys(inputs, 0), False, inputs).told(2) == "W1A2"
    operands = {b: Bits(None, b) for b in (2, 3)}
    assert Group("qk", tuple(layers[:1]), dict.fromkeys(operands, 0), False, operands).next_to(2) == [3]


def test_words_are_names_with_wildcards_types_and_blocks(layers):
    assert set(pinned(layers, (("blocks.0.*", 8),))) == {s.name for s in layers if s.block == 0}
    assert pinned(layers, (("block 1", 8),)) == pinned(layers, (("blocks.1.*", 8),))
    assert pinned(layers, (("fc2", 4), ("blocks.?.attn.qkv", 5))) == {
        "blocks.0.mlp.fc2": 4,
        "blocks.1.mlp.fc2": 4,
        "blocks.0.attn.qkv": 5,
        "blocks.1.attn.qkv": 5,
    }
    swin = [s for s in swin_adapter().sites if s.allocated]
    assert set(pinned(swin, (("block 2", 8),))) == {s.name for s in swin if s.name.startswith("layers.1.blocks.0.")}


def test_named_ties(layers):
    assert [len(group) for group in tied(layers, "none")] == [1] * 8
    assert names(tied(layers, "modules"))[:2] == [
        ["blocks.0.attn.qkv", "blocks.0.attn.proj"],
        ["blocks.0.mlp.fc1", "blocks.0.mlp.fc2"],
    ]
    assert [{s.block for s in group} for group in tied(layers, "blocks")] == [{0}, {1}]
    assert [[s.type for s in group] for group in tied(layers, "types")] == [
        [t] * 2 for t in ("qkv", "proj", "fc1", "fc2")
    ]


def test_ties_by_words_and_of_several_kinds_are_merged(layers):
    groups = tied(layers, (("blocks.*.attn.qkv", "blocks.0.attn.proj"), ("block 1",)))
    assert names(groups) == [
        ["blocks.0.attn.qkv", "blocks.0.attn.proj", *(s.name for s in layers if s.block == 1)],
        ["blocks.0.mlp.fc1"],
        ["blocks.0.mlp.fc2"],
    ]
    assert names(tied(layers, "modules", "types")) == [
        [s.name for s in layers if s.type in ("qkv", "proj")],
        [s.name for s in layers if s.type in ("fc1", "fc2")],
    ]


LIKE = (("blocks.0.attn.qkv", "blocks.0.mlp.fc1"), ("blocks.0.attn.proj", "blocks.0.mlp.fc2"))
"""Two groups of layers that have the same in common: their block."""


BY_WORDS = (("block 0", "fc2"), ("blocks.1.attn.*",))


@pytest.mark.parametrize("ties", ["none", "modules", "blocks", "types", BY_WORDS, LIKE])
def test_groups_have_names_of_their_own(layers, ties):
    groups = tied(layers, ties)
    called = group_names(groups)
    assert len(set(called)) == len(groups)
    assert (
        called[0]
        == {
            "none": "blocks.0.attn.qkv",
            "modules": "block 0 MSA",
            "blocks": "block 0",
            "types": "qkv",
            BY_WORDS: "blocks.0.attn.qkv and 4 more",
            LIKE: "blocks.0.attn.qkv and 1 more",
        }[ties]
    )


def test_a_pin_that_contradicts_a_tie(layers):
    pins = pinned(layers, (("blocks.0.attn.qkv", 8),))
    check_bound(layers[:1], pins)
    with pytest.raises(
        LampQError, match=r"blocks\.0\.attn\.qkv is pinned to 8 bits, but .* blocks.0.attn.proj, which is not"
    ):
        check_bound(layers[:2], pins)
    with pytest.raises(LampQError, match="which is pinned to 4"):
        check_bound(layers[:2], pins | {"blocks.0.attn.proj": 4})
    check_bound(layers[:2], pins | {"blocks.0.attn.proj": 8})


def test_mistakes_are_one_line(layers):
    for mistake, line in [
        (lambda layers: pinned(layers, (("block.0.*", 8),)), "pins: block.0.* names none of the 8 layers; give a name"),
        (lambda layers: pinned(layers, (("block 2", 8),)), "pins: block 2 names none of the 8 layers"),
        (lambda layers: pinned(layers, (("head", 8),)), "pins: head names none"),
        (lambda layers: pinned(layers, (("fc2", 8), ("block 0", 4))), "pins.block 0=4: another pin keeps blocks.0.mlp"),
        (lambda layers: tied(layers, (("fc3",),)), "ties: fc3 names none of the 8 layers"),
        (
            lambda layers: checked_ties("module"),
            "ties=module: must be one of none, modules, blocks, types; did you mean",
        ),
        (
            lambda layers: checked_ties(["fc1", "fc2"]),
            "ties=[fc1,fc2]: must be one of none, modules, blocks, types, or a",
        ),
        (lambda layers: checked_ties([]), "ties=[]: must be one of"),
        (lambda layers: checked_ties([["fc1", 3]]), "ties=[[fc1,3]]: must be one of"),
        (
            lambda layers: checked_pins([8]),
            "pins=[8]: must be layers and their bits, for example {blocks.0.*:8}, or null",
        ),
        (lambda layers: checked_pins({"fc2": 17}), "pins.fc2=17: must be an integer between 1 and 16"),
        (lambda layers: checked_pins({"fc2": "4"}), "pins.fc2='4': must be an integer"),
        (lambda layers: checked_pins({" ": 4}), "pins=' ': must be a text"),
    ]:
        with pytest.raises(LampQError) as caught:
            mistake(layers)
            pytest.fail(f"accepted: {mistake}, {line}")
        assert str(caught.value).startswith(line) and "\n" not in str(caught.value), (mistake, line)


def test_what_the_configuration_gives():
    assert checked_ties("modules") == "modules" and checked_ties([["fc1", "fc2"]]) == (("fc1", "fc2"),)
    assert checked_pins(None) == () and checked_pins({"fc2": 4, "block 0": 8}) == (("fc2", 4), ("block 0", 8))
