"""Files that no sane tool writes: models damaged in their bytes or in what they say, and other inputs."""

# ruff: noqa: E501 - tables of what is tried, one line a kind
from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

CANARY = b"canary: nobody may read this"
_HUGE = (-1, 0, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))


def corrupt(content: bytes, rng: random.Random) -> bytes:
    """Damage the bytes of a file."""
    data = bytearray(content)
    way = rng.randrange(6)
    place = rng.randrange(len(data))
    if way == 0:
        return bytes(data[:place])
    if way == 1:
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == 2:
        data[place : place + rng.randrange(1, 64)] = rng.randbytes(rng.randrange(0, 64))
    elif way == 3:
        data[place:place] = rng.randbytes(rng.randrange(1, 256))
    elif way == 4:
        # The first bytes hold the shape of the message: a flip further on mostly hits a weight.
        for _ in range(rng.choice((1, 2, 4))):
            data[rng.randrange(min(len(data), 400))] = rng.randrange(256)
    else:
        end = min(len(data), place + rng.randrange(1, 2000))
        data[place:place] = data[place:end]
    return bytes(data)


def _tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    found = list(model.graph.initializer)
    for node in model.graph.node:
        found += [attr.t for attr in node.attribute if attr.type == onnx.AttributeProto.TENSOR]
    return found


def _some_tensor(model: onnx.ModelProto, rng: random.Random) -> onnx.TensorProto:
    found = _tensors(model)
    return rng.choice(found) if found else model.graph.initializer.add(name="added", data_type=1, dims=[1])


def huge_dims(model: onnx.ModelProto, rng: random.Random, folder: Path) -> None:
    tensor = _some_tensor(model, rng)
    dims = list(tensor.dims) or [1]
    dims[rng.randrange(len(dims))] = rng.choice(_HUGE)
    del tensor.dims[:]
    tensor.dims.extend(dims)


def huge_interface(model: onnx.ModelProto, rng: random.Random, folder: Path) -> None:
    infos = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    if infos:
        shape = rng.choice(infos).type.tensor_type.shape
        (rng.choice(shape.dim) if shape.dim else shape.dim.add()).dim_value = rng.choice(_HUGE)


def many_dims(model: onnx.ModelProto, rng: random.Random, folder: Path) -> None:
    tensor = _some_tensor(model, rng)
    tensor.dims.extend([rng.choice((1, 1, 2, 0))] * rng.choice((30, 70, 3000)))


def cycle(model: onnx.ModelProto, rng: random.Random, folder: Path) -> None:
    nodes = [node for node in model.graph.node if node.input and node.output]
    if nodes:
        rng.choice(nodes).input[0] = rng.choice(nodes).output[0]


def wiring(model: onnx.ModelProto, rng: random.Random, folder: Path) -> None:
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    names += [info.name for info in (*model.graph.input, *model.graph.output)]
    names += ["", "missing", "\0", "a" * 100_000]
    for _ in range(rng.choice((1, 2, 5))):
        if not model.graph.node:
            return
        node = rng.choice(model.graph.node)
        ports = rng.choice((node.input, node.output))
        if not ports or rng.random() < 0.2:
            ports.append(rng.choice(names))
        elif rng.random() < 0.2:
            del ports[rng.randrange(len(ports))]
        else:
            ports[rng.randrange(len(ports))] = rng.choice(names)


def doubled(model: onnx.ModelProto, rng: random.Random, folder: Path) -> None:
    lists: list[Any] = [model.graph.node, model.graph.initializer, model.graph.input, model.graph.output]
    lists += [model.graph.value_info, model.opset_import, model.functions]
    full = [found for found in lists if len(found)]
    if full:
        found = rng.choice(full)
        found.append(rng.choice(list(found)))


def removed(model: onnx.ModelProto, rng: random.Random, folder: Path) -> None:
    lists = [
        model.graph.node,
        model.graph.initializer,
        model.graph.input,
        model.graph.output,
        model.opset_import,
    ]
    full = [found for found in lists if len(found)]
    if full:
        found = rng.choice(full)
        del found[rng.randrange(len(found))]


