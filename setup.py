"""Packages and the twistd plugin; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    # An explicit root makes "pip install -e ." put the project folder on sys.path (a .pth file), where Twisted
    # looks for twisted/plugins; the default editable finder would hide the plugin.
    package_dir={"": "."},
    packages=[*find_packages(include=["twistdist", "twistdist.*"]), "twisted.plugins"],
    include_package_data=False,  # it takes folders with data for packages that were forgotten
    package_data={"twistdist": ["py.typed"], "twistdist.web": ["static/*"]},
)
