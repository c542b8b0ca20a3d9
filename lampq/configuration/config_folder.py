"""Where the configuration and the experiments lie: inside an installed package, beside it in a checkout."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).resolve().parent.parent


def config_folder() -> Path:
    """Where the YAML files are: inside an installed package, beside it in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"


def experiments_module(name: str) -> ModuleType:
    """A module of the experiments, which `lampq` itself does not depend on."""
    if (PACKAGE / "experiments").is_dir():
        return importlib.import_module(f"lampq.experiments.{name}")
    checkout = str(config_folder().parent)
    if checkout not in sys.path:
        sys.path.insert(0, checkout)
    return importlib.import_module(f"experiments.{name}")
