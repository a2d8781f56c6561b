"""`crossent.scoring.torchmetrics` among torchmetrics' own metrics and over processes, against `crossent.score`."""

from __future__ import annotations

import copy
import importlib
import io
import itertools
import math
import pickle
import pkgutil

import numpy as np
import pytest
import torch
import torchmetrics

import crossent
from crossent import ScoreState
from crossent.errors import InputError
from crossent.scoring.adapters import torchmetrics as torchmetrics_adapter
from crossent.scoring.adapters.torchmetrics import STATE_CLASSES
from crossent.scoring.torchmetrics import CrossEntropyScore
from tests.scoring.rows import assert_same

pytestmark = pytest.mark.slow

WHOLE = 1e-13


def batches(sizes=(7, 1, 40, 12), classes=5, dtype=torch.float32, seed=4):
    draw = torch.Generator().manual_seed(seed)
    for size in sizes:
        logits = 3 * torch.randn(size, classes, generator=draw)
        yield logits.to(dtype), torch.randint(classes, (size,), generator=draw)


def filled(*parts, **options):
    metric = CrossEntropyScore(**options)
    for logits, target in parts:
        metric.update(logits, target)
    return metric


def whole(parts, **options):
    logits, target = (torch.cat(side) for side in zip(*parts, strict=True))
    return crossent.score(target, logits=logits, worst=0, **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_batches_are_scored_as_one(dtype):
    parts = list(batches(dtype=dtype))
    metric = filled(*parts)
    assert_same(metric.score(), whole(parts))
    logits, target = (torch.cat(side) for side in zip(*parts, strict=True))
    peer = torch.nn.functional.cross_entropy(logits.double(), target)
    torch.testing.assert_close(metric.compute(), peer, rtol=WHOLE, atol=0)
    assert metric.compute().dtype == torch.float64
    assert metric.update_count == len(parts)


def test_float16_does_not_overflow_where_torchmetrics_does():
    logits = torch.full((1, 3, 4), -60.0, dtype=torch.float16)
    logits[..., 0] = 0.0
    target = torch.tensor([[0, 0, 1]])
    metric, peer = CrossEntropyScore(unit="perplexity"), torchmetrics.text.Perplexity().set_dtype(torch.float16)
    for each in (metric, peer):
        each.update(logits, target)
    assert peer.compute().isinf()
    assert metric.compute().item() == pytest.approx(math.exp(20 + math.log1p(3 * math.exp(-60))), rel=WHOLE)


@pytest.mark.parametrize(("unit", "of"), [("nats", "loss"), ("bits", "bits"), ("perplexity", "perplexity")])
def test_units(unit, of):
    metric = filled(*batches(), unit=unit)
    assert metric.compute().item() == getattr(metric.score(), of)


def test_texts_padding_weights_and_clusters():
    draw = torch.Generator().manual_seed(5)
    logits, target = torch.randn(4, 6, 11, generator=draw), torch.randint(11, (4, 6), generator=draw)
    target[1, 3:] = -100
    weight, text = torch.tensor([1.0, 0.5, 2.0, 3.0]), torch.tensor([7, 8, 9, 7])
    metric = CrossEntropyScore(ignore_index=-100)
    for half in (slice(0, 2), slice(2, 4)):
        metric.update(logits[half], target[half], weight=weight[half], cluster=text[half])
    wanted = crossent.score(
        target.reshape(-1), logits=logits.reshape(-1, 11), ignore=-100, worst=0, weight=weight.repeat_interleave(6),
        cluster=text.repeat_interleave(6),
    )  # fmt: skip
    assert_same(metric.score(), wanted)
    assert wanted.clusters == 3
    plain = CrossEntropyScore(ignore_index=-100, unit="perplexity")
    peer = torchmetrics.text.Perplexity(ignore_index=-100).set_dtype(torch.float64)
    for each in (plain, peer):
        each.update(logits.double(), target)
    torch.testing.assert_close(plain.compute(), peer.compute().double(), rtol=1e-12, atol=0)


def test_one_number_a_row_is_of_the_positive_class():
    z, y = torch.tensor([[-1.5, 0.0], [2.0, 30.0]]), torch.tensor([[0, 1], [1, 0]])
    metric = CrossEntropyScore()
    metric.update(z, y)
    peer = torch.nn.functional.binary_cross_entropy_with_logits(z.double(), y.double())
    torch.testing.assert_close(metric.compute(), peer, rtol=WHOLE, atol=0)


@pytest.mark.parametrize("kind", ["probs", "logprobs"])
def test_probabilities_and_their_logarithms(kind):
    parts = [(logits.double().softmax(-1), target) for logits, target in batches()]
    parts = [(p if kind == "probs" else p.log(), target) for p, target in parts]
    found = filled(*parts, predictions=kind).score()
    values, target = (torch.cat(side) for side in zip(*parts, strict=True))
    assert_same(found, crossent.score(target, worst=0, **{kind: values}))


def test_forward_returns_the_batch_and_keeps_the_whole():
    parts = list(batches())
    metric = CrossEntropyScore()
    for logits, target in parts:
        peer = torch.nn.functional.cross_entropy(logits.double(), target)
        torch.testing.assert_close(metric(logits, target), peer, rtol=WHOLE, atol=0)
    assert_same(metric.score(), whole(parts))
    assert metric.update_count == len(parts)


def test_reset_copies_and_pickles():
    parts = list(batches())
    metric = filled(*parts[:2])
    others = [metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))]
    others.append(CrossEntropyScore())
    others[-1].merge_state(metric)
    metric.reset()
    assert not metric.update_called
    for other in others:
        for logits, target in parts[2:]:
            other.update(logits, target)
        assert_same(other.score(), whole(parts))
    metric.update(*parts[3])
    assert_same(metric.score(), whole(parts[3:]))