def enums(model: onnx.ModelProto, rng: random.Random, folder: Path) -> None:
    value = rng.choice((0, 16, 23, 24, 25, 99, 2**31 - 1, -1))
    what = rng.randrange(4)
    if what == 0:
        _some_tensor(model, rng).data_type = value
    elif what == 1 and model.graph.input:
        rng.choice(model.graph.input).type.tensor_type.elem_type = value
    elif what == 2:
        model.ir_version = rng.choice((0, 1, 2, 3, 4, 99, 2**40, -5))
    elif model.opset_import:
        model.opset_import[0].version = rng.choice((0, -1, 1, 2, 6, 99, 2**40))


def attributes(model: onnx.ModelProto, rng: random.Random, folder: Path) -> None:
    attrs = [(node, attr) for node in model.graph.node for attr in node.attribute]
    if not attrs:
        return
    node, attr = rng.choice(attrs)
    what = rng.randrange(6)
    if what == 0:
        del attr.ints[:]
        attr.ints.extend(rng.choice(_HUGE) for _ in range(rng.choice((0, 1, 4, 9))))
    elif what == 1:
        attr.type = rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])  # pyright: ignore[reportAttributeAccessIssue]
    elif what == 2:
        attr.i = rng.choice(_HUGE)
    elif what == 3:
        node.attribute.append(attr)
    elif what == 4:
        attr.s = rng.randbytes(rng.choice((0, 3, 5_000_000)))
        attr.type = onnx.AttributeProto.STRING
    else:
        attr.f = rng.choice((float("nan"), float("inf"), -1e38, 0.0))


def contents(model: onnx.ModelProto, rng: random.Random, folder: Path) -> None:
    tensor = _some_tensor(model, rng)
    what = rng.randrange(4)
    if what == 0:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif what == 1:
        tensor.raw_data = rng.randbytes(rng.randrange(64))
    elif what == 2:
        tensor.float_data.extend([1.0] * rng.randrange(8))
    else:
        tensor.string_data.append(rng.randbytes(3))


def operators(model: onnx.ModelProto, rng: random.Random, folder: Path) -> None:
    if model.graph.node:
        node = rng.choice(model.graph.node)
        node.op_type = rng.choice(("", "NoSuchOp", "Identity", "If", "Loop", "Scan", "Reshape", "Conv", "\0"))
        node.domain = rng.choice(("", "", "com.microsoft", "nowhere"))


def nesting(model: onnx.ModelProto, rng: random.Random, folder: Path) -> None:
    inner = onnx.GraphProto(name="leaf")
    inner.node.add(op_type="Constant", output=["c"]).attribute.add(name="value_int", i=1, type=2)
    inner.output.add(name="c")
    for level in range(rng.choice((5, 29, 31, 40))):
        outer = onnx.GraphProto(name=f"g{level}")
        node = outer.node.add(op_type="If", input=["c"], output=["c"])
        for name in ("then_branch", "else_branch")[: rng.choice((1, 1, 2)) if level < 8 else 1]:
            node.attribute.add(name=name, type=5).g.CopyFrom(inner)
        outer.output.add(name="c")
        inner = outer
    model.graph.node.add(op_type="If", input=["c"], output=["deep"]).attribute.add(
        name="then_branch", type=5
    ).g.CopyFrom(inner)


def functions(model: onnx.ModelProto, rng: random.Random, folder: Path) -> None:
    function = model.functions.add(name="F", domain="local")
    function.input.append("x")
    function.output.append("y")
    function.opset_import.add(domain="", version=17)
    called = "F" if rng.random() < 0.5 else "G"  # itself, or one that is not there
    function.node.add(op_type=called, domain="local", input=["x"], output=["y"])
    model.opset_import.add(domain="local", version=1)
    if model.graph.input:
        model.graph.node.add(
            op_type="F", domain="local", input=[model.graph.input[0].name], output=["called"]
        )


