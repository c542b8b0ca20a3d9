"""The page of all groups, options and keys, made from the comments of the YAML files: `docs/configuration.md`."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from lampq.configuration.config_folder import config_folder

HEADER = """\
# Configuration

Made from the comments of the files in `conf/` by `python -m experiments configuration > docs/configuration.md`. Change
those files, not this page.

`GROUP=OPTION` chooses a file, `KEY=VALUE` a single value: `python run.py allocator=greedy allocator.evaluate=2 bits=4`.
`${...}` stands for the value of another key, `???` for a value that you have to give. `python run.py --help` shows the
values of a run, and [running.md](running.md) explains the most useful ones by example.
"""


@dataclass(frozen=True)
class Key:
    """A key of a YAML file.

    Attributes:
        name: with the keys above it, by dots.
        value: as it is written.
        comment: what the file says about it.
    """

    name: str
    value: str
    comment: str


def configuration_page() -> str:
    """The page, in Markdown."""
    folder = config_folder()
    whole = list(keys_of(folder / "config.yaml"))
    groups = {key.name.removeprefix("defaults."): key for key in whole if key.name.startswith("defaults.")}
    parts = [HEADER, "## Keys of every run\n", *(_item(key.name, {key.value: []}, key.comment) for key in _own(whole))]
    for group, key in groups.items():
        if (folder / group).is_dir():
            parts.append(_group(folder, group, key.comment, key.value))
    parts.append(_group(folder, "hydra/launcher", "where the jobs of a grid run; joblib: side by side", "basic"))
    return "\n".join(parts) + "\n"


def keys_of(path: Path) -> Iterator[Key]:
    """The keys of a YAML file with a value of their own, in their order, each with its comment.

    A comment stands behind the key, or directly above it; the first line of a file says what the file is. An entry of
    the defaults list is the key ``defaults.GROUP``.
    """
    lines = path.read_text().splitlines()
    yield from _keys(yaml.compose("\n".join(lines)), lines, "")


def title(path: Path) -> str:
    """What a file says of itself: its first line."""
    return next(line for line in path.read_text().splitlines() if "@package" not in line).removeprefix("# ")


def _keys(node: yaml.Node, lines: list[str], prefix: str) -> Iterator[Key]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _keys(value, lines, f"{name}.")
        elif name == "defaults":
            for entry in (e for e in value.value if isinstance(e, yaml.MappingNode)):
                for group, option in entry.value:
                    group_name = re.sub(r"^override /?", "", group.value)
                    yield Key(f"defaults.{group_name}", option.value, _comment(lines, entry.start_mark.line))
        else:
            yield Key(name, _written(value), _comment(lines, key.start_mark.line))


def _written(node: yaml.Node) -> str:
    """A value on one line."""
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(map(_written, node.value))}]"
    if isinstance(node, yaml.MappingNode):
        return f"{{{', '.join(f'{_written(key)}: {_written(value)}' for key, value in node.value)}}}"
    return node.value


def _comment(lines: list[str], number: int) -> str:
    """The comment of the key in a line: behind it, or the lines above it."""
    if " # " in lines[number]:
        return lines[number].split(" # ", 1)[1]
    first = number
    while first > 1 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return " ".join(line.lstrip().removeprefix("# ") for line in lines[first:number])


def _own(keys: list[Key]) -> list[Key]:
    """Those that a user sets: no class, nothing of Hydra's, no defaults list."""
    return [k for k in keys if not k.name.endswith("_target_") and k.name.split(".")[0] not in ("hydra", "defaults")]


def _group(folder: Path, group: str, what: str, default: str) -> str:
    files = sorted((folder / group).glob("*.yaml"))
    said = "none is chosen by default" if default == "null" else f"default: `{default}`"
    lines = [f"\n## {group}\n", f"{what[0].upper()}{what[1:]}; {said}.\n", f"| `{group}=` | |\n|---|---|"]
    presets = any("@package _global_" in path.read_text() for path in files)
    for path in files:
        chosen = f" Sets {_chosen(path)}." if presets and group != "experiment" else ""
        lines.append(f"| `{path.stem}` | {title(path)}{chosen} |")
    keys: dict[tuple[str, str], dict[str, list[str]]] = {}
    for path in [] if presets else files:
        for key in _own(list(keys_of(path))):
            keys.setdefault((key.name, key.comment), {}).setdefault(key.value, []).append(path.stem)
    lines += [""] if keys else []
    for (name, comment), values in keys.items():
        alike = len(values) == 1 and len(next(iter(values.values()))) == len(files)
        prefix = group.replace("/", ".")
        lines.append(_item(f"{prefix}.{name}", {value: [] for value in values} if alike else values, comment))
    return "\n".join(lines)


def _chosen(path: Path) -> str:
    """What a preset chooses, as one would type it."""
    keys = [k for k in keys_of(path) if not k.name.startswith(("experiment.", "hydra."))]
    return " ".join(f"`{key.name.removeprefix('defaults.')}={key.value}`" for key in keys)


def _item(name: str, values: dict[str, list[str]], comment: str) -> str:
    """A key with its values (and the options that have each), and what it means."""
    told = ", ".join(
        f"`{value}`" + (f" ({', '.join(options)})" if options else "") for value, options in values.items()
    )
    text = f"- `{name}` = {told}: {comment}"
    return textwrap.fill(text, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
