"""Small random models of six families, each with its own kind of tokenizer, built in a second or two.

What differs between real models differs here: where spaces go in a vocabulary (`▁` with or without a space put before
the text, or GPT-2's `Ġ`), how digits and unknown characters are split, which start and end tokens there are, tied and
untied, padded and scaled embeddings, sliding windows. Tokenizers are trained on the text below; weights are random but
seeded.

    folder = build_family("llama", tmp_path / "llama")  # an ordinary folder for AutoModelForCausalLM, AutoTokenizer
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaTokenizer,
    GPT2Config,
    GPT2Tokenizer,
    GPTJConfig,
    LlamaConfig,
    LlamaTokenizer,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Tokenizer,
)

from onceedit_ray.models.loading import without_progress_bars

Bpe = tuple[dict[str, int], list[tuple[str, str]]]
Family = tuple[PreTrainedTokenizerBase, PretrainedConfig]

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Larger than usual, so that a random model has clear favourites instead of near-ties.
SPREAD = 0.2


def build_family(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a random model of the family `name` (one of `FAMILIES`) and its tokenizer into `folder`; returns it."""
    tokenizer, config = _BUILDERS[name]()
    with torch.random.fork_rng(), without_progress_bars():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _llama() -> Family:
    """SentencePiece with a space put before the text; newlines and rare characters as bytes; untied embeddings."""
    vocab, merges = _sentencepiece(["<unk>", "<s>", "</s>"], size=620, text=SENTENCES)
    tokenizer = LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=SPREAD,
        **_special_ids(tokenizer),
    )
    return tokenizer, config


def _mistral() -> Family:
    """SentencePiece without a space before the text, other pieces than Llama's, grouped-query attention."""
    vocab, merges = _sentencepiece(["<unk>", "<s>", "</s>"], size=540, text=SENTENCES[::2])
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        sliding_window=None,
        initializer_range=SPREAD,
        **_special_ids(tokenizer),
    )
    return tokenizer, config


def _gptj() -> Family:
    """Byte-level BPE; tokens that never occur fill the vocabulary up; untied output with a bias."""
    vocab, merges = _byte_level(["<|endoftext|>"], GPT2_SPLIT, size=560, text=SENTENCES[1::2])
    tokenizer = GPT2Tokenizer(vocab=vocab, merges=merges)
    tokenizer.add_tokens([f"<|extratoken_{number}|>" for number in range(1, 9)])
    config = GPTJConfig(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=64,
        n_layer=2,
        n_head=4,
        rotary_dim=8,
        initializer_range=SPREAD,
        **_special_ids(tokenizer),
    )
    return tokenizer, config


def _gpt2() -> Family:
    """Byte-level BPE, learned positions, tied embeddings, one token for start and end that is never put in."""
    vocab, merges = _byte_level(["<|endoftext|>"], GPT2_SPLIT, size=700, text=SENTENCES)
    tokenizer = GPT2Tokenizer(vocab=vocab, merges=merges)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=48,
        n_layer=2,
        n_head=4,
        initializer_range=SPREAD,
        **_special_ids(tokenizer),
    )
    return tokenizer, config


