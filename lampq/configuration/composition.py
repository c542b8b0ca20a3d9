"""Hydra's composition, with every composed configuration checked before Hydra makes anything from it."""

import re
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from lampq.configuration.accepted_targets import check_targets
from lampq.configuration.config_folder import config_folder
from lampq.errors import LampQError


class CheckedLoader(ConfigLoaderImpl):
    """All that Hydra constructs, here or in the process of a launcher, comes from what has been loaded here."""

    def load_configuration(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, **kwargs: Any
    ) -> DictConfig:
        """Compose.

        Of a grid, keys that only some options of a group have (``method=qdrop,aphq_vit base_quantizer.images=512``) may
        be those of its jobs alone.

        Raises:
            LampQError: something is named that is not accepted, a group has no option, or another undoes it.
        """
        try:
            cfg = super().load_configuration(config_name, overrides, run_mode, **kwargs)
        except ConfigCompositionException:
            ours = [o for o in overrides if not _is_in_a_group(o)]
            if run_mode is not RunMode.MULTIRUN or ours == overrides:
                raise
            cfg = super().load_configuration(config_name, ours, run_mode, **kwargs)
            if cfg.hydra.sweeper._target_ != "hydra_plugins.lampq.CellSweeper":  # others compose a job as it is started
                raise
            task = cfg.hydra.overrides.task
            cfg.hydra.overrides.task = [o for o in overrides if o in task or o not in ours]
        check_targets(cfg)
        if not isinstance(cfg.hydra.verbose, bool | str | ListConfig):
            raise LampQError(f"hydra.verbose={cfg.hydra.verbose}: must be true, false, or names of loggers")
        _one_option_each(cfg)
        _no_choice_undone(cfg)
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


def _is_in_a_group(override: str) -> bool:
    """Whether it is a value of what an option of a group is made of: ``base_quantizer.images=512``."""
    group, dot, _ = re.split("[=@]", override.lstrip("~+"))[0].partition(".")
    return bool(dot) and group != "hydra" and (config_folder() / group).is_dir()


def check_compositions() -> None:
    """Have Hydra compose by `CheckedLoader` from now on."""
    hydra._internal.hydra.ConfigLoaderImpl = CheckedLoader


def _one_option_each(cfg: DictConfig) -> None:
    """Hydra takes model=[a,b] for a merger of two options, and ~model for none."""
    choices = cfg.hydra.runtime.choices
    asked = OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False)
    for folder in sorted(config_folder().iterdir()):
        group = folder.name
        if group in choices or not any(folder.glob("*.yaml")):
            continue
        override = next((o for o in asked if re.split("[=@]", o.lstrip("~+"))[0] == group), None)
        if override is None:
            raise LampQError(f"{group} is missing: add {group}=OPTION; --help lists them")
        if override.startswith("~"):
            raise LampQError(f"{override}: groups are not deleted; leave it out, or choose an option by {group}=OPTION")
        raise LampQError(f"{override}: takes one option; for a grid write --multirun {group}=A,B")


def _no_choice_undone(cfg: DictConfig) -> None:
    """An option that was asked for must not be undone in silence by another one."""
    choices = cfg.hydra.runtime.choices
    asked = OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False)
    for override in asked:
        if override.startswith("bit_set=") and choices.get("hardware"):
            raise LampQError(
                f"{override}: hardware={choices.hardware} has a bit set of its own; leave one of them out, or give "
                "bit_set.bits=[A,B]"
            )
        if override.startswith("sensitivity=") and choices.get("sensitivity") and choices.get("experiment"):
            file = config_folder() / "experiment" / f"{choices.experiment}.yaml"
            if not file.is_file() or "/sensitivity:" not in file.read_text():
                raise LampQError(
                    f"{override}: experiment={choices.experiment} quantizes models and measures no components; leave "
                    "one of them out"
                )
