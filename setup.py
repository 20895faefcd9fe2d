"""The list of packages; everything else about the build is in pyproject.toml.

``models/`` and ``assets/`` stand beside ``genkernel/`` in the checkout and are built into it.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["genkernel", "genkernel.*"]), "genkernel.models", "genkernel.assets"],
    package_dir={"genkernel": "genkernel", "genkernel.models": "models", "genkernel.assets": "assets"},
)
