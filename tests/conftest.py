"""What every test runs under: one thread, no network, and no writing into the user's cache or W&B account."""

import os
import tempfile

# Before PyTorch is imported: two threads a process make small tensors slower, and pytest-xdist has its own processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ.pop("LAMPQ_TRACEBACK", None)

_folder = tempfile.TemporaryDirectory(prefix="lampq-tests-")
os.environ["LAMPQ_CACHE"] = os.path.join(_folder.name, "cache")
for _name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
    os.environ[_name] = os.path.join(_folder.name, "wandb")
os.makedirs(os.environ["WANDB_DIR"])
