"""Where the packages lie: conf/ and experiments/ of the checkout are lampq.conf and lampq.experiments when installed.

Everything else about the project is in pyproject.toml.
"""

from setuptools import find_packages, setup

beside = find_packages(include=["conf", "conf.*", "experiments", "experiments.*"])

setup(
    packages=[*find_packages(include=["lampq", "lampq.*"]), *(f"lampq.{name}" for name in beside)],
    package_dir={f"lampq.{name}": name.replace(".", "/") for name in beside},
)
