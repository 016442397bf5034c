"""Tip-Adapter-F (arXiv 2111.03930): the cache keys of Tip-Adapter, trained for a few epochs."""

from __future__ import annotations

from typing import ClassVar

from mmadapt.methods.base import Gradients
from mmadapt.methods.tip_adapter import TipAdapter
from mmadapt.methods.tip_adapter_gradients import key_gradients


class TipAdapterF(TipAdapter):
    """Tip-Adapter whose keys are learned; values, text features and CLIP stay frozen.

    The keys start as Tip-Adapter's and are not normalised again, as released. Training runs with the α and β
    of the configuration; the search on val comes after it. Deviations: the released code keeps the epoch that
    is best on *test*, here it is the best on val; it trains in fp16, here keys are fp32 with its eps of 1e-4;
    it augments afresh each epoch, here the cached views are cycled through.
    """

    trains_keys: ClassVar[bool] = True
    stackable: ClassVar[bool] = True

    def stacked_gradients(self) -> Gradients | None:
        """Return `key_gradients` for a cache with equally many shots of each class, as all draws have."""
        shots = self.shots_per_class
        if not shots:
            return None
        return key_gradients(self.text_features, self.scale, float(self.alpha), float(self.beta), shots)