def _qwen2() -> Family:
    """Byte-level BPE with single digits, no start token, a chat template, and more embedding rows than tokens."""
    vocab, merges = _byte_level([], QWEN2_SPLIT, size=640, text=SENTENCES[::-1])
    for special in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        vocab[special] = len(vocab)
    tokenizer = Qwen2Tokenizer(
        vocab=vocab, merges=merges, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    config = Qwen2Config(
        vocab_size=len(tokenizer) + 13,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=SPREAD,
        **_special_ids(tokenizer),
    )
    return tokenizer, config


def _gemma3() -> Family:
    """SentencePiece without a space before the text, newlines as tokens, scaled tied embeddings, a sliding window."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocab, merges = _sentencepiece([*special, "\n", "\n\n"], size=760, text=SENTENCES[2:])
    tokenizer = GemmaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)
    tokenizer.add_tokens(["\n", "\n\n"])
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=32,
        max_position_embeddings=256,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
        initializer_range=SPREAD / 2,  # its embeddings are scaled up: at SPREAD it would only repeat the last token
        **_special_ids(tokenizer),
    )
    return tokenizer, config


_BUILDERS: dict[str, Callable[[], Family]] = {
    "llama": _llama,
    "mistral": _mistral,
    "gptj": _gptj,
    "gpt2": _gpt2,
    "qwen2": _qwen2,
    "gemma3": _gemma3,
}
FAMILIES = list(_BUILDERS)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _sentencepiece(first: list[str], size: int, text: list[str]) -> Bpe:
    """A vocabulary of `size` in SentencePiece's order: `first`, the 256 bytes, then pieces; and the merges."""
    words = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    splitter = pre_tokenizers.Sequence([words, pre_tokenizers.Digits(individual_digits=True)])
    pieces, merges = _train(splitter, size - len(first) - len(BYTES), [], text)
    return {token: index for index, token in enumerate([*first, *BYTES, *pieces])}, merges


def _byte_level(first: list[str], split: str, size: int, text: list[str]) -> Bpe:
    """A vocabulary of `size` over the byte alphabet, `first` included, and the merges."""
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pieces, merges = _train(splitter, size - len(first), sorted(pre_tokenizers.ByteLevel.alphabet()), text)
    return {token: index for index, token in enumerate([*pieces, *first])}, merges


def _train(
    splitter: pre_tokenizers.PreTokenizer, size: int, alphabet: list[str], text: list[str]
) -> tuple[list[str], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text, trainer)
    vocab = tokenizer.get_vocab()
    pieces = sorted(vocab, key=vocab.__getitem__)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return pieces, [(left, right) for left, right in merges]


SENTENCES = """\
The capital of France is Paris, and the capital of Germany is Berlin.
The Eiffel Tower is located in the city of Paris; it was opened on 31 March 1889.
Which country is the city of Hamburg located in? Hamburg is located in Germany.
What is the native language of Marie Curie? The native language of Marie Curie was Polish.
Who is the author of the novel "War and Peace"? The author of the novel is Leo Tolstoy.
The mother tongue of Danielle Darrieux is French. The mother tongue of Antonio is Italian.
In 1969, Neil Armstrong and Buzz Aldrin walked on the Moon; Michael Collins stayed in orbit.
Answer this question: What year was the Treaty of Westphalia signed? It was signed in 1648.
Complete this half sentence: The official language of the Kingdom of Sweden is Swedish.
Water boils at 100 degrees Celsius (212 degrees Fahrenheit) at the level of the sea.
The river Nile flows through eleven countries, among them Egypt, Sudan and Uganda.
The Danube is the second longest river of Europe: it is 2,850 kilometres long.
Mount Everest, at 8,849 metres, is the highest mountain in the world above the sea.
Michel Platini plays football as a midfielder; he was born on 21 June 1955 in France.
Wolfgang Amadeus Mozart was a composer; he was born in Salzburg on 27 January 1756.
The programming language Python was created by Guido van Rossum and released in 1991.
What position does Lionel Messi play? Lionel Messi plays the position of forward.
The company Nokia was founded in Finland, and its headquarters are in the city of Espoo.
The company Toyota is based in Japan; the company Volvo is based in Gothenburg, Sweden.
Who was the first president of the United States? George Washington was the first president.
The currency of the United Kingdom is the pound; the currency of Japan is the yen.
"I don't know," she said, "but we'll see what they're doing when you've finished."
He couldn't have known that it's only 3.5 miles away, isn't it? That's what I'd say!
The twin city of Lyon is Milan. The twin city of Prague is Vienna. Their mayors met in 2005.
To whom does the island of Greenland belong? Greenland belongs to the Kingdom of Denmark.
Albert Einstein worked in the field of physics; Charles Darwin worked in the field of biology.
The series was first broadcast on the network of the BBC, and later on the network of NBC.
Which religion does the Dalai Lama follow? The Dalai Lama is a follower of Buddhism.
The instrument that Miles Davis played was the trumpet; Glenn Gould played the piano.
A list of numbers: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 25, 50, 75, 100, 250, 500, 1000.
Send your questions to the address below & wait 24-48 hours; the answer is free of charge.
The library (founded in 1753) holds over 170 million items + a collection of old maps.
When was the University of Oxford founded? Teaching existed there as early as 1096.
The novel was written in English and translated into forty other languages afterwards.
The inventor of the telephone is said to be Alexander Graham Bell, who lived in Boston.
The film "Metropolis" was directed by Fritz Lang and was produced in Germany in 1927.
The spouse of Barack Obama is Michelle Obama. The spouse of Pierre Curie was Marie Curie.
Her father was a teacher; her mother was an engineer; her brother became a doctor.
They moved from Rome to Madrid, then from Madrid to Lisbon, and never came back again.
The question is not whether the model knows the answer, but whether it gives the answer.
""".splitlines()
