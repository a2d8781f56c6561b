"""`crossent.scoring.ray` on a cluster of Ray on this machine, against `crossent.score` in one process."""

from __future__ import annotations

import logging
import pickle
import tempfile

import numpy as np
import psutil
import pytest
import ray

import crossent
import crossent.scoring.ray as ours
from crossent.errors import InputError
from tests.scoring.rows import ANIMALS, assert_same, columns, frame

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # Ray's own first steps
]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    before = set(psutil.Process().children(recursive=True))
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray") as folder:
        patch.setenv("RAY_AUTH_TOKEN", "0" * 32)  # or Ray writes one into the home directory
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        workers = {"idle_worker_killing_time_threshold_ms": 60_000, "num_workers_soft_limit": 8}  # start each once
        ray.init(
            num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False,
            logging_level=logging.CRITICAL, _temp_dir=folder, _system_config=workers,
        )  # fmt: skip
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars, context.default_hash_shuffle_parallelism = False, 2
        yield
        ray.shutdown()
    # with worksteal a test of another module may start the browser of its session meanwhile
    started = set(psutil.Process().children(recursive=True)) - before
    _, alive = psutil.wait_procs([process for process in started if "chrom" not in process.name()], timeout=20)
    assert not alive


@pytest.fixture(scope="module")
def table():
    return frame()


@pytest.fixture(scope="module")
def whole(table):
    return crossent.score(
        table.y, probs=columns(table, "p_"), weight=table.w, cluster=table.doc, by=table[["lang"]], id=table.name
    )


def data(table, *cuts):
    """A data set with a block for each part of the table."""
    ends = [*cuts, len(table)]
    parts = [table[begin:end] for begin, end in zip([0, *cuts], ends, strict=True)]
    return ray.data.from_pandas([part.reset_index(drop=True) for part in parts])


NAMED = {"label": "y", "probs": "p_*", "weight": "w", "cluster": "doc", "by": "lang", "id": "name"}


@pytest.mark.parametrize("cuts", [[], [1, 350], [0, 0, 233, 233, 500, 700]], ids=["one block", "three", "empty ones"])
def test_a_data_set_is_scored_as_its_rows_are(table, whole, cuts):
    found = ours.score(data(table, *cuts), **NAMED)
    assert_same(found, whole)
    assert found.clusters == table.doc.nunique()


def test_blocks_from_files(table, whole, tmp_path):
    for k, part in enumerate([table[:100], table[100:102], table[102:]]):
        part.to_parquet(tmp_path / f"{k}.parquet", index=False)
    assert_same(ours.score(ray.data.read_parquet(str(tmp_path)), **NAMED), whole)


def test_named_columns_keep_their_order(table):
    turned = ["p_emu", "p_cat", "p_dog"]
    names = ["EMU", "CAT", "DOG"]
    found = ours.score(data(table.assign(y=table.y.str.upper()), 300), label="y", probs=turned, classes=names)
    wanted = crossent.score(table.y.str.upper(), probs=table[turned].to_numpy(), classes=names)
    assert_same(found, wanted, but=["worst"])  # rows without names are numbered by block
    assert found.classes == tuple(names)


@pytest.mark.parametrize("kind", ["logits", "logprobs"])
def test_one_column_may_hold_vectors(table, kind):
    matrix = columns(table, "z_").to_numpy()
    if kind == "logprobs":
        matrix = np.log(columns(table, "p_").to_numpy())
    wanted = crossent.score(table.number, **{kind: matrix}, id=table.name)
    lists = data(table[["number", "name"]].assign(z=list(matrix)), 5, 300)
    assert_same(ours.score(lists, label="number", id="name", **{kind: "z"}), wanted)
    tensors = lists.map_batches(lambda batch: {**batch, "z": np.stack(batch["z"])})
    assert_same(ours.score(tensors, label="number", id="name", **{kind: "z"}), wanted)


