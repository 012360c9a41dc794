"""AutoGLM-Tiny's tokenizer: byte-level BPE with GLM's special tokens and chat template."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from autoglm_serving.model.vocabulary import (
    ACTION_TOKENS,
    END_OF_TEXT,
    SPECIAL_TOKENS,
    TAG_TOKENS,
    VOCABULARY_SIZE,
    training_text,
)

# Words, single digits (a coordinate is a short run of digits), punctuation and white space never share a token.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """[gMASK]<sop>
{%- for message in messages %}
{{- '<|' + message.role + '|>\\n' }}
{%- if message.content is string %}
{{- message.content }}
{%- else %}
{%- for item in message.content %}
{%- if item.type == 'image' or 'image' in item %}
{{- '<|begin_of_image|><|image|><|end_of_image|>' }}
{%- elif item.type == 'video' or 'video' in item %}
{{- '<|begin_of_video|><|video|><|end_of_video|>' }}
{%- elif item.type == 'text' %}
{{- item.text }}
{%- endif %}
{%- endfor %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>\\n' }}
{%- endif %}"""


def train_tokenizer() -> Tokenizer:
    """Train on the built-in text: the same tokenizer on every run.

    Special tokens come last, as in GLM, so every id below them is ordinary text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = len(SPECIAL_TOKENS) + len(TAG_TOKENS) + len(ACTION_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens(
        [AddedToken(token, special=False, normalized=False) for token in (*TAG_TOKENS, *ACTION_TOKENS)]
    )
    if tokenizer.get_vocab_size() != VOCABULARY_SIZE:
        raise AssertionError(f"the training text gives {tokenizer.get_vocab_size()} tokens")
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files that transformers and vLLM read, with the same names as in GLM-4.1V's folder."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "Glm4vProcessor",
        "additional_special_tokens": list(SPECIAL_TOKENS),
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "model_max_length": 32768,
        "padding_side": "left",
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
