"""What every parameter of `lightning.Trainer` does in a run: it has its effect, makes a debug run, or is refused.

Imports neither torch nor Lightning: a run is refused before they are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mmadapt.errors import UserError


@dataclass(frozen=True)
class Option:
    """The decision on one parameter.

    Attributes:
        decision: ``effect``: set as Lightning documents it. ``debug``: shortens, changes or slows what is scored, so
            the run writes no result. ``refused``: has no place here. ``ours``: refused at any value, as mmadapt
            hands it to Lightning itself.
        why: What it does here; of what is refused, what the user is told after ``trainer.<parameter>``.
        nothing: Values by which nothing is asked for.
    """

    decision: Literal["effect", "debug", "refused", "ours"]
    why: str
    nothing: tuple[Any, ...] = (None,)


_OURS = "is set by mmadapt itself; remove it"
_NO_STEPS = "do not apply: one Lightning step is one epoch here. Use method.epochs."
_WHOLE = (None, 1.0)  # of 1.0 all batches, of the whole number 1 one batch

OPTIONS: Mapping[str, Option] = {
    "accelerator": Option("effect", "where a run is computed"),
    "strategy": Option("effect", "how processes exchange gradients; of several devices the DDP family alone"),
    "devices": Option("effect", "processes of a run; `mmadapt.sweeps.devices` compares it with what there is"),
    "num_nodes": Option("effect", "machines of a run, each with trainer.devices"),
    "precision": Option("effect", "of training; what is learned is held in 32 bits", (None, "32-true", "32", 32)),
    "logger": Option("ours", f"{_OURS} and use logger=csv, tensorboard or wandb."),
    "callbacks": Option("ours", f"{_OURS} and use callbacks=<name>."),
    "fast_dev_run": Option("debug", "one batch, or so many, of train, val and test", (None, False, 0)),
    "max_epochs": Option("effect", "epochs of training, method.epochs unless set here"),
    "min_epochs": Option("effect", "epochs before which neither a method nor a callback may stop training"),
    "max_steps": Option("refused", f"and max_time {_NO_STEPS}", (None, -1)),
    "min_steps": Option("refused", "does not apply: one Lightning step is one epoch here. Use trainer.min_epochs."),
    "max_time": Option("refused", f"and max_steps {_NO_STEPS}"),
    "limit_train_batches": Option("debug", "trains on some of the shots", _WHOLE),
    "limit_val_batches": Option("debug", "chooses an epoch by some of the validation images", _WHOLE),
    "limit_test_batches": Option("debug", "scores some of the test images", _WHOLE),
    "limit_predict_batches": Option(
        "refused", "does nothing: scores are those of the test loop. Use trainer.limit_test_batches.", _WHOLE
    ),
    "overfit_batches": Option("debug", "trains on the same batches every epoch", (None, 0, 0.0)),
    "val_check_interval": Option(
        "refused", "does not apply: method.selection=best_val looks at val after every epoch.", _WHOLE
    ),
    "check_val_every_n_epoch": Option(
        "refused", "does not apply: method.selection=best_val chooses among all epochs.", (1,)
    ),
    "num_sanity_val_steps": Option("effect", "batches of val that are tried before training"),
    "log_every_n_steps": Option("effect", "epochs between two rows of the loss"),
    "enable_checkpointing": Option("ours", f"{_OURS} and use checkpoint_seconds."),
    "enable_progress_bar": Option("effect", "the bar of Lightning beside that of mmadapt"),
    "enable_model_summary": Option("ours", f"{_OURS}."),
    "accumulate_grad_batches": Option("effect", "batches of one step of the optimiser", (None, 1)),
    "gradient_clip_val": Option("effect", "limit of the gradients", (None, 0, 0.0)),
    "gradient_clip_algorithm": Option("effect", "limits their norm or each value", (None, "norm")),
    "deterministic": Option("effect", "deterministic kernels alone", (None, False)),
    "benchmark": Option("effect", "cuDNN tries its kernels and takes the fastest", (None, False)),
    "inference_mode": Option("effect", "false: val and test under torch.no_grad", (None, True)),
    "use_distributed_sampler": Option("ours", f"{_OURS}."),
    "profiler": Option("debug", "measures the steps, which slows them"),
    "detect_anomaly": Option("effect", "an error at the operation whose gradient is NaN", (None, False)),
    "barebones": Option(
        "refused", "would switch off the logging by which an epoch is chosen. Use logger=none.", (None, False)
    ),
    "plugins": Option(
        "refused",
        "is not supported. Use trainer.precision; clusters are recognised, and checkpoints are mmadapt's own.",
        (None, []),
    ),
    "sync_batchnorm": Option(
        "refused", "does nothing: batch normalisation occurs in the frozen towers alone.", (None, False)
    ),
    "reload_dataloaders_every_n_epochs": Option(
        "refused", "would start the order of images and views anew. The loaders change it every epoch.", (None, 0)
    ),
    "default_root_dir": Option("ours", f"{_OURS} and use paths.results or tag."),
    "enable_autolog_hparams": Option(
        "refused", "does nothing: the loggers show the whole configuration. Use logger=none.", (None, True)
    ),
    "model_registry": Option("refused", "is not supported: adapter.safetensors in the run's folder is the model."),
}  # fmt: skip
"""Every parameter of Lightning 2.6."""


def asked(node: Mapping[str, Any], keys: Iterable[str]) -> tuple[str, ...]:
    """Return those of some parameters that the ``trainer`` part of a configuration sets to anything but nothing."""
    return tuple(key for key in keys if key in node and not _is_nothing(node[key], OPTIONS[key].nothing))


def is_debug(node: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the parameters that make a run a debug run, which writes no result; none of an ordinary run."""
    return asked(node, (key for key, option in OPTIONS.items() if option.decision == "debug"))