def test_one_column_of_the_positive_class(table):
    dogs = table.assign(dog=(table.y == "dog").astype(int))
    found = ours.score(data(dogs, 10, 11), label="dog", probs="p_dog", id="name", zero=1e-9, ci=0.9, worst=3)
    assert_same(found, crossent.score(dogs.dog, probs=dogs.p_dog, id=dogs.name, zero=1e-9, ci=0.9, worst=3))


def test_missing_labels_are_left_out_or_named(table):
    some = table.assign(y=table.y.where(np.arange(len(table)) % 9 > 0))
    wanted = crossent.score(some.y, probs=columns(some, "p_"), ignore=float("nan"), id=some.name)
    assert_same(ours.score(data(some, 333), label="y", probs="p_*", ignore=float("nan"), id="name"), wanted)
    with pytest.raises(ValueError, match="y has no value"):
        ours.score(data(some, 333), label="y", probs="p_*")


def test_groups_have_scores_of_their_own(table):
    some = table.assign(y=table.y.where(table.lang != "fr"))
    aggregation = ours.Score(label="y", probs="p_*", weight="w", cluster="doc", id="name", ignore=float("nan"))
    grouped = data(some, 10, 400).groupby("lang").aggregate(aggregation).take_all()
    found = {row["lang"]: row["score"] for row in grouped}
    assert found.pop("fr") is None  # no row counts
    for lang, score in found.items():
        part = some[some.lang == lang]
        rest = {"weight": part.w, "cluster": part.doc, "id": part.name, "ignore": float("nan")}
        assert_same(score, crossent.score(part.y, probs=columns(part, "p_"), **rest))
    assert len(found) == 2


def test_states_of_parts_merge_to_the_whole(table, whole):
    states = [data(part).aggregate(ours.State(**NAMED))["state"] for part in (table[:5], table[5:])]
    first, second = (pickle.loads(state) for state in states)
    assert_same(first.merge(second).finalize(), whole)


def test_what_is_wrong_is_said_as_by_crossent_itself(table):
    rows = data(table, 500)
    for wrong, message in (
        ({"label": "Y", "probs": "p_*"}, r"label: there is no column 'Y'; .* columns are \['y', 'number', 'p_cat'"),
        ({"label": "y", "probs": "q_*"}, "no column matches 'q_\\*'"),
        ({"label": "p_cat", "probs": "p_*"}, "column 'p_cat' is label and one of probs"),
        ({"label": "y", "probs": "z_*"}, "outside \\[0, 1\\].*pass logits="),
        ({"label": "lang", "probs": "p_*"}, "label 'de' .* is not one of the 3 classes"),
        ({"label": "y", "probs": "p_*", "ci": 95}, "ci must be a level"),
    ):
        with pytest.raises(ValueError, match=message):
            ours.score(rows, **wrong)
    with pytest.raises(TypeError, match="exactly one of probs=, logits= and logprobs=; got probs= and logits="):
        ours.Score(label="y", probs="p_*", logits="z_*")
    with pytest.raises(TypeError, match="weight must be the name of a column, got 2"):
        ours.Score(label="y", probs="p_*", weight=2)


def test_hints_of_workers_name_arguments_as_data(table):
    with pytest.raises(InputError, match="use ignore='by=3' to skip such rows, or classes= to name") as caught:
        ours.score(data(table.assign(by="by=3"), 500), label="by", probs="p_*")
    said = caught.value.spelled(lambda argument: f"<{argument.name}>")
    assert said.endswith("use <ignore> to skip such rows, or <classes> to name the columns")


def test_nothing_to_score(table):
    for nothing in (
        data(table[:0]),
        data(table, 100).filter(expr=ray.data.expressions.col("w") < 0),
        ray.data.from_items([]),
    ):
        with pytest.raises(ValueError, match="there are no rows to score"):
            ours.score(nothing, label="y", probs="p_*")
    assert data(table[:0]).aggregate(ours.Score(label="y", probs="p_*"))["score"] is None


def test_class_names_are_those_of_the_columns(table):
    assert list(ours.score(data(table), label="y", probs="p_*").classes) == ANIMALS
