"""Single changes drawn against what was foretold of them."""

import pytest

from lampq.report import changes
from lampq.report.style import panels


@pytest.fixture
def rows():
    def row(name, bits, increase, foretold):
        start = {"unit": "changes", "name": name, "type": "fc1", "block": 0, "bits_before": 3.0, "bits": bits}
        measured = {"loss_increase": increase, "loss_increase_standard_error": 0.01}
        return {**start, **measured, "context": foretold, "fisher": 2 * foretold}

    return [row("a", 4.0, -0.1, -0.2), row("a", 2.0, 0.3, 0.5), row("b", 4.0, 0.0, -0.1)]


def test_each_prediction_has_a_panel_with_more_and_fewer_bits_apart(rows, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(changes, "panels", lambda *a, **k: seen.append(panels(*a, **k)) or seen[-1])
    changes.draw_changes(rows, tmp_path / "sensitivity.png")
    (_, axes) = seen[0]
    assert [each.get_title() for each in axes] == changes.predictions_in(rows) == ["context", "fisher"]
    more, less = axes[1].containers
    assert list(more.lines[0].get_xdata()) == [-0.4, -0.2] and list(less.lines[0].get_ydata()) == [0.3]
    assert (tmp_path / "sensitivity.png").is_file() and (tmp_path / "sensitivity.pdf").is_file()
