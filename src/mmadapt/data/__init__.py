"""Data sets: each a LightningDataModule, found by its YAML in `conf/data`."""
