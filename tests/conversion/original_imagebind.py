"""Tiny ImageBind checkpoints in the original's layout."""

import torch
from torch import Tensor

from modeling_sen.families.imagebind import ImageBindModel

# Where the original keeps the projection of patches.
STEMS = {
    "vision": "rgbt_stem.proj.1",
    "audio": "rgbt_stem.proj",
    "depth": "depth_stem.proj",
    "thermal": "rgbt_stem.proj",
    "imu": "imu_stem.proj",
}


def in_original_layout(model: ImageBindModel) -> dict[str, Tensor]:
    """The weights of a model by the original's names, in the original's shapes."""
    own, found = model.state_dict(), {}
    for modality in ("vision", "text", "audio", "depth", "thermal", "imu"):
        weights = {
            name.split(".", 1)[1]: value for name, value in own.items() if name.startswith(f"{modality}_model.")
        }
        before, trunk = f"modality_preprocessors.{modality}", f"modality_trunks.{modality}"
        helper = "" if modality in ("text", "imu") else "pos_embedding_helper."
        found[f"{before}.{helper}pos_embed"] = weights["embeddings.position_embedding"][None]
        if modality == "text":
            found[f"{before}.token_embedding.weight"] = weights["embeddings.token_embedding.weight"]
            found[f"{before}.mask"] = torch.zeros(77, 77)
        else:
            found[f"{before}.cls_token"] = weights["embeddings.class_embedding"][None, None]
            found[f"{before}.{STEMS[modality]}.weight"] = weights["embeddings.patch_embedding.weight"]
        for kind in ("weight", "bias"):
            if modality == "vision":
                found[f"{trunk}.pre_transformer_layer.0.{kind}"] = weights[f"embeddings.pre_layernorm.{kind}"]
            elif modality != "text":
                stem = STEMS[modality].split(".")[0]
                found[f"{before}.{stem}.norm_layer.{kind}"] = weights[f"embeddings.patch_norm.{kind}"]
        for layer in range(len(model.get_submodule(f"{modality}_model").layers)):
            block, part = f"{trunk}.blocks.{layer}", f"layers.{layer}"
            for kind in ("weight", "bias"):
                rows = [weights[f"{part}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
                found[f"{block}.attn.in_proj_{kind}"] = torch.cat(rows)
                found[f"{block}.attn.out_proj.{kind}"] = weights[f"{part}.self_attn.out_proj.{kind}"]
                for number in (1, 2):
                    found[f"{block}.norm_{number}.{kind}"] = weights[f"{part}.layer_norm{number}.{kind}"]
                    found[f"{block}.mlp.fc{number}.{kind}"] = weights[f"{part}.mlp.fc{number}.{kind}"]
            if modality not in ("vision", "text"):
                for name in ("bias_k", "bias_v"):
                    found[f"{block}.attn.{name}"] = weights[f"{part}.self_attn.{name}"]
        head = f"modality_heads.{modality}" + (".proj" if modality == "text" else "")
        last = {"text": 1, "imu": 3}.get(modality, 2)
        for kind in ("weight", "bias"):
            found[f"{head}.0.{kind}"] = weights[f"post_layernorm.{kind}"]
        found[f"{head}.{last}.weight"] = own[f"{modality}_projection.weight"]
        if modality != "vision":
            found[f"modality_postprocessors.{modality}.1.log_logit_scale"] = own[f"{modality}_logit_scale"]
    return found


def constructor() -> dict[str, object]:
    """Arguments whose model has shapes of its own kind: widths 16, two heads, one layer."""
    sizes = {"embed_dim": 16, "num_blocks": 1, "num_heads": 2}
    modalities = ("vision", "text", "audio", "depth", "thermal", "imu")
    return {
        "out_embed_dim": 12,
        "audio_kernel_size": 16,
        "imu_drop_path": 0.7,
        **{f"{modality}_{name}": value for modality in modalities for name, value in sizes.items()},
    }
