"""Settings of a part, declared once."""

import inspect
from typing import Literal

import pytest

from lampq.errors import LampQError
from lampq.limits import fraction
from lampq.parts import Part, fixed, setting


class Kettle(Part):
    group = "kitchen"

    litres: float = setting(above=0)
    cups: int = setting(4, minimum=1, maximum=12)
    lid: bool = True
    kind: Literal["steel", "glass"] = "steel"
    metal: str | None = setting(None, options={"iron": 1, "steel": 2})
    full: float = setting(0.5, check=fraction, of="the kettle", key="water.full")
    colour: str = setting("red", identity="never")
    whistle: int | None = setting(None, minimum=0, identity="changed")

    def unused(self) -> set[str]:
        return {"metal"} if self.kind == "glass" else set()


class SmallKettle(Kettle):
    cups: int = setting(1, minimum=1, maximum=2)
    lid: bool = fixed(False, identity="always")
    handles: int = 2


def test_the_constructor_has_the_declared_settings_with_their_defaults():
    parameters = inspect.signature(Kettle).parameters
    assert [p.default for p in parameters.values()][1:] == [4, True, "steel", None, 0.5, "red", None]
    assert parameters["litres"].default is inspect.Parameter.empty and parameters["cups"].annotation is int
    assert vars(Kettle(1, lid=False)) == {
        **{"litres": 1, "cups": 4, "lid": False, "kind": "steel", "metal": None, "full": 0.5},
        **{"colour": "red", "whistle": None},
    }
    with pytest.raises(TypeError, match="spout"):
        Kettle(1, spout=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"litres": 0}, r"kitchen\.litres=0: must be a number above 0"),
        ({"cups": 13}, r"kitchen\.cups=13: must be an integer between 1 and 12"),
        ({"cups": None}, r"kitchen\.cups=null: must be an integer between 1 and 12"),
        ({"lid": 1}, r"kitchen\.lid=1: must be true or false"),
        ({"kind": "stel"}, r"kitchen\.kind=stel: must be one of steel, glass; did you mean steel\?"),
        ({"metal": "zinc"}, r"kitchen\.metal=zinc: must be one of iron, steel, or null"),
        ({"full": 2}, r"water\.full=2: must be a fraction of the kettle in \(0, 1\], for example 0\.5"),
        ({"colour": ""}, r"kitchen\.colour='': must be a text, not empty"),
        ({"whistle": -1}, r"kitchen\.whistle=-1: must be an integer of at least 0, or null"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(wrong, message):
    with pytest.raises(LampQError, match=f"^{message}$"):
        Kettle(**{"litres": 1, **wrong})


def test_an_identity_covers_the_settings_that_change_the_numbers():
    usual = {"litres": 1, "cups": 4, "lid": True, "kind": "steel", "metal": None, "full": 0.5}
    assert Kettle(1).settings() == Kettle(1, colour="blue").settings() == usual
    assert list(Kettle(1).settings()) == list(usual)
    assert Kettle(1, whistle=0).settings() == {**usual, "whistle": 0}
    assert "metal" not in Kettle(1, kind="glass").settings()


def test_a_subclass_adds_changes_and_fixes_settings():
    small = SmallKettle(1)
    assert "lid" not in inspect.signature(SmallKettle).parameters
    assert list(inspect.signature(SmallKettle).parameters)[-1] == "handles"
    assert (small.cups, small.lid, small.handles, small.settings()["lid"]) == (1, False, 2, False)
    with pytest.raises(LampQError, match=r"cups=4: must be an integer between 1 and 2"):
        SmallKettle(1, cups=4)
