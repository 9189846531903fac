"""LiteRT.js, which runs TFLite files in browsers: two packages of npm."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keras_gpt.export.verify import ExportError

VERSION = "2.5.3"
# Package to its files of which the page has use: builds of WebAssembly with threads,
# without, and without relaxed SIMD.
PACKAGES = {
    "@litertjs/core": (
        *("package.json", "README.md", "dist/index.js"),
        *(
            f"wasm/litert_wasm{build}_internal.{kind}"
            for build in ("", "_compat", "_threaded")
            for kind in ("js", "wasm")
        ),
    ),
    "@litertjs/wasm-utils": ("package.json", "README.md", "dist/index.js"),
}
# Where `copy` puts them.
FILES = tuple(
    f"litert/{package.rpartition('/')[2]}/{name}"
    for package, names in PACKAGES.items()
    for name in names
)
INSTALL_SECONDS = 600  # some 40 MB, over slow lines, too
# Workers have no import maps, so one package must name the other by its place.
_BY_NAME = 'from "@litertjs/wasm-utils"'
_BY_PLACE = 'from "../../wasm-utils/dist/index.js"'


@contextmanager
def packages(node_modules: str | None) -> Iterator[Path]:
    """Yields a folder `node_modules` that holds both packages, for a while.

    Args:
        node_modules: path of such a folder; or None, and npm installs them.

    Raises:
        FileNotFoundError, ValueError: if the given one lacks a file, or holds another
            version.
        ExportError: if npm is absent or fails.
    """
    if node_modules is not None:
        _check(Path(node_modules))
        yield Path(node_modules)
        return
    with tempfile.TemporaryDirectory() as folder:
        _install(folder)
        _check(Path(folder) / "node_modules")
        yield Path(folder) / "node_modules"


def copy(node_modules: Path, folder: Path) -> None:
    """Copies both packages, each to a folder of its own name."""
    for package, names in PACKAGES.items():
        target = folder / package.rpartition("/")[2]
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(node_modules / package / name, target / name)
    index = folder / "core/dist/index.js"
    text = index.read_text(encoding="utf-8")
    if text.count(_BY_NAME) != 1:
        raise ExportError(f"@litertjs/core must import {_BY_NAME!r} once.")
    index.write_text(text.replace(_BY_NAME, _BY_PLACE), encoding="utf-8")


def _check(node_modules: Path) -> None:
    for package, names in PACKAGES.items():
        missing = [n for n in names if not (node_modules / package / n).is_file()]
        if missing:
            raise FileNotFoundError(
                f"node_modules must hold {package} {VERSION} ({_command()}), but "
                f"{node_modules} lacks {package}/{missing[0]}."
            )
        file = node_modules / package / "package.json"
        found = json.loads(file.read_text(encoding="utf-8")).get("version")
        if found != VERSION:
            raise ValueError(
                f"node_modules must hold {package} {VERSION} ({_command()}), got "
                f"{found} in {node_modules}."
            )


def _command() -> str:
    return " ".join(["npm install", *(f"{name}@{VERSION}" for name in PACKAGES)])


def _install(folder: str) -> None:
    advice = (
        f"Give node_modules, a folder in which `{_command()}` has put the packages, "
        "on any machine."
    )
    npm = shutil.which("npm")
    if npm is None:
        raise ExportError(
            f"npm must be installed to fetch LiteRT.js, but it is not found. {advice}"
        )
    flags = ["--no-save", "--no-package-lock", "--ignore-scripts"]
    flags += ["--no-audit", "--no-fund", f"--prefix={folder}"]
    try:
        done = subprocess.run(  # noqa: S603
            [npm, *_command().split()[1:], *flags],
            capture_output=True,
            check=False,
            cwd=folder,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"npm must fetch LiteRT.js, got {error}. {advice}") from error
    if done.returncode != 0:
        words = " ".join(done.stderr.split())[:500]
        raise ExportError(f"npm must fetch LiteRT.js, got {words!r}. {advice}")
