"""The decoder: whole sequences in, logits out; differentiable, without a KV cache and custom kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmasos_hookspecs import DecoderConfig
from llmasos_torch_decoder.rope import rotate, rotations


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich, 2019), computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.float()
        wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return self.weight * wide.to(hidden.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention; ``mix`` is everything except the output projection."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.num_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.kv_width, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.kv_width, bias=config.attention_bias)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=config.output_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps)

    def project(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed hidden states [batch, length, hidden] to queries, keys and values [batch, heads, length, head_dim], not yet rotated."""
        config = self.config
        batch, length, _ = normed.shape
        queries = self.q_proj(normed).view(batch, length, config.num_heads, config.head_dim)
        keys = self.k_proj(normed).view(batch, length, config.num_kv_heads, config.head_dim)
        values = self.v_proj(normed).view(batch, length, config.num_kv_heads, config.head_dim)
        if config.qk_norm:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        return queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)

    def mix(self, normed: Tensor) -> Tensor:
        """Normed hidden states [batch, length, hidden] to the input of ``o_proj``, [batch, length, heads * head_dim]."""
        batch, length, _ = normed.shape
        queries, keys, values = self.project(normed)
        cosines, sines = (table.to(queries) for table in rotations(self.config, length))
        queries, keys = rotate(queries, cosines, sines), rotate(keys, cosines, sines)
        window = self.config.sliding_window
        mask = None
        if window is not None and window < length:
            positions = torch.arange(length, device=normed.device)
            behind = positions[:, None] - positions[None, :]
            mask = (behind >= 0) & (behind < window)
        mixed: Tensor = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        return mixed.transpose(1, 2).reshape((batch, length, -1))

    def forward(self, normed: Tensor) -> Tensor:
        projected: Tensor = self.o_proj(self.mix(normed))
        return projected


class MLP(nn.Module):
    """The gated feed-forward block (SwiGLU); ``gate`` is everything except the down projection."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def gate(self, normed: Tensor) -> Tensor:
        """Normed hidden states [..., hidden] to the input of ``down_proj``, [..., intermediate]."""
        gated: Tensor = functional.silu(self.gate_proj(normed)) * self.up_proj(normed)
        return gated

    def forward(self, normed: Tensor) -> Tensor:
        projected: Tensor = self.down_proj(self.gate(normed))
        return projected


class DecoderLayer(nn.Module):
    """One pre-norm block: attention and MLP, each with a residual connection."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden))
        output: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return output


class _Body(nn.Module):
    """``model.*`` of the parameter names."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)


class Decoder(nn.Module):
    """A Llama-family decoder whose parameters have the checkpoint's names.

    With tied embeddings there is no ``lm_head``. Parameters are uninitialised until ``load_decoder`` fills them.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _Body(config)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def layers(self) -> list[DecoderLayer]:
        """The blocks, first to last."""
        return list(self.model.layers)  # type: ignore[arg-type]  # a ModuleList, which torch types as Any module

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids [batch, length] to hidden states [batch, length, hidden]."""
        hidden: Tensor = self.model.embed_tokens(tokens)
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., hidden] to logits [..., vocab]."""
        weight = self.model.embed_tokens.weight if self.config.tie_embeddings else self.lm_head.weight
        return functional.linear(self.model.norm(hidden), weight)

    def hidden_states(self, tokens: Tensor) -> list[Tensor]:
        """The input of the first layer and the output of each layer: ``num_layers + 1`` tensors [batch, length, hidden]."""
        states = [self.embed(tokens)]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [batch, length] to logits [batch, length, vocab]."""
        hidden = self.embed(tokens)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)
