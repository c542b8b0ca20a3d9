"""Which kernels a number was computed with: the same fingerprint differs in last bits from one processor to another."""

import os
import re
from pathlib import Path

INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve", "sve2")
"""Flags of a processor by which PyTorch, oneDNN and MKL choose their kernels."""

VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_NUM_THREADS",
    "MKL_DYNAMIC",
    "OMP_NUM_THREADS",
    "OMP_DYNAMIC",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""Environment variables that choose kernels or threads."""


def kernels(device: str) -> dict:
    """What chooses the kernels that compute on a device; JSON-able.

    Returns:
        ``vendor`` and ``instructions`` of the processor (of `INSTRUCTIONS`, those that it has), ``capability`` (the
        instructions that PyTorch's own loops use), ``mkl`` and ``onednn`` (versions, None where not built in),
        ``variables`` (of `VARIABLES`, those that are set), and for a GPU its ``gpu``, ``cuda`` and ``cudnn``.
    """
    import torch  # late: records are read without it

    vendor, flags = _processor()
    built = torch.__config__.show()
    found = {
        "vendor": vendor,
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "capability": torch.backends.cpu.get_cpu_capability(),
        "mkl": _version(r"Math Kernel Library Version (\S+)", built),
        "onednn": _version(r"MKL-DNN v(\S+)", built),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(device)
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def _version(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found and found[1]


def _processor() -> tuple[str | None, set[str]]:
    """Vendor and flags of the first processor, as Linux names them; None and no flags elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None, set()
    values = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    return values.get("vendor_id") or values.get("CPU implementer"), set(
        (values.get("flags") or values.get("Features") or "").split()
    )
