"""Tokens and loss mask are those of transformers, for real templates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from finetune_trainer.data.chat import ChatTemplate, Rendered
from finetune_trainer.data.examples import Conversation, Message
from finetune_trainer.data.tokenizer import TextTokenizer, loss_mask, named_tokens
from finetune_trainer.errors import BadRow, UserError
from support import chat_templates as templates
from support.paper_model import SPECIAL_TOKENS
from support.smollm2 import write_smollm2_tokenizer


def talk(*contents: str, system: str | None = None) -> list[Message]:
    """User and assistant in turn."""
    roles = ("user", "assistant")
    turns = [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system is not None else []) + turns


CONVERSATIONS = {
    "question": talk("What is ZeRO?", "It partitions the optimizer state."),
    "system": talk("Hi", "Hello! 你好 🙂", system="Be brief."),
    "several turns": talk("1+1?", "2", "And 2+2?", "It is 4.\n\nSure.", "Thanks", " You are welcome. "),
    "code": talk("Show code", "```python\nfor i in range(10):\n    print(i)\n```\n"),
    "repeats": talk("a", "a", "a", "a"),
    "markup": talk("What ends a turn?", "The token <|im_end|> does."),
}


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_smollm2_tokenizer(tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="module")
def reference(smollm2: Path) -> Any:
    return AutoTokenizer.from_pretrained(smollm2)


def with_template(folder: Path, smollm2: Path, template: str) -> Path:
    """A copy of the tokenizer with another chat template."""
    shutil.copytree(smollm2, folder, dirs_exist_ok=True)
    (folder / "chat_template.jinja").write_text(template)
    return folder


class ChatTokenizer:
    """The tokenizer of a folder with its chat template."""

    def __init__(self, folder: Path) -> None:
        self.text = TextTokenizer(folder)
        self.template: ChatTemplate = self.text.chat_template()


def tokens_of(tokenizer: ChatTokenizer, messages: list[Message]) -> tuple[list[int], bytearray]:
    [row] = tokenizer.text.tokenize([tokenizer.template.render(Conversation(tuple(messages)))])
    return row.input_ids, row.loss_mask


def texts_with_loss(tokenizer: ChatTokenizer, reference: Any, messages: list[Message]) -> list[str]:
    """Text of each run of tokens that carry loss."""
    ids, mask = tokens_of(tokenizer, messages)
    runs: list[list[int]] = []
    for index, (token, carries) in enumerate(zip(ids, mask, strict=True)):
        if carries:
            if not index or not mask[index - 1]:
                runs.append([])
            runs[-1].append(token)
    return [reference.decode(run) for run in runs]


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_smollm2_gives_the_tokens_of_transformers(smollm2: Path, reference: Any, messages: list[Message]) -> None:
    ids, mask = tokens_of(ChatTokenizer(smollm2), messages)
    assert ids == reference.apply_chat_template(messages, return_dict=False)
    assert len(mask) == len(ids)


@pytest.mark.parametrize("template", templates.ALL.values(), ids=templates.ALL)
@pytest.mark.parametrize("name", ["question", "several turns"])
def test_every_template_gives_the_tokens_of_transformers(
    smollm2: Path, reference: Any, tmp_path: Path, template: str, name: str
) -> None:
    messages = CONVERSATIONS[name]
    tokenizer = ChatTokenizer(with_template(tmp_path, smollm2, template))
    expected = reference.apply_chat_template(messages, chat_template=template, return_dict=False)
    assert tokens_of(tokenizer, messages)[0] == expected


def test_loss_is_on_the_answer_and_the_token_that_ends_it(smollm2: Path, reference: Any) -> None:
    tokenizer = ChatTokenizer(smollm2)
    assert texts_with_loss(tokenizer, reference, CONVERSATIONS["several turns"]) == [
        "2<|im_end|>",
        "It is 4.\n\nSure.<|im_end|>",
        " You are welcome. <|im_end|>",
    ]
    assert texts_with_loss(tokenizer, reference, CONVERSATIONS["repeats"]) == ["a<|im_end|>", "a<|im_end|>"]
    assert texts_with_loss(tokenizer, reference, CONVERSATIONS["system"]) == ["Hello! 你好 🙂<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (templates.GENERATION, ["2<|im_end|>", "It is 4.<|im_end|>"]),
        (templates.GENERATION_WITHOUT_END, ["2<|im_end|>", "It is 4.<|im_end|>"]),
        (templates.LLAMA_2, [" 2 <|im_end|>", " It is 4. <|im_end|>"]),
        (templates.SYSTEM_IN_LAST_TURN, [" 2<|im_end|>", " It is 4.<|im_end|>"]),
        (templates.REASONING, ["2<|im_end|>", "<think>\n\n</think>\n\nIt is 4.<|im_end|>"]),
        (templates.TRIMMED, ["2<|im_end|>", "It is 4.<|im_end|>"]),
        (templates.LLAMA_3, ["2<|im_end|>", "It is 4.<|im_end|>"]),
        (templates.ALWAYS_HEADED, ["2<|im_end|>", "It is 4.<|im_end|>"]),
    ],
    ids=["generation", "generation without end", "Llama 2", "system last", "reasoning", "trimmed", "Llama 3", "headed"],
)
def test_loss_of_other_templates(
    smollm2: Path, reference: Any, tmp_path: Path, template: str, expected: list[str]
) -> None:
    tokenizer = ChatTokenizer(with_template(tmp_path, smollm2, template))
    assert texts_with_loss(tokenizer, reference, talk("1+1?", "2", "And 2+2?", "It is 4.")) == expected


def test_reasoning_in_the_content_carries_loss(smollm2: Path, reference: Any, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(with_template(tmp_path, smollm2, templates.REASONING))
    messages = talk("1+1?", "<think>one and one</think>2")
    assert texts_with_loss(tokenizer, reference, messages) == ["<think>\none and one\n</think>\n\n2<|im_end|>"]


def test_generation_blocks_give_the_mask_of_transformers(smollm2: Path, reference: Any, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(with_template(tmp_path, smollm2, templates.GENERATION))
    for messages in CONVERSATIONS.values():
        expected = reference.apply_chat_template(
            messages, chat_template=templates.GENERATION, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = tokens_of(tokenizer, messages)
        assert (ids, list(mask)) == (expected["input_ids"], expected["assistant_masks"])


def test_a_conversation_that_begins_with_the_assistant(smollm2: Path, reference: Any) -> None:
    messages = [{"role": "assistant", "content": "Hello"}, *talk("Hi", "Yes?")]
    assert texts_with_loss(ChatTokenizer(smollm2), reference, messages) == ["Hello<|im_end|>", "Yes?<|im_end|>"]


def test_a_row_that_the_template_refuses_says_why(smollm2: Path, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(with_template(tmp_path, smollm2, templates.LLAMA_2))
    with pytest.raises(BadRow) as refused:
        tokenizer.template.render(Conversation((*talk("a"), *talk("b", "c"))))
    assert refused.value.message == "the chat template refuses it: Conversation roles must alternate"


def test_a_template_that_hides_a_turn_is_refused(smollm2: Path, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(with_template(tmp_path, smollm2, templates.ONLY_THE_LAST_TURN))
    with pytest.raises(BadRow) as refused:
        tokenizer.template.render(Conversation(tuple(talk("a", "b", "c", "d"))))
    assert refused.value.message == "the chat template does not show where the assistant's turn messages[1] is"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for", "is not valid: Expected an expression, got 'end of print statement'"),
        (
            "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}",
            "does not end the assistant's turn with a special token, so that the model would never learn to stop",
        ),
        (
            "{{ raise_exception('no user turns, please') }}",
            "cannot render a question with its answer: the chat template refuses it: no user turns, please",
        ),
        (
            "{{ messages.__class__.__mro__ }}",
            "cannot render a question with its answer: the chat template refuses it: "
            "access to attribute '__class__' of 'list' object is unsafe.",
        ),
        (
            "{% set n = namespace(_a=1) %}{{ n._a }}",
            "cannot render a question with its answer: the chat template refuses it: '_a' begins with an underscore",
        ),
    ],
    ids=["syntax", "no end", "raises", "unsafe", "private name"],
)
def test_unusable_templates(smollm2: Path, tmp_path: Path, template: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        ChatTokenizer(with_template(tmp_path, smollm2, template))
    assert refused.value.message.startswith("the chat template of spec.model.source ")
    if message.startswith("is not valid"):
        assert "is not valid: " in refused.value.message
    else:
        assert refused.value.message.endswith(message)


def test_the_date_of_a_template_is_always_the_same(smollm2: Path, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(with_template(tmp_path, smollm2, templates.LLAMA_3))
    assert "Today Date: 26 Jul 2024" in tokenizer.template.render(Conversation(tuple(CONVERSATIONS["question"]))).text


def test_a_model_without_a_template_is_refused(paper_model: Path, tmp_path: Path) -> None:
    shutil.copytree(paper_model, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(UserError) as refused:
        ChatTokenizer(tmp_path)
    assert refused.value.message == "the model of spec.model.source has no chat template"
    assert refused.value.remedy == (
        "use an instruction-tuned model, set spec.dataset.chatTemplate, or add chat_template.jinja beside its "
        "tokenizer.json"
    )


@pytest.mark.parametrize("as_list", [False, True], ids=["text", "list"])
def test_the_template_may_be_in_the_configuration(paper_model: Path, tmp_path: Path, as_list: bool) -> None:
    shutil.copytree(paper_model, tmp_path, dirs_exist_ok=True)
    template = (tmp_path / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.jinja").unlink()
    named = [{"name": "tool_use", "template": "other"}, {"name": "default", "template": template}]
    config = {"eos_token": {"content": "<|im_end|>"}, "chat_template": named if as_list else template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    messages = CONVERSATIONS["question"]
    assert tokens_of(ChatTokenizer(tmp_path), messages) == tokens_of(ChatTokenizer(paper_model), messages)


def test_a_tokenizer_that_is_none_is_refused(paper_model: Path, tmp_path: Path) -> None:
    shutil.copytree(paper_model, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"^tokenizer.json of spec.model.source is not readable: "):
        ChatTokenizer(tmp_path)


def test_generation_stops_at_tokens_of_the_generation_configuration(paper_model: Path, tmp_path: Path) -> None:
    """A base model's eos token is often not the one that its chat template ends turns with."""
    shutil.copytree(paper_model, tmp_path, dirs_exist_ok=True)
    stop = SPECIAL_TOKENS.index("<|endoftext|>")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [stop]}))
    (tmp_path / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message['content'] }}{% if message['role'] == 'assistant' %}"
        "{{ '<|im_end|>' if loop.last else '<|endoftext|>' }}{% endif %}{% endfor %}"
    )
    _, mask = tokens_of(ChatTokenizer(tmp_path), talk("a", "b", "c", "d"))
    assert list(mask) == [0, 1, 1, 0, 1, 1]


