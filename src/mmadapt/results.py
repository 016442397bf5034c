"""One JSON file per finished run: what was scored, on what, how, at what cost.

Tables are a pure function of these files (`mmadapt.collect`), so this module imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmadapt.errors import UserError
from mmadapt.files import read_json, replacing

SCHEMA = 2
"""Version of the file layout."""
PROTOCOL = 1
"""Version of what the numbers mean; raised when an evaluation change makes old numbers incomparable."""

RESULT_FILE = "result.json"
DETAILS_FILE = "details.json"
DETAILS_SCHEMA = 1
"""Version of the layout of that file."""
WEIGHTS_FILE = "adapter.safetensors"
PREDICTIONS_FILE = "predictions.parquet"
FAILURE_FILE = "failed.json"
CHECKPOINT_FILE = "last.ckpt"

Classifier = Literal["own", "names", "sliced", "text_only"]
"""How the classes of a scored set are told apart: by what was trained on these ``own`` classes; by the trained
weights and the ``names`` of other classes; by the trained logits of the classes that occur, ``sliced``; by the
text side alone, ``text_only``, of a method whose image side is tied to the classes it was trained on."""


@dataclass(frozen=True)
class RunKey:
    """The identity of a run, which is also its folder ``<tag>/<protocol>/<clip>/<data>/<method>/…``."""

    tag: str
    protocol: str
    clip: str
    data: str
    method: str
    shots: int
    seed: int


@dataclass(frozen=True)
class Score:
    """What one method attains on one set of images.

    Attributes:
        top1: Share of images whose best class is the true one (micro, the papers' accuracy), in [0, 1].
        top1_macro: Mean over classes of the class's own accuracy, in [0, 1].
        top5: Share of images whose true class is among the five best, in [0, 1]; 1 with five classes or fewer.
        nll: Mean negative log-likelihood of the true class, in nats.
        ece: Expected calibration error with 15 equal-width bins, in [0, 1].
        correct: Number of images classified rightly.
        total: Number of images.
        classes: Number of classes to choose from.
        data: The data set the images are from.
        classifier: See `Classifier`.
    """

    top1: float
    top1_macro: float
    top5: float
    nll: float
    ece: float
    correct: int
    total: int
    classes: int
    data: str = ""
    classifier: Classifier = "own"


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        key: Identity of the run.
        scores: Final scores by the name of the scored set: ``test``; ``base`` and ``new``; or the names of the
            source data set and of the target sets, in the order they were asked for.
        selection: How epoch and hyper-parameters were chosen: ``rule`` (``last`` or ``best_val``),
            ``epoch``, ``val_top1`` of what is scored, and the values ``tuned`` on the validation images.
        data: Hash of the draw, numbers of classes and images, classes with fewer images than shots.
        cost: Trainable parameters, seconds by phase, peak memory in MiB.
        fingerprint: SHA-256 of the configuration as far as it can change a number.
        config: The resolved configuration.
        provenance: Command, versions, git commit, hardware, start and end (UTC).
        schema: Version of this layout.
        protocol: Version of the evaluation protocol.
    """

    key: RunKey
    scores: dict[str, Score]
    selection: dict[str, Any]
    data: dict[str, Any]
    cost: dict[str, float]
    fingerprint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA
    protocol: int = PROTOCOL

    def headline(self) -> tuple[str, float]:
        """Return the one number of the run, in [0, 1], and its name: top-1, H, or the mean over the targets."""
        scores = self.scores
        if scores.keys() == {"base", "new"}:
            return "H", harmonic_mean(scores["base"].top1, scores["new"].top1)
        if len(scores) == 1:
            return "top-1", next(iter(scores.values())).top1
        targets = [score.top1 for name, score in scores.items() if name != self.key.data]
        return "mean of targets", sum(targets) / len(targets)

    def scalars(self) -> dict[str, float]:
        """Return every number of every set as ``<set>/<metric>``."""
        return {
            f"{name}/{metric}": value
            for name, score in self.scores.items()
            for metric, value in asdict(score).items()
            if not isinstance(value, str)
        }

    def write(self, run_dir: Path) -> Path:
        """Write ``result.json`` atomically and remove the note of an earlier failure."""
        path = write_json(run_dir / RESULT_FILE, asdict(self))
        (run_dir / FAILURE_FILE).unlink(missing_ok=True)
        return path

    @classmethod
    def read(cls, run_dir: Path) -> Result | None:
        """Return the result stored in a run folder, or None if the run did not finish.

        Raises:
            UserError: If the file exists but is no result of this layout.
        """
        path = run_dir / RESULT_FILE
        try:
            raw = read_json(path, "Delete it and run the job again.")
        except FileNotFoundError:
            return None
        return cls.from_dict(raw, path)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], path: Path) -> Result:
        """Build a result from parsed JSON; ``path`` is named in errors."""
        if not isinstance(raw, Mapping) or raw.get("schema") != SCHEMA:
            found = raw.get("schema") if isinstance(raw, Mapping) else type(raw).__name__
            raise UserError(
                f"{path} has schema {found!r}, this version reads {SCHEMA}. Run the job again under a new tag."
            )
        try:
            scores = {name: Score(**score) for name, score in raw["scores"].items()}
            return cls(**{**raw, "key": RunKey(**raw["key"]), "scores": scores})
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a result file of mmadapt: {error}.") from error


def harmonic_mean(base: float, new: float) -> float:
    """Return ``H = 2 · base · new / (base + new)``, 0 if both are."""
    return 2 * base * new / (base + new) if base + new else 0.0


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write JSON so that a reader, or a crash, sees either the old file or the whole new one."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=True)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return path
