"""Read an offline W&B run back: blocks of a LevelDB log, each record a protobuf message."""

import json
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

BLOCK = 32768
FULL, LAST = 1, 4


def runs_in(folder: Path) -> list[Path]:
    """The logs of the offline runs under a run's folder."""
    return sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))


def read_run(path: Path) -> dict:
    """What a run sent: `run`, `config`, `history`, `summary`, `artifacts`, `exit`.

    The last bytes reach the file a moment after the run is finished, so this waits for the exit record.
    """
    deadline = time.monotonic() + 5
    while True:
        content = _content(path)
        if content["exit"] is not None or time.monotonic() > deadline:
            return content
        time.sleep(0.05)


def _content(path: Path) -> dict:
    out = {"run": None, "config": {}, "history": [], "summary": {}, "artifacts": {}, "exit": None}
    for record in _records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            out["run"] = {
                "id": run.run_id,
                "project": run.project,
                "entity": run.entity,
                "group": run.run_group,
                "job_type": run.job_type,
                "name": run.display_name,
                "tags": list(run.tags),
            }
            out["config"].update(_values(run.config.update))
        elif kind == "config":
            out["config"].update(_values(record.config.update))
        elif kind == "history":
            out["history"].append(_values(record.history.item))
        elif kind == "summary":
            out["summary"].update(_values(record.summary.update))
        elif kind == "artifact":
            files = {entry.path: Path(entry.local_path) for entry in record.artifact.manifest.contents}
            out["artifacts"][record.artifact.type] = files
        elif kind == "exit":
            out["exit"] = record.exit.exit_code
    return out


def _records(path: Path) -> Iterator:
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    if len(data) < 7:
        return
    assert data[:4] == b":W&B", data[:4]
    offset, message = 7, b""
    while offset < len(data):
        left = BLOCK - offset % BLOCK
        if left < 7:
            offset += left
            continue
        if offset + 7 > len(data):
            return
        checksum, length, kind = struct.unpack("<IHB", data[offset : offset + 7])
        part = data[offset + 7 : offset + 7 + length]
        if len(part) < length:
            return
        offset += 7 + length
        assert checksum == zlib.crc32(bytes([kind]) + part)
        message += part
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            message = b""
            yield record


def _values(items) -> dict:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
