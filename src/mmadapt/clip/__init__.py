"""The frozen CLIP: backbone, preprocessing, towers that take learned prompts."""

from mmadapt.clip.backbone import ClipBackbone as ClipBackbone
