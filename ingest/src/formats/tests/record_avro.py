"""Records avro.json: payloads that fastavro wrote, with the JSON value that each must be read as.

Run with fastavro 1.13: python3 record_avro.py > avro.json
"""

import datetime
import decimal
import io
import json
import uuid

import fastavro

UTC = datetime.timezone.utc


def case(name, schema, record, expected, references=()):
    named = {}
    for reference in references:
        fastavro.parse_schema(reference, named_schemas=named)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema, named_schemas=named), record)
    return {
        "name": name,
        "schema": json.dumps(schema),
        "references": [json.dumps(reference) for reference in references],
        "payload": out.getvalue().hex(),
        "value": expected,
    }


def record(name, *fields, **more):
    fields = [{"name": field, "type": kind} for field, kind in fields]
    return {"type": "record", "name": name, "fields": fields, **more}


def logical(base, kind, **more):
    return {"type": base, "logicalType": kind, **more}


moment = datetime.datetime(2024, 5, 1, 8, 0, 1, 500007, UTC)
item = record("Item", ("sku", "string"), ("rank", "int"), namespace="shop")
cases = [
    case(
        "primitives",
        record("R", ("b", "boolean"), ("i", "int"), ("l", "long"), ("f", "float"), ("d", "double"), ("s", "string"),
               ("y", "bytes"), ("n", "null")),
        {"b": True, "i": -7, "l": 2**62, "f": 0.1, "d": -2.5, "s": "grüß", "y": b"\x00\xff", "n": None},
        {"b": True, "i": -7, "l": 2**62, "f": 0.1, "d": -2.5, "s": "grüß", "y": "AP8=", "n": None},
    ),
    case(
        "logical types",
        record("R", ("ms", logical("long", "timestamp-millis")), ("us", logical("long", "timestamp-micros")),
               ("local", logical("long", "local-timestamp-millis")), ("date", logical("int", "date")),
               ("time", logical("int", "time-millis")), ("id", logical("string", "uuid")),
               ("price", logical("bytes", "decimal", precision=9, scale=2)),
               ("fee", logical("fixed", "decimal", precision=9, scale=3, size=5, name="Fee")),
               ("unknown", logical("int", "of-tomorrow"))),
        {"ms": moment, "us": moment, "local": moment.replace(tzinfo=None), "date": moment.date(),
         "time": datetime.time(0, 0, 1), "id": uuid.UUID(int=5), "price": decimal.Decimal("-12.34"),
         "fee": decimal.Decimal("0.005"), "unknown": 3},
        {"ms": "2024-05-01T08:00:01.500Z", "us": "2024-05-01T08:00:01.500007Z", "local": "2024-05-01T08:00:01.500Z",
         "date": "2024-05-01T00:00:00Z", "time": 1000, "id": "00000000-0000-0000-0000-000000000005",
         "price": -12.34, "fee": 0.005, "unknown": 3},
    ),
    case(
        "unions, enums, maps and lists",
        record("R", ("none", ["null", "string"]), ("some", ["null", "string"]), ("third", ["null", "long", "string"]),
               ("kind", {"type": "enum", "name": "Kind", "symbols": ["VIEW", "CLICK"]}),
               ("tags", {"type": "array", "items": "string"}), ("empty", {"type": "array", "items": "long"}),
               ("scores", {"type": "map", "values": "double"})),
        {"none": None, "some": "x", "third": "text", "kind": "CLICK", "tags": ["a", "b"], "empty": [],
         "scores": {"p": 0.5}},
        {"none": None, "some": "x", "third": "text", "kind": "CLICK", "tags": ["a", "b"], "empty": [],
         "scores": {"p": 0.5}},
    ),
    case(
        "records in records, by name and by namespace",
        record("Shown", ("items", {"type": "array", "items": item}), ("best", ["null", "shop.Item"]),
               ("other", ["null", "Item"]), namespace="shop"),
        {"items": [{"sku": "a", "rank": 0}, {"sku": "b", "rank": 1}], "best": {"sku": "b", "rank": 1}, "other": None},
        {"items": [{"sku": "a", "rank": 0}, {"sku": "b", "rank": 1}], "best": {"sku": "b", "rank": 1}, "other": None},
    ),
    case(
        "a record that holds itself",
        record("Node", ("name", "string"), ("next", ["null", "Node"])),
        {"name": "a", "next": {"name": "b", "next": None}},
        {"name": "a", "next": {"name": "b", "next": None}},
    ),
    case(
        "a reference",
        record("Shown", ("item", "shop.Item"), namespace="web"),
        {"item": {"sku": "a", "rank": 2}},
        {"item": {"sku": "a", "rank": 2}},
        references=[item],
    ),
    case(
        "debezium",
        record("Envelope",
               ("before", ["null", record("Value", ("id", "long"), ("title", "string"),
                                          ("price", logical("bytes", "decimal", precision=9, scale=2)),
                                          ("made", {"type": "long", "connect.name": "io.debezium.time.MicroTimestamp"}))]),
               ("after", ["null", "Value"]), ("op", "string"), ("ts_ms", ["null", "long"])),
        {"before": None, "op": "u", "ts_ms": 1714550401500,
         "after": {"id": 5, "title": "t", "price": decimal.Decimal("9.99"), "made": 1714550401500007}},
        {"before": None, "op": "u", "ts_ms": 1714550401500,
         "after": {"id": 5, "title": "t", "price": 9.99, "made": "2024-05-01T08:00:01.500007Z"}},
    ),
    case(
        "cloudevents",
        record("CloudEvent", ("id", "string"), ("subject", "string"), ("time", logical("long", "timestamp-millis")),
               ("data", record("Data", ("user_id", "string"),
                               ("items", {"type": "array", "items": record("Shown", ("item_id", "string"))})))),
        {"id": "1", "subject": "r7", "time": moment, "data": {"user_id": "u", "items": [{"item_id": "a"}]}},
        {"id": "1", "subject": "r7", "time": "2024-05-01T08:00:01.500Z",
         "data": {"user_id": "u", "items": [{"item_id": "a"}]}},
    ),
]
print(json.dumps(cases, indent=1, ensure_ascii=False))
