"""Print requirements that pyproject.toml states, one per line, for `pip install -r`.

``python tools/requirements.py build test`` prints those of the build system and of the extra ``test``; an
installed project is not needed, so that an environment can be filled before the first build.
"""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib


def requirements(groups: list[str]) -> list[str]:
    """Collect the requirement strings of the named groups.

    Parameters
    ----------
    groups : list of str
        ``build`` (the build system), ``run`` (what the package itself needs) or the name of an extra.

    Returns
    -------
    list of str
        Requirements in the order stated, each once.
    """
    project_file = Path(__file__).parent.parent / "pyproject.toml"
    table = tomllib.loads(project_file.read_text(encoding="utf-8"))
    project = table["project"]
    known = {"build": table["build-system"]["requires"], "run": project.get("dependencies", [])}
    known.update(project.get("optional-dependencies", {}))
    found: dict[str, None] = {}
    for group in groups:
        if group not in known:
            raise SystemExit(f"pyproject.toml has no group {group!r}; there are {', '.join(known)}")
        for requirement in known[group]:
            # An extra may name other extras of this project: fastbp[plot].
            name, _, rest = requirement.partition("[")
            if name.strip() == project["name"]:
                extras = [extra.strip() for extra in rest.rstrip("] ").split(",")]
                found.update(dict.fromkeys(requirements(extras)))
            else:
                found[requirement] = None
    return list(found)


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
