"""Installs P.Haul; python3-pycriu comes from the distribution, it is not on PyPI."""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'VERSION = "([^"]+)"', (HERE / "phaul/__init__.py").read_text()).group(1)

setup(
    name="phaul",
    version=VERSION,
    description="Move a running container or process to another host, and leave it running",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=["phaul"],
    package_data={"phaul": ["hold.sh", "poise.sh", "criu_inside.pl", "messages.proto", "py.typed", "*.pyi"]},
    scripts=["p.haul", "p.haul-service"],
    data_files=[
        ("lib/systemd/system", ["phaul/p.haul-service.service"]),
        ("share/man/man1", ["phaul/docs/p.haul.1"]),
        ("share/man/man8", ["phaul/docs/p.haul-service.8"]),
        (
            "share/bash-completion/completions",
            ["phaul/docs/completions/p.haul", "phaul/docs/completions/p.haul-service"],
        ),
    ],
    python_requires=">=3.11",
    install_requires=[
        "cryptography>=42",
        "docker>=7.1",  # older ones do not go with requests 2.32
        "protobuf>=4.21",
        "psutil>=5.9",
        "requests>=2.28",
        "rich>=13",
        "xxhash>=3",
    ],
    extras_require={"compress": ["zstandard>=0.20"]},
)
