"""The way into mmdet: importing it takes seconds, is optional, and needs some things done before and after."""

import functools
import importlib
import importlib.util
import logging
import warnings

from lampq.errors import LampQError
from lampq.models.detection.compiled_operators import install_stand_in

PACKAGES = ("mmengine", "mmcv", "mmdet", "pycocotools")
"""What the extra `detection` installs."""

REMEDY = "install the extra: pip install '.[detection]'"


@functools.cache
def import_mmdet() -> None:
    """Make mmdet's classes known to its registries; to be called before anything else of it is imported.

    Compiled operators of mmcv are used where they are, torchvision's where not.

    Raises:
        LampQError: a package of the extra `detection` is missing, or of a version that does not go with the others.
    """
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise LampQError(f"model: a detector needs the package {package}, which is not installed; {REMEDY}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            install_stand_in()
            from mmdet.utils import register_all_modules

            register_all_modules()
    except Exception as error:  # mmdet asserts versions of mmcv and mmengine; another PyTorch breaks imports anyhow
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LampQError(f"model: mmdet cannot be imported ({reason}); {REMEDY}") from error
    from mmengine.logging import MMLogger

    # What is worth saying about a model is said by lampq; mmengine would list every parameter.
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    # Cascade heads hand the mean of their masks, a tensor, to new_tensor.
    warnings.filterwarnings("ignore", message="To copy construct from a tensor")
