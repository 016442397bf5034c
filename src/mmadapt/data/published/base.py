"""What the published data sets share: their place, their draw, and the check against published counts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from mmadapt.data.base import FewShotData
from mmadapt.data.draws import Sampling
from mmadapt.data.images import ImageFiles, ImageSet
from mmadapt.data.published.draw_file import draw_content, read_draw
from mmadapt.data.published.locate import Home, explain_missing, find_missing
from mmadapt.data.splits import Draw, Splits, draw
from mmadapt.errors import DataNotFoundError, UserError, one_of

log = logging.getLogger(__name__)


class BenchmarkData(FewShotData):
    """A published data set below ``paths.data``. Its classes write `read_splits`.

    Attributes:
        home: Where the data set is looked for.
        findings: What is unusual about the data on this machine, one sentence each.
        val_source: Which images the validation shots come from.
    """

    def __init__(
        self,
        *,
        root: str,
        folders: Sequence[str],
        images: Sequence[str] = (".",),
        dir: str | None = None,  # noqa: A002 - the key of the configuration
        sampling: Sampling = "coop",
        draw: str | None = None,
        counts: Mapping[str, int] | None = None,
        source: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Bind a place; nothing is read before `setup`.

        Args:
            root: Folder of all data sets.
            folders: Names of this one's folder below it, in CoOp, CLIP-LoRA and torchvision.
            images: Names of the folder of images in it.
            dir: The data set's folder itself, instead of ``root`` and ``folders``.
            sampling: Whose draw: coop, tip or clip_lora; see `mmadapt.data.draws`.
            draw: A stored draw to run from: a JSON of ``python -m mmadapt.data draw``, a pickle of CoOp, or
                ``split_fewshot`` for the pickle that CoOp left beside the data. None draws.
            counts: Published numbers of classes and images; other numbers are reported.
            source: Where the data come from, for ``python -m mmadapt.data``; not used in a run.
            options: See `FewShotData`.
        """
        one_of("data.sampling", sampling, get_args(Sampling))
        whole_val = options.get("val_shots") is None and sampling == "tip"
        super().__init__(**options)
        if whole_val:
            self.val_shots = None
        place = None if dir is None else Path(dir).expanduser().absolute()
        self.home = Home(str(self.name), Path(root).expanduser().absolute(), tuple(folders), place)
        self.image_folders, self.sampling = tuple(images), sampling
        self.draw_from, self.counts, self.source = draw, dict(counts or {}), dict(source or {})
        self.findings: list[str] = []
        self.val_source = "val"

    def draw_shots(self, splits: Splits) -> Draw:
        """Draw as the chosen protocol does, or take the stored draw."""
        if self.draw_from is not None:
            return read_draw(self._draw_file(), splits, self.about_draw())
        drawn = draw(splits, self.shots, self.val_shots, self.split_seed, self.sampling)
        if self.sampling == "coop":
            self._compare_with_coop(splits, drawn)
        return drawn

    def about_draw(self) -> dict[str, Any]:
        """Return what identifies the draw besides its images."""
        drawn = {"shots": self.shots, "split_seed": self.split_seed, "sampling": self.sampling}
        return {"data": self.name, **drawn, "val_source": self.val_source}

    def export_draw(self) -> dict[str, Any]:
        """Return the draw over all classes as the JSON content that ``data.draw`` reads."""
        splits = self.read_splits()
        return draw_content(splits, self.draw_shots(splits), self.about_draw())

    def describe(self) -> dict[str, Any]:
        """Add protocol, source of the validation images and findings to what the result file says."""
        drawn = {"sampling": self.sampling, "val_source": self.val_source, "draw": self.draw_from}
        return {**super().describe(), **drawn, "findings": list(self.findings)}

    def note(self, finding: str) -> None:
        """Remember and log something unusual."""
        if finding not in self.findings:
            self.findings.append(finding)
            log.warning("%s: %s", self.name, finding)

    def image_sets(self, folder: Path, parts: Sequence[Sequence[tuple[str, int]]]) -> list[ImageSet]:
        """Return one image set per list of (path, label), after making sure that the files exist."""
        paths = list(dict.fromkeys(path for part in parts for path, _ in part))
        if missing := find_missing(folder, paths):
            text = explain_missing(folder, missing, len(paths))
            if self.on_bad_image == "error":
                raise DataNotFoundError(f"{text} data.on_bad_image=skip leaves them out.")
            self.note(text)
        return [
            ImageSet.of(ImageFiles(folder, tuple(path for path, _ in part)), [label for _, label in part])
            for part in parts
        ]

    def check_counts(self, **found: int) -> None:
        """Note numbers of classes and images that are not the published ones."""
        wrong = [
            f"{found[key]} {key} instead of {n}" for key, n in self.counts.items() if found.get(key, n) != n
        ]
        if wrong:
            self.note(f"not the published data, numbers will not compare: {', '.join(wrong)}.")

    def _draw_file(self) -> Path:
        if self.draw_from != "split_fewshot":
            return Path(str(self.draw_from)).expanduser().absolute()
        found = self.home.find([self._pickle])
        if found is None:
            searched = self.home.searched()
            raise DataNotFoundError(f"data.draw=split_fewshot: no {self._pickle} was found. {searched}")
        return found

    @property
    def _pickle(self) -> str:
        return f"split_fewshot/shot_{self.shots}-seed_{self.split_seed}.pkl"

    def _compare_with_coop(self, splits: Splits, drawn: Draw) -> None:
        """Read the pickle that CoOp may have left beside the data; say so if it holds other images."""
        pickle = self.home.find([self._pickle])
        if pickle is None:
            return
        try:
            theirs = set(read_draw(pickle, splits, self.about_draw()).train)
        except UserError as error:
            self.note(f"CoOp's draw beside the data is not used: {error}")
            return
        common = len(theirs & set(drawn.train))
        if common < len(theirs) or len(theirs) != len(set(drawn.train)):
            self.note(
                f"{pickle} has other shots, {common} of {len(theirs)} in common. "
                "Set data.draw=split_fewshot to run on them."
            )
