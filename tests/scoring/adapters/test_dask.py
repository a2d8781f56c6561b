"""`crossent.scoring.dask` under Dask's schedulers, against `crossent.score` in one process."""

from __future__ import annotations

import dask
import dask.array as da
import dask.dataframe as dd
import distributed
import numpy as np
import pytest

import crossent
import crossent.scoring.dask as ours
from crossent.errors import InputError, InputTypeError
from tests.scoring.rows import assert_same, columns, frame

pytestmark = pytest.mark.slow

NAMED = {"label": "y", "probs": "p_*", "weight": "w", "cluster": "doc", "by": "lang", "id": "name"}
CUTS = {"one": [], "three": [1, 350], "with empty ones": [0, 0, 233, 233, 500, 700], "many": [*range(10, 700, 10)]}


@pytest.fixture(scope="module")
def table():
    return frame()


@pytest.fixture(scope="module")
def whole(table):
    return crossent.score(
        table.y, probs=columns(table, "p_"), weight=table.w, cluster=table.doc, by=table[["lang"]], id=table.name
    )


@pytest.fixture(params=["synchronous", "threads"])
def scheduler(request):
    with dask.config.set(scheduler=request.param):
        yield


def parted(table, *cuts):
    """A data frame of Dask with a partition for each part of the table."""
    ends = [*cuts, len(table)]
    parts = [dask.delayed(table[begin:end]) for begin, end in zip([0, *cuts], ends, strict=True)]
    return dd.from_delayed(parts, meta=table[:0])


def chunks(table, *cuts):
    return tuple(np.diff([0, *cuts, len(table)]).tolist())


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
@pytest.mark.usefixtures("scheduler")
def test_a_frame_is_scored_as_its_rows_are(table, whole, cuts):
    assert_same(ours.score(parted(table, *cuts), **NAMED), whole)


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
@pytest.mark.usefixtures("scheduler")
def test_arrays_are_scored_as_in_one_piece(table, cuts):
    parts = chunks(table, *cuts)
    logits = columns(table, "z_").to_numpy().astype(np.float32)
    y, w, doc = (da.from_array(table[name].to_numpy(), chunks=parts) for name in ("number", "w", "doc"))
    z = da.from_array(logits, chunks=(100, 2))  # other chunks, along the classes too
    found = ours.score(y, logits=z, weight=w, cluster=doc, by=da.from_array(table.lang.to_numpy(str), chunks=parts))
    wanted = crossent.score(table.number, logits=logits, weight=table.w, cluster=table.doc, by=table.lang.to_numpy())
    assert_same(found, wanted)  # the numbers of rows among them


def test_a_cluster_of_processes(table, whole, tmp_path):
    for k, part in enumerate([table[:300], table[300:301], table[301:]]):
        part.to_parquet(tmp_path / f"{k}.parquet")
    quiet = {"distributed.worker.memory.terminate": False, "distributed.admin.system-monitor.gil.enabled": False}
    with (
        dask.config.set(quiet),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            host="127.0.0.1",
            local_directory=str(tmp_path),
        ) as cluster,
        distributed.Client(cluster),
    ):
        assert_same(ours.score(dd.read_parquet(tmp_path / "*.parquet"), **NAMED), whole)
        with pytest.raises(ValueError, match=r"^partition [01]: probs hold .*outside \[0, 1\]"):
            ours.score(parted(table, 40), label="y", probs="z_*")


def test_columns_of_frames_need_not_be_in_one_frame(table, whole):
    parts = parted(table, 100, 650)
    found = ours.score(
        parts.y, probs=parts[["p_cat", "p_dog", "p_emu"]], weight=parts.w, cluster=parts.doc, by={"lang": parts.lang},
        id=parts["name"],
    )  # fmt: skip
    assert_same(found, whole)
    values = parts[["p_cat", "p_dog", "p_emu"]].values  # an array of unknown lengths
    assert_same(ours.score(parts.number, probs=values, id=parts["name"]), crossent.score(
        table.number, probs=columns(table, "p_").to_numpy(), id=table.name
    ))  # fmt: skip


def test_named_columns_keep_their_order(table):
    turned = ["p_emu", "p_cat", "p_dog"]
    found = ours.score(parted(table, 300), label="number", probs=turned, classes=[2, 0, 1])
    assert_same(found, crossent.score(table.number, probs=table[turned].to_numpy(), classes=[2, 0, 1]))


def test_one_column_may_hold_vectors(table):
    matrix = columns(table, "z_").to_numpy()
    lists = table[["number"]].assign(z=list(matrix))
    with dask.config.set({"dataframe.convert-string": False}):
        found = ours.score(parted(lists, 5, 300), label="number", logits="z")
    assert_same(found, crossent.score(table.number, logits=matrix))
    with pytest.raises(ValueError, match=r"column 'z' holds text, such as .*'dataframe.convert-string': False"):
        ours.score(parted(lists, 5, 300), label="number", logits="z")


