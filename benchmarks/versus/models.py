"""Model folders: the demo model, or a random Llama made from a configuration, with a tokenizer made in code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from versus.cases import SEED
from versus.flops import Shape

_TINY = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS: dict[str, dict[str, int]] = {
    "tiny": _TINY,
    "tiny-chat": _TINY | {"hidden_size": 64, "intermediate_size": 128},  # the demo model's tokenizer: for real text
    "random-0.5B": {  # Qwen2.5-0.5B's sizes
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "random-1B": {  # Llama-3.2-1B's sizes
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
FIRST_WORD = 2  # 0 pads, 1 ends


def model_folder(name: str, where: Path) -> Path:
    """The folder of a model; a random one is made under `where`."""
    if name == "demo":
        from likelier.models.loading import demo_model_folder

        return demo_model_folder()
    folder = where / name
    if not folder.exists():
        tokenizer = _demo_tokenizer() if name == "tiny-chat" else word_tokenizer(CONFIGS[name]["vocab_size"])
        _save_random(CONFIGS[name], tokenizer, folder)
    return folder


def _save_random(config: dict[str, int], tokenizer: Any, folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = LlamaConfig(
        **config | {"vocab_size": len(tokenizer)},
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(SEED)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(settings)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _demo_tokenizer() -> Any:
    from transformers import AutoTokenizer

    from likelier.models.loading import demo_model_folder

    return AutoTokenizer.from_pretrained(str(demo_model_folder()))


def word_tokenizer(size: int) -> Any:
    """A tokenizer of `size` tokens in which the text "t7 t9" is the ids 7 and 9."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<pad>", "<end>"]
    words = specials + [f"t{number}" for number in range(FIRST_WORD, size)]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")


def shape_of(folder: Path) -> Shape:
    """The sizes of a saved model, without its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(folder))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = sum(weight.numel() for weight in model.parameters())
    tables = {id(part.weight): part.weight for part in (model.get_input_embeddings(), model.get_output_embeddings())}
    heads = config.num_attention_heads
    return Shape(
        body=parameters - sum(weight.numel() for weight in tables.values()),
        layers=config.num_hidden_layers,
        width=heads * (getattr(config, "head_dim", None) or config.hidden_size // heads),
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        intermediate=config.intermediate_size,
        parameters=parameters,
    )
