"""Small tokenizers and chat templates of the families that people use, made here.

Each template has the features of its family that matter to tokens (who may speak, what is trimmed or left out, where
the model's turn begins and ends), in our own words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "The answer is 7. The answer is 42.\n\nName a prime number, please: 2, 3, 5, 7, 11.",
    "user assistant system model [INST] [/INST] <<SYS>> <</SYS>> User: Assistant:\n",
    "Let us think. Step one: we add. Step two: we are done, so the answer is 12.\n",
    "def add(a, b):\n    return a + b\n",
] * 4


def byte_level(specials: list[str], *, bos: str | None = None) -> Tokenizer:
    """Byte-level BPE, as Llama 3, Qwen and DeepSeek have it: line breaks in a row are one token."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r" ?\w+|\s*[\r\n]+|\s+(?!\S)|\s+|[^\s\w]+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _opened(tokenizer, bos)


def sentencepiece(specials: list[str], *, bos: str | None, prefix: str) -> Tokenizer:
    """BPE of sentencepiece with byte fallback.

    Args:
        specials: special tokens.
        bos: what every text begins with.
        prefix: the space before a text: `legacy` (Llama 2: before every piece between special tokens), `first` (before
            a text alone, as later Llama tokenizers) or `never` (Gemma).
    """
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    trainer = trainers.BpeTrainer(vocab_size=560, special_tokens=["<unk>", *specials, *bytes_], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    if prefix == "legacy":
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps if prefix == "never" else [*steps, decoders.Strip(" ", 1, 0)])
    return _opened(tokenizer, bos)


def unigram(specials: list[str], *, bos: str | None) -> Tokenizer:
    """Unigram of sentencepiece, with a space before every text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        special_tokens=["<unk>", *specials],
        unk_token="<unk>",
        initial_alphabet=[chr(c) for c in range(33, 127)] + ["\n", "é", "ß"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _opened(tokenizer, bos)


def _opened(tokenizer: Tokenizer, bos: str | None) -> Tokenizer:
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The last answer opens with an empty thought where it has none.
EMPTY_THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last and m.role == 'assistant' and '</think>' not in m.content %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Answers lose their thought, and the model's turn begins with one.
QWQ = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
# Answers lose their thought; the model's turn begins without one.
STRIPS_THOUGHT = QWQ.replace("assistant\n<think>\n", "assistant\n")
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate: user, assistant, user, ...') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token }}[INST] {{ (system if loop.first else '') + m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('only user and assistant may speak') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}<|User|>{{ m.content }}"
    "{% else %}<|Assistant|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A tokenizer with the template that goes with it."""

    tokenizer: Any
    template: str
    eos: str
    bos: str | None = None
    more: tuple[str, ...] = ()

    def build(self) -> PreTrainedTokenizerFast:
        """As transformers has it."""
        specials = list(dict.fromkeys([*([self.bos] if self.bos else []), self.eos, *self.more]))
        built = PreTrainedTokenizerFast(
            tokenizer_object=self.tokenizer(specials, bos=self.bos), eos_token=self.eos, bos_token=self.bos
        )
        built.add_special_tokens({"additional_special_tokens": [AddedToken(each, special=True) for each in self.more]})
        built.chat_template = self.template
        return built


def _legacy(specials: list[str], *, bos: str | None) -> Tokenizer:
    return sentencepiece(specials, bos=bos, prefix="legacy")


def _first(specials: list[str], *, bos: str | None) -> Tokenizer:
    return sentencepiece(specials, bos=bos, prefix="first")


def _never(specials: list[str], *, bos: str | None) -> Tokenizer:
    return sentencepiece(specials, bos=bos, prefix="never")


_IM = ("<|im_start|>",)
_HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
FAMILIES = {
    "chatml": Family(byte_level, CHATML, "<|im_end|>", more=_IM),
    "chatml, another end": Family(byte_level, CHATML, "<|endoftext|>", more=("<|im_end|>", *_IM)),
    "chatml, sentencepiece": Family(_first, CHATML, "<|im_end|>", "<s>", _IM),
    "chatml, unigram": Family(unigram, CHATML, "<|im_end|>", "<s>", _IM),
    "empty thought": Family(byte_level, EMPTY_THOUGHT, "<|im_end|>", more=_IM),
    "strips thought": Family(byte_level, STRIPS_THOUGHT, "<|im_end|>", more=_IM),
    "qwq": Family(byte_level, QWQ, "<|im_end|>", more=_IM),
    "llama 3": Family(byte_level, LLAMA_3, "<|eot_id|>", "<|begin_of_text|>", _HEADERS),
    "llama 2": Family(_legacy, LLAMA_2, "</s>", "<s>"),
    "llama 2, not legacy": Family(_first, LLAMA_2, "</s>", "<s>"),
    "mistral": Family(_legacy, MISTRAL, "</s>", "<s>"),
    "mistral, not legacy": Family(_first, MISTRAL, "</s>", "<s>"),
    "gemma": Family(_never, GEMMA, "<eos>", "<bos>", ("<start_of_turn>", "<end_of_turn>")),
    "r1": Family(byte_level, R1, "<|end|>", "<|begin|>", ("<|User|>", "<|Assistant|>")),
}
