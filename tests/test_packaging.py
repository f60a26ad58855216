"""What is built and installed is `bfpsim` alone, and no other package of any name disturbs it.

Everything happens in copies of the checkout, without a network and without pip's build isolation.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
FOLDERS = ("arch", "mapping", "quant", "reports", "search", "sim", "workloads")
DATA = {
    "arch": ("specs/*.yaml", "devices/*.yaml", "cacti.csv"),
    "reports": ("store/page.*",),
    "workloads": ("data/*",),
}
BUILD = """
import sys
from setuptools import build_meta
getattr(build_meta, f"build_{sys.argv[1]}")(sys.argv[2])
"""


def call(*command: object, cwd: Path, **environment: str) -> str:
    """What a command prints, which must end well; Python's own variables are not handed on."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=own | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, target: Path) -> Path:
    """The wheel or sdist that the declared build backend makes of a source tree."""
    call(sys.executable, "-c", BUILD, kind, target, cwd=source)
    (made,) = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


def members(wheel: Path) -> dict[str, bytes]:
    """Contents by path, without the dist-info's record of them."""
    with zipfile.ZipFile(wheel) as archive:
        return {n: archive.read(n) for n in archive.namelist() if not n.endswith("/RECORD")}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the checkout, links kept, without what building left there before."""
    copy = tmp_path_factory.mktemp("checkout") / "bfpsim"
    copy.mkdir()
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (*FOLDERS, "bfpsim", "tests"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    return build("wheel", checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A fresh virtual environment with the wheel in it, and nothing else."""
    root = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", root, cwd=root)
    assert not [*packages(root).iterdir()]
    pip(root, "install", wheel)
    return root


def python(environment: Path) -> Path:
    return environment / ("Scripts" if os.name == "nt" else "bin") / "python"


def packages(environment: Path) -> Path:
    """Its site-packages."""
    paths = {"base": str(environment), "platbase": str(environment)}
    return Path(sysconfig.get_path("purelib", "venv", paths))


def pip(environment: Path, verb: str, what: object) -> None:
    options = ("--no-deps", "--no-index", "--no-compile") if verb == "install" else ("--yes",)
    quiet = ("--quiet", "--disable-pip-version-check", "--python", python(environment))
    call(sys.executable, "-m", "pip", *quiet, verb, *options, what, cwd=environment)


def digest(folder: Path) -> dict[str, str]:
    """Of each file under a folder, by its path; not of what Python compiled."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.parent.name != "__pycache__")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_wheel_holds_bfpsim_and_nothing_else(wheel, checkout) -> None:
    sources = {path.relative_to(checkout) for path in (checkout / "bfpsim").rglob("*.py")}
    sources |= {Path("bfpsim/py.typed")}
    for folder in FOLDERS:
        files = [*(checkout / folder).rglob("*.py")]
        for pattern in DATA.get(folder, ()):
            assert [*(checkout / folder).glob(pattern)], f"{folder}/{pattern}"
            files += (checkout / folder).glob(pattern)
        sources |= {"bfpsim" / path.relative_to(checkout) for path in files}
    held = members(wheel)
    own = {name for name in held if not name.startswith("bfpsim-0.1.0.dist-info/")}
    assert own == {path.as_posix() for path in sources}
    assert {PurePosixPath(name).parts[0] for name in held} == {"bfpsim", "bfpsim-0.1.0.dist-info"}
    for name in own:
        assert held[name] == (checkout / name).read_bytes(), name


def test_an_sdist_holds_real_files_and_the_same_wheel(wheel, checkout, tmp_path) -> None:
    sdist = build("sdist", checkout, tmp_path)
    with tarfile.open(sdist) as archive:
        assert all(member.isfile() or member.isdir() for member in archive)
        assert not [name for name in archive.getnames() if "/tests" in name]
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("bfpsim-*/")
    again = build("wheel", unpacked, tmp_path)
    assert members(again) == members(wheel)


def test_site_packages_gains_bfpsim_alone(environment) -> None:
    gained = {path.name for path in packages(environment).iterdir()}
    assert gained == {"bfpsim", "bfpsim-0.1.0.dist-info"}


def test_a_package_of_a_folder_s_name_comes_and_goes(environment, tmp_path) -> None:
    """As the real `arch` does, which has an `arch/__init__.py` and an `arch/spec.py`, too."""
    (tmp_path / "arch").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "arch"\nversion = "8"\n')
    for name in ("__init__", "spec"):
        (tmp_path / "arch" / f"{name}.py").write_text("raise ImportError('not ours')\n")
    other = build("wheel", tmp_path, tmp_path)
    before = digest(packages(environment))
    pip(environment, "install", other)
    during = digest(packages(environment))
    assert {"arch/__init__.py", "arch/spec.py"} < set(during)
    assert {name: during[name] for name in before} == before
    show = "import bfpsim as bs; print(bs.load_arch('ideal-64k').name)"
    assert dependent(environment, tmp_path, "-c", show) == "ideal-64k\n"
    pip(environment, "uninstall", "arch")
    assert digest(packages(environment)) == before


# --- names of one's own -------------------------------------------------------------------------

TINY = (
    "Layer name,IFMAP Height,IFMAP Width,Filter Height,Filter Width,Channels,Num Filter,Strides,\n"
    "fc,1,1,1,1,784,10,1,\n"
)
SWEEP = "arch: ideal-16k\nnetworks: [tiny.csv]\nformats: [bfp8]\naxes:\n  sram.capacity: [1 KiB]\n"
NET = """
from torch import nn
def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
"""
RUN = """
import sys
from bfpsim.commands.app import run
if __name__ == "__main__":
    for line in sys.argv[1:]:
        code = run(line.split())
        assert code == 0, (line, code)
    import bfpsim
    print(bfpsim.__file__)
