"""What binds the bits of the 4N layers beside the budget: pins (a layer keeps given bits) and ties (layers share bits).

Both name layers by words: a layer's name with the wildcards * ? (``blocks.0.*``), a type (``fc2``), or ``block 3``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from lampq.errors import LampQError
from lampq.limits import choice, integer, shown, text
from lampq.plan.bits import Bits
from lampq.plan.sites import MODULES, Site

Ties = str | tuple[tuple[str, ...], ...]
"""One of `TIES`, or groups of words that name layers; the layers that a group's words name share their bits."""

Pins = tuple[tuple[str, int], ...]
"""Bits by words that name layers."""

TIES = ("none", "modules", "blocks", "types")
"""Named ties: none; the two layers of an MSA and of an MLP; the layers of a block; the layers of a type."""


@dataclass(frozen=True)
class Group:
    """Layers that share their bits; where nothing is tied, one layer.

    Attributes:
        name: the layer's, or what the layers have in common.
        layers: in the order of execution; or one other site that bits are chosen for.
        spending: what each bit-width that it may have spends above its smallest, ascending in bits. Where weight bits
            and input bits are chosen in pairs, the number of a pair, in the order of what they spend, takes the place
            of the bit-width.
        pinned: whether its bits are given; then `spending` has one entry.
        pairs: the weight bits and input bits that each of these stands for.
    """

    name: str
    layers: tuple[Site, ...]
    spending: dict[int, int]
    pinned: bool
    pairs: dict[int, Bits] = field(default_factory=dict)

    @property
    def bits(self) -> tuple[int, ...]:
        """The bit-widths that it may have, ascending."""
        return tuple(self.spending)

    def next_more(self, bits: int) -> int | None:
        """The next larger bit-width, or None."""
        return min((b for b in self.spending if b > bits), default=None)

    def next_less(self, bits: int) -> int | None:
        """The next smaller bit-width, or None."""
        return max((b for b in self.spending if b < bits), default=None)

    def next_to(self, bits: int) -> list[int]:
        """What is one step away: the next bit-widths, smaller and larger; of pairs of weight bits and input bits all in
        which each is the next one or stays."""
        places = [{b: n for n, b in enumerate(sorted(set(each), key=lambda b: b or 0))} for each in self._both]

        def steps(pair: Bits) -> int:
            both = zip(places, pair, self.pairs[bits], strict=True)
            return max(abs(place[new] - place[old]) for place, new, old in both)

        return [number for number, pair in self.pairs.items() if steps(pair) == 1]

    def told(self, bits: int) -> int | str:
        """A bit-width as it is; of a number that stands for a pair, the pair: ``W3A4``."""
        own = all(b == (pair.activation if pair.weight is None else pair.weight) for b, pair in self.pairs.items())
        return bits if own else self.pairs[bits].text

    @property
    def _both(self) -> list[list[int | None]]:
        """All weight bits, all input bits."""
        return [list(each) for each in zip(*self.pairs.values(), strict=True)]


def checked_ties(value: Any) -> Ties:
    """Ties as the configuration has them, for `tied`.

    Raises:
        LampQError: neither one of `TIES` nor a list of lists of words.
    """
    if isinstance(value, str):
        return choice("ties", value, TIES)
    good = isinstance(value, list) and value and all(isinstance(group, list) and group for group in value)
    if not good or not all(isinstance(word, str) and word.strip() for group in value for word in group):
        raise LampQError(
            f"ties={shown(value)}: must be one of {', '.join(TIES)}, or a list of lists of layers, "
            "for example [[blocks.0.*,blocks.1.*]]"
        )
    return tuple(tuple(group) for group in value)


def checked_pins(value: Any) -> Pins:
    """Pins as the configuration has them, for `pinned`.

    Raises:
        LampQError: no mapping of words to bits.
    """
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise LampQError(f"pins={shown(value)}: must be layers and their bits, for example {{blocks.0.*:8}}, or null")
    return tuple((text("pins", str(word)), integer(f"pins.{word}", bits, 1, 16)) for word, bits in value.items())


