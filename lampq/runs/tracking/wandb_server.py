"""Whether a W&B server answers: asked before W&B is, whose own tries go on for long; told to the jobs that follow."""

import base64
import contextlib
import json
import netrc
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lampq.storage.atomic_write import write_text
from lampq.storage.fingerprint import fingerprint

STARTED = "LAMPQ_STARTED"
"""Environment variable: when the command was typed (seconds since 1970), for all processes of its grid."""

FORGOTTEN_AFTER = 3600
"""Seconds after which a server that did not answer is asked again by the same grid."""


def credentials(settings: Any) -> str | None:
    """The API key that W&B would log in with, "" where it has a token instead; None: it would ask for one and wait."""
    if settings.api_key:
        return settings.api_key
    host = urlsplit(settings.base_url).netloc
    for path in [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]:
        with contextlib.suppress(OSError, RuntimeError, netrc.NetrcParseError):
            if found := netrc.netrc(Path(path).expanduser()).authenticators(host):
                return found[2]
    return "" if getattr(settings, "identity_token_file", None) else None


def ask(settings: Any, key: str, seconds: float) -> None:
    """Ask the server who we are.

    Args:
        settings: W&B's.
        key: see `credentials`.
        seconds: longest wait for each part of an answer.

    Raises:
        OSError: nobody answers, it has failures of its own, or it refuses the key. Anything else is left to W&B.
    """
    headers = {"Content-Type": "application/json", **(getattr(settings, "x_extra_http_headers", None) or {})}
    if key:
        headers["Authorization"] = "Basic " + base64.b64encode(f"api:{key}".encode()).decode()
    body = json.dumps({"query": "query Viewer { viewer { id } }"}).encode()
    request = urllib.request.Request(f"{settings.base_url.rstrip('/')}/graphql", body, headers)
    proxies = urllib.request.getproxies()
    for scheme in ("http", "https"):
        if proxy := getattr(settings, f"{scheme}_proxy", None):
            proxies[scheme] = proxy
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    try:
        with opener.open(request, timeout=seconds) as answer:
            answer.read(1 << 16)
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise OSError(f"it answers HTTP {error.code}") from None
        if key and error.code in (401, 403):
            raise OSError(f"it refuses the API key (HTTP {error.code})") from None
    except urllib.error.URLError as error:
        if "CERTIFICATE" in str(error).upper():  # W&B has certificates of its own
            return
        raise OSError(str(error.reason)) from None


def remember(results: Path, server: str, reason: str) -> None:
    """Tell the other jobs of this grid that a server cannot be used; a folder that cannot be written is no matter."""
    with contextlib.suppress(OSError):
        path = _path(results, server)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"server": server, "reason": reason, "time": time.time()}) + "\n")


def remembered(results: Path, server: str) -> str | None:
    """Why a job of this grid could not use a server, a short while ago; else None."""
    try:
        told = json.loads(_path(results, server).read_text())
        since = max(float(os.environ[STARTED]), time.time() - FORGOTTEN_AFTER)
        return str(told["reason"]) if since <= float(told["time"]) <= time.time() + FORGOTTEN_AFTER else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _path(results: Path, server: str) -> Path:
    return Path(results) / ".locks" / f"wandb-{fingerprint(server)}.json"
