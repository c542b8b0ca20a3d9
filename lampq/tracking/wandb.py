"""Weights & Biases: config, metrics, bit plan and figure of each run, online or for a later ``wandb sync``."""

import contextlib
import csv
import logging
import netrc
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lampq.plan import BitPlan, SitePlan
from lampq.tracking.tracker import Tracker

log = logging.getLogger(__name__)

SECONDS_TO_UPLOAD = 20
"""Longest wait for the upload at the end of a run; what is left lies in the run's folder for ``wandb sync``."""

_unusable_servers: dict[str, str] = {}
"""Servers that this process could not use, and why: the next jobs of a grid do not wait for them again."""


class WandbTracker(Tracker):
    """One W&B run for one run of ours. The first failure is told in one line and ends the tracking, not the run.

    Args:
        run: the W&B run.
        folder: the run's folder.
    """

    def __init__(self, run: Any, folder: Path) -> None:
        self._run = run
        self._folder = folder
        self._failed = False

    def log_stage(self, name: str, values: dict[str, float]) -> None:
        self._attempt(lambda: self._run.log({f"{name}/{key}": value for key, value in values.items()}))

    def finish(self, metrics: dict, plan: BitPlan | None, figure: Path | None) -> None:
        self._attempt(lambda: self._finish(metrics, plan, figure))

    def log_files(self, files: list[Path]) -> None:
        """Log CSV files as tables and PNG files as images, by their names."""
        self._attempt(lambda: self._log_files(files))

    def close(self, failed: bool) -> None:
        if self._run is not None:
            self._attempt(lambda: self._run.finish(exit_code=1 if failed else 0), always=True)
            self._run = None

    def _finish(self, metrics: dict, plan: BitPlan | None, figure: Path | None) -> None:
        import wandb

        self._run.summary.update(metrics)
        labels = [str(metrics[name]) for name in ("model", "base_quantizer", "allocator") if name in metrics]
        if {"weight_bits", "activation_bits"} <= metrics.keys():
            labels.append(f"W{metrics['weight_bits']:g}A{metrics['activation_bits']:g}")
        if labels:
            self._run.name = " ".join(labels)
        media: dict[str, Any] = {} if figure is None else {figure.stem: wandb.Image(str(figure))}
        if plan is not None:
            columns = [field.name for field in fields(SitePlan)]
            media["plan"] = wandb.Table(columns=columns, data=[list(asdict(site).values()) for site in plan.sites])
        if media:
            self._run.log(media)
        if plan is None:
            return
        path = self._folder / "wandb" / "plan.json"
        plan.write(path)
        artifact = wandb.Artifact(f"plan-{self._run.id}", type="bit_plan")
        artifact.add_file(str(path), name="plan.json")
        self._run.log_artifact(artifact)

    def _log_files(self, files: list[Path]) -> None:
        import wandb

        media: dict[str, Any] = {}
        for path in files:
            if path.suffix == ".csv":
                with path.open(newline="") as file:
                    rows = list(csv.reader(file))
                media[path.stem] = wandb.Table(columns=rows[0], data=rows[1:]) if rows else None
            elif path.suffix == ".png":
                media[f"{path.stem} figure"] = wandb.Image(str(path))
        self._run.log({name: value for name, value in media.items() if value is not None})

    def _attempt(self, action: Callable[[], object], always: bool = False) -> None:
        if self._failed and not always:
            return
        try:
            with _environment(self._folder):
                action()
        except Exception as error:
            if not self._failed:
                log.warning(
                    "W&B: %s; the run goes on without it, files are in %s", _line(error), self._folder / "wandb"
                )
            self._failed = True


def open_wandb_tracker(logger: dict[str, Any], *, fingerprint: str, config: dict, folder: Path) -> Tracker:
    """Start a W&B run: online where a key is configured and the server answers, else offline; never raises.

    Args:
        logger: `project`, `entity`, `mode` (``auto`` as WANDB_MODE says, else online; ``online``; ``offline``),
            `group`, `tags`, `job_type`, `timeout` (seconds).
        fingerprint: of the run.
        config: the resolved configuration.
        folder: the run's folder.
    """
    try:
        import wandb
    except ImportError:
        log.warning("W&B is not installed and the run is not logged there: pip install wandb, or choose logger=csv")
        return Tracker()
    try:
        (folder / "wandb").mkdir(parents=True, exist_ok=True)
        with _environment(folder):
            return _open(wandb, logger, fingerprint, config, folder)
    except Exception as error:
        log.warning("W&B: %s; the run goes on without it", _line(error))
        return Tracker()


