"""What a pass is: the classes that a pass author derives from.

A pass is a frozen dataclass. Its fields are its options: the pipeline text, TOML and the generated
reference all show them. ``name``, ``numerics`` and the like are plain class attributes.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnx_graphsurgeon as gs
    import onnx_ir as ir

    from graphopt.rewrite.calibration import Calibration
    from graphopt.rewrite.changes import Declined
    from graphopt.rewrite.rewriter import Rewriter

Match = TypeVar("Match")


class Numerics(enum.Enum):
    """What a pass may do to the values; the check demands it."""

    EXACT = "exact"
    """Bit for bit the same outputs."""
    REASSOCIATES = "reassociates"
    """Mathematically the same, rounding may differ."""
    LOSSY = "lossy"
    """Values change on purpose; the pass says by how much."""


@dataclass(frozen=True, slots=True)
class Signature:
    """How a pass changes the inputs and outputs of the model.

    Attributes:
        changes: Whether names, types or shapes of inputs or outputs change.
        dims: Symbolic dims that the pass freezes; feeds of these sizes can be compared.
        defaults: Whether inputs that have a value in the model may become constants.
        feeds: Maps the feeds of the model before to those of the model after, or gives None where a
            feed has no counterpart.
        outputs: Maps the outputs of the model before, by name, to what the model after should give.
    """

    changes: bool = False
    dims: Mapping[str, int] = field(default_factory=dict[str, int])
    defaults: bool = False
    feeds: Callable[[Mapping[str, Any]], Mapping[str, Any] | None] | None = None
    outputs: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """How much a lossy pass may change the outputs: the check demands it in place of the tolerance.

    Attributes:
        sqnr_db: The least ratio of signal to error of each float output, in decibel of power.
        agreement: The least share, from 0 to 1, of the model's decisions (detections, top-1 classes)
            that stay, where it is known what the model decides.
    """

    sqnr_db: float
    agreement: float


KEEPS = Signature()
"""The signature stays as it is, exactly."""


@dataclass(frozen=True)
class Pass(ABC):
    """One named, configurable step of a pipeline.

    Derive from `RewritePass`, `PatternPass`, `SurgeonPass` or `OpaquePass`, not from this class.

    Attributes:
        name: The name in pipelines, in kebab case.
        numerics: What the pass may do to the values.
        min_opset: The lowest version of the default opset that the pass can work on.
    """

    name: ClassVar[str]
    numerics: ClassVar[Numerics]
    min_opset: ClassVar[int] = 1

    @property
    def signature(self) -> Signature:
        """What the pass does to the signature, given its options."""
        return KEEPS

    @property
    def loss(self) -> Loss | None:
        """How much a lossy pass may change, given its options; None where it does not say."""
        return None

    def options(self) -> dict[str, Any]:
        """The options by name, as they are set on this pass."""
        return {option.name: getattr(self, option.name) for option in fields(self)}

    def changed_options(self) -> dict[str, Any]:
        """The options that differ from their default."""
        default = type(self)()
        return {k: v for k, v in self.options().items() if getattr(default, k) != v}

    def __str__(self) -> str:
        options = ",".join(f"{k}={_text(v)}" for k, v in self.changed_options().items())
        return f"{self.name}{{{options}}}" if options else self.name


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return "[" + ",".join(_text(item) for item in value) + "]"  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, Mapping):
        return "[" + ",".join(f"{k}={_text(v)}" for k, v in value.items()) + "]"  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return str(value)


@dataclass(frozen=True)
class RewritePass(Pass, Generic[Match]):
    """A pass that rewrites one site at a time.

    ``match`` is pure: it changes neither the graph nor the pass. ``rewrite`` changes the graph through
    the `Rewriter` only, and applies what ``match`` found.

    Attributes:
        roots: The operators where a match may start: ``"Conv"``, ``"com.microsoft::Gelu"``, or ``"*"``
            for all of them.
    """

    roots: ClassVar[tuple[str, ...]]

    @abstractmethod
    def match(self, node: ir.Node) -> Match | Declined | None:
        """Look at ``node`` as the root of a site.

        Returns:
            What ``rewrite`` needs; None where the node is none of this pass's business; `Declined`
            with the reason where it looks like a site but must be left alone.
        """

    @abstractmethod
    def rewrite(self, match: Match, rw: Rewriter) -> None:
        """Apply a match through ``rw``."""

    def match_initializer(self, value: ir.Value) -> Match | Declined | None:
        """Look at an initializer as the root of a site, after all nodes. None by default."""
        return None


@dataclass(frozen=True)
class SurgeonPass(Pass):
    """A pass written with GraphSurgeon: it gets the whole graph and edits it freely.

    The engine gives back what the round trip through GraphSurgeon drops, and reports the structural
    diff as the pass's changes.
    """

    @abstractmethod
    def surgery(self, graph: gs.Graph) -> gs.Graph | None:
        """Edit ``graph`` in place and return None, or return another graph.

        The graph is not sorted or cleaned up afterwards: call ``toposort()`` where nodes are added.
        """


@dataclass(frozen=True, slots=True)
class ToolReport:
    """What an opaque pass says of its own run.

    Attributes:
        components: The components that changed the model, where the tool tells.
        notes: Sentences for the record.
        portability: ``any runtime``, ``onnxruntime`` or ``this cpu`` where the pass knows; else None.
    """

    components: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    portability: Literal["any runtime", "onnxruntime", "this cpu"] | None = None


@dataclass(frozen=True)
class OpaquePass(Pass):
    """A pass that changes the whole model at once, usually by calling another tool.

    Override ``transform`` to work on a `onnx.ModelProto`, or ``transform_file`` where the tool reads
    and writes files itself.

    Attributes:
        isolated: Whether the tool runs in a worker process, where it may crash, hang or print without
            harm, and has its result cached on disk.
        packages: The distributions whose versions decide the result, for the cache.
        acts_at_load: Whether its components are parts of ONNX Runtime's optimizer, which acts again when
            the saved file is loaded.
        wants_feeds: Whether it measures the model on the feeds of the run: then `transform_with_feeds` is
            called in place of ``transform_file``.
        largest: Bytes of weights above which its tool cannot take a model: it is not run on such a one, and
            the record says so. None for no such limit.
        holds_weights: Whether its tool holds all weights in memory: it is not run on a model with more of
            them than the memory that its process may use, and the record says so.
        only_reads: Whether it never writes into a file that it is given, and takes external data in files
            that have other names, too: then large weights are not copied for it.
    """

    isolated: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ()
    acts_at_load: ClassVar[bool] = False
    wants_feeds: ClassVar[bool] = False
    largest: ClassVar[int | None] = None
    holds_weights: ClassVar[bool] = False
    only_reads: ClassVar[bool] = False

    def components(self) -> frozenset[str]:
        """Every component that can be switched off in the installed version of the tool.

        A diagnosis searches among them. Where switching all of them off is as good as leaving the pass
        out, a fault has a name; what is left is the pass as a whole.
        """
        return frozenset()

    def layers(self, source: Path) -> tuple[str, ...]:
        """Further components, which depend on the model: the nodes that can be left as they are.

        A lossy pass that does more than its `Loss` allows has them ranked by the damage that each does.

        Args:
            source: A complete model file, as ``transform_file`` gets it.

        Returns:
            Their names in the order of the graph.
        """
        return ()

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """The components that are made of others, with these: the others are switched off in their place.

        A tool may report such a component where it cannot tell which of its parts changed the model.
        """
        return {}

    def suspects(self, output: str) -> tuple[str, ...]:
        """The components that the tool's last words point to after it died, the likeliest first.

        Args:
            output: What it printed, and the log files that it left beside its target.
        """
        return ()

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        """Return the changed model; ``model`` may be edited in place.

        Args:
            model: The whole model, weights included.
            disabled: The components to switch off. Raise `BadInput` for a name that does not exist.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither transform nor transform_file")

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        """Read the model at ``source``, change it, and write it to ``target``.

        Args:
            source: A complete model file; external data, if any, lies beside it.
            target: The file to write, in another folder; external data goes beside it.
            disabled: The components to switch off.
        """
        import onnx

        changed: Any = self.transform(onnx.load(source), disabled)
        if not isinstance(changed, onnx.ModelProto):
            raise TypeError(f"transform returned {type(changed).__name__}, not an onnx.ModelProto")
        size = changed.ByteSize()
        onnx.save(
            changed,
            target,
            save_as_external_data=size > _PROTO_LIMIT,
            location=f"{target.name}.data",
        )
        return ToolReport()

    def transform_with_feeds(
        self, source: Path, target: Path, disabled: frozenset[str], feeds: Calibration
    ) -> ToolReport:
        """Like ``transform_file``, for a pass that `wants_feeds`.

        Args:
            source: See ``transform_file``.
            target: See ``transform_file``.
            disabled: The components to switch off.
            feeds: The feeds of the run, those that the user gave where there are any.
        """
        raise NotImplementedError(f"{type(self).__name__} wants feeds and does not take them")


_PROTO_LIMIT = 2_000_000_000