def sparse(model: onnx.ModelProto, rng: random.Random, folder: Path) -> None:
    tensor = model.graph.sparse_initializer.add()
    tensor.values.name, tensor.values.data_type = "sparse", 1
    tensor.values.dims.append(rng.choice((1, 2**40)))
    tensor.values.raw_data = bytes(4)
    tensor.indices.data_type = rng.choice((1, 7))
    tensor.indices.dims.append(1)
    tensor.indices.raw_data = np.array([rng.choice(_HUGE)], np.int64).tobytes()
    tensor.dims.append(rng.choice(_HUGE))


def external(model: onnx.ModelProto, rng: random.Random, folder: Path) -> None:
    """Point a tensor to where it has no business; `CANARY` lies in the folder above."""
    tensor = _some_tensor(model, rng)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    (folder / "data").write_bytes(bytes(64))
    for name, place in (("link", "../canary"), ("loop", "loop"), ("deep", "..")):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(place)
    if not (folder / "pipe").exists():
        os.mkfifo(folder / "pipe")
    locations = (
        "/etc/passwd",
        "../canary",
        "sub/../../canary",
        "link",
        "loop",
        "deep/canary",
        "data",
        "missing",
    )
    locations += (
        "",
        ".",
        "\0",
        "pipe",
        "data\0x",
        "a" * 5000,
        str(folder.parent / "canary"),
        "/dev/zero",
        "model.onnx",
    )
    if rng.random() < 0.95:
        tensor.external_data.add(key="location", value=rng.choice(locations))
    for key in ("offset", "length"):
        if rng.random() < 0.6:
            value = rng.choice(
                ("0", "8", "64", "-1", "1e9", "x", "", "99999999999999999999999", str(2**62), "²")
            )
            tensor.external_data.add(key=key, value=value)


def texts(model: onnx.ModelProto, rng: random.Random, folder: Path) -> None:
    for _ in range(rng.choice((1, 1000))):
        model.metadata_props.add(
            key=rng.choice(("", "k", "names", "stride", "imgsz")),
            value=rng.choice(("", "{", "[" * 900, "\x1b[2J", "1" * 9000)),
        )
    model.graph.name = rng.choice(("", "\0", "\x1b[31m"))


MUTATIONS: tuple[Callable[[onnx.ModelProto, random.Random, Path], None], ...] = (
    huge_dims, huge_interface, many_dims, cycle, wiring, doubled, removed, enums, attributes, contents,
    operators, nesting, functions, sparse, external, external, texts,
)  # fmt: skip


def hostile_model(seed: bytes, rng: random.Random, folder: Path) -> tuple[str, bytes]:
    """What was done, and the content of a damaged model file."""
    if rng.random() < 0.4:
        return "bytes", corrupt(seed, rng)
    model = onnx.ModelProto.FromString(seed)
    done: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        mutation = rng.choice(MUTATIONS)
        mutation(model, rng, folder)
        done.append(mutation.__name__)
    return "+".join(done), model.SerializeToString()


_TOML = """base = "exact"
before = ["eliminate-identity"]
skip = ["eliminate-noop@x"]
[set.eliminate-noop]
nan = false
[check]
on-failure = "rollback"
seed = 1
inputs = ["a.npz"]
[session]
threads = 2
"""
_PIPELINES = ("exact", "fixpoint(", "a,,b", "fixpoint(fixpoint(exact))", "eliminate-noop{nan=}", "ort{level=7}", "x" * 9000,
              "fixpoint(" * 900 + ")" * 900, "eliminate-noop{nan=[[[[1]]]]}", "\0", "fix-dims{batch=-1}", "fix-dims{batch=99999999999999999999}")  # fmt: skip
