"""Tiny configurations of the architectures that the contract suite runs: one entry for each, nothing downloaded.

A family joins by a line here: its model class, its kind, and a configuration small enough to build in a blink. Names
follow `config.model_type`. What `transformers` of the running version lacks is skipped, with that reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import nn

VOCAB = 96
LAYERS = 3
HEADS = 4
IMAGE, PATCH = 32, 8
GRID = IMAGE // PATCH

DECODER, ENCODER, PAIR, VISION, AUDIO = "decoder", "encoder", "encoder-decoder", "vision", "audio"

WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
TEXT = {**WIDE, "vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**TEXT, "num_key_value_heads": 2, "max_position_embeddings": 256}
BERT = {**TEXT, "max_position_embeddings": 128, "type_vocab_size": 2}
LOCAL = {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"], "sliding_window": 9}
PICTURE = {**WIDE, "image_size": IMAGE, "patch_size": PATCH}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
BART = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
T5 = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS,
    "num_heads": HEADS,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


@dataclass(frozen=True)
class Architecture:
    """One family: how its tiny model is built, and what may be asked of it.

    Attributes:
        name: `config.model_type`, or with a suffix where a family stands twice.
        kind: decoder, encoder, encoder-decoder, vision or audio.
        model: Name of the model class in `transformers`.
        config: Name of the configuration class.
        options: Its arguments.
        note: What is special about its attention, for the table.
        left_padding: Whether positions can be given, so that padding on the left changes nothing.
        prefix: Tokens before the patches of an image (CLS, registers).
    """

    name: str
    kind: str
    model: str
    config: str
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    left_padding: bool = True
    prefix: int = 0

    @property
    def missing(self) -> bool:
        """Whether the running transformers does not have it."""
        return not hasattr(transformers, self.model) or not hasattr(transformers, self.config)

    def build(self, seed: int = 0) -> nn.Module:
        """A model in eval mode, float32, with weights that make attention matter (defaults are near zero)."""
        torch.manual_seed(seed)
        model = getattr(transformers, self.model)(getattr(transformers, self.config)(**self.options))
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() >= 2:
                    parameter.normal_(0.0, 1.2 / parameter.shape[-1] ** 0.5, generator=generator)
                elif name.endswith(("sinks", "bias")):
                    parameter.normal_(0.0, 0.3, generator=generator)
        model.tie_weights()
        return model.eval()


def _decoder(name: str, family: str, options: Mapping[str, Any] = GROUPED, note: str = "", **more: Any) -> Architecture:
    model, config = more.pop("model", f"{family}ForCausalLM"), more.pop("config", f"{family}Config")
    return Architecture(name, DECODER, model, config, options, note, **more)


def _encoder(name: str, family: str, options: Mapping[str, Any] = BERT, note: str = "", **more: Any) -> Architecture:
    more.setdefault("left_padding", False)
    return Architecture(name, ENCODER, f"{family}Model", f"{family}Config", options, note, **more)


def _pair(name: str, family: str, options: Mapping[str, Any] = BART, note: str = "", model: str = "") -> Architecture:
    model = model or f"{family}ForConditionalGeneration"
    return Architecture(name, PAIR, model, f"{family}Config", options, note, left_padding=False)


def _vision(name: str, family: str, options: Mapping[str, Any] = PICTURE, prefix: int = 1, **more: Any) -> Architecture:
    model = more.pop("model", f"{family}Model")
    return Architecture(name, VISION, model, more.pop("config", f"{family}Config"), options, prefix=prefix, **more)


GPT2 = {"vocab_size": VOCAB, "n_positions": 256, "n_embd": 32, "n_layer": LAYERS, "n_head": HEADS, "n_inner": 64}
GPT2 = {**GPT2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GPT2 = {**GPT2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
MLA = {
    "num_key_value_heads": HEADS,
    "head_dim": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 6,
}
T5GEMMA = {**GROUPED, "head_dim": 8, "layer_types": ["full_attention"] * LAYERS, "attn_logit_softcapping": 3.0}

SUPPORTED: tuple[Architecture, ...] = (
    _decoder("llama", "Llama", note="grouped-query"),
    _decoder("mistral", "Mistral", {**GROUPED, "sliding_window": 9}, "every layer local"),
    _decoder("mixtral", "Mixtral", {**GROUPED, **EXPERTS}, "experts"),
    _decoder("ministral", "Ministral", {**GROUPED, **LOCAL, "head_dim": 8}, "local and full layers"),
    _decoder("qwen2", "Qwen2"),
    _decoder("qwen3", "Qwen3", {**GROUPED, "head_dim": 8}, "normed queries and keys"),
    _decoder("qwen3_moe", "Qwen3Moe", {**GROUPED, **EXPERTS, "head_dim": 8}, "experts"),
    _decoder("qwen2_moe", "Qwen2Moe", {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 32}, "experts"),
    _decoder("gemma", "Gemma", {**GROUPED, "head_dim": 8}),
    _decoder("gemma2", "Gemma2", {**GROUPED, **LOCAL, "head_dim": 8, "attn_logit_softcapping": 3.0}, "softcap, local"),
    _decoder("gemma3_text", "Gemma3", {**GROUPED, **LOCAL, "head_dim": 8}, "local and full layers",
             config="Gemma3TextConfig"),
    _decoder("gpt_oss", "GptOss", {**GROUPED, **EXPERTS, **LOCAL, "head_dim": 8}, "learned sink logits, local"),
    _decoder("phi", "Phi"),
    _decoder("phi3", "Phi3", {**GROUPED, "sliding_window": 12}, "every layer local"),
    _decoder("olmo2", "Olmo2"),
    _decoder("olmoe", "Olmoe", {**GROUPED, **EXPERTS}, "experts"),
    _decoder("smollm3", "SmolLM3", note="layers without rotary positions"),
    _decoder("cohere", "Cohere"),
    _decoder("cohere2", "Cohere2", {**GROUPED, **LOCAL}, "local and full layers"),
    _decoder("granite", "Granite", note="its own score scale"),
    _decoder("glm4", "Glm4", {**GROUPED, "head_dim": 8}),
    _decoder("exaone4", "Exaone4", {**GROUPED, **LOCAL}, "local and full layers"),
    _decoder("nemotron", "Nemotron"),
    _decoder("stablelm", "StableLm"),
    _decoder("starcoder2", "Starcoder2", {**GROUPED, "sliding_window": 9}, "every layer local"),
    _decoder("llama4_text", "Llama4", {**GROUPED, "num_local_experts": 2, "head_dim": 8, "attention_chunk_size": 16,
                                       "intermediate_size_mlp": 64}, "chunked layers", config="Llama4TextConfig"),
    _decoder("deepseek_v3", "DeepseekV3", {**TEXT, **MLA, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
                                           "topk_group": 1, "moe_intermediate_size": 32}, "values narrower than keys"),
    _decoder("gpt_neox", "GPTNeoX", {**TEXT, "max_position_embeddings": 256}),
    _decoder("gpt2", "GPT2", GPT2, "learned positions", model="GPT2LMHeadModel"),
    _decoder("gpt_bigcode", "GPTBigCode", GPT2, "one key head"),
    _decoder("opt", "OPT", {**TEXT, "ffn_dim": 64, "max_position_embeddings": 256, "word_embed_proj_dim": 32}),
    _decoder("biogpt", "BioGpt", {**TEXT, "max_position_embeddings": 256}, "learned positions"),
    _encoder("bert", "Bert"),
    _encoder("roberta", "Roberta"),
    _encoder("xlm-roberta", "XLMRoberta"),
    _encoder("electra", "Electra", {**BERT, "embedding_size": 32}),
    _encoder("albert", "Albert", {**BERT, "embedding_size": 32}, "one layer, used several times"),
    _encoder("distilbert", "DistilBert", {"vocab_size": VOCAB, "dim": 32, "hidden_dim": 64, "n_layers": LAYERS,
                                          "n_heads": HEADS, "max_position_embeddings": 128, "pad_token_id": 0}),
    _encoder("ernie", "Ernie"),
    _encoder("modernbert", "ModernBert", {**TEXT, "local_attention": 16, "global_attn_every_n_layers": 3,
                                          "max_position_embeddings": 128}, "local and full layers"),
    _pair("bart", "Bart"),
    _pair("mbart", "MBart"),
    _pair("pegasus", "Pegasus"),
    _pair("m2m_100", "M2M100"),
    _pair("marian", "Marian", BART, model="MarianMTModel"),
    _pair("blenderbot", "Blenderbot"),
    _pair("t5gemma", "T5Gemma", {"vocab_size": VOCAB, "encoder": T5GEMMA, "decoder": T5GEMMA}, "softcap, also across"),
    _pair("whisper", "Whisper", {**BART, "num_mel_bins": 8, "max_source_positions": 32, "max_target_positions": 64},
          "sound in"),
    _vision("vit", "ViT"),
    _vision("deit", "DeiT", prefix=2),
    _vision("vit_msn", "ViTMSN"),
    _vision("dinov2", "Dinov2"),
    _vision("dinov2_with_registers", "Dinov2WithRegisters", {**PICTURE, "num_register_tokens": 2}, prefix=3),
    _vision("ijepa", "IJepa", prefix=0),
    _vision("siglip_vision_model", "SiglipVision", {**PICTURE, "vision_use_head": False}, prefix=0),
    _vision("clip_vision_model", "CLIPVision"),
)  # fmt: skip


BYPASS = {**TEXT, "max_position_embeddings": 256}
REFUSED: tuple[Architecture, ...] = (
    _decoder("gptj", "GPTJ", {**GPT2, "rotary_dim": 4}),
    _decoder("gpt_neo", "GPTNeo", {"vocab_size": VOCAB, "hidden_size": 32, "num_layers": 2, "num_heads": HEADS,
                                   "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 128}),
    _decoder("codegen", "CodeGen", {**GPT2, "n_head": 4, "rotary_dim": 4}),
    _decoder("bloom", "Bloom", {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": HEADS}),
    _decoder("mpt", "Mpt", {"vocab_size": VOCAB, "d_model": 32, "n_layers": 2, "n_heads": HEADS, "max_seq_len": 64}),
    _decoder("falcon", "Falcon", {**TEXT, "new_decoder_architecture": False}),
    Architecture("xlnet", DECODER, "XLNetLMHeadModel", "XLNetConfig",
                 {"vocab_size": VOCAB, "d_model": 32, "n_layer": 2, "n_head": HEADS, "d_inner": 64}),
    _encoder("mpnet", "MPNet", BYPASS),
    _encoder("deberta-v2", "DebertaV2", {**BYPASS, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    _encoder("longformer", "Longformer", {**BYPASS, "attention_window": [8] * LAYERS}),
    _encoder("big_bird", "BigBird", {**BYPASS, "attention_type": "original_full"}),
    _encoder("funnel", "Funnel", {"vocab_size": VOCAB, "d_model": 32, "n_head": HEADS, "d_head": 8, "d_inner": 64,
                                  "block_sizes": [1, 1]}),
    _encoder("fnet", "FNet", {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                              "max_position_embeddings": 128, "tpu_short_seq_length": 128}),
    _decoder("mamba", "Mamba", {"vocab_size": VOCAB, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2}),
    _decoder("rwkv", "Rwkv", {"vocab_size": VOCAB, "hidden_size": 32, "attention_hidden_size": 32,
                              "num_hidden_layers": 2, "context_length": 64}),
    _pair("bigbird_pegasus", "BigBirdPegasus", {**BART, "attention_type": "original_full"}),
    _pair("pegasus_x", "PegasusX"),
    _pair("t5", "T5", T5),
    _pair("mt5", "MT5", T5),
    _pair("led", "LED", {**BART, "attention_window": 8, "max_encoder_position_embeddings": 128,
                         "max_decoder_position_embeddings": 128}),
)  # fmt: skip


def by_name(name: str) -> Architecture:
    """The entry of that name."""
    return next(entry for entry in (*SUPPORTED, *REFUSED) if entry.name == name)
