"""Where the configuration lies; imports nothing, so that tables can read recipes without Hydra."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"
"""The configuration folder: inside an installed package, at the top of a checkout."""