def log_report(logger: dict[str, Any], experiment: str, files: list[Path], results: Path) -> None:
    """Log an experiment's tables (CSV) and figures (PNG) as a W&B run of their own; never raises.

    Args:
        logger: as for `open_wandb_tracker`.
        experiment: its name, the group of its runs.
        files: what was written.
        results: W&B's files go under ``results/experiments/NAME/wandb``.
    """
    folder = results / "experiments" / experiment
    settings = {**logger, "job_type": "report"}
    tracker = open_wandb_tracker(settings, fingerprint=f"{experiment} report", config={}, folder=folder)
    if isinstance(tracker, WandbTracker):
        tracker.log_files(files)
    tracker.close(failed=False)


def _open(wandb: Any, logger: dict[str, Any], fingerprint: str, config: dict, folder: Path) -> Tracker:
    settings = wandb.setup().settings
    mode = logger.get("mode", "auto")
    if mode == "auto":
        mode = settings.mode if settings.mode in ("offline", "disabled") else "online"
    if mode == "disabled":
        return Tracker()
    if mode == "online":
        server = settings.base_url
        if not _has_credentials(settings):
            reason = "no API key (`wandb login` stores one)"
        elif server in _unusable_servers:
            reason = _unusable_servers[server]
        else:
            before = set((folder / "wandb").glob("run-*"))
            try:
                return WandbTracker(_start(wandb, "online", logger, fingerprint, config, folder), folder)
            except Exception as error:
                reason = _unusable_servers[server] = _line(error)
                for path in set((folder / "wandb").glob("run-*")) - before:
                    shutil.rmtree(path, ignore_errors=True)  # the run that never started
        log.warning("W&B: %s: %s; logging offline, `wandb sync` sends it later", server, reason)
    return WandbTracker(_start(wandb, "offline", logger, fingerprint, config, folder), folder)


def _start(wandb: Any, mode: str, logger: dict[str, Any], fingerprint: str, config: dict, folder: Path) -> Any:
    timeout = logger.get("timeout", 10)
    lean = {
        "init_timeout": timeout,
        "login_timeout": timeout,
        "finish_timeout": SECONDS_TO_UPLOAD,
        "finish_timeout_raises": True,
        "console": "off",
        "silent": True,
        "disable_git": True,
        "x_save_requirements": False,
        "x_disable_stats": True,
        "x_disable_meta": True,
        "x_disable_machine_info": True,
    }
    known = {name: value for name, value in lean.items() if name in wandb.Settings.model_fields}
    return wandb.init(
        mode=mode,
        project=logger.get("project"),
        entity=logger.get("entity"),
        group=logger.get("group"),
        tags=_tags(logger, config),
        job_type=logger.get("job_type") or _job_type(config),
        name=fingerprint,
        config={**config, "fingerprint": fingerprint},
        dir=str(folder),
        reinit="create_new",  # a W&B run each, beside any that the calling process has open
        settings=wandb.Settings(**known),
    )


def _tags(logger: dict[str, Any], config: dict) -> list[str]:
    """The user's words, the scale, and the target bits."""
    own = [config.get("experiment", {}).get("scale")]
    if "weight_bits" in config:
        own.append(f"w{config['weight_bits']:g}a{config['activation_bits']:g}")
    return list(dict.fromkeys([*(logger.get("tags") or ()), *filter(None, own)]))


def _job_type(config: dict) -> str | None:
    """The allocator's name, or sensitivity where that is what a run measures."""
    if config.get("sensitivity"):
        return "sensitivity"
    return config.get("allocator", {}).get("_target_", "").rpartition(".")[2].lower() or None


def _has_credentials(settings: Any) -> bool:
    """Whether W&B can log in without asking: it would ask in a terminal and wait for an answer."""
    if settings.api_key or getattr(settings, "identity_token_file", None):
        return True
    host = urlsplit(settings.base_url).netloc
    for path in [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]:
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(Path(path).expanduser()).authenticators(host):
                return True
    return False


@contextlib.contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Send W&B's files under the run's folder, not into the home folder; what the user has set stays.

    W&B reads these variables late, so they are set around every call.
    """
    own: dict[str, object] = {
        "WANDB_DIR": folder,
        "WANDB_DATA_DIR": folder / "wandb",
        "WANDB_CACHE_DIR": folder / "wandb" / "cache",
    }
    if not Path("~/.config/wandb/settings").expanduser().exists():  # which may name the user's own server
        own["WANDB_CONFIG_DIR"] = folder / "wandb" / "config"
    # W&B's reports on itself would hold the process for 10 s at its end where the server does not answer.
    own["WANDB_ERROR_REPORTING"] = "false"
    own = {name: str(path) for name, path in own.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


def _line(error: Exception) -> str:
    """The first line of an error."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
