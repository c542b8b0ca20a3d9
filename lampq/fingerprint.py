"""Identity by content: equal things have equal hashes, in every process."""

import hashlib
import json

import torch
from torch import Tensor


def fingerprint(key: object) -> str:
    """A short hash of anything JSON-able; equal content gives equal hashes in every process."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def tensors_hash(tensors: dict[str, Tensor]) -> str:
    """A hash over names, types, shapes and values of tensors on the CPU."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
