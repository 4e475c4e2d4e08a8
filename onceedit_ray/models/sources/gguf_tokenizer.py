"""How a byte-level vocabulary of a GGUF file splits text before its merges, by llama.cpp's name: `tokenizer.ggml.pre`.

transformers knows some of these names and silently takes GPT-2's split for all others. A model whose
input is split in another way than in its training answers worse, and nobody sees why. So the names whose split is known
are listed here, and every other one is refused. Splits: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
"""

from __future__ import annotations

from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from onceedit_ray.errors import ModelError

_GPT2 = {"gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "gigachat", "roberta-bpe", "jina-es", "jina-de", "jina-v1-en"}
_GPT2 |= {"jina-v2-es", "jina-v2-de"}
_SINGLE_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
_LIKE_QWEN2 = {"stablelm2", "hunyuan", "solar-open"}

_GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPLITS = {
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"),
    "deepseek-v3": (
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2_SPLIT, r"[0-9][0-9][0-9]"),
    **dict.fromkeys(_SINGLE_DIGITS, (r"\p{N}", _GPT2_SPLIT)),
    **{name: (GGUF_PRE_TOKENIZER_SPLITS["qwen2"],) for name in _LIKE_QWEN2},
}


def check_split(pre: object) -> None:
    """Raise `ModelError` for a name whose split is not known."""
    if pre not in _SPLITS and pre not in _GPT2 and pre not in GGUF_PRE_TOKENIZER_SPLITS:
        found = f"the pre-tokenizer '{pre}'" if pre else "no pre-tokenizer (tokenizer.ggml.pre)"
        known = ", ".join(sorted({*_SPLITS, *_GPT2, *GGUF_PRE_TOKENIZER_SPLITS}))
        raise ModelError(
            f"the file states {found}, so how its vocabulary splits text is not known; known are {known}; "
            "use a safetensors copy of the model, or make the file anew with llama.cpp"
        )


def set_split(tokenizer: PreTrainedTokenizerBase, pre: str) -> None:
    """Give a converted tokenizer the split of its vocabulary, where transformers has not done so."""
    if pre in _SPLITS:
        splits = [pre_tokenizers.Split(Regex(split), behavior="isolated") for split in _SPLITS[pre]]
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
