"""Reference and counters for tests of chat sessions: answers recomputed from scratch, encoded windows and read tokens."""

from contextlib import contextmanager

from modeling_sen import ChatSession

LENGTH = 10  # new tokens per answer


def recomputed(session: ChatSession, question: str, video=None, **options) -> dict:
    """The answer that the model gives from pixels and all tokens, without the session's caches."""
    content = [*([] if video is None else [{"type": "video", "video": video}]), {"type": "text", "text": question}]
    messages = [*session.messages, {"role": "user", "content": content}]
    processor = session.processor
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=True, max_new_tokens=LENGTH, **options
    )
    length = inputs["input_ids"].shape[1]
    found = session.model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)[0, length:]
    return processor.tokenizer.decode(found, skip_special_tokens=True)


@contextmanager
def counted(session: ChatSession):
    """Counts the windows that are encoded and the tokens that the language model reads."""
    found = {"windows": 0, "read": []}

    def on_sen(module, arguments, keywords, output):
        found["windows"] += len(output.fused_embeds)

    def on_language_model(module, arguments, keywords):
        found["read"].append(keywords["inputs_embeds"].shape[1])

    hooks = [
        session.model.sen.register_forward_hook(on_sen, with_kwargs=True),
        session.model.language_model.register_forward_pre_hook(on_language_model, with_kwargs=True),
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def as_tokens(session: ChatSession, messages) -> list[int]:
    inputs = session.processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    return inputs[0].tolist()