def test_named_tokens_are_texts_or_objects() -> None:
    config = {"eos_token": "<e>", "bos_token": {"content": "<b>"}, "pad_token": None, "model_max_length": 7}
    assert named_tokens(config) == {"bos_token": "<b>", "eos_token": "<e>"}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12),
    st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted),
)
def test_a_token_carries_loss_when_it_covers_a_character_of_the_span(
    steps: list[tuple[int, int]], span: list[int]
) -> None:
    offsets, end = [], 0
    for gap, length in steps:
        begin = end + gap
        end = begin + length
        offsets.append((begin, end))
    start, stop = span
    expected = [
        int(any(start <= place < stop for place in range(begin, end)) or (begin == end and start <= begin < stop))
        for begin, end in offsets
    ]
    assert list(loss_mask(offsets, [(start, stop)])) == expected


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds <b>numbers</b> & more.",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "ä": {"type": "string"}}},
        },
    },
)
WITH_TOOLS: list[Message] = [
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "", "tool_calls": [call("add", a=1, ä="é")]},
    {"role": "tool", "name": "add", "content": '{"sum": 2}'},
    {"role": "assistant", "content": "It is 2."},
]
OF_HERMES = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "ä": "é"}}\n</tool_call><|im_end|>'
OF_LLAMA = '{"name": "add", "parameters": {"a": 1, "ä": "é"}}<|im_end|>'


