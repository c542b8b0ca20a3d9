"""A part's settings, declared once: constructor, checks and identity follow from them.

A part is what YAML names by `_target_`: a model, a data set, a base quantizer, an allocator. Its settings are its
annotated class attributes, in the order of the YAML file::

    class Greedy(Allocator):
        name = "greedy"

        screen: Literal["output_fisher", "reconstruction"] = "output_fisher"
        evaluate: int = setting(3, minimum=1)
        max_evaluations: int | None = setting(None, minimum=0, key="max_evaluations", identity="changed")

From these lines come the constructor ``Greedy(screen="output_fisher", evaluate=3, max_evaluations=None)``, whose
arguments inspection and type checkers see; the check of each value, which names ``allocator.evaluate`` in its one line;
and `Part.settings`, which the fingerprint of a run covers.

- The annotation chooses the check (`lampq.limits`): ``int``, ``float``, ``bool``, ``str``, ``Literal[...]``; with
  ``| None`` null is allowed too. What it cannot say is given to `setting`: limits, ``options=`` of a ``str``, or
  another ``check=``.
- A setting without a default has to be given. A subclass has its parents' settings first; it changes one by declaring
  it again, and does not offer one that it declares `fixed`. What is handed on to another part is declared the `same`.
- What concerns several settings is checked in ``__post_init__``, after ``super().__post_init__()``; it may also prepare
  further attributes there.
- Settings that change nothing as the others are: `Part.unused`.
- Annotate what is no setting with ``ClassVar``, or not at all (not at all where a subclass makes a setting of it, whose
  place would be its parent's).
"""

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, Literal, Union, dataclass_transform, get_args, get_origin

from lampq.errors import LampQError
from lampq.limits import boolean, choice, did_you_mean, integer, number, optional, shown, text

CHECKS = {bool: boolean, int: integer, float: number, str: text}
"""What a value of a plain type has to pass."""


def setting(
    default: Any = MISSING,
    *,
    check: Callable[..., Any] | None = None,
    key: str | None = None,
    identity: Literal["always", "changed", "never"] = "always",
    **limits: Any,
) -> Any:
    """Declare a setting of a part.

    Args:
        default: value where none is given; without one it has to be given.
        check: called with key, value and limits; it gives the value back or raises `LampQError`. None: by annotation.
        key: what a message calls it, where it is another's value (``lampq.mu``); None is ``group.name``.
        identity: when `Part.settings` has it: ``always``; ``changed``, if it is not the default (so that a setting
            added later leaves older identities as they are); or ``never``, if it changes no numbers.
        limits: of its check, as ``minimum=1``.
    """
    return field(default=default, metadata={"check": check, "key": key, "identity": identity, "limits": limits})


def fixed(value: Any, identity: Literal["always", "never"] = "never") -> Any:
    """Declare that a subclass does not offer a setting of its parent, which has this value."""
    return field(default=value, init=False, metadata={"identity": identity})


def same(part: type["Part"], name: str, **default: Any) -> Any:
    """Declare a setting as another part does, with its default or another one (``default=``)."""
    (declared,) = (declared for declared in fields(part) if declared.name == name)
    return field(**{"default": declared.default, **default}, metadata=declared.metadata)


@dataclass_transform(eq_default=False, field_specifiers=(setting, fixed, same))
class Part:
    """A class whose settings are declared once.

    Attributes:
        group: of the configuration, as messages name it.

    Raises:
        LampQError: a value is refused.
    """

    group: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A constructor that is written out stays, in subclasses too.
        written = any(
            c.__init__.__code__.co_filename != "<string>"
            for c in cls.__mro__
            if "__init__" in vars(c) and c is not object
        )
        dataclass(eq=False, init=not written)(cls)

    def __post_init__(self) -> None:
        for declared in fields(self):
            if declared.init:
                setattr(self, declared.name, self._checked(declared))

    def settings(self) -> dict[str, Any]:
        """Settings that change the numbers (JSON-able): what identities cover."""
        unused = self.unused()
        values = {declared.name: (getattr(self, declared.name), declared) for declared in fields(self)}
        return {name: value for name, (value, of) in values.items() if name not in unused and _counts(value, of)}

    def unused(self) -> set[str]:
        """Names of settings that change nothing, as the others are; `settings` leaves them out."""
        return set()

    def _checked(self, declared: Field) -> Any:
        value, limits = getattr(self, declared.name), dict(declared.metadata.get("limits", {}))
        key = declared.metadata.get("key") or f"{self.group}.{declared.name}"
        kinds = get_args(declared.type) if get_origin(declared.type) in (Union, types.UnionType) else (declared.type,)
        check = declared.metadata.get("check")
        if check is None:
            kind = next(kind for kind in kinds if kind is not type(None))
            if get_origin(kind) is Literal:
                limits["options"] = get_args(kind)
            check = choice if "options" in limits else CHECKS[kind]
        return optional(check, key, value, **limits) if type(None) in kinds else check(key, value, **limits)


def _counts(value: Any, declared: Field) -> bool:
    when = declared.metadata.get("identity", "always")
    return when == "always" or (when == "changed" and value != declared.default)


def build(part: Callable[..., Any], key: str, values: Mapping[str, Any], remedies: Mapping[str, str] = {}) -> Any:
    """A part with the given values.

    Args:
        part: its class.
        key: what messages call it.
        values: by name.
        remedies: what to give where a value is missing, by full key.

    Raises:
        LampQError: an unknown or a lacking name, or a value that the constructor refuses.
    """
    parameters = inspect.signature(part).parameters
    others = [name for name, parameter in parameters.items() if parameter.kind is parameter.VAR_KEYWORD]
    for name in values:
        if name not in parameters and not others:
            near = did_you_mean(name, parameters) or f"; its keys: {', '.join(parameters) or 'none'}"
            raise LampQError(f"{key}.{name}={shown(values[name])}: {part.__name__} has no such key{near}")
    for name, parameter in parameters.items():
        if name not in values and name not in others and parameter.default is parameter.empty:
            raise LampQError(f"{key}.{name} is missing: add {key}.{name}={remedies.get(f'{key}.{name}', 'VALUE')}")
    return part(**values)
