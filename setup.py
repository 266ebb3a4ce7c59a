"""Which packages there are: petlbench/, and four folders at the top of the repository, where people work, installed below it.

They are found, so that a new folder needs no line here. What lies in a package's folder belongs to it, whatever its suffix.
"""

from setuptools import find_namespace_packages, setup

FOLDERS = {
    "petlbench": "petlbench",
    "petlbench.methods": "methods",
    "petlbench.datasets": "datasets",
    "petlbench.configs": "configs",
    "petlbench.published.data": "results/published",
}
inner = {f"{name}.{found}" for name, folder in FOLDERS.items() for found in find_namespace_packages(folder, exclude=["*__pycache__*"])}
setup(packages=sorted(inner.union(FOLDERS)), package_dir=FOLDERS, package_data={"": ["*"]})
