"""Identity by content: equal things have equal hashes, in every process."""

import hashlib
import json


def fingerprint(key: object) -> str:
    """A short hash of anything JSON-able; equal content gives equal hashes in every process."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
