"""Direct implementation of IDT's attention."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from mcir.archs.idt import RelativeAttention


class LiteralAttention(nn.Module):
    """``proj(softmax(q kᵀ / √d + bias) v + position(r))``, one operation after the other; weights are shared."""

    def __init__(self, attention: RelativeAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        """Map grids (G, side², C) to the same shape."""
        own = self.attention
        grids, count, dim = x.shape
        heads = (grids, count, own.num_heads, dim // own.num_heads)
        query = own.qkv["to_q"](x).view(heads).permute(0, 2, 1, 3)
        several = own.qkv["to_kv"](x).view(grids, count, 3, *heads[2:]).permute(2, 0, 3, 1, 4)
        key, value, values_of_position = several[0], several[1], several[2]
        bias = own.relative_position_bias_table[own.index].view(count, count, own.num_heads).permute(2, 0, 1)
        scores = query * own.scale @ key.transpose(-2, -1) + bias.unsqueeze(0)
        attended = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(grids, count, dim)
        values_of_position = values_of_position.permute(0, 1, 3, 2).reshape(grids, dim, own.side, own.side)
        position = own.Position_Extract(values_of_position).view(grids, dim, count).transpose(1, 2)
        projected: Tensor = own.proj(attended + position)
        return projected


def literal_idt(net: nn.Module) -> nn.Module:
    """Return a copy of an IDT whose attention is computed directly, with the same weights and outputs."""
    literal = copy.deepcopy(net)
    for module in list(literal.modules()):
        for name, child in module.named_children():
            if isinstance(child, RelativeAttention) and not isinstance(module, LiteralAttention):
                setattr(module, name, LiteralAttention(child))
    return literal