def test_checkpoints_are_read_without_running_code():
    parts = list(batches())
    metric = filled(*parts[:3])
    metric.persistent(True)
    file = io.BytesIO()
    torch.save(metric.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = CrossEntropyScore()
    other.load_state_dict(copy.deepcopy(saved))
    other.update(*parts[3])
    assert_same(other.score(), whole(parts))

    class Evil:
        def __reduce__(self):
            return print, ("run",)

    inside = b"ccrossent.scoring.show.words\nmath.sys.exit\n(tR.", b"ccrossent.scoring\nimport_module\n(S'this'\ntR."
    for evil in (pickle.dumps(Evil()), b"cos\nsystem\n(S'true'\ntR.", *inside):
        saved["encoded"] = [torch.frombuffer(bytearray(evil), dtype=torch.uint8)]
        with pytest.raises(pickle.UnpicklingError, match="these bytes are not a state of crossent"):
            CrossEntropyScore().load_state_dict(copy.deepcopy(saved))


def rich_states():
    """States with everything that a state can have: clusters, slices, ids, weights, kept rows, infinite losses."""
    draw = np.random.default_rng(0)
    z, y = draw.normal(size=(300, 5)), draw.integers(0, 5, 300)
    z[3], z[3, (y[3] + 1) % 5] = -np.inf, 0.0
    everything = {
        "weight": draw.random(300) + 0.1,
        "cluster": draw.integers(0, 40, 300),
        "by": {"number": draw.integers(0, 3, 300), "word": ["x", "y"] * 150},
        "id": np.array([f"row {k}" for k in range(300)]),
    }
    yield ScoreState()
    for rows in (False, True):
        yield ScoreState(rows=rows).update(y, logits=z, **everything)
        yield ScoreState(rows=rows, ignore=[0], worst=0, zero=1e-3).update(y, logits=z)
    many = draw.random(40_000)
    yield ScoreState().update((many > 0.5).astype(int), probs=many, cluster=np.arange(40_000) // 3)
    yield ScoreState(classes=["no", "yes"]).update(["no", "yes"], logprobs=np.log([[0.5, 0.5], [0.9, 0.1]]))


class Recording(pickle.Unpickler):
    """Notes every global that a pickle asks for."""

    def __init__(self, data):
        super().__init__(io.BytesIO(data))
        self.asked = set()

    def find_class(self, module_name, global_name):
        self.asked.add((module_name, global_name))
        return super().find_class(module_name, global_name)


ALLOWED = {(module, name) for module, names in STATE_CLASSES.items() for name in names}


def test_the_allowed_classes_are_those_of_states_and_no_others():
    asked = set()
    for state, protocol in itertools.product(rich_states(), (4, 5)):  # the default ones of Python 3.11 and of 3.14
        reader = Recording(pickle.dumps(state, protocol))
        reader.load()
        asked |= reader.asked
    assert asked == ALLOWED


def test_rich_states_come_back_whole():
    for state in rich_states():
        metric = CrossEntropyScore(ignore_index=-100)
        metric._rows, metric._bytes = state, None
        data = bytes(metric.encoded[0].numpy())
        found = torchmetrics_adapter._decoded(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        if state.sums.n:
            # of many rows without the rows themselves, curves are those of the grid
            of_curves = ("ranking", "roc_auc", "average_precision", "brier", "thresholds", "class_reliability")
            assert_same(found.finalize(), state.finalize(), but=() if state.sums.n < 4096 else of_curves)


def globals_of_crossent():
    """Every function, class and module that any module of `crossent.scoring` has, and attributes of these."""
    for module_info in pkgutil.walk_packages(crossent.scoring.__path__, "crossent.scoring."):
        if module_info.name.rpartition(".")[2] in {"ray", "dask", "sklearn", "torchmetrics"}:
            continue
        module = importlib.import_module(module_info.name)
        for name, value in vars(module).items():
            yield module_info.name, name
            if isinstance(value, type(module)):
                yield from ((module_info.name, f"{name}.{inner}") for inner in list(vars(value))[:20])


@pytest.mark.parametrize("protocol", [0, 4])
def test_everything_else_is_refused(protocol):
    others = {found for found in globals_of_crossent() if found not in ALLOWED}
    others |= {
        ("os", "system"),
        ("builtins", "eval"),
        ("numpy", "load"),
        ("crossent.scoring.state", "ScoreState.update"),
    }
    assert len(others) > 500
    for module, name in others:
        if protocol == 0:
            data = f"c{module}\n{name}\n.".encode()
        else:
            data = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name)) + b"\x93."
        with pytest.raises(pickle.UnpicklingError, match="these bytes are not a state of crossent"):
            torchmetrics_adapter._decoded(torch.frombuffer(bytearray(data), dtype=torch.uint8))


def test_hints_name_the_arguments_of_the_metric():
    for metric, preds, target, hint in (
        (CrossEntropyScore("probs"), torch.tensor([[3.0, 4.0]]), torch.tensor([0]), "pass predictions='logits'"),
        (CrossEntropyScore("probs"), torch.tensor([[0.7, 0.7]]), torch.tensor([0]), "pass normalize=True"),
        (
            CrossEntropyScore(),
            torch.zeros(2, 3),
            torch.tensor([1, 5]),
            "use ignore_index=5 to skip such rows, or classes= of crossent.score to name the columns",
        ),
    ):
        with pytest.raises(InputError) as caught:
            metric.update(preds, target)
        assert hint in str(caught.value)
    empty = CrossEntropyScore(ignore_index=-100)
    empty.update(torch.zeros(2, 3), torch.tensor([-100, -100]))
    with pytest.raises(InputError, match="2 are left out by ignore_index=-100 and"):
        empty.compute()
    weightless = CrossEntropyScore()
    weightless.update(torch.zeros(2, 3), torch.tensor([0, 1]), weight=torch.zeros(2))
    with pytest.raises(InputError, match="0 are left out by ignore_index=None and 2 by a weight of 0"):
        weightless.compute()
    with pytest.raises(InputError, match="zero must be"):
        CrossEntropyScore(zero=2.0)


def test_warnings_name_the_arguments_of_the_metric():
    metric = CrossEntropyScore("probs", ignore_index=-1)
    metric.update(torch.tensor([[0.0, 1.0], [0.5, 0.5]]), torch.tensor([0, 1]))
    said = " ".join(metric.score().warnings)
    assert "pass zero=1e-6, for example," in said
    assert "no row has a label of ignore_index=-1" in said


def test_among_other_metrics():
    parts = list(batches())
    metrics = torchmetrics.MetricCollection(
        {
            "loss": CrossEntropyScore(),
            "bits": CrossEntropyScore(unit="bits"),
            "some": CrossEntropyScore(ignore_index=0),
            "right": torchmetrics.classification.MulticlassAccuracy(5, average="micro"),
        }
    )
    for logits, target in parts:
        metrics.update(logits, target)
    found = metrics.compute()
    wanted = whole(parts)
    assert found["loss"].item() == pytest.approx(wanted.loss, rel=WHOLE)
    assert found["bits"].item() == pytest.approx(wanted.bits, rel=WHOLE)
    assert found["some"].item() == pytest.approx(whole(parts, ignore=0).loss, rel=WHOLE)
    assert found["right"].item() == pytest.approx(wanted.accuracy, rel=1e-6)
    groups = [set(group) for group in metrics.compute_groups.values()]
    assert {"loss", "bits"} in groups  # one state for both, and not for the one with other options
    metrics.reset()
    for logits, target in parts[1:]:
        _ = metrics(logits, target)
    assert metrics.compute()["bits"].item() == pytest.approx(whole(parts[1:]).bits, rel=WHOLE)


def test_dtypes_and_devices_of_the_metric_change_nothing():
    parts = list(batches())
    metric = filled(*parts[:2])
    for changed in (metric.half(), metric.to(torch.float16), metric.set_dtype(torch.float64), metric.to("cpu")):
        assert_same(changed.score(), whole(parts[:2]))
    if torch.cuda.is_available():
        metric = metric.to("cuda")
        for logits, target in parts[2:]:
            metric.update(logits.cuda(), target.cuda())
        assert metric.compute().device.type == "cuda"
        assert_same(metric.score(), whole(parts))


def test_what_is_wrong_is_said():
    metric = CrossEntropyScore()
    for preds, target, message in (
        (torch.randn(2, 5, 3), torch.zeros(2, 3, dtype=torch.long), r"pass preds.movedim\(1, -1\)"),
        (torch.randn(2, 5), torch.zeros(3, dtype=torch.long), "preds must have the shape of target"),
        (torch.randn(2, 5), torch.tensor([1, 5]), r"label 5 \(row 1, .* is not one of the 5 classes"),
        (torch.full((1, 2), math.nan), torch.tensor([1]), "logits hold NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(preds, target)
    with pytest.raises(ValueError, match=r"weight must have the first axes of target \(2, 3\), got \(3,\)"):
        metric.update(torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.long), weight=torch.ones(3))
    with pytest.raises(ValueError, match="unit must be one of"):
        CrossEntropyScore(unit="nat")
    with pytest.raises(ValueError, match="predictions must be one of"):
        CrossEntropyScore("odds")
    with pytest.raises(ValueError, match="Unexpected keyword arguments"):
        CrossEntropyScore(classes=3)
    empty = CrossEntropyScore()
    empty.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="there are no rows to score"):
        empty.compute()


def several(group, sizes):
    """On each rank: its share of the batches, then the loss of all, the score of all, and that of its own."""
    import torch.distributed as dist

    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    parts = list(batches(sizes))
    metric = CrossEntropyScore(process_group=group)
    for logits, target in parts[rank::ranks]:
        metric.update(logits, target)
    loss = metric.compute()
    score = metric.score()
    if rank < len(parts):
        metric.sync_on_compute = False
        with metric.sync_context(should_sync=False, should_unsync=False):
            own = metric._rows.finalize()
        assert_same(own, whole(parts[rank::ranks]))
    return loss.item(), pickle.dumps(score)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("sizes", [(7, 1, 40, 12, 30), (9, 3)], ids=["all have rows", "two have rows"])
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_processes_have_the_score_of_all_rows(ranks, n, sizes):
    wanted = whole(list(batches(sizes)))
    for loss, score in ranks.run(n, several, sizes):
        assert loss == pytest.approx(wanted.loss, rel=WHOLE)
        assert_same(pickle.loads(score), wanted)
