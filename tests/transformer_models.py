"""Small transformers as older exporters of PyTorch write them, which the fusions of ONNX Runtime know."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.numpy_helper
import onnx.parser

Array = np.ndarray[Any, Any]
WIDTH, HEADS, VOCABULARY, LENGTH = 8, 2, 11, 6

_ATTENTION = """
    pa{i} = MatMul({x}, wq{i})    qb{i} = Add(pa{i}, bq{i})    qr{i} = Reshape(qb{i}, split)
    q{i} = Transpose<perm=[0, 2, 1, 3]>(qr{i})
    pk{i} = MatMul({x}, wk{i})    kb{i} = Add(pk{i}, bk{i})    kr{i} = Reshape(kb{i}, split)
    k{i} = Transpose<perm=[0, 2, 3, 1]>(kr{i})
    pv{i} = MatMul({x}, wv{i})    vb{i} = Add(pv{i}, bv{i})    vr{i} = Reshape(vb{i}, split)
    v{i} = Transpose<perm=[0, 2, 1, 3]>(vr{i})
    s{i} = MatMul(q{i}, k{i})     d{i} = Div(s{i}, divisor)    m{i} = Add(d{i}, bias)
    p{i} = Softmax<axis=-1>(m{i}) o{i} = MatMul(p{i}, v{i})    t{i} = Transpose<perm=[0, 2, 1, 3]>(o{i})
    j{i} = Reshape(t{i}, join)    pj{i} = MatMul(j{i}, wo{i})  jb{i} = Add(pj{i}, bo{i})
    ra{i} = Add(jb{i}, {x})       na{i} = LayerNormalization<axis=-1{epsilon}>(ra{i}, ga{i}, ba{i})"""
_FEED_FORWARD = """
    f{i} = MatMul(na{i}, wf{i})   fb{i} = Add(f{i}, bf{i})     ge{i} = Div(fb{i}, root)
    er{i} = Erf(ge{i})            e1{i} = Add(er{i}, one)      eg{i} = Mul(fb{i}, e1{i})
    gelu{i} = Mul(eg{i}, half)    b{i} = MatMul(gelu{i}, wb{i})    bb{i} = Add(b{i}, bb_{i})
    rf{i} = Add(bb{i}, na{i})     x{n} = LayerNormalization<axis=-1{epsilon}>(rf{i}, gf{i}, cf{i})"""
_EMBEDDING = """
    words = Gather(word_table, input_ids)   places = Gather(place_table, positions)
    both = Add(words, places)
    x0 = LayerNormalization<axis=-1, epsilon=0.00001>(both, ge, be)"""


def encoder(
    layers: int = 1, *, divisor: float | None = None, epsilon: float | None = 1e-5, seed: int = 0
) -> onnx.ModelProto:
    """A BERT with ``input_ids`` and ``attention_mask`` of [batch, 6], and ``y`` [batch, 6, 8].

    Args:
        layers: How many.
        divisor: What scores are divided by, where it is not the root of the size of a head.
        epsilon: Of the norms; None leaves it to the operator's default.
        seed: Of the weights.
    """
    shown = "" if epsilon is None else f", epsilon={epsilon:.12f}"
    body = "".join(
        (_ATTENTION + _FEED_FORWARD).format(i=i, n=i + 1, x=f"x{i}", epsilon=shown) for i in range(layers)
    )
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    g (int64[batch, {LENGTH}] input_ids, int64[batch, {LENGTH}] attention_mask)
        => (float[batch, {LENGTH}, {WIDTH}] y)
        <int64[1] a1={{1}}, int64[1] a2={{2}}, float one={{1}}, float half={{0.5}}, float root={{1.4142135}},
         float fill={{-10000}}, float divisor={{{divisor or (WIDTH / HEADS) ** 0.5}}},
         int64[1,{LENGTH}] positions={{{", ".join(map(str, range(LENGTH)))}}},
         int64[4] split={{0, 0, {HEADS}, {WIDTH // HEADS}}}, int64[3] join={{0, 0, {WIDTH}}}> {{
    u1 = Unsqueeze(attention_mask, a1)      u2 = Unsqueeze(u1, a2)    as_float = Cast<to=1>(u2)
    inverse = Sub(one, as_float)            bias = Mul(inverse, fill)
    {_EMBEDDING}{body}
    y = Identity(x{layers}) }}"""
    return _weighted(text, layers, seed)


def _weighted(text: str, layers: int, seed: int) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"word_table": (VOCABULARY, WIDTH), "place_table": (LENGTH, WIDTH)}
    for i in range(layers):
        shapes.update({f"w{name}{i}": (WIDTH, WIDTH) for name in "qkvofb"})
        shapes.update({f"{name}{i}": (WIDTH,) for name in ("bq", "bk", "bv", "bo", "ba", "bf", "bb_", "cf")})
        shapes.update({f"{name}{i}": (WIDTH,) for name in ("ga", "gf")})
    shapes.update({"ge": (WIDTH,), "be": (WIDTH,)})
    for name, shape in shapes.items():
        values = rng.standard_normal(shape)
        if name[0] == "g":
            values = 1 + 0.1 * values
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    onnx.checker.check_model(model)
    return model
