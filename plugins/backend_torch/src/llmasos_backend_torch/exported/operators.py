"""The allow list of operators for exported decoders: those in exports of about forty transformers families, and closely related ones.

It is an allow list because the registry has thousands of operators, some of which read and write files (``from_file``), and grows with
every release. Each operator here only computes tensors from tensors.
"""

from __future__ import annotations

from typing import Final

#: ``name: overloads`` of torch.ops.aten, by what they are for.
_ATEN: Final = """
arithmetic
    add: Tensor Scalar; add_: Tensor Scalar; sub: Tensor Scalar; sub_: Tensor Scalar; rsub: Tensor Scalar; mul: Tensor Scalar
    mul_: Tensor Scalar; div: Tensor Scalar Tensor_mode Scalar_mode; div_: Tensor Scalar; floor_divide: default Scalar
    remainder: Tensor Scalar; fmod: Tensor Scalar; pow: Tensor_Scalar Tensor_Tensor Scalar; neg: default; abs: default; sign: default
    reciprocal: default; sqrt: default; rsqrt: default; square: default; exp: default; expm1: default; log: default; log1p: default
    log2: default; sin: default; cos: default; floor: default; ceil: default; round: default; trunc: default
    clamp: default Tensor; clamp_min: default Tensor; clamp_max: default Tensor; maximum: default; minimum: default; addcmul: default
    addcdiv: default; lerp: Scalar Tensor
products
    linear: default; matmul: default; mm: default; bmm: default; addmm: default; baddbmm: default; dot: default; mv: default
    einsum: default; outer: default; conv1d: default padding; convolution: default; _int_mm: default
    _weight_int8pack_mm: default; _weight_int4pack_mm: default
attention
    scaled_dot_product_attention: default; _scaled_dot_product_flash_attention_for_cpu: default
    _scaled_dot_product_fused_attention_overrideable: default; softmax: int; _softmax: default; log_softmax: int; _log_softmax: default
activations
    relu: default; relu_: default; gelu: default; silu: default; silu_: default; sigmoid: default; tanh: default; erf: default
    softplus: default; hardtanh: default; hardsigmoid: default; hardswish: default; leaky_relu: default; elu: default; mish: default
    glu: default; dropout: default; native_dropout: default; alpha_dropout: default
norms
    layer_norm: default; native_layer_norm: default; rms_norm: default; group_norm: default; native_group_norm: default
    norm: Scalar ScalarOpt_dim; linalg_vector_norm: default
reductions
    sum: default dim_IntList; mean: default dim; prod: default dim_int; max: default dim other; min: default dim other; amax: default
    amin: default; argmax: default; argmin: default; var: correction dim; std: correction dim; var_mean: correction; logsumexp: default
    cumsum: default; cumprod: default; diff: default; any: default dim dims; all: default dim dims
    topk: default; sort: default stable; argsort: default
    histc: default; bincount: default; nonzero: default; count_nonzero: default; one_hot: default
comparisons
    eq: Tensor Scalar; ne: Tensor Scalar; lt: Tensor Scalar; le: Tensor Scalar; gt: Tensor Scalar; ge: Tensor Scalar; isnan: default
    isinf: default; isfinite: default; logical_and: default; logical_or: default; logical_not: default; logical_xor: default
    bitwise_and: Tensor Scalar; bitwise_or: Tensor Scalar; bitwise_xor: Tensor Scalar; bitwise_not: default
    bitwise_left_shift: Tensor Tensor_Scalar; bitwise_right_shift: Tensor Tensor_Scalar; __and__: Tensor Scalar; __or__: Tensor Scalar
    __xor__: Tensor Scalar; __lshift__: Tensor Scalar; __rshift__: Tensor Scalar; where: self ScalarOther ScalarSelf Scalar
places
    embedding: default; gather: default; index: Tensor; index_select: default; index_put: default; index_put_: default; index_copy: default
    index_copy_: default; index_add: default; index_add_: default; scatter: src value; scatter_: src value; scatter_add: default
    masked_fill: Scalar Tensor; masked_fill_: Scalar Tensor; masked_scatter: default; take_along_dim: default; select: int
    slice: Tensor; slice_scatter: default; select_scatter: default; narrow: default; tril: default; triu: default; diagonal: default
    searchsorted: Tensor; bucketize: Tensor
shapes
    view: default dtype; reshape: default; _unsafe_view: default; flatten: using_ints; unflatten: int; permute: default; transpose: int
    t: default; movedim: intlist int; squeeze: default dim dims; unsqueeze: default; expand: default; expand_as: default; view_as: default
    repeat: default; repeat_interleave: self_int self_Tensor Tensor; tile: default; cat: default; concat: default; stack: default
    split: Tensor sizes; split_with_sizes: default; chunk: default; unbind: int; unfold: default; flip: default; roll: default; pad: default
    constant_pad_nd: default; contiguous: default; alias: default; sym_size: int; sym_numel: default; sym_stride: int; numel: default
new tensors
    arange: default start start_step; full: default; full_like: default; zeros: default; zeros_like: default; ones: default
    ones_like: default; empty: memory_format; empty_like: default; empty_permuted: default; empty_strided: default; new_zeros: default
    new_ones: default; new_full: default; new_empty: default; scalar_tensor: default; lift_fresh_copy: default; eye: default
    linspace: default; clone: default; copy: default; copy_: default; fill: Scalar Tensor; fill_: Scalar Tensor; zero_: default
    detach: default; detach_: default
types
    to: dtype device dtype_layout other; _to_copy: default; type_as: default; item: default; _local_scalar_dense: default
    result_type: Tensor; is_nonzero: default
checks, which compute nothing
    _assert_tensor_metadata: default; _assert_async: msg; _assert_scalar: default; sym_constrain_range: default
    sym_constrain_range_for_size: default
"""

#: Functions of Python and torch: integer arithmetic of sizes, and context wrappers around parts of a graph.
_OTHERS: Final = """
torch.sym_max torch.sym_min torch.sym_not torch.sym_float torch.sym_int torch.sym_ite torch.sym_sum
torch.ops.higher_order.wrap_with_set_grad_enabled torch.ops.higher_order.wrap_with_autocast
_operator.getitem _operator.add _operator.sub _operator.mul _operator.floordiv _operator.truediv _operator.mod _operator.neg _operator.pow
_operator.eq _operator.ne _operator.lt _operator.le _operator.gt _operator.ge _operator.and_ _operator.or_ _operator.not_
math.ceil math.floor math.trunc math.sqrt
"""


def _targets() -> frozenset[str]:
    found = set(_OTHERS.split())
    for line in _ATEN.splitlines():
        for entry in line.split(";") if line.startswith(" ") else ():
            name, _, overloads = entry.strip().partition(": ")
            found |= {f"torch.ops.aten.{name}.{overload}" for overload in overloads.split()}
    return frozenset(found)


#: Targets as a program's graph spells them.
OPERATORS: Final = _targets()