@pytest.mark.parametrize(
    ("template", "answer"),
    [(templates.HERMES_TOOLS, OF_HERMES), (templates.LLAMA_3_TOOLS, OF_LLAMA)],
    ids=["Hermes", "Llama 3"],
)
def test_tools_and_calls_give_the_tokens_of_transformers_and_calls_carry_loss(
    smollm2: Path, reference: Any, tmp_path: Path, template: str, answer: str
) -> None:
    text = TextTokenizer(with_template(tmp_path, smollm2, template))
    [row] = text.tokenize([text.chat_template().render(Conversation(tuple(WITH_TOOLS), TOOLS))])
    expected = reference.apply_chat_template(WITH_TOOLS, tools=list(TOOLS), chat_template=template, return_dict=False)
    assert row.input_ids == expected
    carried = [token for token, carries in zip(row.input_ids, row.loss_mask, strict=True) if carries]
    assert reference.decode(carried) == answer + "It is 2.<|im_end|>"


def test_two_calls_and_words_beside_them_carry_loss(smollm2: Path, reference: Any, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(with_template(tmp_path, smollm2, templates.HERMES_TOOLS))
    turn = {"role": "assistant", "content": "Let me see.", "tool_calls": [call("add", a=1), call("add", a=2)]}
    messages = [
        {"role": "user", "content": "?"},
        turn,
        {"role": "tool", "content": "2"},
        {"role": "tool", "content": "3"},
    ]
    calls = "".join(f'\n<tool_call>\n{{"name": "add", "arguments": {{"a": {n}}}}}\n</tool_call>' for n in (1, 2))
    assert texts_with_loss(tokenizer, reference, messages) == [f"Let me see.{calls}<|im_end|>"]


def test_a_template_that_takes_one_call_at_a_time_refuses_two(smollm2: Path, tmp_path: Path) -> None:
    template = TextTokenizer(with_template(tmp_path, smollm2, templates.LLAMA_3_TOOLS)).chat_template()
    turn = {"role": "assistant", "content": "", "tool_calls": [call("add", a=1), call("add", a=2)]}
    with pytest.raises(BadRow, match="only supports single tool-calls at once"):
        template.render(Conversation(({"role": "user", "content": "?"}, turn)))


@pytest.mark.parametrize("template", templates.ALL.values(), ids=templates.ALL)
def test_templates_without_tools_refuse_them(smollm2: Path, tmp_path: Path, template: str) -> None:
    chat_template = TextTokenizer(with_template(tmp_path, smollm2, template)).chat_template()
    with pytest.raises(BadRow, match="leaves out tools"):
        chat_template.render(Conversation(tuple(CONVERSATIONS["question"]), TOOLS))
    with pytest.raises(BadRow, match="leaves out tool calls"):
        chat_template.render(Conversation(tuple(WITH_TOOLS)))


def test_only_what_follows_the_prompt_carries_loss(smollm2: Path, reference: Any, tmp_path: Path) -> None:
    messages = tuple(talk("1+1?", "2", "And 2+2?", "It is 4."))
    for template in templates.ALL.values():
        text = TextTokenizer(with_template(tmp_path, smollm2, template))
        [row] = text.tokenize([text.chat_template().render(Conversation(messages, prompt=3))])
        carried = [token for token, carries in zip(row.input_ids, row.loss_mask, strict=True) if carries]
        assert "It is 4." in reference.decode(carried)
        assert "2<|im_end|>" not in reference.decode(carried)


@pytest.mark.parametrize("words", ["Once upon a time", " 你好 🙂", "line\n\nline\n", "ends<|im_end|>"])
def test_plain_text_gives_the_tokens_of_transformers_and_an_end(smollm2: Path, reference: Any, words: str) -> None:
    [row] = TextTokenizer(smollm2).tokenize([Rendered(words, ((0, len(words)),), plain=True)])
    tokens = reference(words)["input_ids"]
    assert row.input_ids == (tokens if words.endswith("<|im_end|>") else [*tokens, reference.eos_token_id])
    assert list(row.loss_mask) == [1] * len(row.input_ids)


@pytest.fixture(scope="module")
def both(smollm2: Path) -> tuple[TextTokenizer, Tokenizer]:
    return TextTokenizer(smollm2), Tokenizer.from_file(str(smollm2 / "tokenizer.json"))


@given(data=st.data())
def test_the_mask_is_that_of_all_offsets(both: tuple[TextTokenizer, Tokenizer], data: st.DataObject) -> None:
    """Also where a span begins or ends in the middle of a token, or of a character of several tokens."""
    words = data.draw(st.lists(st.sampled_from([*"ab 1.\n", "  ", "é", "🙂", "你", "\u200b", "<|im_end|>", " word"])))
    text = "".join(words)
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    spans = tuple(zip(places[::2], places[1::2], strict=False))
    [row] = both[0].tokenize([Rendered(text, spans)])
    encoding = both[1].encode(text, add_special_tokens=False)
    assert (row.input_ids, row.loss_mask) == (encoding.ids, loss_mask(encoding.offsets, spans))


def test_special_tokens_around_plain_text(paper_model: Path, tmp_path: Path) -> None:
    """A tokenizer that writes a token before and one after every text, as those of Llama and Gemma do."""
    shutil.copytree(paper_model, tmp_path, dirs_exist_ok=True)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    piece = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    ids = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}
    single = [piece, {"Sequence": {"id": "A", "type_id": 0}}, piece]
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": ids,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    text = TextTokenizer(tmp_path)
    plain = Rendered("ab cd", ((2, 5),), plain=True)
    [row] = text.tokenize([plain])
    assert (row.input_ids[0], row.input_ids[-2:]) == (0, [0, SPECIAL_TOKENS.index("<|im_end|>")])
    assert list(row.loss_mask) == [0, 0, 0, 1, 1, 1, 1, 1]
    assert text.shown(plain, 5) == ("ab c", ((2, 4),), True)