_PLUGINS = ("raise SystemExit(0)", "def", "import os; os._exit(0)", "import ctypes; ctypes.string_at(0)", "print('said')",
            "1/0", "\0", "import no_such_module", "class P: pass", "import sys; sys.exit('no')", "x = [" * 500, "raise KeyboardInterrupt",
            "from graphopt import *\nclass A(RewritePass):\n    name='a'\n", "import threading,time; threading.Thread(target=time.sleep,args=(99,)).start(); 1/0")  # fmt: skip


def other_case(good: Path, folder: Path, rng: random.Random) -> tuple[str, list[str]]:
    """What was made, and arguments that use a hostile file that is no model."""
    what = rng.choice(
        ("toml", "pipeline", "plugin", "npz", "npy", "record", "diff", "set", "session", "not-onnx")
    )
    run = ["run", str(good), "-o", str(folder / "out.onnx"), "--quiet"]
    plain = [*run, "--check", "off", "-p", "eliminate-identity"]
    if what == "toml":
        content = _TOML.encode()
        path = folder / "p.toml"
        path.write_bytes(corrupt(content, rng))
        return what, [*run, "--check", "off", "-p", str(path)]
    if what == "pipeline":
        return what, [*run, "--check", "off", "-p", rng.choice(_PIPELINES).replace("\0", "?")]
    if what == "plugin":
        path = folder / f"plugin{rng.randrange(10**9)}.py"
        path.write_text(rng.choice(_PLUGINS))
        return what, [*plain, "--plugin", str(path)]
    if what in ("npz", "npy"):
        path = folder / "feed.npz"
        np.savez(
            path,
            **{  # pyright: ignore[reportArgumentType]
                rng.choice(("x", "input", "images")): np.ones(
                    rng.choice(((1,), (1, 3, 8, 8), (0,), (2, 2)))
                ).astype(rng.choice(("f4", "O", "U3", "c8")))
            },
        )
        if rng.random() < 0.7:
            path.write_bytes(corrupt(path.read_bytes(), rng))
        if what == "npy":
            (folder / "feeds").mkdir(exist_ok=True)
            np.save(folder / "feeds" / "x.npy", np.ones(3))
            array = folder / "feeds" / "x.npy"
            array.write_bytes(corrupt(array.read_bytes(), rng))
            path = folder / "feeds"
        return what, [
            "run",
            str(good),
            "-o",
            str(folder / "out.onnx"),
            "--quiet",
            "-p",
            "eliminate-identity",
            "--inputs",
            str(path),
        ]
    if what in ("record", "diff"):
        path = folder / "r.json"
        record = folder.parent / "record.json"
        path.write_bytes(corrupt(record.read_bytes(), rng))
        if what == "diff":
            return what, ["diff", str(record), str(path)]
        return what, ["view", str(path), "-o", str(folder / "r.html"), "--no-browse"]
    if what == "session":
        path = folder / "out.onnx.session.json"
        path.write_bytes(
            corrupt(b'{"providers": ["CPUExecutionProvider"], "threads": 2, "config": {"a": "b"}}', rng)
        )
        return what, [
            "bench",
            str(good),
            "--session",
            rng.choice(("threads=x", "no=1", "=", "threads=-1", "threads=99999999999")),
        ]
    if what == "set":
        text = rng.choice(
            (
                "eliminate-noop.nan=7",
                "a.b=c",
                "eliminate-noop.=1",
                ".=",
                "fix-dims.batch=1e99",
                "eliminate-noop.nan=" + "[" * 2000,
            )
        )
        return what, [*run, "--check", "off", "-p", "exact", "--set", text]
    path = folder / "m.onnx"
    path.write_bytes(
        rng.choice(
            (
                b"",
                b"PK\3\4",
                b"\0" * 99,
                b"hello",
                rng.randbytes(500),
                b"\x08" * 5000,
                b":\xff\xff\xff\xff\x0f",
                b"\x08\x07" + b":\x02" * 3000,
            )
        )
    )
    return what, [
        "run",
        str(path),
        "-o",
        str(folder / "out.onnx"),
        "--quiet",
        "--check",
        "off",
        "-p",
        "exact",
    ]
