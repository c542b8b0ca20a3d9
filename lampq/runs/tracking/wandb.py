"""Weights & Biases: config, metrics, bit plan and figure of each run, online or for a later ``wandb sync``.

All that W&B does for a run has one limit of seconds: its server is asked before W&B is, whatever takes longer is left
behind, and its service process is ended with it. What was logged until then lies in the run's folder.
"""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from lampq.plan.bit_plan import BitPlan, SitePlan
from lampq.runs.tracking.time_limit import TimeLimit
from lampq.runs.tracking.tracker import Tracker
from lampq.runs.tracking.wandb_server import ask, credentials, remember, remembered

log = logging.getLogger(__name__)

WORDS = ("model", "transform", "base_quantizer", "allocator")
"""Labels that name a run."""

ASKING, STARTING = 0.3, 0.4
"""Shares of the time limit that asking the server and starting a run there may take."""

SECONDS_OFFLINE = 5.0
"""What W&B gets in any case to start a run without a server, and to write its files."""
RESERVED = 1.0
"""Seconds that are kept for ending its service process."""

_unusable_servers: dict[str, str] = {}
"""Servers that this process could not use, and why: the next jobs of a grid do not wait for them again."""


class WandbTracker(Tracker):
    """One W&B run for one run of ours. The first failure is told in one line and ends the tracking, not the run.

    Args:
        run: the W&B run.
        folder: the run's folder.
        limit: what W&B may still cost this run.
        service: W&B's service process where this tracker started it, else None.
        server: its address where the run is online, else None.
    """

    def __init__(self, run: Any, folder: Path, limit: TimeLimit, service: Any, server: str | None) -> None:
        self._run = run
        self._folder = folder
        self._limit = limit
        self._service = service
        self._server = server
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
            wait = max(self._limit.left - RESERVED, RESERVED)
            self._attempt(lambda: self._run.finish(exit_code=1 if failed else 0), always=True, at_most=wait)
            self._run = None
            _end_service(self._service, RESERVED if self._failed else SECONDS_OFFLINE)

    def _finish(self, metrics: dict, plan: BitPlan | None, figure: Path | None) -> None:
        import wandb

        self._run.summary.update(metrics)
        labels = [str(metrics[name]) for name in WORDS if name in metrics]
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
        import pandas as pd
        import wandb

        media: dict[str, Any] = {}
        for path in files:
            if path.suffix == ".csv":
                frame = pd.read_csv(path) if path.stat().st_size else pd.DataFrame()
                # Numbers as numbers, so that they can be plotted; what is missing as nothing.
                rows = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
                media[path.stem] = wandb.Table(columns=list(frame), data=rows) if len(frame.columns) else None
            elif path.suffix == ".png":
                media[f"{path.stem} figure"] = wandb.Image(str(path))
        self._run.log({name: value for name, value in media.items() if value is not None})

    def _attempt(self, action: Callable[[], object], always: bool = False, at_most: float | None = None) -> None:
        if self._failed and not always:
            return
        try:
            with _environment(self._folder):
                self._limit.call(action, at_most)
        except Exception as error:
            if not self._failed:
                log.warning("W&B: %s; the run goes on without it, %s", _line(error), _how_to_sync(self._folder))
                if self._server is not None and isinstance(error, TimeoutError):
                    _note_unusable(self._server, self._folder, _line(error))
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
    started = time.monotonic()
    try:
        import wandb
    except ImportError:
        log.warning("W&B is not installed and the run is not logged there: pip install wandb, or choose logger=csv")
        return Tracker()
    except Exception as error:  # of another version than what it needs
        log.warning("W&B cannot be imported (%s) and the run is not logged there", _line(error))
        return Tracker()
    limit = TimeLimit(max(logger.get("timeout", 10) - (time.monotonic() - started), RESERVED))
    ours = "WANDB_SERVICE" not in os.environ  # else the calling process has runs of its own under way
    run = service = None
    try:
        (folder / "wandb").mkdir(parents=True, exist_ok=True)
        with _environment(folder):
            try:
                run = _open(wandb, logger, fingerprint, config, folder, limit)
            finally:
                service = _service_of(wandb) if ours else None
    except Exception as error:
        log.warning("W&B: %s; the run goes on without it", _line(error))
    if run is None:
        _end_service(service, RESERVED)
        return Tracker()
    server = None if getattr(run, "offline", False) else run.settings.base_url
    return WandbTracker(run, folder, limit, service, server)


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


def _open(
    wandb: Any, logger: dict[str, Any], fingerprint: str, config: dict, folder: Path, limit: TimeLimit
) -> Any | None:
    """A W&B run, online or offline, or None where W&B is switched off."""
    settings = limit.call(wandb.setup, max(limit.left, SECONDS_OFFLINE)).settings
    mode = logger.get("mode", "auto")
    if mode == "auto":
        mode = settings.mode if settings.mode in ("offline", "disabled") else "online"
    if mode == "disabled":
        return None

    def start(mode: str, seconds: float) -> Any:
        # W&B has the same limit, and reports better what it waited for.
        return limit.call(
            lambda: _start(wandb, mode, logger, fingerprint, config, folder, seconds), seconds + RESERVED / 2
        )

    if mode == "online":
        server, key = settings.base_url, credentials(settings)
        known = _unusable_servers.get(server) or remembered(_results(folder), server)
        if key is None:
            reason = "no API key (`wandb login` stores one)"
        elif known:
            log.info("W&B: %s: %s, as a job before found; logging offline, %s", server, known, _how_to_sync(folder))
            return start("offline", max(limit.left, SECONDS_OFFLINE))
        else:
            before = set((folder / "wandb").glob("run-*"))
            total = limit.left
            try:
                limit.call(lambda: ask(settings, key, ASKING * total), ASKING * total)
                return start("online", STARTING * total)
            except Exception as error:
                reason = _line(error)
                _note_unusable(server, folder, reason)
                for path in set((folder / "wandb").glob("run-*")) - before:
                    shutil.rmtree(path, ignore_errors=True)  # the run that never started
        log.warning("W&B: %s: %s; logging offline, %s", server, reason, _how_to_sync(folder))
    return start("offline", max(limit.left, SECONDS_OFFLINE))


def _start(
    wandb: Any, mode: str, logger: dict[str, Any], fingerprint: str, config: dict, folder: Path, seconds: float
) -> Any:
    lean = {
        "init_timeout": seconds,
        "login_timeout": seconds,
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


def _service_of(wandb: Any) -> Any:
    """W&B's service process, as a `Popen`; None where this version keeps it elsewhere."""
    try:
        return wandb.setup()._connection._proc._process
    except Exception:
        return None


def _end_service(service: Any, seconds: float) -> None:
    """End W&B's service process, by force where it does not go; it would be waited for when this process ends.

    Args:
        service: the process, or None.
        seconds: what it gets to write its files.
    """
    if service is None:
        return
    import wandb

    try:
        TimeLimit(seconds).call(wandb.teardown)
    except Exception:  # it hangs, or is not there any more
        with contextlib.suppress(Exception):
            service.kill()
            service.wait(seconds)


def _note_unusable(server: str, folder: Path, reason: str) -> None:
    _unusable_servers[server] = reason
    remember(_results(folder), server, reason)


def _results(folder: Path) -> Path:
    """The results folder, of a run's or an experiment's."""
    return folder.parent.parent


def _how_to_sync(folder: Path) -> str:
    return f"`wandb sync {folder / 'wandb'}/*run-*` sends it later"


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
    own["WANDB_SILENT"] = "true"  # it would name the source of the key
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