def debug_note(node: Mapping[str, Any]) -> str:
    """Return what is said of a debug run; nothing of an ordinary one."""
    keys = ", ".join(f"trainer.{key}" for key in is_debug(node))
    return f"a debug run, which writes nothing (because of {keys})" if keys else ""


def check(node: Mapping[str, Any]) -> None:
    """Refuse what the ``trainer`` part of a configuration must not hold; Lightning checks the rest.

    Raises:
        UserError: Naming the parameter and what to use instead.
    """
    for key, option in OPTIONS.items():
        if option.decision == "ours" and key in node:
            raise UserError(f"trainer.{key} {option.why}")
        if option.decision == "refused" and asked(node, (key,)):
            raise UserError(f"trainer.{key} {option.why}")
    precision = str(node.get("precision") or "32")
    if precision in ("16-true", "bf16-true"):
        name = precision.removesuffix("-true")
        raise UserError(
            f"trainer.precision={precision} would store what is learned in 16 bits, too few for small learning rates. "
            f"Use clip.precision={'fp16' if name == '16' else name} or trainer.precision={name}-mixed."
        )
    if precision.startswith(("64", "transformer-engine")):
        raise UserError(
            f"trainer.precision={precision} would convert the frozen CLIP, which the runs of a process share. "
            "Use 32-true, bf16-mixed or 16-mixed."
        )
    epochs = node.get("max_epochs", 0)
    if not _is_count(epochs, 0):
        raise UserError(
            f"trainer.max_epochs={epochs!r} must be a whole number of at least 0. Use method.epochs."
        )
    least = node.get("min_epochs")
    if least is not None and not (_is_count(least, 0) and least <= epochs):
        raise UserError(f"trainer.min_epochs={least!r} must be a whole number up to max_epochs={epochs}.")
    nodes = node.get("num_nodes")
    if nodes is not None and not _is_count(nodes, 1):
        raise UserError(f"trainer.num_nodes={nodes!r} must be a whole number of at least 1.")
    if asked(node, ("gradient_clip_algorithm",)) and not asked(node, ("gradient_clip_val",)):
        raise UserError(
            "trainer.gradient_clip_algorithm does nothing alone: set trainer.gradient_clip_val too."
        )
    limit = node.get("limit_test_batches")
    if limit is not None and not limit:
        raise UserError(
            f"trainer.limit_test_batches={limit!r} leaves nothing to score. Use a number above 0."
        )


def _is_nothing(value: Any, nothing: Iterable[Any]) -> bool:
    """Compare with the type: 1 is one batch and 1.0 all of them."""
    return any(value == each and type(value) is type(each) for each in nothing)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
