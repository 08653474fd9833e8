"""What feeds the standard input of a command, a pipe or a redirection, and where its output goes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tree_sitter import Node

from luthien_litellm_hooks.parsing.shell_environment import Files
from luthien_litellm_hooks.parsing.shell_model import HERE, Command, Redirect, Word
from luthien_litellm_hooks.parsing.shell_nodes import is_here_string
from luthien_litellm_hooks.parsing.shell_output import output_of
from luthien_litellm_hooks.parsing.shell_syntax import text_of
from luthien_litellm_hooks.parsing.shell_words import Scope, text_word, text_words


@dataclass(frozen=True, slots=True)
class Input:
    """What a command finds on its standard input."""

    stdin: Word | None = None
    piped_from: Command | None = None
    fed_by: tuple[Command, ...] = ()


def printed_by(commands: Sequence[Command]) -> Input:
    """What `commands` print together, as far as it is known."""
    feeding = {id(source) for command in commands for source in (*command.fed_by, *command.built_from)}
    texts = [output_of(command) for command in commands if id(command) not in feeding]
    known = [text for text in texts if text is not None]
    is_resolved = len(known) == len(texts) and all(text.is_resolved for text in known)
    stdin = Word("\n".join(text.text for text in known), is_resolved) if known else None
    return Input(stdin, commands[-1] if commands else None, tuple(commands))


def redirects_of(nodes: Sequence[Node], scope: Scope, files: Files) -> tuple[tuple[Redirect, ...], Word | None]:
    """The redirections to and from files, and the text that `nodes` put on standard input; None if unknown."""
    redirects: list[Redirect] = []
    stdin: Word | None = None
    for node in nodes:
        if node.type == "heredoc_redirect":
            stdin = _heredoc(node, scope)
        elif node.type == "herestring_redirect" or is_here_string(node):
            stdin = text_word(node.named_children[-1], scope)
        else:
            redirects += _file_redirects(node, scope)
            if redirects and _operator(node) == "<":
                text = files.text(redirects[-1].target.text)
                stdin = Word(text) if text is not None else stdin
    return tuple(redirects), stdin


def _file_redirects(node: Node, scope: Scope) -> Iterator[Redirect]:
    """`node` for each value that its target may have."""
    for target in node.children_by_field_name("destination")[:1]:
        for word in text_words(target, scope):
            yield Redirect(_operator(node), word)


def _operator(node: Node) -> str:
    return next((child.type for child in node.children if not child.is_named), ">")


def _heredoc(node: Node, scope: Scope) -> Word:
    bodies = [child for child in node.children if child.type == "heredoc_body"]
    starts = [text_of(child) for child in node.children if child.type == "heredoc_start"]
    if not bodies:
        return HERE
    if starts and starts[0][:1] in "'\"\\":
        return Word(text_of(bodies[0]))
    return text_word(bodies[0], scope)
