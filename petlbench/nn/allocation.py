"""Count the trainable parameters at each place of a vision transformer."""

from __future__ import annotations

from collections import Counter
from typing import Any

OPERATIONS = ("norm1", "q", "k", "v", "proj", "norm2", "fc1", "fc2")
_THIRDS = ("q", "k", "v")  # of timm's fused qkv
_PLACES = {  # a name inside a block -> operation
    **dict.fromkeys(("attn", "attn_branch", "ls1"), "attn"),
    **dict.fromkeys(("mlp", "mlp_branch", "ls2"), "mlp"),
    **{"q_norm": "q", "k_norm": "k"},
    **{operation: operation for operation in OPERATIONS},
}
_OUTSIDE = {
    **dict.fromkeys(("cls_token", "reg_token", "dist_token", "pos_embed", "patch_embed", "norm_pre", "prompts.prompt_input"), "embed"),
    **dict.fromkeys(("norm", "fc_norm"), "norm"),
}


def allocation(vit: Any) -> dict[str, int]:
    """Trainable scalars of a timm VisionTransformer by place, adapted or not; their sum is the number of all trainable scalars.

    ``BLOCK.OPERATION`` ("3.q") for every block and each of ``OPERATIONS``, also where it is 0; where there are any, ``BLOCK.attn`` and
    ``BLOCK.mlp`` (of the whole attention, MLP or residual branch) and ``BLOCK.other``. Outside the blocks, where there are any:
    ``embed`` (what makes the input of block 0), ``norm`` (after the last block) and ``shared`` (everything else).
    What acts on the fused qkv as a whole is split evenly; a remainder goes to q.
    """
    counts = Counter({f"{block}.{operation}": 0 for block in range(len(vit.blocks)) for operation in OPERATIONS})
    for name, parameter in vit.named_parameters():
        if parameter.requires_grad:
            counts.update(_by_place(name, parameter.numel()))
    return dict(counts)


def _by_place(name: str, count: int) -> dict[str, int]:
    """The scalars of one parameter at the place or the three places that its name tells."""
    root, *path = name.split(".")
    if root != "blocks":
        return {_OUTSIDE.get(name) or _OUTSIDE.get(root, "shared"): count}
    block, *inside = path
    if inside[0] == "petl" or (inside[0] in ("attn", "mlp") and inside[1] in (*_PLACES, "qkv")):
        inside = inside[1:]
    if inside[0] != "qkv":
        return {f"{block}.{_PLACES.get(inside[0], 'other')}": count}
    for part in inside:
        if part in _THIRDS:
            return {f"{block}.{part}": count}
    third = count // 3
    return {f"{block}.q": count - 2 * third, f"{block}.k": third, f"{block}.v": third}
