"""Look up known vulnerabilities of the packages in a file, and say so where nothing could be looked up.

    python tools/audit.py .venv-audit/bin/pip-audit .venv/installed.txt

A service that cannot be reached looks to pip-audit like a package that nobody knows, or ends it in a traceback. So it
is asked for pip first, which every service knows. Exit status 0: nothing is known against any; 1: something is, or a
package could not be looked up; 2: no service could be reached.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

OPTIONS = ("--strict", "--disable-pip", "--no-deps")
KNOWN = "pip==24.0\n"
UNREACHABLE = (
    "No list of known vulnerabilities could be reached: nothing was audited. Run it again where one can be."
)


def is_reachable(program: str) -> bool:
    """Whether pip-audit gets an answer, of whatever kind, for a package that is known."""
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "known.txt"
        asked.write_text(KNOWN, encoding="utf-8")
        said = subprocess.run(
            [program, *OPTIONS, "--format", "json", "--requirement", str(asked)],
            capture_output=True,
            check=False,
        ).stdout
    try:
        return bool(json.loads(said)["dependencies"])
    except (ValueError, LookupError, TypeError):
        return False


def main(program: str, packages: str) -> int:
    """The exit status; see above."""
    if not is_reachable(program):
        print(UNREACHABLE, file=sys.stderr)
        return 2
    asked = [program, *OPTIONS, "--requirement", packages]
    return 1 if subprocess.run(asked, check=False).returncode else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
