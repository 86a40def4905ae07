"""What is said of the machine that measures."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import onnx
import psutil
import pytest

from graphopt.bench import machine
from graphopt.bench.machine import machine_here
from graphopt.bench.timing import bench
from graphopt.record.benched import machine_text
from graphopt.record.data import BenchEntry, Machine, TuneEntry

X86 = "processor\t: 0\nmodel name\t: First CPU @ 2 GHz\n\nprocessor\t: 1\nmodel name\t: Second CPU\n"
ARM = "processor\t: 0\nBogoMIPS\t: 108.00\n\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B\n"


def test_this_machine_is_in_a_measurement(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["":17]> g (float[3] x) => (float[3] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    found = bench([tmp_path / "model.onnx"], seconds=0.1).machine
    assert found == machine_here()
    assert found is not None
    assert found.host == socket.gethostname()
    assert (found.worker, found.label) == ("", "")
    assert found.cpu
    assert found.logical_cores == psutil.cpu_count()
    assert found.memory_bytes == psutil.virtual_memory().total


@pytest.mark.parametrize(("text", "cpu"), [(X86, "First CPU @ 2 GHz"), (ARM, "BCM2835"), ("", "")])
def test_the_processor_is_read_as_linux_tells_it(text: str, cpu: str) -> None:
    assert machine._cpu_of_linux(text) == cpu  # pyright: ignore[reportPrivateUsage]


def test_a_machine_is_one_sentence() -> None:
    found = Machine("box", "edge", "arm", "A CPU", 2, 4, 8 << 30, "Linux")
    assert machine_text(found) == (
        "Measured on box, worker edge for 'arm', A CPU, 2 physical and 4 logical cores, 8.0 GiB, Linux"
    )
    assert machine_text(Machine("box")).startswith("Measured on box, 0 physical")


def test_records_of_older_versions_have_none() -> None:
    assert msgspec.json.decode(b'{"models": []}', type=BenchEntry).machine is None
    assert msgspec.json.decode(b'{"kept": "", "conclusion": ""}', type=TuneEntry).machine is None
