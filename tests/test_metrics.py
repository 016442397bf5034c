"""Scores of logits against spelled-out formulas and against the metrics that look at all probabilities."""

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from mmadapt.errors import UserError
from mmadapt.metrics import Scorer, _rows

NAMES = tuple(f"class {i}" for i in range(7))


@pytest.fixture
def scored():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(501, 7, generator=generator) * 2
    return logits, torch.randint(7, (501,), generator=generator)


def scorer_of(logits, labels, batches=1, **options):
    scorer = Scorer(logits.shape[1], **options)
    for part, wanted in zip(logits.chunk(batches), labels.chunk(batches), strict=True):
        scorer.update(part, wanted)
    return scorer


@pytest.mark.parametrize("tile", [1 << 18, 70])
def test_scores_equal_the_formulas_whatever_the_tiles(scored, tile, monkeypatch):
    monkeypatch.setattr("mmadapt.metrics.TILE", tile)
    logits, labels = scored
    score = scorer_of(logits, labels, batches=3).compute()
    top = logits.topk(5, dim=1).indices == labels[:, None]
    probabilities = logits.softmax(dim=1)
    assert score.top1 == pytest.approx(float(top[:, 0].double().mean()))
    assert score.top5 == pytest.approx(float(top.any(dim=1).double().mean()))
    assert score.nll == pytest.approx(float(-probabilities.log()[torch.arange(501), labels].mean()), rel=1e-6)
    each_class = MulticlassCalibrationError(7, n_bins=15)(probabilities, labels)
    assert score.ece == pytest.approx(float(each_class), abs=1e-6)
    macro = MulticlassAccuracy(7, average="macro")(logits, labels)
    assert score.top1_macro == pytest.approx(float(macro), rel=1e-6)
    assert (score.correct, score.total, score.classes) == (int(top[:, 0].sum()), 501, 7)


def test_five_of_many_with_equal_logits_is_no_free_success():
    score = scorer_of(torch.zeros(40, 20), torch.arange(40) % 20).compute()
    assert score.top5 == score.top1 == pytest.approx(1 / 20)


def test_rows_equal_the_formulas_with_ties_and_impossible_classes():
    logits = torch.randn(300, 9, generator=torch.Generator().manual_seed(2)).mul(3).round()  # many ties
    logits[::7, 4] = -torch.inf
    labels = torch.arange(300) % 4
    predicted, confidence, loss, rank = _rows(logits, labels)
    assert predicted.tolist() == logits.argmax(dim=1).tolist()
    true = logits.gather(1, labels[:, None])
    assert rank.tolist() == (logits >= true).sum(dim=1).tolist()
    exact = logits.double()
    assert torch.allclose(confidence.double(), exact.softmax(dim=1).amax(dim=1), rtol=1e-6)
    expected = torch.nn.functional.cross_entropy(exact, labels, reduction="none")
    assert torch.allclose(loss.double(), expected, atol=1e-6)


def test_scoring_leaves_logits_alone_and_takes_none(scored):
    logits, labels = scored
    before, scorer = logits.clone().requires_grad_(), Scorer(7)
    scorer.update(before, labels)
    scorer.update(before[:0], labels[:0])
    assert torch.equal(before, logits)
    assert scorer.compute().total == 501


def test_details_add_up(scored):
    logits, labels = scored
    scorer = scorer_of(logits, labels, batches=4, confusion=True, keep=True)
    score, details = scorer.compute(), scorer.details(NAMES)
    assert sum(details["correct"]) == score.correct
    assert details["total"] == torch.bincount(labels, minlength=7).tolist()
    confusion = torch.tensor(details["confusion"])
    assert confusion.diagonal().tolist() == details["correct"]
    assert confusion.sum(dim=1).tolist() == details["total"]
    bins = {key: torch.tensor(value, dtype=torch.float64) for key, value in details["reliability"].items()}
    assert int(bins["count"].sum()) == 501
    ece = (bins["count"] * (bins["confidence"] - bins["accuracy"]).abs()).sum() / 501
    assert score.ece == pytest.approx(float(ece), abs=1e-6)
    predictions = scorer.predictions()
    assert predictions[:, 0].tolist() == labels.tolist()
    assert predictions[:, 1].tolist() == logits.argmax(dim=1).tolist()
    assert torch.allclose(predictions[:, 2].float(), logits.softmax(dim=1).amax(dim=1))


def test_certain_predictions_fall_into_the_last_bin():
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]])
    details = scorer_of(logits, torch.tensor([0, 0])).details(("a", "b"))
    assert details["reliability"]["count"][-1] == 2
    assert details["reliability"]["accuracy"][-1] == 0.5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_is_no_score(bad):
    with pytest.raises(UserError, match="not finite"):
        Scorer(2).update(torch.tensor([[0.0, bad]]), torch.tensor([0]))


def test_reset_forgets(scored):
    scorer = scorer_of(*scored, confusion=True, keep=True)
    scorer.reset()
    scorer.update(torch.tensor([[1.0, 0, 0, 0, 0, 0, 0]]), torch.tensor([0]))
    assert scorer.compute().total == 1
    assert len(scorer.predictions()) == 1
