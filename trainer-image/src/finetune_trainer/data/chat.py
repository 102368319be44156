"""Chat templates: conversations become text as transformers renders it, with the places that carry loss.

Loss is on what the model itself has to write: an assistant turn from the end of the generation prompt through the token
that ends the turn, so that the model learns to stop. A template says where that is with ``{% generation %}``; for
others it is found by rendering.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Sized
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_trainer.data.bounded import BYTES, Bounded, TookTooLong
from finetune_trainer.data.examples import Conversation, Message
from finetune_trainer.data.messages import tool_name
from finetune_trainer.errors import BadRow, UserError

# Of the private use area at both ends, so that hardly any content begins or ends alike.
_MOST_TOLD = 2000
_SENTINEL = "\ue0f1the turn\ue0f1"
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Templates that print the date print this one: the same rows must give the same tokens on every day.
_DATE = datetime(2024, 7, 26)
_LIMITS = (MemoryError, TookTooLong)
_FAULTS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    *_LIMITS,
)
# Where Python's own compiler gives up on what jinja2 makes of a template.
_COMPILER_FAULTS = (SyntaxError, SystemError)
# Of what templates compute: far more than any says, and little enough for one operation to be over soon.
_MOST_CHARACTERS, _MOST_BITS = 1 << 24, 1 << 12

_OF_DICTIONARIES = frozenset(dir(dict))
_OF_LOOPS = frozenset({"first", "last", "index", "index0"})

MODEL_FIELD = "spec.model.source"

Span = tuple[int, int]
_QUESTION: tuple[Message, ...] = ({"role": "user", "content": "a question"},)
_ANSWER: Message = {"role": "assistant", "content": _SENTINEL}
_PROBE = "probe_of_tools"
_PROBE_TOOL: Message = {
    "type": "function",
    "function": {"name": _PROBE, "description": "a probe", "parameters": {"type": "object", "properties": {}}},
}
_PROBE_CALL: Message = {"id": "probe0000", "type": "function", "function": {"name": _PROBE, "arguments": {}}}


class Rendered(NamedTuple):
    """A row as text, and the ranges of characters in it that carry loss.

    ``plain`` text came through no template: the tokenizer's own special tokens belong around it.
    """

    text: str
    spans: tuple[Span, ...]
    plain: bool = False


class _GenerationBlocks(Extension):
    """``{% generation %}…{% endgeneration %}`` as in transformers: notes where the block's text begins and ends."""

    tags = {"generation"}  # noqa: RUF012

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.written: list[str] = []
        self.spans: list[Span] = []
        environment.extend(generation_blocks=self)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

    def _note(self, caller: Macro) -> str:
        text: str = caller()
        start = sum(map(len, self.written))
        self.spans.append((start, start + len(text)))
        return text

    def render(self, pieces: Iterable[str]) -> tuple[str, tuple[Span, ...]]:
        """Joins what a template generates and returns it with the ranges of its blocks."""
        self.written, self.spans = [], []
        for piece in pieces:
            self.written.append(piece)
        return "".join(self.written), tuple(self.spans)


class _Namespace(jinja2.utils.Namespace):
    """Without names that begin with an underscore: they could lead out of the sandbox, as in transformers."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # No parameter called self, so that a template may have a variable of that name.
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _refuse_private(name)
        jinja2.utils.Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: str) -> None:
    if name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"{name!r} begins with an underscore")


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox with a short way to what templates look up most; what they find is the same."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """A product or a power, unless it is so large that it would take all time or memory in a single operation."""
        if _is_too_large(operator, left, right):
            raise jinja2.exceptions.SecurityError(f"the result of {operator} is too large")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A place in a loop, an entry of a dictionary, or what jinja2 finds."""
        kind = type(obj)
        if kind is dict and attribute in obj and attribute not in _OF_DICTIONARIES:
            return obj[attribute]
        if kind is LoopContext and attribute in _OF_LOOPS:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)


def _is_too_large(operator: str, left: Any, right: Any) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        factor = abs(right) if operator == "**" else 1
        return left.bit_length() * factor + (right.bit_length() if operator == "*" else 0) > _MOST_BITS
    for content, times in ((left, right), (right, left)):
        if isinstance(content, Sized) and isinstance(times, int):
            return len(content) * times > _MOST_CHARACTERS
    return False


