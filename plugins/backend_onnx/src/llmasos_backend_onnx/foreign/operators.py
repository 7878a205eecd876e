"""The allow list of operators for exported decoders, by domain: those that exporters write for decoders.

ONNX and ONNX Runtime have hundreds of operators, among them unbounded loops, training steps, tree ensembles and tokenizers. Each operator
here computes tensors of bounded size in bounded time.
"""

from __future__ import annotations

from typing import Final

#: ai.onnx.
_STANDARD: Final = """
Abs Add And ArgMax ArgMin Attention BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip Concat Constant
ConstantOfShape Conv Cos CumProd CumSum DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Equal Erf Exp Expand EyeLike Flatten Floor
Gather GatherElements GatherND Gelu Gemm Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity If InstanceNormalization
IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization MatMul MatMulInteger Max Mean
MeanVarianceNormalization Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear
RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare Relu Reshape RotaryEmbedding Round Scatter ScatterElements ScatterND Shape Sigmoid Sign Sin Size Slice Softmax Softplus
Softsign Split Sqrt Squeeze Sub Sum Swish Tan Tanh TensorScatter Tile TopK Transpose Trilu Unsqueeze Where Xor SimplifiedLayerNormalization
"""

#: com.microsoft: the fused operators of ONNX Runtime and of onnxruntime-genai's builder.
_CONTRIB: Final = """
Attention BiasAdd BiasGelu BiasSoftmax BiasSplitGelu CausalConvWithState DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention
DequantizeLinear DynamicQuantizeMatMul EmbedLayerNormalization FastGelu FusedGemm FusedMatMul FusedMatMulActivation GatherBlockQuantized
GatherND Gelu GemmFastGelu GemmFloat8 GroupNorm GroupQueryAttention LinearAttention LongformerAttention MatMulBnb4 MatMulFpQ4
MatMulInteger16 MatMulIntegerToFloat MatMulNBits MoE MultiHeadAttention PackedAttention PackedMultiHeadAttention PagedAttention Pad
QAttention QGemm QLinearAdd QLinearMul QLinearSigmoid QLinearSoftmax QMoE QuantizeLinear QuickGelu ReduceSumInteger RelativePositionBias
RemovePadding RestorePadding RotaryEmbedding SimplifiedLayerNormalization SkipGroupNorm SkipLayerNormalization
SkipSimplifiedLayerNormalization SparseAttention TransposeMatMul Trilu UnfoldTensor
"""

#: Domain -> operators; the standard domain has two spellings.
OPERATORS: Final = {"": frozenset(_STANDARD.split()), "ai.onnx": frozenset(_STANDARD.split()), "com.microsoft": frozenset(_CONTRIB.split())}
