"""The prebuilt extension is complete as it lies in the package."""

from __future__ import annotations

import json
import re
from pathlib import Path

import sessionkeeper
from sessionkeeper.ui.app import LABEXTENSIONS

EXTENSION = LABEXTENSIONS / "sessionkeeper"


def test_directory_is_named_as_the_extension():
    package = json.loads((EXTENSION / "package.json").read_text())
    assert package["name"] == EXTENSION.name  # JupyterLab derives its URL from the name
    build = package["jupyterlab"]["_build"]
    assert (EXTENSION / build["load"]).is_file()
    assert build["extension"] in (EXTENSION / build["load"]).read_text()


def test_every_import_is_there():
    static = EXTENSION / "static"
    named = re.findall(
        r"""(?:from|import|new URL\() ?'(?:\./)?([\w.]+\.(?:js|css))'""",
        "".join(file.read_text() for file in static.glob("*.js")),
    )
    assert {"plugin.js", "words.js", "feed.js", "details.js", "style.css"} <= set(named)
    assert all((static / name).is_file() for name in named)


def test_colours_are_the_themes():
    style = (EXTENSION / "static" / "style.css").read_text()
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(", style)


def test_extension_lies_in_the_package():
    assert EXTENSION.is_relative_to(Path(sessionkeeper.__file__).parent)