def pinned(layers: Sequence[Site], pins: Pins) -> dict[str, int]:
    """Bits of the pinned layers, by name.

    Raises:
        LampQError: words that name no layer, or two pins that disagree.
    """
    bits: dict[str, int] = {}
    for word, value in pins:
        for site in _named("pins", word, layers):
            if bits.setdefault(site.name, value) != value:
                raise LampQError(
                    f"pins.{word}={value}: another pin keeps {site.name} at {bits[site.name]} bits; leave one out"
                )
    return bits


def tied(layers: Sequence[Site], *ties: Ties) -> list[list[Site]]:
    """The layers in groups that share their bits, ordered by their first layers; a layer bound to none is alone.

    Args:
        layers: in the order of execution.
        ties: layers that any of these ties, directly or through others, are in one group.

    Raises:
        LampQError: words that name no layer.
    """
    group = {site.name: [site] for site in layers}
    for bound in ties:
        for members in _groups(layers, bound):
            merged = {id(group[site.name]): group[site.name] for site in members}
            together = [site for part in merged.values() for site in part]
            group.update((site.name, together) for site in together)
    order = {site.name: index for index, site in enumerate(layers)}
    distinct = {id(members): sorted(members, key=lambda s: order[s.name]) for members in group.values()}
    return sorted(distinct.values(), key=lambda members: order[members[0].name])


def check_bound(group: Sequence[Site], pins: dict[str, int]) -> None:
    """Refuse tied layers of which a pin keeps some at other bits than the rest.

    Args:
        group: layers that share their bits.
        pins: bits of the pinned layers, by name.

    Raises:
        LampQError: names two layers that disagree.
    """
    first = next((site for site in group if site.name in pins), None)
    for site in group if first is not None else ():
        if pins.get(site.name) != pins[first.name]:
            other = f"pinned to {pins[site.name]}" if site.name in pins else "not pinned"
            raise LampQError(
                f"pins: {first.name} is pinned to {pins[first.name]} bits, but shares its bits with {site.name}, which "
                f"is {other}; pin both alike, or choose other ties"
            )


def group_names(groups: Sequence[Sequence[Site]]) -> list[str]:
    """How groups are called, each by a name of its own: its layer, ``block 0 MSA``, ``block 0``, its type, or its first
    layer and how many more."""
    called = [_group_name(group) for group in groups]
    return [name if called.count(name) == 1 else _by_first(group) for name, group in zip(called, groups, strict=True)]


def _group_name(group: Sequence[Site]) -> str:
    """What the layers of a group have in common."""
    blocks, types = {site.block for site in group}, {site.type for site in group}
    if len(group) == 1:
        return group[0].name
    if len(blocks) == 1:
        module = next((name for name, of in MODULES.items() if types <= set(of)), None)
        return f"block {group[0].block}" + (f" {module}" if module else "")
    return group[0].type if len(types) == 1 else _by_first(group)


def _by_first(group: Sequence[Site]) -> str:
    return f"{group[0].name} and {len(group) - 1} more"


def _groups(layers: Sequence[Site], ties: Ties) -> Iterable[list[Site]]:
    if not isinstance(ties, str):
        return [[s for word in words for s in _named("ties", word, layers)] for words in ties]
    module_of = {type: name for name, types in MODULES.items() for type in types}
    keys = {
        "none": lambda site: site.name,
        "modules": lambda site: (site.block, module_of[site.type]),
        "blocks": lambda site: site.block,
        "types": lambda site: site.type,
    }
    groups: dict[Any, list[Site]] = {}
    for site in layers:
        groups.setdefault(keys[ties](site), []).append(site)
    return groups.values()


def names(word: str, site: Site) -> bool:
    """Whether a word of ties or pins names a layer."""
    return fnmatchcase(site.name, word) or word in (site.type, f"block {site.block}")


def _named(key: str, word: str, layers: Sequence[Site]) -> list[Site]:
    found = [site for site in layers if names(word, site)]
    if not found:
        kind = "layers" if all(s.allocated for s in layers) else "sites"
        raise LampQError(
            f"{key}: {word} names none of the {len(layers)} {kind}; give a name with * (as {layers[0].name}), a type "
            f"(as {layers[0].type}), or 'block {layers[0].block}'"
        )
    return found
