"""What is in a model, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphopt.inspection import FeedReport, Inspection, SetFeed
from graphopt.record.dims import ShortDims
from graphopt.record.terminal import size_text

_LONGEST_VALUE = 60
_MOST_OPS = 40
_MOST_REFUSED = 5


def render(found: Inspection) -> RenderableType:
    """The whole of an inspection."""
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in found.opsets.items())
    weights = ", ".join(f"{count} {dtype}" for dtype, count in found.weights.items())
    short = ShortDims({dim.name for dim in found.feeds.dims})
    head = Text(Path(found.path).name, style="bold")
    facts = _rows(
        ("opset", opsets),
        ("ir_version", f"{found.ir_version}" + (f", by {found.producer}" if found.producer else "")),
        ("nodes", f"{found.nodes}" + (f", {found.functions} functions" if found.functions else "")),
        ("weights", f"{size_text(found.weight_bytes)}" + (f" in {weights} tensors" if weights else "")),
        ("ops", _ops(found.ops)),
        *(("input", short.port(port)) for port in found.inputs),
        *(("output", short.port(port)) for port in found.outputs),
    )
    parts: list[RenderableType] = [head, facts]
    feeds = [*_feeds(found.feeds, short)]
    if told := [*short.told()]:
        parts.extend((_title("long dims"), _rows(*told)))
    if found.overridable:
        parts.append(_rows(("constant", f"{len(found.overridable)} initializers are inputs, too")))
    if found.metadata:
        parts.extend((_title("metadata"), _rows(*_shortened(found.metadata))))
    parts.extend((_title("feeds"), *feeds))
    return Group(*parts)


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _rows(*rows: tuple[str, str]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", max_width=30, overflow="fold")
    table.add_column(overflow="fold")
    last = ""
    for name, value in rows:
        table.add_row(Text(name if name != last else ""), Text(value))
        last = name
    return table


def _ops(ops: Mapping[str, int]) -> str:
    shown = [f"{op}\u00a0{count}" for op, count in list(ops.items())[:_MOST_OPS]]
    left = len(ops) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left > 0 else "")


def _shortened(metadata: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    for name, value in metadata.items():
        flat = " ".join(value.split())
        longer = len(flat) > _LONGEST_VALUE
        more = f"... ({len(value)} characters)" if longer else ""
        yield name, flat[:_LONGEST_VALUE] + more


def _feeds(feeds: FeedReport, short: ShortDims) -> Iterable[RenderableType]:
    rows = [
        (item.name, f"{item.type} {_shape(item.shape, short)}: {item.values} ({item.why})")
        for item in feeds.inputs
    ]
    for dim in feeds.dims:
        runs = f"runs with {_listed(dim.used)}" if dim.used else "no size of it runs"
        tried = f" of {_listed(dim.tried)}" if dim.tried != dim.used else ""
        rows.append((f"dim {short.of(dim.name)}", f"{runs}{tried} ({dim.why})"))
    if feeds.sets:
        runs = f", {feeds.attempts} runs" if feeds.attempts else ""
        rows.append(("origin", f"{feeds.origin}{runs}"))
        rows.extend(_sets(feeds.sets, short))
    rows.extend(("refused", _refusal(item, short)) for item in feeds.refused[:_MOST_REFUSED])
    if rows:
        yield _rows(*rows)
    if feeds.error:
        yield Text(feeds.error, style="red")
    yield from (Text(f"note: {note}", style="dim") for note in feeds.notes)


def _sets(sets: Iterable[SetFeed], short: ShortDims) -> Iterable[tuple[str, str]]:
    """The sets, those of the same sizes together."""
    names: dict[str, list[str]] = {}
    for made in sets:
        sizes = ", ".join(f"{short.of(name)}={size}" for name, size in made.dims.items())
        bare = made.name.partition("[")[0] if made.dims and made.name.endswith("]") else made.name
        names.setdefault(sizes, []).append(bare)
    for sizes, group in names.items():
        yield "sets", ", ".join(group) + (f" with {sizes}" if sizes else "")


def _refusal(item: Mapping[str, object], short: ShortDims) -> str:
    sizes = item["sizes"]
    named = sizes.items() if isinstance(sizes, dict) else ()
    shown = " ".join(f"{short.of(str(name))}={size}" for name, size in named)
    return f"{shown}: {item['error']}" if shown else str(item["error"])


def _shape(shape: list[int | str] | None, short: ShortDims) -> str:
    return "of unknown rank" if shape is None else f"[{','.join(map(short.of, shape))}]"


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))
