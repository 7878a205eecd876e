"""The allow list of TensorFlow operations for exported decoders; no other operation is run.

They are pure functions of their inputs: none accesses a file, a device, a queue, a table or another process, none has state, draws random
numbers or calls a function that its inputs choose, and each terminates. The lists come from exports of KerasHub's decoders and of decoders
written with ``tf.Module``, extended by operations of the same kind. Loops and branches are excluded, because decoders unroll their layers.
"""

from __future__ import annotations

from typing import Final

#: Calls of the graph's own functions, which are read as well, and values that go by.
CALLS: Final = frozenset({"PartitionedCall", "StatefulPartitionedCall", "Const", "Identity", "IdentityN", "NoOp", "StopGradient"})

#: Reads of the model's own variables, whose handles come in as captured inputs and can be made by no operation of these lists.
READS: Final = frozenset({"ReadVariableOp", "ResourceGather", "ResourceGatherNd"})

#: Products, and convolutions over the tokens.
PRODUCTS: Final = frozenset(
    {"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "BiasAdd", "Conv2D", "DepthwiseConv2dNative"}
)

#: Arithmetic element by element.
ARITHMETIC: Final = frozenset(
    {
        *("Add", "AddV2", "AddN", "Sub", "Mul", "MulNoNan", "RealDiv", "Div", "DivNoNan", "FloorDiv", "FloorMod", "TruncateDiv", "Pow"),
        *("Neg", "Abs", "Sign", "Square", "SquaredDifference", "Sqrt", "Rsqrt", "Reciprocal", "Inv", "Minimum", "Maximum", "ClipByValue"),
        *("Exp", "Expm1", "Log", "Log1p", "Sin", "Cos", "Floor", "Ceil", "Round", "Rint", "IsFinite", "IsNan", "IsInf"),
        *("BitwiseAnd", "BitwiseOr", "BitwiseXor", "Invert", "LeftShift", "RightShift", "Bitcast", "Cast"),
    }
)

#: Activations.
ACTIVATIONS: Final = frozenset(
    {"Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softplus", "Softsign", "Sigmoid", "Tanh", "Erf", "Erfc", "Softmax", "LogSoftmax"}
)

#: Comparisons and masks.
COMPARISONS: Final = frozenset(
    {
        *("Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "LogicalAnd", "LogicalOr", "LogicalNot"),
        *("Select", "SelectV2", "MatrixBandPart", "OneHot", "All", "Any"),
    }
)

#: Sums and the like along an axis, and the choice of experts.
REDUCTIONS: Final = frozenset({"Sum", "Mean", "Max", "Min", "Prod", "Cumsum", "Cumprod", "ArgMax", "ArgMin", "TopK", "TopKV2"})

#: Shapes, slices and gathers.
SHAPES: Final = frozenset(
    {
        *("Shape", "ShapeN", "Size", "Rank", "Reshape", "ExpandDims", "Squeeze", "Transpose", "BroadcastTo", "BroadcastArgs", "Tile"),
        *("Concat", "ConcatV2", "Pack", "Unpack", "Split", "SplitV", "Slice", "StridedSlice", "Gather", "GatherV2", "GatherNd"),
        *("Fill", "ZerosLike", "OnesLike", "Range", "LinSpace", "Pad", "PadV2", "ReverseV2", "Roll", "InvertPermutation", "Where"),
        *("ScatterNd", "TensorScatterUpdate", "TensorScatterAdd", "XlaDynamicUpdateSlice", "EnsureShape"),
    }
)

DECODER_OPERATIONS: Final = CALLS | READS | PRODUCTS | ARITHMETIC | ACTIVATIONS | COMPARISONS | REDUCTIONS | SHAPES
