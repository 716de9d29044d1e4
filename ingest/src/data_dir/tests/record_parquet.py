"""Records the Parquet files beside it, and rows.json with the JSON value that each row of rows.parquet must be read as.

Run here with pyarrow 26: python3 record_parquet.py
"""

import datetime
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq

UTC = datetime.timezone.utc
MOMENT = datetime.datetime(2024, 5, 1, 8, 0, 1, 500007)
fields = [
    ("text", pa.string(), "grüß"),
    ("word", pa.dictionary(pa.int32(), pa.string()), "x"),
    ("flag", pa.bool_(), True),
    ("small", pa.int8(), -7),
    ("large", pa.uint64(), 2**64 - 1),
    ("half", pa.float32(), 0.1),
    ("whole", pa.float64(), -2.5),
    ("ms", pa.timestamp("ms", "UTC"), MOMENT),
    ("us", pa.timestamp("us", "Europe/Berlin"), MOMENT.replace(tzinfo=UTC)),
    ("ns", pa.timestamp("ns", "UTC"), MOMENT),
    ("local_ms", pa.timestamp("ms"), MOMENT),
    ("local_ns", pa.timestamp("ns"), MOMENT),
    ("date", pa.date32(), MOMENT.date()),
    ("time", pa.time32("ms"), datetime.time(0, 0, 1)),
    ("price", pa.decimal128(9, 2), decimal.Decimal("-12.34")),
    ("raw", pa.binary(), b"\x00\xff"),
    ("tags", pa.list_(pa.string()), ["a", None, "b"]),
    ("times", pa.list_(pa.timestamp("ns")), [MOMENT]),
    ("shown", pa.list_(pa.struct([("sku", pa.string()), ("at", pa.timestamp("ns", "UTC"))])), [{"sku": "a", "at": MOMENT}]),
    ("maker", pa.struct([("name", pa.string()), ("ids", pa.list_(pa.int64()))]), {"name": "m", "ids": [1, 2]}),
    ("scores", pa.map_(pa.string(), pa.float64()), [("p", 0.5)]),
    ("by_id", pa.map_(pa.int32(), pa.timestamp("ns")), [(7, MOMENT)]),
]
expected = {
    "text": "grüß", "word": "x", "flag": True, "small": -7, "large": 2**64 - 1, "half": 0.1, "whole": -2.5,
    "ms": "2024-05-01T08:00:01.500Z", "us": "2024-05-01T08:00:01.500007Z", "ns": "2024-05-01T08:00:01.500007000Z",
    "local_ms": "2024-05-01T08:00:01.500Z", "local_ns": "2024-05-01T08:00:01.500007000Z",
    "date": "2024-05-01T00:00:00Z", "time": 1000, "price": -12.34, "raw": "AP8=", "tags": ["a", None, "b"],
    "times": ["2024-05-01T08:00:01.500007000Z"],
    "shown": [{"sku": "a", "at": "2024-05-01T08:00:01.500007000Z"}],
    "maker": {"name": "m", "ids": [1, 2]}, "scores": {"p": 0.5}, "by_id": {"7": "2024-05-01T08:00:01.500007000Z"},
}
schema = pa.schema([(name, kind) for name, kind, _ in fields])
full = {name: value for name, _, value in fields}
empty = dict.fromkeys(full)
table = pa.Table.from_pylist([full, empty], schema=schema)
pq.write_table(table, "rows.parquet", version="2.6", row_group_size=1)
with open("rows.json", "w", encoding="utf-8") as out:
    json.dump([expected, dict.fromkeys(expected)], out, indent=1, ensure_ascii=False)
    out.write("\n")

# Times of 96 bits, as Spark and Impala write them, in the codecs of other writers.
for codec in ["gzip", "zstd", "lz4", "none"]:
    old = pa.table({"at": pa.array([MOMENT], pa.timestamp("ns"))})
    pq.write_table(old, f"int96.{codec}.parquet", use_deprecated_int96_timestamps=True, compression=codec)

# A slate, one whose score is no number, and one without an id.
shown = pa.list_(pa.struct([("item_id", pa.int64()), ("features", pa.struct([("score", pa.float64())]))]))
slates = pa.table({
    "request_id": ["r1", "r2", None],
    "user_id": pa.array([5, 5, 6]),
    "ts_ms": pa.array([MOMENT] * 3, pa.timestamp("us", "UTC")),
    "items": pa.array([[{"item_id": 1, "features": {"score": 0.5}}, {"item_id": 2, "features": None}],
                       [{"item_id": 1, "features": {"score": float("nan")}}],
                       [{"item_id": 3, "features": None}]], shown),
})
pq.write_table(slates, "impressions.parquet")
