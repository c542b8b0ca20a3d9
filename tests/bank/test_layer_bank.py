"""The bank: calibrated once, on the images only when something is missing, under a key that knows what matters."""

import pytest
import torch

from lampq.bank.layer_bank import LayerBank
from lampq.base_quantizers.rtn import RoundToNearest
from lampq.calibration.observation import Observer
from lampq.errors import LampQError
from lampq.plan.bits import Bits
from lampq.plan.budget import Budget
from lampq.storage.store import Store
from tests.small_models import images, swin_adapter, vit_adapter


class Counting(RoundToNearest):
    """Round to nearest that notes which sites it calibrates; with a setting and a revision to change."""

    def __init__(self, revision=1, **settings):
        self.calibrated, self.revision, self._settings = [], revision, settings

    def settings(self):
        return self._settings

    def calibrate(self, site, layer, inputs, bits):
        self.calibrated.append((site.name, *bits))
        return super().calibrate(site, layer, inputs, bits)


class Setup:
    def __init__(self, root, adapter=None, identity="images 1", **method):
        self.adapter = adapter or vit_adapter(2)
        self.method, self.asked = Counting(**method), 0
        self.store = Store(root)
        self.bank = LayerBank(
            self.method, self.adapter, Observer(self.adapter, self.images), {"list": identity}, self.store
        )

    def images(self):
        self.asked += 1
        return images(self.adapter, 4)


def everything(setup, bits=3):
    return {site.name: setup.bank.entry(site, Bits(bits, bits)) for site in setup.adapter.sites}


@pytest.mark.parametrize("build", [lambda: vit_adapter(2), swin_adapter])
def test_entries_are_shared_and_a_hit_runs_no_image(tmp_path, build):
    first = Setup(tmp_path, build())
    entries = everything(first)
    assert first.asked == 1 and len(first.method.calibrated) == len(first.adapter.sites)
    everything(first)
    assert len(first.method.calibrated) == len(first.adapter.sites)

    second = Setup(tmp_path, build())
    assert everything(second).keys() == entries.keys()
    for name, entry in everything(second).items():
        assert all(torch.equal(entry[key], entries[name][key]) for key in entries[name])
    assert second.asked == 0 and not second.method.calibrated


def test_an_entry_is_calibrated_alone(tmp_path):
    setup = Setup(tmp_path)
    site = setup.adapter.site("blocks.1.mlp.fc2")
    alone = setup.bank.entry(site, Bits(3, 4))
    assert setup.method.calibrated == [(site.name, 3, 4)]
    with_others = everything(Setup(tmp_path / "other"))
    assert torch.equal(alone["weight_scale"], with_others[site.name]["weight_scale"])
    setup.bank.entry(site, Bits(3, 5))
    assert setup.method.calibrated[1:] == [(site.name, 3, 5)]


def test_an_entry_holds_quantizer_parameters_and_no_weights(tmp_path):
    setup = Setup(tmp_path)
    for site in setup.adapter.sites:
        count = sum(tensor.numel() for tensor in setup.bank.entry(site, Bits(3, 3)).values())
        rows = 0 if site.is_matmul else setup.adapter.module(site.name).weight.shape[0]
        assert count <= 2 * rows + 4


@pytest.mark.parametrize(
    "change",
    [
        {"adapter": lambda: vit_adapter(2, seed=1)},
        {"identity": "images 2"},
        {"revision": 2},
        {"rounds": 3},
    ],
    ids=["weights", "calibration images", "revision", "settings"],
)
def test_whatever_changes_the_numbers_changes_the_key(tmp_path, change):
    everything(Setup(tmp_path, rounds=2))
    change = {key: value() if key == "adapter" else value for key, value in change.items()}
    other = Setup(tmp_path, **{"rounds": 2, **change})
    everything(other)
    assert len(other.method.calibrated) == len(other.adapter.sites)
    same = Setup(tmp_path, rounds=2)
    everything(same)
    assert not same.method.calibrated


