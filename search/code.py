"""The program as part of what its results are known by: other code, other keys."""

import hashlib
from functools import cache
from pathlib import Path


@cache
def code_digest(packages: tuple[str, ...]) -> str:
    """SHA-256 of the code and tables of some packages, given as paths from the root."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for package in packages:
        for file in sorted((root / package).rglob("*")):
            if file.suffix in (".py", ".csv"):
                digest.update(f"{file.relative_to(root).as_posix()}\n".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()
