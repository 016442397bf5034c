"""A few plain training steps, for tests that only ask whether the loss falls."""

from __future__ import annotations


def losses_of(method, batch, optimizer, steps):
    """Take steps on one batch and return the loss before each."""
    losses = []
    for _ in range(steps):
        loss = method.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
