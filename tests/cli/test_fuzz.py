"""Any command line is answered: no traceback, no control character on the terminal, an exit code that a script can use."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from petlbench import api
from petlbench.cli import _COMMANDS, data, main
from petlbench.errors import ConfigError
from petlbench.records.store import RecordStore
from tests.record_factory import make_record

LINES = int(os.environ.get("PETLBENCH_FUZZ_LINES", "200"))  # 200 take seconds, 8,500 some minutes
_KEYS = """
method task seed seeds recipe precision out device threads save cache_mb store_mb data_root url curve checkpoint_every backbone backbone.name
backbone.checkpoint method.name method.rank method.targets method.spsa.step method.checkpoint train train.epochs train.batch_size
train.learning_rate train.schedule protocol protocol.resize protocol.shots protocol.augment protocol.name access.output access.batch
budget.images budget suite paper table dataset older larger root host port token_file output max_images batch_delay_ms a..b .. .a a. _
method.name.x task.x seed.x out.x seeds.x url.url
"""
_HOSTILE = """
??? null None ~ NaN nan inf -inf 1e400 -0 010 +1 1_000 １２ 0x10 1:30 yes no true [ ] [] {} [[ {a: 1} [a,b [a,,b] & * &a *a !
!!python/object:os.system !!binary | > % @ ` ' " # a#b : , - -- = == . .. / // * ? $ ${oc.env:HOME} ${ ${a} $(id) `id` %s %n {0} {} \\
\\x1b [bold] [/] [red]x[/red] 0 -1 1 1.5 4294967296 99999999999999999999 100000 /dev/null /dev/zero /dev/full /proc/self/mem /etc/passwd
/etc fifo empty hostile hostile.json text.safetensors loop dangling http://127.0.0.1:1 http://a@b http://[ http://127.0.0.1:99999
folder:/dev csv:/dev/zero csv:fifo csv:/etc/passwd csv:empty folder: : mini mini/digits mini/digits+mini/digits vtab/cifar100 all lora
linear zero_shot blackvip remote mini_clip timm:x timm: open_clip: open_clip:ViT-B-32/x noah spt vtab cpu cuda:99 tpu remote:x@0
file:///etc/passwd [0,1] 0,1,2 0,,1
"""
KEYS = _KEYS.split()
HOSTILE = [
    *_HOSTILE.split(),
    "",
    " ",
    "\t",
    "a b",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "\x7f",
    "a\rb",
    "a\nb",
    "\x00",
    "\ud800",
    "caf\udce9",
    "\u202eexe",
    "\u2028",
    "9" * 5000,
    "[" * 3000,
    "[" * 100 + "]" * 100,
    "{a: " * 500,
    "a" * 300,
    "a/" * 3000,
    "[&a [x,x,x,x,x,x,x,x],&b [*a,*a,*a,*a,*a,*a,*a,*a],&c [*b,*b,*b,*b,*b,*b,*b,*b],&d [*c,*c,*c,*c,*c,*c,*c,*c],"
    "&e [*d,*d,*d,*d,*d,*d,*d,*d],&f [*e,*e,*e,*e,*e,*e,*e,*e],&g [*f,*f,*f,*f,*f,*f,*f,*f],&h [*g,*g,*g,*g,*g,*g,*g,*g]]",
    "flip" + " + flip" * 3000,
    "(" * 3000,
    "random_resized_crop(" + "-" * 3000 + "1)",
]
OPTIONS = "--json --debug -h --help --available --retry-failed --jobs --jobs=0 --jobs=x --watch=x --out --seeds --suite --older --larger --root --csv "
OPTIONS += "--complete --partial --no-store --delete --version --x -x -- --out= --seeds= --root=. --jobs=99999999999999999999"
NAMED = [*_COMMANDS, "methods", "suites", "tasks", "backbones", "recipes"]
PARTS = (
    "prepare",
    "verify",
    "clean",
    "methods",
    "suites",
    "tasks",
    "backbones",
    "recipes",
    "lora",
    "craft",
    "spt",
    "hostile",
    "hostile.json",
)
WHOLE = {  # words with which a command comes as far as it can
    "run": ["method=lora", "task=mini/digits"],
    "plan": ["method=lora", "task=mini/digits"],
    "bench": ["method=lora", "task=mini/digits"],
    "evaluate": ["text.safetensors"],
    "export": ["text.safetensors", "target"],
    "leaderboard": ["out=hostile"],
    "compare": ["out=hostile"],
    "show": ["hostile.json"],
    "validate": ["hostile"],
    "merge": ["hostile", "out=merged"],
    "table": ["spt"],
    "ls": ["suites"],
    "data": ["prepare", "mini/digits"],
    "new-method": ["mine"],
}

values = st.sampled_from(HOSTILE) | st.text(max_size=12)
words = st.builds(lambda key, value: f"{key}={value}", st.sampled_from(KEYS), values)
arguments = words | values | st.sampled_from(OPTIONS.split()) | st.sampled_from(PARTS)
lines = st.builds(
    lambda command, is_whole, rest: [command, *(WHOLE.get(command, []) if is_whole else []), *rest],
    st.sampled_from(NAMED) | values,
    st.booleans(),
    st.lists(arguments, max_size=4),
)


def stub(*_: object, **__: object) -> Any:
    raise ConfigError("nothing is computed here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of odd files, in which commands neither compute nor serve nor fetch."""
    root, patch = tmp_path_factory.mktemp("fuzz"), pytest.MonkeyPatch()
    patch.chdir(root)
    patch.setenv("PETLBENCH_CACHE", str(root / "cache"))
    patch.setenv("HOME", str(root))
    os.mkfifo("fifo")
    Path("empty").touch()
    Path("text.safetensors").write_text("no tensors")
    Path("loop").symlink_to("loop")
    Path("dangling").symlink_to("absent")
    fill_hostile()
    patch.setattr("petlbench.runs.execute.execute", stub)
    patch.setattr("petlbench.remote.server.server.serve", stub)
    patch.setattr(api, "carry_out", stub)
    patch.setattr(data, "fetch", stub)
    patch.setattr(data, "_store", lambda *_: "")
    yield root
    patch.undo()


def fill_hostile() -> None:
    """Records whose texts try to steer a terminal, and one that is none."""
    shutil.rmtree("hostile", ignore_errors=True)
    store = RecordStore(Path("hostile"))
    for seed, status in enumerate(("ok", "failed")):
        record = make_record("<lora>[red]", seed=seed, status=status)  # type: ignore[arg-type]
        path = store.write(record.model_copy(update={"error": "\x1b[2J\x9b31m\x7fboom\r"} if status == "failed" else {}))
        path.with_name(f"{seed}.json").write_text(path.read_text().replace("<lora>", "lo\\u001b[31mra"))  # which no schema lets pass
    shutil.copy(store.paths()[0], "hostile.json")


def answer(line: list[str]) -> tuple[int, str]:
    """Exit code and all that a command line prints."""
    printed = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", ["petlbench", *line])
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            main()
    except SystemExit as stopped:
        code = stopped.code
    finally:
        patch.undo()
    printed.flush()
    assert isinstance(printed.buffer, io.BytesIO) and isinstance(code, int)
    return code, printed.buffer.getvalue().decode()


def faults(line: list[str], respond: Callable[[list[str]], tuple[int, str]] = answer) -> list[str]:
    """What is wrong with the answer to a command line."""
    try:
        code, text = respond(line)
    except Exception as error:
        if "--debug" in line:  # asks for the traceback
            return []
        return [f"{type(error).__name__}: {error}"[:300]]
    found = [f"exit code {code}"] if code not in (0, 1, 2) else []
    if steering := {char for char in text if char != "\n" and unicodedata.category(char) in ("Cc", "Cs")}:
        found.append(f"prints {sorted(steering)}")
    return found


@settings(max_examples=LINES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], print_blob=False)
@given(lines)
def test_every_command_line_is_answered(folder: Path, line: list[str]) -> None:
    assert not faults(line), line


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: ascii(value)[:30])
def test_every_hostile_value_is_answered_where_a_run_reads_it(folder: Path, value: str) -> None:
    for key in ("out", "threads", "task", "train", "method.targets", "protocol.augment", "backbone"):
        line = ["run", "method=lora", "task=mini/digits", f"{key}={value}"]
        assert not faults(line), line


@pytest.mark.parametrize("command", [name for name in WHOLE if name not in ("run", "bench")])
def test_records_cannot_steer_a_terminal(folder: Path, command: str) -> None:
    assert not faults([command, *WHOLE[command]])
