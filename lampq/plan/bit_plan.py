"""The bit plan: which site gets how many bits. The only hand-over between search, quantization, evaluation, plots."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

from lampq.errors import LampQError
from lampq.plan.bits import Bits
from lampq.plan.plan_format import check_plan
from lampq.plan.sites import ALLOCATE, Site
from lampq.storage.atomic_write import write_text


@dataclass(frozen=True)
class SitePlan:
    """Bits of one quantized site.

    Attributes:
        name, type, block, parameters: as in `lampq.plan.sites.Site`.
        weight_bits: bits of the weights; None is full precision (and for matmuls, which have no weights).
        activation_bits: bits of the inputs (of both operands of a matmul); None is full precision.
        allocated: whether an allocator chose the bits (one of the 4N layers).
        score: the sensitivity behind the choice, Omega_i where the allocator has one, else None.
    """

    name: str
    type: str
    block: int | None
    parameters: int
    weight_bits: int | None
    activation_bits: int | None
    allocated: bool
    score: float | None = None

    @property
    def bits(self) -> Bits:
        return Bits(self.weight_bits, self.activation_bits)


@dataclass(frozen=True)
class BitPlan:
    """Bits of every site of a model, in the order of execution, with the budget and where the plan came from.

    Attributes:
        sites: one entry a site.
        budget: what was asked for (bits), JSON-able.
        origin: the allocator, its choices and the history behind the plan, JSON-able.
    """

    sites: tuple[SitePlan, ...]
    budget: dict = field(default_factory=dict)
    origin: dict = field(default_factory=dict)

    @classmethod
    def full_precision(cls, sites: tuple[Site, ...]) -> "BitPlan":
        """Every site in full precision: the starting point for quantizing single layers."""
        return cls(
            tuple(SitePlan(s.name, s.type, s.block, s.parameters, None, None, s.allocated) for s in sites),
            origin={"allocator": "full_precision"},
        )

    def __getitem__(self, name: str) -> SitePlan:
        for site in self.sites:
            if site.name == name:
                return site
        raise KeyError(name)

    def with_bits(self, bits: dict[str, Bits]) -> "BitPlan":
        """A copy in which the named sites get the given bits."""
        unknown = set(bits) - {site.name for site in self.sites}
        if unknown:
            raise KeyError(f"no such site: {', '.join(sorted(unknown))}")
        return replace(
            self,
            sites=tuple(
                replace(s, weight_bits=bits[s.name][0], activation_bits=bits[s.name][1]) if s.name in bits else s
                for s in self.sites
            ),
        )

    def with_scores(self, scores: dict[str, float]) -> "BitPlan":
        """A copy with the score of each named site filled in."""
        return replace(self, sites=tuple(replace(s, score=scores.get(s.name, s.score)) for s in self.sites))

    @property
    def chosen(self) -> tuple[SitePlan, ...]:
        """The sites whose bits were chosen: the 4N layers, and what else the budget names."""
        return tuple(s for s in self.sites if s.type in ALLOCATE[self.budget.get("allocate", "layers")])

    def layer_bits(self) -> dict[str, int | None]:
        """Weight bits of the allocated layers, by name."""
        return {s.name: s.weight_bits for s in self.sites if s.allocated}

    def key(self) -> str:
        """A hash of the bits alone: equal plans have equal keys, whatever led to them."""
        text = json.dumps([[s.name, s.weight_bits, s.activation_bits] for s in self.sites])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> dict:
        return {"budget": self.budget, "origin": self.origin, "sites": [asdict(s) for s in self.sites]}

    @classmethod
    def from_json(cls, data: dict) -> "BitPlan":
        """The plan of `to_json`.

        Raises:
            LampQError: something is missing, unknown, or of another type.
        """
        check_plan(data)
        return cls(tuple(SitePlan(**site) for site in data["sites"]), dict(data["budget"]), dict(data["origin"]))

    def write(self, path: str | Path) -> None:
        """Write the plan as JSON, atomically.

        Raises:
            LampQError: `read` would refuse it.
        """
        content = self.to_json()
        check_plan(content)
        write_text(Path(path), json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> "BitPlan":
        """Read a plan file.

        Raises:
            LampQError: no such file, or not a plan.
        """
        path = Path(path)
        try:
            if path.exists() and not path.is_file():
                raise LampQError(f"plan file {path}: is no file; give the path of a plan.json of a run")
            content = path.read_bytes()
        except OSError as error:
            raise LampQError(f"plan file {path}: {error.strerror}; give the path of a plan.json of a run") from error
        try:
            return cls.from_json(json.loads(content))
        except RecursionError as error:
            raise LampQError(f"plan file {path} is not a bit plan (nested too deeply); give one of a run") from error
        except (ValueError, LampQError) as error:
            raise LampQError(f"plan file {path} is not a bit plan ({error}); give a plan.json of a run") from error

    def check_fits(self, sites: tuple[Site, ...]) -> None:
        """Refuse a plan that was made for another model.

        Raises:
            LampQError: a site is missing, unknown, or of another size.
        """
        for mine, theirs in zip_longest(self.sites, sites):
            both = [site and (site.name, site.type, site.parameters) for site in (mine, theirs)]
            if both[0] != both[1]:
                plan, model = (f"{s[0]} ({s[1]}, {s[2]} weights)" if s else "nothing" for s in both)
                raise LampQError(
                    f"the plan does not fit the model: it has {plan} where the model has {model}; choose the plan's "
                    "own model"
                )
