"""Hydra's composition, with every composed configuration checked before Hydra makes anything from it."""

from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, ListConfig, OmegaConf

from lampq.accepted_targets import check_targets
from lampq.errors import LampQError


class CheckedLoader(ConfigLoaderImpl):
    """All that Hydra constructs, here or in the process of a launcher, comes from what has been loaded here."""

    def load_configuration(self, *args: Any, **kwargs: Any) -> DictConfig:
        """Compose.

        Raises:
            LampQError: something is named that is not accepted.
        """
        cfg = super().load_configuration(*args, **kwargs)
        check_targets(cfg)
        return cfg

    def _process_config_searchpath(self, config_name: str | None, parsed_overrides: list, repo: Any) -> None:
        """Folders only: to look for a package is to import it."""
        loaded = repo.load_config(config_path=config_name) if config_name is not None else None
        primary = loaded.config if loaded is not None and isinstance(loaded.config, DictConfig) else OmegaConf.create()
        lists = [OmegaConf.select(primary, "hydra.searchpath")]
        lists += [o.value() for o in parsed_overrides if o.key_or_group == "hydra.searchpath"]
        for path in (path for paths in lists if isinstance(paths, list | ListConfig) for path in paths):
            if "://" in str(path) and not str(path).startswith("file://"):
                raise LampQError(f"hydra.searchpath=[{path}]: must be folders; no package is imported for it")
        super()._process_config_searchpath(config_name, parsed_overrides, repo)


def check_compositions() -> None:
    """Have Hydra compose by `CheckedLoader` from now on."""
    hydra._internal.hydra.ConfigLoaderImpl = CheckedLoader
