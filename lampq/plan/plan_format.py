"""What a plan file holds: its keys, their types and limits, declared once, so that every reader can rely on them.

A plan may be written by hand or by another tool. What is said of its origin is free, but for what is read again.
"""

import sys
from collections.abc import Callable
from typing import Any

from lampq.errors import LampQError
from lampq.limits import boolean, choice, did_you_mean, integer, number, optional, shown, text
from lampq.plan.groups import checked_ties
from lampq.plan.sites import ALLOCATE, LAYER_TYPES

MOST_SPENT = 10**18
"""Bytes or bit operations that a budget may name."""

Check = Callable[[str, Any], Any]

MOST_BITS = 16
MOST_WEIGHTS = 1 << 50
"""More than any layer has; a site with more is a mistake."""


def check_plan(data: Any) -> None:
    """Check all of a plan file's content.

    Raises:
        LampQError: names the first key that is missing, unknown or of another type, in one line.
    """
    _keys("the plan", data, {"budget": _budget, "origin": _mapping, "sites": _sites}, all_of_them=True)
    layers = [site["name"] for site in data["sites"] if site["allocated"]]
    _origin(data["origin"], layers)


def _sites(key: str, value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise LampQError(f"{key}={_short(value)}: must be a list of sites, at least one")
    names = set()
    for place, site in enumerate(value):
        here = f"sites[{place}]"
        if isinstance(site, dict) and isinstance(site.get("name"), str):
            here = site["name"]
        _keys(here, site, SITE, all_of_them=True)
        if site["name"] in names:
            raise LampQError(f"{here}: is there twice")
        names.add(site["name"])
        allocated = site["type"] in LAYER_TYPES
        if site["allocated"] is not allocated:
            raise LampQError(f"{here}.allocated: must be {shown(allocated)} for type {site['type']}")
        if allocated:
            integer(f"{here}.block", site["block"], 0)
            integer(f"{here}.parameters", site["parameters"], 1)


def _budget(key: str, value: Any) -> None:
    _keys(key, value, BUDGET)
    if value.get("pins") and len({word for word, _ in value["pins"]}) < len(value["pins"]):
        raise LampQError(f"{key}.pins: names the same layers twice")


def _origin(origin: dict, layers: list[str]) -> None:
    for name, check in ORIGIN.items():
        if name in origin:
            check(f"origin.{name}", origin[name])
    for name in ("scores", "screen", "initial_bits", "fisher_traces"):
        missing = [layer for layer in layers if name in origin and layer not in origin[name]]
        if missing:
            raise LampQError(f"origin.{name}: is without {missing[0]}")


def _keys(key: str, value: Any, checks: dict[str, Check], all_of_them: bool = False) -> None:
    """Check a mapping of known keys."""
    _mapping(key, value)
    for name in value:
        if name not in checks:
            raise LampQError(f"{key}.{_short(name)}: there is no such key{did_you_mean(name, checks)}")
    for name, check in checks.items():
        if name in value:
            check(f"{key}.{name}" if key != "the plan" else name, value[name])
        elif all_of_them and name not in MAY_BE_MISSING:
            raise LampQError(f"{key}: {name} is missing")


def _mapping(key: str, value: Any) -> dict:
    if not isinstance(value, dict):
        raise LampQError(f"{key}={_short(value)}: must be a mapping of names to values")
    return value


def _bits(key: str, value: Any) -> int:
    return integer(key, value, 1, MOST_BITS)


def _target(key: str, value: Any) -> float:
    return number(key, value, at_least=1, at_most=MOST_BITS)


def _finite(key: str, value: Any) -> float:
    """A score, of whatever size."""
    return number(key, value, at_least=-sys.float_info.max, at_most=sys.float_info.max)


def _or_null(check: Check, *bounds: Any) -> Check:
    return lambda key, value: optional(check, key, value, *bounds)


def _one_of(*options: str) -> Check:
    return lambda key, value: choice(key, value, options)


def _list_of(check: Check, length: int | None = None, least: int = 1) -> Check:
    def checked(key: str, value: Any) -> None:
        if not isinstance(value, list) or len(value) < least or length not in (None, len(value)):
            count = f"{length} values" if length else f"at least {least}" if least else "values"
            raise LampQError(f"{key}={_short(value)}: must be a list of {count}")
        for place, each in enumerate(value):
            check(f"{key}[{place}]", each)

    return checked


def _mapping_to(check: Check) -> Check:
    def checked(key: str, value: Any) -> None:
        for name, each in _mapping(key, value).items():
            check(f"{key}.{name}", each)

    return checked


def _by_bits(key: str, value: Any) -> None:
    if not _mapping(key, value):
        raise LampQError(f"{key}: must have a score at some bits")
    for bits, score in value.items():
        if not (bits.isascii() and bits.isdigit() and len(bits) <= 2 and 1 <= int(bits) <= MOST_BITS):
            raise LampQError(f"{key}.{_short(bits)}: must be a number of bits from 1 to {MOST_BITS}")
        _finite(f"{key}.{bits}", score)


def _distinct_bits(key: str, value: Any) -> None:
    _list_of(_bits)(key, value)
    if len(set(value)) < len(value):
        raise LampQError(f"{key}={_short(value)}: names a bit-width twice")


def _pin(key: str, value: Any) -> None:
    if not isinstance(value, list) or len(value) != 2:
        raise LampQError(f"{key}={_short(value)}: must be layers and their bits, as [fc2,8]")
    text(key, value[0])
    _bits(key, value[1])


def _settings(key: str, value: Any) -> None:
    _mapping(key, value)
    if "gamma" in value:
        number(f"{key}.gamma", value["gamma"], above=0)
    if "max_evaluations" in value:
        optional(integer, f"{key}.max_evaluations", value["max_evaluations"], 0)


def _swap(key: str, value: Any) -> None:
    _mapping(key, value)
    text(f"{key}.up", value.get("up"))
    if "down" not in value or value["down"] is not None:  # null where a bit was only added
        text(f"{key}.down", value.get("down"))
    boolean(f"{key}.accepted", value.get("accepted"))
    for name in ("accuracy", "loss"):
        if name not in value:
            raise LampQError(f"{key}: {name} is missing")
    for name in ("accuracy", "loss", "accuracy_before", "loss_before"):
        optional(_finite, f"{key}.{name}", value.get(name))


def _short(value: Any) -> str:
    told = shown(value) if not isinstance(value, dict) else "a mapping"
    return told if len(told) <= 60 else f"{told[:59]}…"


SITE: dict[str, Check] = {
    "name": text,
    "type": text,
    "block": _or_null(integer, 0),
    "parameters": lambda key, value: integer(key, value, 0, MOST_WEIGHTS),
    "weight_bits": _or_null(_bits),
    "activation_bits": _or_null(_bits),
    "allocated": boolean,
    "score": _or_null(_finite),
}
MAY_BE_MISSING = ("score",)
BUDGET: dict[str, Check] = {
    "weight_bits": _target,
    "activation_bits": _target,
    "candidates": _distinct_bits,
    "activation_rule": _one_of("fixed", "follow", "independent"),
    "fixed_site_bits": _list_of(_bits, 2),
    "operand_bits": _one_of("target", "follow_qkv"),
    "unit": _one_of("average_bits", "packed_bytes", "bops"),
    "limit": _or_null(integer, 1, MOST_SPENT),
    "ties": lambda _, value: checked_ties(value),
    "pins": _list_of(_pin, least=0),
    "input_candidates": _list_of(_bits, least=0),
    "image_bits": _or_null(_bits),
    "allocate": _one_of(*ALLOCATE),
}
ORIGIN: dict[str, Check] = {
    "allocator": text,
    "settings": _settings,
    "scores": _mapping_to(_by_bits),
    "screen": _mapping_to(_by_bits),
    "omega": _mapping_to(_by_bits),
    "fisher_traces": _mapping_to(_finite),
    "hessian_traces": _mapping_to(_finite),
    "importance": _mapping_to(_finite),
    "initial_bits": _mapping_to(_or_null(_bits)),
    "swaps": _list_of(_swap, least=0),
    "judged": text,
    "scored_with": text,
    "search_steps": _or_null(integer, 0),
}
