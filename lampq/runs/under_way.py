"""A run while it is computed: what is known is in its folder from the start, and the reason is when it fails."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lampq.configuration.settings import Settings
from lampq.errors import LampQError
from lampq.runs.preparation import Prepared
from lampq.runs.record import RunRecord
from lampq.runs.tracking import Tracker, open_tracker


@contextmanager
def under_way(record: RunRecord, settings: Settings, prepared: Prepared) -> Iterator[Tracker]:
    """Start the record and its logger, and end both, whatever happens."""
    images = prepared.task.listing(settings.base_quantizer.training_images)
    record.start(str(prepared.device), torch.get_num_threads(), images)
    tracker = open_tracker(
        settings.logger, fingerprint=record.fingerprint, config=settings.resolved, folder=record.folder
    )
    failed = True
    try:
        yield tracker
        failed = False
    except BaseException as error:
        record.fail(str(error) if isinstance(error, LampQError) else traceback.format_exc())
        raise
    finally:
        tracker.close(failed=failed)
        record.close()
