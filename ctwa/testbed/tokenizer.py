"""The testbed's word-level tokenizer, as a ``transformers`` tokenizer that any tool loads from disk."""

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

PAD, EOS, BOS, UNKNOWN = "<pad>", "<eos>", "<bos>", "<unused0>"
MAX_LENGTH = 4096

_WORDS = r"""
\boxed{ } Step Compute mod 10 First Next Then Finally we compute to get so the answer is The So read ok check
Let us solve this by step Result done and a op
"""

VOCABULARY: tuple[str, ...] = (
    PAD,
    EOS,
    BOS,
    *"0123456789",
    *"+-*=.:;,?",
    *_WORDS.split(),
    *(f"<unused{i}>" for i in range(6)),
)

# Every user message opens a problem with <bos>; the model's answer follows the question mark at once, so that a
# generation prompt adds nothing. An answer already given is closed by <eos>.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if not loop.first %}{{ ' ' }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] + ' ' + eos_token }}"
    "{% else %}{{ bos_token + ' ' + message['content'] }}{% endif %}"
    "{% endfor %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: 62 words, split at white space; any other word is ``<unused0>``, so that any text encodes.

    Encoding adds no special token by itself: the chat template writes ``<bos>``. Decoding joins words by one space.
    """
    vocabulary = {word: index for index, word in enumerate(VOCABULARY)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        bos_token=BOS,
        unk_token=UNKNOWN,
        model_max_length=MAX_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    # transformers 5 gives every "qwen2" model Qwen's own byte-level tokenizer class, whatever class the folder names,
    # and so splits our words into bytes. An "auto_map" entry (which it then ignores for this model type) is what makes
    # AutoTokenizer take tokenizer.json as it stands; the entry survives another save_pretrained.
    tokenizer.init_kwargs["auto_map"] = {"AutoTokenizer": [None, "not_needed.NotNeeded"]}
    return tokenizer
