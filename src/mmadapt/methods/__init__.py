"""Adaptation methods, one file each; a method is found by its YAML in `conf/method`, there is no registry."""