def test_rows_of_frames_are_called_by_the_index(table):
    named = table.set_index("name")
    parts = parted(named, 123)
    wanted = crossent.score(table.y, probs=columns(table, "p_"), id=table.name, worst=5)
    assert_same(ours.score(parts, label="y", probs="p_*", worst=5), wanted)
    assert_same(ours.score(parts.y, probs=parts[["p_cat", "p_dog", "p_emu"]], worst=5), wanted)


def test_a_state_is_a_part_of_a_larger_graph(table, whole):
    parts = parted(table, 200, 201)
    state = ours.state(parts, **NAMED)
    rows = dask.delayed(lambda whole: whole.finalize().n)(state)
    found, number = dask.compute(state, rows)
    assert number == len(table)
    assert_same(found.finalize(), whole)


def test_many_rows_in_small_partitions():
    draw = np.random.default_rng(11)
    z = draw.normal(0, 2, 400_000)
    y = (draw.random(len(z)) < 1 / (1 + np.exp(-z / 2))).astype(int)  # the true temperature is 2
    found = ours.score(da.from_array(y, chunks=2000), logits=da.from_array(z, chunks=2000))
    assert_same(found, crossent.score(y, logits=z), but=["calibration.temperature"])  # of a sample, another one here
    assert abs(found.calibration.temperature.value - 2) < 0.05


def test_what_is_wrong_is_said(table):
    parts = parted(table, 500)
    for wrong, message in (
        ({"label": "Y", "probs": "p_*"}, r"label: there is no column 'Y'; .* columns are \['y', 'number', 'p_cat'"),
        ({"label": "y", "probs": "q_*"}, r"no column matches 'q_\*'"),
        ({"label": "y", "probs": "p_dgo"}, r"there is no column 'p_dgo'; did you mean 'p_dog'"),
        ({"label": "p_cat", "probs": "p_*"}, "column 'p_cat' is label and one of probs"),
        ({"label": "y", "probs": "p_*", "ci": 95}, "ci must be a level"),
        ({"label": "lang", "probs": "p_*"}, r"^partition [01]: label '..' .* is not one of the 3 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            ours.score(parts, **wrong)
    broken = table.assign(p_cat=table.p_cat.where(table.index != 600))
    with pytest.raises(ValueError, match=r"^partition 1: probs hold NaN.* \(row 600\)"):
        ours.score(parted(broken, 500), label="y", probs="p_*")
    y, z = da.from_array(table.number.to_numpy(), chunks=100), da.from_array(columns(table, "z_").to_numpy(), chunks=70)
    for args, kind, message in (
        ((table.number,), {"logits": z}, "y must be a Dask data frame, array or series, got Series"),
        ((y,), {"logits": z.compute()}, "logits must be a Dask array or series like y, got ndarray"),
        ((y,), {}, "pass exactly one of probs=, logits= and logprobs="),
        ((y,), {"logits": z, "label": "y"}, "label= is the name of a column of a data frame"),
        ((parts,), {"logits": "z_*"}, "for a data frame pass label="),
    ):
        with pytest.raises(TypeError, match=message):
            ours.score(*args, **kind)
    for short, message in (
        (z[:-1], "y has 700 rows and logits has 699"),
        (parts[["z_cat", "z_dog", "z_emu"]], "y has 7 partitions and logits has 2"),
    ):
        with pytest.raises(ValueError, match=message):
            ours.score(y, logits=short)


def test_hints_of_workers_name_arguments_as_data(table):
    with pytest.raises(InputError, match="or classes= to name the columns") as caught:
        ours.score(parted(table.assign(by="by=3"), 500), label="by", probs="p_*")
    said = caught.value.spelled(lambda argument: f"<{argument.name}>")
    assert said.startswith("partition ")
    assert "label 'by=3' (row 0" in said
    assert said.endswith("use <ignore> to skip such rows, or <classes> to name the columns")
    with pytest.raises(InputTypeError, match="for a data frame pass label=") as caught:
        ours.score(parted(table), probs="p_*")
    assert caught.value.argument == "label"


def test_nothing_to_score(table):
    with pytest.raises(ValueError, match="there are no rows to score"):
        ours.score(parted(table[:0]), label="y", probs="p_*")
    with pytest.raises(ValueError, match="there are no rows to score: 700 are left out"):
        ours.score(parted(table, 10), label="y", probs="p_*", ignore=["cat", "dog", "emu"])
