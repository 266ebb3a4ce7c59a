"""Records that fit the schema, however unlikely: for reports, which must survive every one."""

from __future__ import annotations

import json
from typing import Any, get_args

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from petlbench.records.fields import Rung
from petlbench.records.schema import Record, Status, parse_record
from tests.record_factory import TASKS, make_record

LETTERS = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))
LINES = st.text(LETTERS, max_size=20) | st.sampled_from(["$x^{", "a|b", "<script>", "=1+1", "[bold]", "%s", "{}", "\\alpha_", "_" * 60])
NAMES = LINES.filter(bool)
COUNTS = st.sampled_from([0, 1, 7, 10**6, 2**53 + 1, 2**63 - 1]) | st.integers(0, 2**63 - 1)
AMOUNTS = st.sampled_from([0.0, 1e-300, 5e-324, 0.1, 1e9, 1e30]) | st.floats(0, 1e30)
PERCENT = st.sampled_from([0.0, 5e-324, 50.0, 100.0]) | st.floats(0, 100)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.none() | st.booleans() | st.integers() | FINITE | st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
KEYS = st.text("abcdefgh_.", min_size=1, max_size=6)
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6)
SETTINGS = st.dictionaries(st.sampled_from(["name", "shots", "split_seed", "epochs", "rank", "train", "budget"]) | KEYS, JSON, max_size=4)
HASHES = st.sampled_from(["", "0" * 64, "c0ffee00" * 8])
PLACES = st.sampled_from(["embed", "0.q", "1.fc2", "11.norm1", "999.other", "3.somewhere", "z" * 40])
QUERIES = st.fixed_dictionaries(dict.fromkeys(("calls", "images", "contexts", "texts", "cached", "bytes"), COUNTS))
EPOCHS = st.fixed_dictionaries(
    {"epoch": COUNTS, "loss": FINITE, "learning_rate": FINITE}, optional={"val_accuracy": PERCENT | st.none(), "test_accuracy": PERCENT}
)
POINTS = st.fixed_dictionaries({"images": COUNTS, "contexts": COUNTS, "accuracy": PERCENT})
TIMES = st.datetimes().map(lambda time: time.isoformat() + "+00:00")


def optional(strategy: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.none() | strategy


CHANGES: dict[str, SearchStrategy[Any]] = {
    "schema_version": st.sampled_from([1, 2, 3, 4, 5]),
    "run_id": st.text("0123456789abcdef", min_size=16, max_size=16),
    "status": st.sampled_from(get_args(Status)),
    "error": optional(st.text(st.characters(exclude_categories=("Cs",)), max_size=20)),
    "created": TIMES,
    "suite": NAMES,
    "task": st.sampled_from([*TASKS, "vtab/dtd", "folder:/a b"])
    | st.tuples(KEYS, NAMES).map("/".join).filter(lambda name: name[0] not in "/:"),
    "task_revision": LINES,
    "class_count": COUNTS,
    "split_hashes": st.dictionaries(NAMES, HASHES, max_size=2),
    "protocol.id": NAMES,
    "protocol.settings": SETTINGS,
    "selection": NAMES | st.just("oracle_test"),
    "backbone.name": NAMES,
    "backbone.sha256": HASHES,
    "backbone.parameters": COUNTS,
    "backbone.transport": st.sampled_from(["in_process", "http"]),
    "method.name": NAMES,
    "method.plugin": NAMES,
    "method.access": st.sampled_from(get_args(Rung)),
    "method.access_seen": optional(st.sampled_from(get_args(Rung))),
    "method.config": SETTINGS,
    "seed": st.integers(0, 2**32 - 1),
    "hyperparameters": LINES,
    "tuning": optional(
        st.fixed_dictionaries(
            {
                **dict.fromkeys(("study", "sampler"), NAMES),
                **dict.fromkeys(("trials", "asked"), COUNTS),
                "sampler_seed": st.integers(0, 2**32 - 1),
                "seeds": st.lists(st.integers(0, 2**32 - 1), max_size=3),
                "val_accuracy": PERCENT,
            },
            optional={
                **dict.fromkeys(("failed", "pruned"), COUNTS),
                "default_val_accuracy": optional(PERCENT),
                "seconds": AMOUNTS,
                "queries": st.dictionaries(NAMES, QUERIES, max_size=2),
            },
        )
    ),
    "config": SETTINGS,
    "code.commit": optional(LINES),
    "parameters": optional(
        st.fixed_dictionaries(
            dict.fromkeys(("trainable", "head", "stored_bytes", "backbone"), COUNTS),
            optional={"allocation": st.dictionaries(PLACES, COUNTS, max_size=4)},
        )
    ),
    **{f"cost.{name}": AMOUNTS for name in ("train_seconds", "eval_seconds", "total_seconds")},
    **{f"cost.{name}": optional(AMOUNTS) for name in ("run_memory_mb", "peak_memory_mb", "flops_per_image")},
    **{f"cost.{name}": COUNTS for name in ("images_decoded", "images_forwarded", "images_encoded", "resumed")},
    "cost.queries": st.dictionaries(st.sampled_from(["train", "val", "test", "curve"]) | NAMES, QUERIES, max_size=3),
    "metrics": st.fixed_dictionaries(
        {"accuracy": PERCENT, "samples": COUNTS, "standard_error": PERCENT},
        optional={
            "val_accuracy": optional(PERCENT),
            "parts": st.dictionaries(
                NAMES, st.fixed_dictionaries({"accuracy": PERCENT, "own_accuracy": PERCENT, "samples": COUNTS}), max_size=2
            ),
        },
    ),
    "history": st.lists(EPOCHS, max_size=3),
    "curve": st.lists(POINTS, max_size=3),
    "predictions": optional(st.just({"file": "gone.predictions.safetensors", "sha256": "0" * 64})),
    "token_usage": optional(st.just("gone.usage.safetensors")),
    "checkpoint": optional(st.just("checkpoints/gone.safetensors")),
}


@st.composite
def records(draw: DrawFn) -> Record:
    """A record of a usual method and task in which a few fields hold anything that the schema allows."""
    usual = make_record(
        draw(st.sampled_from(["lora", "full", "bar", "craft", "vp"])), draw(st.sampled_from(TASKS[:2])), draw(st.sampled_from([0, 1]))
    )
    data = json.loads(usual.model_dump_json())
    for field in draw(st.lists(st.sampled_from(sorted(CHANGES)), max_size=12, unique=True)):
        section, _, name = field.rpartition(".")
        (data[section] if section else data)[name] = draw(CHANGES[field])
    return parse_record(json.dumps(data), "here")
