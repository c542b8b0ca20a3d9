"""What the record says of the kernels that a number was computed with."""

import torch

from lampq.runs.kernels import kernels


def test_the_kernels_name_what_pytorch_uses(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MKL_CBWR", raising=False)
    found = kernels("cpu")
    assert found["capability"] == torch.backends.cpu.get_cpu_capability()
    assert (found["variables"]["ONEDNN_MAX_CPU_ISA"], found["variables"]["OMP_NUM_THREADS"]) == ("AVX2", "1")
    assert "MKL_CBWR" not in found["variables"], "only those that are set"
    assert found["mkl"] is None or found["mkl"] in torch.__config__.show()
    assert (found["onednn"] is not None) == torch.backends.mkldnn.is_available()
