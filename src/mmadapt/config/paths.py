"""Where the package keeps its files; imports nothing, so that every command may ask."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"
"""The configuration folder: inside an installed package, at the top of a checkout."""
