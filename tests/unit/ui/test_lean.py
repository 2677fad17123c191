"""What the UI server leaves out, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

_PROGRAM = """
import json, sys
from sessionkeeper.ui.lean import leave_out
leave_out()
import jsonschema, jupyterlab.labapp
left_out = {"lark", "arrow", "rich", "httpx", "urllib3", "charset_normalizer"}
loaded = sorted(left_out & sys.modules.keys())
checker = jsonschema.FormatChecker()
validator = jsonschema.Draft7Validator({"format": "date"}, format_checker=checker)
print(json.dumps([loaded, validator.is_valid("2026-02-30")]))
"""


def test_jupyterlab_does_without_them_and_schemas_are_checked() -> None:
    said = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, check=True)
    assert json.loads(said.stdout) == [[], False]
