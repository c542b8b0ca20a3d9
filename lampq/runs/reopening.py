"""A run of an earlier day, opened again by its folder: its settings, its model and its images."""

import json
import os
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra import compose, initialize_config_dir

from lampq.configuration.config_folder import config_folder
from lampq.configuration.settings import Settings, check_values, resolved
from lampq.errors import LampQError
from lampq.limits import shown
from lampq.runs.preparation import Prepared, prepare


def reopen(folder: Path, device: str | None = None) -> tuple[Settings, Prepared]:
    """Settings of a run, as its config.yaml has them (environment variables filled in), and what it works with.

    A key that the run's version did not have is what it is today where nothing is said, and so is the cache where the
    run's is not there.

    Args:
        device: in place of the run's own.

    Raises:
        LampQError: no such file, a configuration that is refused today, or other weights or images than the run's.
    """
    path = folder / "config.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise LampQError(
            f"{path}: cannot be read ({type(error).__name__}); give the folder of a finished run"
        ) from error
    if not isinstance(values, dict):
        raise LampQError(f"{path}: is no configuration; give the folder of a finished run")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        today = resolved(compose("config"))
    place = {} if device is None else {"device": device}
    whole = _completed(_filled_in(values), today)
    if not Path(str(whole["paths"]["cache"])).expanduser().is_dir():  # a cache of another machine
        whole["paths"]["cache"] = today["paths"]["cache"]
    settings = check_values({**whole, **place})
    prepared = prepare(settings, torch.device(settings.device))
    _check_unchanged(folder, settings, prepared)
    return settings, prepared


def _check_unchanged(folder: Path, settings: Settings, prepared: Prepared) -> None:
    """Refuse weights and images that are not those which a run's identity names: numbers of a run are of these."""
    path = folder / "identity.json"
    if not path.is_file():
        return
    known = json.loads(path.read_text(encoding="utf-8"))
    checkpoint = settings.resolved["model"].get("checkpoint")
    changed = {f"model.checkpoint={shown(checkpoint)}": known["weights"] != prepared.adapter.weights_hash()}
    calibration = known["images"].get("calibration")
    root = settings.resolved["dataset"].get("calibration_root") or settings.resolved["dataset"].get("root")
    changed[f"dataset.root={shown(root)}"] = calibration not in (None, prepared.task.identity["calibration"])
    for what, has_changed in changed.items():
        if has_changed:
            raise LampQError(
                f"{what}: is not what the run {folder} was computed with; put that back, or run the run's command again"
            )


def _completed(values: dict[str, Any], today: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the keys that it lacks; a part, which has a class, is left as it is."""
    whole = {**today, **values}
    for key, value in values.items():
        both = (value, today.get(key))
        if all(isinstance(each, dict) and "_target_" not in each for each in both):
            whole[key] = {**today[key], **value}
    return whole


def _filled_in(value: Any) -> Any:
    """Strings with the environment variables that published runs have in place of folders."""
    if isinstance(value, dict):
        return {key: _filled_in(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled_in(each) for each in value]
    return os.path.expandvars(value) if isinstance(value, str) else value
