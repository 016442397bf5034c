"""How a method is fitted: resident data, whole epochs as steps, checkpoints, progress."""
