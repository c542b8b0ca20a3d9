"""The bank: calibrated sites by (site, weight bits, activation bits), computed once and looked up ever after.

AdaLog and its kin calibrate every site on full-precision inputs, so a site's state depends on that site and its bits
alone. That makes every later plan a look-up: a swap of the iterative update, a point of a grid, another budget,
another process. Of a sequential method these are the independent states; what it makes of a whole plan is in
`lampq.bank.realisation`.
"""

from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Lock

import torch
from torch import Tensor, nn

from lampq.base_quantizers.base import BaseQuantizer
from lampq.calibration.observation import Observer
from lampq.calibration.output_gradients import OutputGradients
from lampq.calibration.rows import built_module, seen_layer
from lampq.errors import LampQError
from lampq.models.adapter import ModelAdapter
from lampq.plan.bit_plan import BitPlan
from lampq.plan.bits import Bits
from lampq.plan.sites import Site
from lampq.progress import progress
from lampq.storage.store import Store


class LayerBank:
    """Quantizer parameters and quantized modules of single sites.

    Args:
        base_quantizer: the method that calibrates a site.
        adapter: the full-precision model.
        observer: inputs of sites on the calibration images; asked only on a miss.
        calibration_identity: what identifies these images (JSON-able), part of every entry's key.
        store: where entries are kept.
    """

    def __init__(
        self,
        base_quantizer: BaseQuantizer,
        adapter: ModelAdapter,
        observer: Observer,
        calibration_identity: object,
        store: Store,
    ) -> None:
        self.base_quantizer = base_quantizer
        self.independent = base_quantizer.independent
        self.adapter = adapter
        self.store = store
        self.identity = {
            "model": adapter.name,
            "weights": adapter.weights_hash(),
            "calibration": calibration_identity,
            "base_quantizer": self.independent.name,
            "revision": self.independent.revision,
            "settings": self.independent.settings(),
        }
        base_quantizer.check_model(adapter)
        labels = self.independent.gradient_labels
        self.gradients = None if labels is None else OutputGradients(observer, labels)
        self._observer = observer
        self._observing = Lock()
        self._modules: dict[tuple, nn.Module] = {}

    def entry(self, site: Site, bits: Bits, concurrency: int = 1) -> dict[str, Tensor]:
        """Quantizer parameters of a site at given bits (calibrated on a miss).

        Args:
            concurrency: how many sites are being calibrated at once (see `Store.fetch`).

        Raises:
            LampQError: the base quantizer is not defined at these bits.
        """
        self.check_bits(site.name, *bits)
        layer = seen_layer(site, self.adapter.module(site.name))

        def calibrate() -> dict[str, Tensor]:
            with self._observing:
                inputs = self._observer.inputs(site)
                gradient = {} if self.gradients is None else {"output_gradient": self.gradients.at_site(site)}
            return self.independent.calibrate(site, layer, inputs, bits, **gradient)

        return self.store.fetch("bank", self._key(site, bits), calibrate, concurrency)

    def module(self, site: Site, bits: Bits) -> nn.Module:
        """The module of a site at given bits; the full-precision one where neither operand is quantized."""
        if not bits.quantized:
            return self.adapter.module(site.name)
        key = (site.name, bits)
        if key not in self._modules:
            state = self.entry(site, bits)
            device = next(self.adapter.network.parameters()).device
            state = {name: tensor.to(device) for name, tensor in state.items()}
            layer = self.adapter.module(site.name)
            module = built_module(self.independent.quantized_module, site, layer, state, bits)
            self._modules[key] = module.eval().requires_grad_(False).to(device)
        return self._modules[key]

    def modules(self, plan: BitPlan) -> dict[str, nn.Module]:
        """The quantized modules of a plan, by the names of their sites."""
        return {s.name: self.module(self.adapter.site(s.name), s.bits) for s in plan.sites if s.bits.quantized}

    def site_module(self, plan: BitPlan, site: Site) -> nn.Module:
        """The module of a site at a plan's bits, whatever the bits of the others."""
        return self.module(site, plan[site.name].bits)

    def calibrate(self, plan: BitPlan) -> None:
        """Make sure that every entry of a plan is there."""
        self.prepare([(self.adapter.site(s.name), s.bits) for s in plan.sites if s.bits.quantized])

    def prepare(self, wanted: list[tuple[Site, Bits]]) -> None:
        """Calibrate what is missing of sites at their bits, with progress.

        A search is many small steps, which several threads inside one step hardly speed up. So sites are calibrated
        side by side instead, each on one thread; that also makes the numbers independent of the number of threads.
        """
        missing = []
        for item in wanted:
            if self.store.holds("bank", self._key(*item)):
                self.entry(*item)  # where its scores are known too, nothing else would read it and count its cost
            else:
                missing.append(item)
        if not missing:
            return
        threads = torch.get_num_threads()
        on_cpu = next(self.adapter.network.parameters()).device.type == "cpu"
        workers = min(threads, len(missing)) if on_cpu else 1
        bar = progress(description=f"calibrating {self.independent.name}", total=len(missing), unit="sites")
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        try:
            for done in as_completed([pool.submit(self.entry, *item, workers) for item in missing]):
                done.result()
                bar.update()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)
            bar.close()

    def quantizer_parameters(self, plan: BitPlan) -> int:
        """Number of scales, zero points and log bases that a plan's entries add to the model."""
        return sum(
            self.independent.stored_parameters(self.entry(self.adapter.site(s.name), s.bits))
            for s in plan.sites
            if s.bits.quantized
        )

    def check_bits(self, where: str, *bits: int | None) -> None:
        """Refuse bits at which the base quantizer is not defined.

        Raises:
            LampQError: names the method and its range.
        """
        method = self.base_quantizer
        for value in bits:
            if value is not None and not method.minimum_bits <= value <= method.maximum_bits:
                raise LampQError(
                    f"{where}: {method.name} is not defined at {value} bits, only at {method.minimum_bits} to "
                    f"{method.maximum_bits}; change bits, bit_set or lampq.beta"
                )

    def _key(self, site: Site, bits: Bits) -> dict:
        return {**self.identity, "site": site.name, "weight_bits": bits.weight, "activation_bits": bits.activation}