def _environment() -> jinja2.Environment:
    """The environment in which transformers renders templates (chat_template_utils), but for the date."""
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, loopcontrols])

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # No other options, as in transformers: some take functions, which would be called outside of the sandbox.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.globals["namespace"] = _Namespace
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = _DATE.strftime
    return environment


class ChatTemplate:
    """A chat template.

    ``variables`` are the texts of the model's named special tokens, such as ``eos_token``; ``special_tokens`` are all
    special tokens, ``stop_tokens`` those at which generation stops, and ``field`` is where the spec has the template.

    Raises:
        UserError: the template cannot be used for training; the message says why.
    """

    def __init__(
        self,
        source: str,
        variables: Mapping[str, str],
        special_tokens: Collection[str],
        stop_tokens: Collection[str],
        field: str = MODEL_FIELD,
    ) -> None:
        self._field, self._bounded = field, Bounded()
        environment = _environment()
        self._blocks: _GenerationBlocks = environment.generation_blocks  # type: ignore[attr-defined]
        try:
            with self._bounded:
                self._template = environment.from_string(source)
        except (*_FAULTS, *_COMPILER_FAULTS) as error:
            raise self._unusable(f"is not valid: {_told(error)}", "correct it") from error
        # A chain of mappings at first, of which each rendering would make one dictionary anew, entry by entry.
        self._template.globals = dict(self._template.globals)
        self._marked = bool(_MARK.search(source))
        self._variables = dict(variables)
        self._special = frozenset({*special_tokens, *stop_tokens})
        self._lead = ""
        try:
            with self._bounded:
                self._ends = tuple(self._turn_ends() | set(stop_tokens))
                self._prompts = self._render(_QUESTION, prompt=True) != self._render(_QUESTION)
                self._lead = self._usual_lead()
        except _LIMITS as error:
            raise self._unrenderable(_refusal(error)) from error

    def render(self, conversation: Conversation) -> Rendered:
        """A conversation as text with the ranges that carry loss.

        Raises:
            BadRow: the template refuses the conversation, leaves tools out of it, or does not show where an assistant
                turn is.
        """
        try:
            with self._bounded:
                return self._rendered(conversation)
        except _LIMITS as error:
            raise _refusal(error) from error

    def _rendered(self, conversation: Conversation) -> Rendered:
        messages, tools = conversation.messages, conversation.tools
        self._check_tools(conversation)
        text, blocks = self._render(messages, tools)
        found = (
            self._marked_answers(conversation, text, blocks)
            if self._marked
            else tuple(
                self._turn(messages, index, text, tools)
                for index in range(conversation.prompt, len(messages))
                if messages[index]["role"] == "assistant"
            )
        )
        spans = tuple(self._with_end(text, start, end) for start, end in found if end > start)
        if not spans:
            raise BadRow("the chat template marks nothing of this row as written by the assistant")
        return Rendered(text, spans)

    def _marked_answers(self, conversation: Conversation, text: str, blocks: tuple[Span, ...]) -> tuple[Span, ...]:
        """The blocks of the turns after the prompt."""
        if not any(message["role"] == "assistant" for message in conversation.messages[: conversation.prompt]):
            return blocks
        answers = [message["role"] == "assistant" for message in conversation.messages]
        if len(blocks) != sum(answers):
            raise BadRow("the chat template does not mark each assistant turn once, so the answer's is not known")
        return blocks[sum(answers[: conversation.prompt]) :]

    def _check_tools(self, conversation: Conversation) -> None:
        if conversation.tools and not self._shows_tools:
            name = tool_name(conversation.tools[0])
            raise BadRow(f"the chat template of {self._field} leaves out tools, such as {name!r}")
        if not self._shows_calls and any(message.get("tool_calls") for message in conversation.messages):
            raise BadRow(f"the chat template of {self._field} leaves out tool calls")

    @cached_property
    def _shows_tools(self) -> bool:
        return self._shows(_QUESTION, (_PROBE_TOOL,))

    @cached_property
    def _shows_calls(self) -> bool:
        call: Message = {"role": "assistant", "content": "", "tool_calls": [_PROBE_CALL]}
        return self._shows((*_QUESTION, call), ())

    def _shows(self, messages: Sequence[Message], tools: Sequence[Message]) -> bool:
        try:
            return _PROBE in self._render(messages, tools)[0]
        except BadRow:
            return False

    def _render(
        self, messages: Sequence[Message], tools: Sequence[Message] = (), prompt: bool = False
    ) -> tuple[str, tuple[Span, ...]]:
        given = {"messages": list(messages), "tools": list(tools) or None, "documents": None}
        context = {**self._variables, **given, "add_generation_prompt": prompt}
        self._bounded.renew()
        try:
            if not self._marked:
                return self._template.render(context), ()
            return self._blocks.render(self._template.generate(context))
        except _FAULTS as error:
            raise _refusal(error) from error

    def _turn(self, messages: Sequence[Message], index: int, text: str, tools: Sequence[Message]) -> Span:
        """Range of one assistant turn's text, found by what changes when it says something else and calls nothing."""
        changed, _ = self._render([*messages[:index], _ANSWER, *messages[index + 1 :]], tools)
        if changed.count(_SENTINEL) != 1:
            raise BadRow(f"the chat template does not show where the assistant's turn messages[{index}] is")
        start, end = _difference(text, changed)
        return self._take_over(messages[:index], text, start, tools), end

    def _take_over(self, before: Sequence[Message], text: str, content: int, tools: Sequence[Message] = ()) -> int:
        """Where the model begins to write, in characters, given where the content of its turn begins."""
        prompt = self._prompt_length(before, text[:content], tools)
        if prompt is None:
            # A conversation that changes as it goes on; what leads to the content is then the same as in a short one.
            return content - len(self._lead) if text[:content].endswith(self._lead) else content
        # A template without generation prompt writes the turn's head only when there is a turn.
        is_headed = not self._prompts and any(token in text[prompt:content] for token in self._special)
        return content if is_headed else prompt

    def _prompt_length(self, before: Sequence[Message], text: str, tools: Sequence[Message]) -> int | None:
        """Characters of the generation prompt, or None when the text does not begin with it."""
        if not before:
            return None
        try:
            prompt, _ = self._render(before, tools, prompt=True)
        except BadRow:
            # Some templates refuse conversations that end in certain roles.
            return None
        return len(prompt) if text.startswith(prompt) else None

    def _with_end(self, text: str, start: int, end: int) -> Span:
        """The range extended through the token that ends the turn, where that follows."""
        if text[start:end].rstrip().endswith(self._ends):
            return start, end
        rest = text[end:].lstrip()
        ends = [stop for stop in self._ends if rest.startswith(stop)]
        return start, len(text) - len(rest) + max(map(len, ends)) if ends else end

    def _turn_ends(self) -> set[str]:
        """The special token that the template writes after an assistant's last turn."""
        try:
            text, _ = self._render([*_QUESTION, _ANSWER])
        except BadRow as error:
            raise self._unrenderable(error) from error
        tail = text.partition(_SENTINEL)[2].lstrip()
        ends = {token for token in self._special if tail.startswith(token)}
        if not ends:
            raise self._unusable(
                "does not end the assistant's turn with a special token, so that the model would never learn to stop",
                "write {{ eos_token }} after the assistant's content",
            )
        return ends

    def _usual_lead(self) -> str:
        """What the model writes before the content of its turn, in a question with its answer: mostly nothing."""
        text, _ = self._render([*_QUESTION, _ANSWER])
        content = text.index(_SENTINEL)
        return text[self._take_over(_QUESTION, text, content) : content]

    def _unrenderable(self, reason: BadRow) -> UserError:
        return self._unusable(f"cannot render a question with its answer: {reason.message}", "correct it")

    def _unusable(self, why: str, remedy: str) -> UserError:
        place = "in the model's chat template" if self._field == MODEL_FIELD else f"in {self._field}"
        return UserError(f"the chat template of {self._field} {why}", f"{place}: {remedy}")


def _refusal(error: BaseException) -> BadRow:
    return BadRow(f"the chat template refuses it: {_told(error)}")


def _told(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"it takes more than {BYTES >> 20} MiB"
    return str(error)[:_MOST_TOLD] or type(error).__name__


def _difference(text: str, changed: str) -> Span:
    """Range of the text that another one, with the sentinel in it, has in another form."""
    before, _, after = changed.partition(_SENTINEL)
    if text.startswith(before) and text.endswith(after) and len(before) + len(after) <= len(text):
        return len(before), len(text) - len(after)
    # The template does more with the content than print it, such as to split off reasoning.
    start = _common(text, changed)
    return start, len(text) - _common(text[start:][::-1], changed[start:][::-1])


def _common(one: str, other: str) -> int:
    """Length of the common prefix."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
