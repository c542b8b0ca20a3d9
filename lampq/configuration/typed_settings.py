"""Settings from what one would type on the command line, for those who are not on it."""

from collections.abc import Sequence
from typing import Any

from lampq.configuration.settings import Settings, check
from lampq.errors import LampQError


def typed_settings(overrides: Sequence[str], **given: Any) -> Settings:
    """Checked settings.

    Args:
        overrides: as one types them, for example ``["dataset=imagenet", "bits=4"]``.
        given: parts and `budget` as objects (see `lampq.configuration.settings.check`).

    Raises:
        LampQError: the first mistake, in one line.
    """
    from hydra import compose, initialize_config_dir

    from lampq.configuration.composition_failures import explain_composition
    from lampq.configuration.config_folder import config_folder

    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            cfg = compose("config", overrides=list(overrides))
    except Exception as error:
        raise LampQError(explain_composition(error, list(overrides))) from error
    return check(cfg, **given)