"""
COMMANDS = (
    "simulate tiny.csv",
    "validate tiny.csv",
    "map tiny.csv",
    "sweep sweep.yaml --workers 1",
    "workload list",
    "workload show tiny.csv",
    "arch list",
    "rtl edge-64k",
)
# These load matplotlib, pyomo and torch, and compile kernels.
LONG_COMMANDS = (
    "sweep sweep.yaml --workers 1",
    "report sweep.sqlite --out report",
    "search tiny.csv --workers 1",
    "reproduce energy tiny.csv --out energy",
    "quantize net.py:make -f bfp8 --count 2",
    "mantissa net.py:make --count 2",
)


def dependent(environment: Path, cwd: Path, *arguments: object) -> str:
    """Run the environment's Python, which has what bfpsim depends on from this one."""
    path = os.pathsep.join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    return call(python(environment), *arguments, cwd=cwd, PYTHONPATH=path)


@pytest.fixture
def users(tmp_path) -> Path:
    """A user's folder, whose modules are called as the folders here are."""
    for name in FOLDERS:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is the user\\'s')\n")
    for name, text in (("tiny.csv", TINY), ("sweep.yaml", SWEEP), ("net.py", NET), ("run.py", RUN)):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_folder_with_the_same_names_runs_the_commands(environment, users) -> None:
    helped = dependent(environment, users, "-m", "bfpsim", "--help")
    listed = re.findall(r"^│ (\w+)", helped, re.MULTILINE)
    assert {line.split()[0] for line in (*COMMANDS, *LONG_COMMANDS)} == {*listed}
    printed = dependent(environment, users, "run.py", *COMMANDS)
    home = Path(printed.splitlines()[-1])
    assert home == packages(environment) / "bfpsim" / "__init__.py"


@pytest.mark.long
def test_a_folder_with_the_same_names_runs_the_slow_commands(environment, users) -> None:
    dependent(environment, users, "run.py", *LONG_COMMANDS)


# --- mistakes -----------------------------------------------------------------------------------


def test_a_checkout_without_links_says_so(checkout, tmp_path) -> None:
    """Git writes a link as a text file where links are off, as they usually are in Windows."""
    shutil.copytree(checkout / "bfpsim", tmp_path / "bfpsim", symlinks=True)
    for name in FOLDERS:
        (tmp_path / "bfpsim" / name).unlink()
        (tmp_path / "bfpsim" / name).write_text(f"../{name}")
    done = subprocess.run(
        [sys.executable, "-m", "bfpsim", "--help"], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        f"ImportError: {tmp_path / 'bfpsim' / 'arch'} is no folder"
    )
    assert "git config core.symlinks true" in done.stderr


def test_lint_forbids_the_bare_names() -> None:
    text = "".join(
        f"import {name}\nfrom {name}.of import it\nimport bfpsim.{name}\n" for name in FOLDERS
    )
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--stdin-filename", str(ROOT / "sim" / "made.py"),
         "--select", "TID251", "--output-format", "json", "-"],
        input=text, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    banned = [(row["location"]["row"], row["message"]) for row in json.loads(done.stdout)]
    assert banned == [
        (3 * at + line, f"`{name}` is banned: import bfpsim.{name}")
        for at, name in enumerate(FOLDERS)
        for line in (1, 2)
    ]


def test_the_lowest_versions_are_those_that_the_project_permits() -> None:
    """`make lowest` runs what requirements-lowest.txt pins; the pinned ones are permitted too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(text) for text in project["dependencies"]]
    text = (ROOT / "requirements-lowest.txt").read_text()
    lowest = dict(line.split("==") for line in text.splitlines() if not line.startswith("#"))
    least = {
        own.name: next(one.version for one in own.specifier if one.operator == ">=")
        for own in asked
    }
    assert lowest == least
    pins = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = {name.lower(): version for name, _, version in (pin.partition("==") for pin in pins)}
    for own in asked:
        assert own.specifier.contains(pinned[own.name.lower()]), own
