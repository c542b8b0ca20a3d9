"""Rows of methods: what they put together."""

import pytest

from lampq.base_quantizers.glf_q import LOSSES
from lampq.configuration.typed_settings import typed_settings


@pytest.mark.parametrize(
    ("method", "transform", "mlp_reconstruction"),
    [
        ("glf_q", "hadamard", True),
        ("glf_q_without_mlp", "hadamard", False),
        ("glf_q_without_rotation", "none", True),
        ("glf_q_loss_alone", "none", False),
    ],
)
def test_glf_q_has_three_parts_of_which_two_can_be_left_out(method, transform, mlp_reconstruction):
    settings = typed_settings([f"method={method}"])
    assert settings.transform.name == transform and settings.base_quantizer.loss == "global_local"
    assert settings.base_quantizer.mlp_reconstruction == mlp_reconstruction


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "global_local"])
def test_other_losses_come_in_its_whole_frame(loss):
    settings = typed_settings([f"method=glf_q_{loss}"])
    assert (settings.transform.name, settings.base_quantizer.loss) == ("hadamard", loss)
    assert settings.base_quantizer.mlp_reconstruction


def test_published_settings_are_the_default():
    """Shortened training has longer steps: all of them reach as far."""
    published, gpu, cpu = (
        typed_settings(["method=glf_q", f"effort={effort}"]).base_quantizer for effort in ("published", "gpu", "cpu")
    )
    by_default = typed_settings(["method=glf_q"]).base_quantizer
    assert by_default.settings() == published.settings() == type(published)().settings()
    for shortened in (gpu, cpu):
        for rate in ("weight_rate", "scale_rate"):
            reach, published_reach = (getattr(m, rate) * m.iterations for m in (shortened, published))
            assert reach == pytest.approx(published_reach)
