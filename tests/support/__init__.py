"""Makers of trees, stubs and small processes that several tests share."""

from pathlib import Path

FILES = Path(__file__).parent / "files"
ROOT = Path(__file__).resolve().parents[2]
