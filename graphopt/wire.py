"""The wire format of protobuf, as far as it takes to find a field of a message without reading all of it."""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _EIGHT, BYTES, _FOUR = 0, 1, 2, 5
# Field numbers of onnx.proto: what leads from a model to its graphs, and from a graph to those inside.
GRAPH, _NODE, _ATTRIBUTE, _INNER = 7, 1, 5, (6, 11)

SAFE_NESTING = 30
"""How deep subgraphs may be nested for sure: readers stop at messages 100 deep, and each level has three."""


class Malformed(Exception):
    """The bytes are not what this can take apart."""


def fields(data: memoryview, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, where the field starts, and where its content begins and ends."""
    position = begin
    while position < end:
        start = position
        tag, position = varint(data, position, end)
        kind = tag & 7
        if kind == BYTES:
            length, position = varint(data, position, end)
            content, position = position, position + length
        elif kind == _VARINT:
            content = position
            _, position = varint(data, position, end)
        elif kind in (_EIGHT, _FOUR):
            content, position = position, position + (8 if kind == _EIGHT else 4)
        else:
            raise Malformed
        if position > end:
            raise Malformed
        yield tag >> 3, start, content, position


def varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = shift = 0
    while position < end and shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise Malformed


def header(number: int, length: int) -> bytes:
    """What stands before the content of a field that has a length."""
    content = bytearray()
    for value in (number << 3 | BYTES, length):
        while value > 127:
            content.append(value & 127 | 128)
            value >>= 7
        content.append(value)
    return bytes(content)


def nesting(data: memoryview) -> int:
    """How deep the subgraphs of a model are nested; 0 without any.

    Raises:
        Malformed: The bytes are not a whole model.
    """
    deepest = 0
    stack = [(0, begin, end) for number, _, begin, end in fields(data, 0, len(data)) if number == GRAPH]
    while stack:
        depth, begin, end = stack.pop()
        deepest = max(deepest, depth)
        for node in _inside(data, begin, end, (_NODE,)):
            for attribute in _inside(data, *node, (_ATTRIBUTE,)):
                stack.extend((depth + 1, *inner) for inner in _inside(data, *attribute, _INNER))
    return deepest


def _inside(data: memoryview, begin: int, end: int, numbers: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    return ((start, stop) for number, _, start, stop in fields(data, begin, end) if number in numbers)
