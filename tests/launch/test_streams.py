"""Output to streams that cannot encode everything."""

import io

import pytest

from lampq.launch.streams import degrade


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_cannot_be_encoded_is_spelled_out(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    degrade(stream, None)
    print("75.08 ± 0.4 …, γ^-B Ω, 語", file=stream, flush=True)
    shown = stream.buffer.getvalue().decode(encoding)
    assert shown.rstrip() == f"75.08 {'±' if encoding == 'latin-1' else '+/-'} 0.4 ..., gamma^-B Omega, ?"