def test_bits_out_of_range_are_one_line(tmp_path):
    setup = Setup(tmp_path)
    setup.method.minimum_bits, setup.method.maximum_bits = 2, 8
    site = setup.adapter.sites[1]
    for bits in (Bits(1, 4), Bits(4, 9), Bits(None, 1)):
        with pytest.raises(LampQError, match=r"is not defined at [19] bits, only at 2 to 8") as caught:
            setup.bank.entry(site, bits)
        assert "\n" not in str(caught.value) and site.name in str(caught.value)
        with pytest.raises(LampQError):
            setup.bank.module(site, bits)
    assert setup.asked == 0
    setup.bank.check_bits("bit_set", 2, 8, None)


def test_modules_are_built_once_and_full_precision_is_the_original(tmp_path):
    setup = Setup(tmp_path)
    site = setup.adapter.site("blocks.0.mlp.fc1")
    assert setup.bank.module(site, Bits(None, None)) is setup.adapter.module(site.name)
    assert setup.asked == 0
    module = setup.bank.module(site, Bits(3, 3))
    assert setup.bank.module(site, Bits(3, 3)) is module is not setup.bank.module(site, Bits(3, 4))
    assert not module.training and not any(p.requires_grad for p in module.parameters())


def test_a_plan_is_calibrated_as_a_whole_and_only_where_something_is_missing(tmp_path):
    setup = Setup(tmp_path)
    layer_bits = {site.name: 3 for site in setup.adapter.sites if site.allocated}
    plan = Budget(3, 3, (2, 3, 4), "fixed", (3, 3), "target").plan(setup.adapter.sites, layer_bits)
    setup.bank.calibrate(plan)
    assert sorted(name for name, *_ in setup.method.calibrated) == sorted(site.name for site in setup.adapter.sites)
    swapped = plan.with_bits({"blocks.0.mlp.fc1": (4, 4), "blocks.1.mlp.fc1": (None, None)})
    again = Setup(tmp_path)
    again.bank.calibrate(swapped)
    assert again.method.calibrated == [("blocks.0.mlp.fc1", 4, 4)]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("build", [lambda: vit_adapter(2), swin_adapter])
def test_sites_calibrated_side_by_side_get_the_same_entries(tmp_path, two_threads, build):
    together = Setup(tmp_path / "together", build())
    wanted = [(site, Bits(3, 3)) for site in together.adapter.sites]
    together.bank.prepare(wanted)
    assert torch.get_num_threads() == 2 and together.asked == 1
    assert sorted(together.method.calibrated) == sorted((site.name, 3, 3) for site in together.adapter.sites)
    together.bank.prepare(wanted)
    assert len(together.method.calibrated) == len(wanted)
    torch.set_num_threads(1)
    alone = everything(Setup(tmp_path / "alone", build()))
    for name, entry in everything(together).items():
        assert entry.keys() == alone[name].keys()
        assert all(torch.equal(entry[key], alone[name][key]) for key in entry)


def test_a_failure_beside_other_sites_is_raised_and_threads_are_given_back(tmp_path, two_threads):
    setup = Setup(tmp_path)
    calibrate = setup.method.calibrate

    def fails(site, *arguments):
        if site.name == "blocks.0.mlp.fc2":
            raise LampQError("the layer holds not-a-number")
        return calibrate(site, *arguments)

    setup.method.calibrate = fails
    with pytest.raises(LampQError, match="not-a-number"):
        setup.bank.prepare([(site, Bits(3, 3)) for site in setup.adapter.sites])
    assert torch.get_num_threads() == 2
    done = list(setup.method.calibrated)
    again = Setup(tmp_path)
    again.bank.prepare([(site, Bits(3, 3)) for site in again.adapter.sites])
    assert not set(done) & set(again.method.calibrated), "what was done before the failure is kept"


def test_stored_numbers_of_a_plan_by_hand(tmp_path):
    """Scale and zero point: of every row of weights, of every input, of both operands of a matmul."""
    setup = Setup(tmp_path)
    layer_bits = {site.name: 3 for site in setup.adapter.sites if site.allocated}
    plan = Budget(3, 3, (2, 3, 4), "fixed", (3, 3), "target").plan(setup.adapter.sites, layer_bits)
    block = 2 * (72 + 24 + 96 + 24) + 2 * 4 + 2 * 4  # rows, four inputs, two times two operands
    assert setup.bank.quantizer_parameters(plan) == 2 * block + 2 * 24 + 2 * 10 + 2
    rest = plan.with_bits({"head": (None, None)})
    assert setup.bank.quantizer_parameters(rest) == 2 * block + 2 * 24
