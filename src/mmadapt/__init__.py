"""Few-shot adaptation of CLIP-like vision-language models with Hydra and Lightning."""

__version__ = "0.1.0"
