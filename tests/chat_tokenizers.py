"""Tiny tokenizers with the kinds of chat templates that are in use, and processors and messages for them."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from modeling_sen import SENChatConfig, SENChatProcessor

# SmolLM2: content is a string.
STRING_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Qwen2-VL: content is a string or a list of parts, and the template prints its own markup for videos.
PARTS_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'video' or 'video' in content %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Content is a list of parts; the template prints the text parts and drops the others.
TEXT_PARTS_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}]{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
# Qwen3: content is a string; the template prints nothing for other types.
SILENT_TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]"
    "{% if message.content is string %}{{ message.content }}{% endif %}{% endfor %}"
)


def byte_tokenizer(
    chat_template: str | None = STRING_TEMPLATE, extra: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    """One token for each byte, and 3 + len(extra) special ones: 259 tokens without extra."""
    letters = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_to_unicode().values()]
    core = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(extra),
    )
    tokenizer.chat_template = chat_template
    return tokenizer


VOCABULARY = 272
# Tokens per window: two time steps of four visual tokens, two answer tokens, and `<0.5s>` twice.
WINDOW = 10 + 2 * 6


def make_config(sen_config, **settings) -> SENChatConfig:
    text_config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=512).to_dict()
    settings = {"window_frames": 2, "tokens_per_frame": 4, "video_token_id": VOCABULARY, **settings}
    return SENChatConfig(sen_config=sen_config.to_dict(), text_config=text_config, **settings)


def make_processor(sen_config, folder, template=STRING_TEMPLATE, **settings) -> SENChatProcessor:
    byte_tokenizer(template).save_pretrained(folder / "llm")
    return SENChatProcessor.from_llm(folder / "llm", make_config(sen_config, **settings))


def asked(*parts, role="user"):
    return {"role": role, "content": list(parts)}


def video(source, name="video"):
    return {"type": "video", name: source}


def words(text):
    return {"type": "text", "text": text}
