"""A column of every type that pyarrow has: scalars, nested types and extension types, with values at their limits."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

ROWS = 6
UUIDS = [uuid.UUID(int=k << 64 | 0x80 << 56) for k in (1, 2)]
"""Two, each the bytes of no text."""
IDS = {value: name for name, value in vars(pa.lib).items() if name.startswith("Type_")}
"""pyarrow's own numbering of its types."""


class Unregistered(pa.ExtensionType):
    """An extension type that this program alone knows."""

    def __init__(self) -> None:
        super().__init__(pa.int32(), "crossent.tests.unregistered")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: Any, serialized: bytes) -> Unregistered:
        return cls()


def _bits(kind: pa.DataType, *values: int) -> pa.Array:
    """Return the array whose values have these bits, whether Python has such values or not."""
    width = kind.bit_width
    return pa.array(np.array(values, f"i{width // 8}"), getattr(pa, f"int{width}")()).view(kind)


FLOATS = {
    "half float": pa.array(np.array([0.25, 0.75], "f2")),
    "float": pa.array([0.25, 0.75], pa.float32()),
    "double": pa.array([0.25, 0.75], pa.float64()),
    "decimal32": pa.array([Decimal("0.25"), Decimal("0.75")], pa.decimal32(5, 3)),
    "decimal64": pa.array([Decimal("0.25"), Decimal("0.75")], pa.decimal64(12, 3)),
    "decimal128": pa.array([Decimal("0.25"), Decimal("0.75")], pa.decimal128(30, 4)),
    "decimal256": pa.array([Decimal("0.25"), Decimal("0.75")], pa.decimal256(70, 4)),
}
INTEGERS = {
    **{f"{sign}int{bits}": pa.array([0, 1], f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "bool": pa.array([False, True]),
    "bool8": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1], pa.int8())),
    "decimal of whole numbers": pa.array([0, 1], pa.decimal128(3, 0)),
    "decimal of negative scale": pa.array([Decimal(0), Decimal(100)], pa.decimal128(3, -2)),
    "far int64": pa.array([-(2**63), 2**63 - 1], pa.int64()),
    "far uint64": pa.array([2**63, 2**64 - 1], pa.uint64()),
}
TEXTS = {
    "string": pa.array(["0", "1"]),
    "large string": pa.array(["0", "1"], pa.large_string()),
    "string view": pa.array(["0", "1"], pa.string_view()),
    "binary": pa.array([b"0", b"1"]),
    "large binary": pa.array([b"0", b"1"], pa.large_binary()),
    "binary view": pa.array([b"0", b"1"], pa.binary_view()),
    "fixed size binary": pa.array([b"0", b"1"], pa.binary(1)),
    "binary of no text": pa.array([b"\xff\x00", b"\xfe"]),
    "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array(["0", "1"])),
    "json of objects": pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 0}', '{"a": 1}'])),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([u.bytes for u in UUIDS], pa.binary(16))),
    "bytes of uuid": pa.array([u.bytes for u in UUIDS], pa.binary(16)),
    "opaque": pa.ExtensionArray.from_storage(pa.opaque(pa.string(), "money", "a vendor"), pa.array(["0", "1"])),
    "unregistered": pa.ExtensionArray.from_storage(Unregistered(), pa.array([0, 1], pa.int32())),
}
UNITS = ("s", "ms", "us", "ns")
TIMES = {
    "date32": _bits(pa.date32(), 0, 1),
    "date64": _bits(pa.date64(), 0, 86_400_000),
    "far date32": _bits(pa.date32(), -(2**31), 2**31 - 1),
    "far date64": _bits(pa.date64(), -86_400_000 * 10**10, 86_400_000 * 10**10),
    **{f"time {unit}": _bits(pa.time32(unit), 0, 1) for unit in ("s", "ms")},
    **{f"time {unit}": _bits(pa.time64(unit), 0, 1) for unit in ("us", "ns")},
    **{f"far time {unit}": _bits(pa.time32(unit), -(2**31), 2**31 - 1) for unit in ("s", "ms")},
    **{f"far time {unit}": _bits(pa.time64(unit), -(2**63), 2**63 - 1) for unit in ("us", "ns")},
    **{f"timestamp {unit}": _bits(pa.timestamp(unit), 0, 1) for unit in UNITS},
    **{f"far timestamp {unit}": _bits(pa.timestamp(unit), -(2**63) + 1, 2**63 - 1) for unit in UNITS},
    **{f"timestamp {unit} in UTC": _bits(pa.timestamp(unit, "UTC"), 0, 1) for unit in UNITS},
    **{f"far timestamp {unit} in UTC": _bits(pa.timestamp(unit, "UTC"), -(2**63) + 1, 2**63 - 1) for unit in UNITS},
    "timestamp in a zone": _bits(pa.timestamp("us", "Europe/Berlin"), 0, 1),
    "timestamp in an offset": _bits(pa.timestamp("us", "+01:30"), 0, 1),
    "timestamp in no known zone": _bits(pa.timestamp("us", "Nowhere/Land"), 0, 1),
    **{f"duration {unit}": _bits(pa.duration(unit), 0, 1) for unit in UNITS},
    **{f"far duration {unit}": _bits(pa.duration(unit), -(2**63) + 1, 2**63 - 1) for unit in UNITS},
    "interval": pa.array([pa.MonthDayNano([0, 0, 0]), pa.MonthDayNano([1, 2, 3])]),
}
SCALARS = {**FLOATS, **INTEGERS, **TEXTS, **TIMES, "null": pa.nulls(2)}
NESTED = {
    "struct": pa.array([{"a": 0}, {"a": 1}]),
    "empty struct": pa.array([{}, {}], pa.struct([])),
    "map": pa.array([[("a", 0)], [("b", 1)]], pa.map_(pa.string(), pa.int64())),
    "list": pa.array([[0.25, 0.75], [0.75, 0.25]]),
    "large list": pa.array([[0.25, 0.75], [0.75, 0.25]], pa.large_list(pa.float64())),
    "list view": pa.array([[0.25, 0.75], [0.75, 0.25]], pa.list_view(pa.float64())),
    "large list view": pa.array([[0.25, 0.75], [0.75, 0.25]], pa.large_list_view(pa.float64())),
    "fixed size list": pa.array([[0.25, 0.75], [0.75, 0.25]], pa.list_(pa.float64(), 2)),
    "list of one": pa.array([[0], [1]]),
    "fixed size list of one": pa.array([[0], [1]], pa.list_(pa.int64(), 1)),
    "list of none": pa.array([[], []], pa.list_(pa.int64())),
    "list of different lengths": pa.array([[0.25, 0.75], [1.0]]),
    "list of texts": pa.array([["a", "b"], ["c", "d"]]),
    "list of structs": pa.array([[{"a": 0}], [{"a": 1}]]),
    "list of lists": pa.array([[[0.25, 0.75]], [[0.75, 0.25]]]),
    "list of nulls": pa.array([[None, None], [None, None]]),
    "list of bools": pa.array([[True, False], [False, True]]),
    "list of decimals": pa.array([[Decimal("0.25"), Decimal("0.75")]] * 2),
    "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(np.array([[0.25, 0.75], [0.75, 0.25]])),
    "tensor of two axes": pa.FixedShapeTensorArray.from_numpy_ndarray(np.full((2, 1, 2), 0.5)),
    "dense union": pa.UnionArray.from_dense(
        pa.array([0, 1], "int8"), pa.array([0, 0], "int32"), [pa.array([0]), pa.array(["1"])]
    ),
    "sparse union": pa.UnionArray.from_sparse(pa.array([0, 1], "int8"), [pa.array([0, 0]), pa.array(["", "1"])]),
    "dictionary of structs": pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array([{"a": 0}, {"a": 1}])),
}
ENCODED = {
    **{
        f"dictionary of {name}": pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), values)
        for name, values in SCALARS.items()
        if not isinstance(values.type, pa.BaseExtensionType)
    },
    "dictionary that holds null": pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["0", None])),
    "dictionary of a value twice": pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["0", "0"])),
    **{
        f"runs of {name}": pa.RunEndEncodedArray.from_arrays(pa.array([1, 2], pa.int32()), values)
        for name, values in {**SCALARS, "list": NESTED["list"]}.items()
        if not (isinstance(values.type, pa.BaseExtensionType) or name.startswith("far time "))  # Arrow makes none
    },
}
EVERY = {**SCALARS, **NESTED, **ENCODED}
VALUES = {*SCALARS, *ENCODED, "list of one", "fixed size list of one", "dense union", "sparse union"} - {"runs of list"}
"""What holds one value per row."""
ONE_VALUE = {"dictionary of a value twice"} | {name for name in EVERY if name.split(" of ")[-1] == "null"}
BEYOND = [name for name in EVERY if "far time " in name]
"""What Arrow itself calls invalid, and only Parquet hands over."""
