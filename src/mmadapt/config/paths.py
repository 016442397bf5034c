"""Where the package keeps its files; imports nothing, so that every command may ask."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"
"""The configuration folder: inside an installed package, at the top of a checkout."""


def is_choice(name: str) -> bool:
    """Return whether a file or folder of the configuration is there to be chosen from.

    A leading underscore marks what other options share; ``tuned`` is chosen by data set, method and protocol.
    """
    return not name.startswith("_") and name != "tuned"


def options(folder: Path) -> list[str]:
    """Return the options that the files of a group offer."""
    return sorted(file.stem for file in folder.glob("*.yaml") if is_choice(file.stem))
