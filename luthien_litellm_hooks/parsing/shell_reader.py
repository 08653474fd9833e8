"""Reads the statements of a script into commands, and has a runner follow each."""

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise

from tree_sitter import Node

from luthien_litellm_hooks.parsing.shell_feeds import Input, printed_by, redirects_of
from luthien_litellm_hooks.parsing.shell_model import Command, Redirect, Script, Word
from luthien_litellm_hooks.parsing.shell_nodes import Redirections, parts_of_list
from luthien_litellm_hooks.parsing.shell_runner import MAX_WORDS, Runner
from luthien_litellm_hooks.parsing.shell_syntax import is_whole, syntax_tree, text_of
from luthien_litellm_hooks.parsing.shell_variables import assigned_values
from luthien_litellm_hooks.parsing.shell_words import TooMuchError, Value, alternatives_of, plain_words, words_of

MAX_STATEMENT_DEPTH = 60
SUBSTITUTION_DEPTH = 3
"""For how many statements a substitution counts, as deep as it stands in the calls of the reader."""

CONDITIONAL = frozenset({"if_statement", "while_statement", "for_statement", "c_style_for_statement", "case_statement"})
ISOLATED = frozenset({"subshell", "command_substitution", "process_substitution"})
NOT_READ = frozenset({"comment", "variable_name", "heredoc_start", "heredoc_end", "word", "number"})
NO_ARGUMENT = frozenset({"variable_assignment", "command_name", "$"})


class ShellReader:
    """Walks statements in order. It is the scope of their words."""

    def __init__(self) -> None:
        self._runner = Runner(self._read)
        self._environment = self._runner.environment
        self._variables = self._environment.variables
        self._sources: list[Command] = []
        self._is_in_background = False
        self._statement_depth = 0

    def read(self, script: str) -> Script:
        """Read `script`, and at last the functions that nothing in it called."""
        try:
            self._runner.run_script(script)
            self._runner.run_uncalled()
        except (TooMuchError, RecursionError):
            self._runner.is_understood = False
        return Script(tuple(self._runner.commands), self._runner.is_understood)

    # What words may refer to.

    def values(self, name: str) -> tuple[Value, ...]:
        """Every value that a variable may have."""
        self._sources += self._variables.sources(name)
        if name == "PWD":
            return ((self._environment.directory if self._environment.directory.text else Word("."),),)
        return self._variables.values(name)

    def charge(self, characters: int) -> None:
        """Note that values come to so many characters more. Raises `TooMuchError`."""
        self._runner.charge(characters)

    def substitute(self, node: Node) -> Word:
        """Read the commands of a substitution; what they print, as far as it is known."""
        start = len(self._runner.commands)
        outer = self._sources
        self._statement_depth += SUBSTITUTION_DEPTH
        with self._environment.isolated():
            self._read_substituted(node)
        self._statement_depth -= SUBSTITUTION_DEPTH
        run = self._runner.commands[start:]
        self._sources = [*outer, *run]
        output = printed_by(run).stdin
        source = text_of(node)
        if node.type == "process_substitution" and output is not None:
            self._environment.files.write(source, output.text)
        if node.type == "process_substitution" or output is None or not output.is_resolved:
            return Word(source, is_resolved=False)
        return Word(output.text.rstrip("\n"))

    def _read_substituted(self, node: Node) -> None:
        source = text_of(node)
        if source.startswith("`") and "\\`" in source:
            self._runner.run_script(re.sub(r"\\([`\\$])", r"\1", source[1:-1]))
        else:
            self._read_children(node.children)

    @contextmanager
    def _gathering(self) -> Generator[None]:
        """Within: `_sources` has just the commands whose output is part of the words that are read here."""
        outer, self._sources = self._sources, []
        yield
        self._sources = [*outer, *self._sources]

    # Statements.

    def _read(self, node: Node) -> None:
        if node.type in NOT_READ:
            return
        if self._statement_depth >= MAX_STATEMENT_DEPTH:
            self._runner.is_understood = False
            return
        self._statement_depth += 1
        try:
            self._read_statement(node)
        finally:
            self._statement_depth -= 1

    def _read_statement(self, node: Node) -> None:
        match node.type:
            case "command":
                self._read_command(node)
            case "redirected_statement":
                self._read_redirected(node)
            case "pipeline":
                self._read_pipeline(node.named_children)
            case "list":
                self._read_list(node)
            case "function_definition":
                self._define(node)
            case "variable_assignment":
                self._assign(node)
            case "declaration_command":
                self._read_declaration(node)
            case "for_statement":
                self._read_for(node)
            case "compound_statement" if text_of(node).startswith("(("):
                self._read_arithmetic(node)
            case _:
                self._read_block(node)

    def _read_block(self, node: Node) -> None:
        """Any other node: whatever statements it holds."""
        if node.type == "string" or node.type.endswith("expansion"):
            words_of(node, self)
        elif node.type in ISOLATED:
            with self._environment.isolated():
                self._read_children(node.children)
        elif node.type in CONDITIONAL:
            with self._variables.conditional():
                self._read_children(node.children)
        else:
            self._read_children(node.children)

    def _read_arithmetic(self, node: Node) -> None:
        """`((...))`, which is arithmetic to bash, and to other shells a command in two subshells."""
        self._read_children(node.children)
        script = text_of(node)[2:-2]
        root = syntax_tree(script)
        if root is None or not root.has_error or is_whole(root):
            with self._environment.isolated():
                self._runner.run_script(script)

    def _read_children(self, children: Sequence[Node]) -> None:
        for child, following in pairwise((*children, None)):
            self._is_in_background = following is not None and following.type == "&"
            if child is not None:
                self._read(child)
        self._is_in_background = False

    def _read_list(self, node: Node) -> None:
        """`a && b || c`: whether a later part is reached is not sure."""
        first, *rest = parts_of_list(node)
        self._read(first)
        with self._variables.conditional():
            for part in rest:
                self._read(part)

    def _read_for(self, node: Node) -> None:
        """The variable may have any of the listed values."""
        variable = node.child_by_field_name("variable")
        body = node.child_by_field_name("body")
        listed = [child for child in node.named_children if child not in (variable, body)]
        values = tuple((word,) for child in listed for word in words_of(child, self))
        if variable is not None:
            self._variables.set_in_turn(text_of(variable), values)
        with self._variables.conditional():
            if body is not None:
                self._read(body)

    def _assign(self, node: Node) -> None:
        with self._gathering():
            values = assigned_values(node, self)
            self._variables.assign(node, values, self._sources)

    def _read_assignments(self, node: Node) -> None:
        for child in node.children:
            if child.type == "variable_assignment":
                self._assign(child)

    def _read_declaration(self, node: Node) -> None:
        for child in node.named_children:
            if child.type == "variable_assignment":
                self._assign(child)
            elif child.type != "variable_name":
                words_of(child, self)

    def _define(self, node: Node) -> None:
        named, body = node.child_by_field_name("name"), node.child_by_field_name("body")
        if named is not None and body is not None:
            self._runner.define(text_of(named), body)
        redirects = [child for child in node.children if child.type.endswith("_redirect")]
        if redirects:
            self._note_redirects(self._redirects(redirects)[0])

    # Pipelines and redirections.

    def _read_pipeline(
        self, stages: Sequence[Node | None], redirected: int = -1, redirections: Redirections | None = None
    ) -> None:
        """Each stage reads what the one before it prints; `redirections` are those of one stage."""
        is_in_background = self._is_in_background
        source = self._runner.input
        for index, stage in enumerate(stages):
            start = len(self._runner.commands)
            self._is_in_background = is_in_background
            surroundings = self._environment.isolated() if len(stages) > 1 else nullcontext()
            with self._runner.reading_from(source), surroundings:
                self._read_stage(stage, redirections if index == redirected else None)
            source = printed_by(self._runner.commands[start:])
        self._is_in_background = False

    def _read_stage(self, node: Node | None, redirections: Redirections | None) -> None:
        if redirections is None:
            if node is not None:
                self._read(node)
        elif node is not None and node.type == "command":
            self._read_command(node, redirections)
        else:
            self._read_compound(node, redirections)

    def _read_redirected(self, node: Node) -> None:
        redirections = Redirections.of(node)
        body = node.child_by_field_name("body")
        if body is not None and body.type == "list":  # the redirections are those of its last part
            *before, body = parts_of_list(body)
            self._read_children(before)
        stages = body.named_children if body is not None and body.type == "pipeline" else [body]
        self._read_pipeline([*stages, *redirections.later_stages], len(stages) - 1, redirections)
        with self._variables.conditional():
            self._read_children(redirections.rest)

    def _read_compound(self, node: Node | None, redirections: Redirections) -> None:
        redirects, stdin, sources = self._redirects(redirections.nodes)
        self._note_redirects(redirects, sources)
        is_fed = stdin is not None or sources
        with self._runner.reading_from(Input(stdin, None, sources) if is_fed else self._runner.input):
            if node is not None:
                self._read(node)

    def _note_redirects(self, redirects: tuple[Redirect, ...], sources: tuple[Command, ...] = ()) -> None:
        """Those of a block: a command without a name stands for them."""
        directory = self._environment.directory
        self._runner.note(Command("", redirects=redirects, directory=directory, built_from=sources))

    def _redirects(self, nodes: Sequence[Node]) -> tuple[tuple[Redirect, ...], Word | None, tuple[Command, ...]]:
        """The redirections, the text they put on standard input, and the commands inside them."""
        with self._gathering():
            redirects, stdin = redirects_of(nodes, self, self._environment.files)
            return redirects, stdin, tuple(self._sources)

    # Commands.

    def _read_command(self, node: Node, redirections: Redirections | None = None) -> None:
        is_in_background, self._is_in_background = self._is_in_background, False
        if redirections is None and (words := plain_words(node)):
            self._runner.run(self._runner.command_of(words, is_in_background=is_in_background))
            return
        own = [child for child in node.children if child.type.endswith("_redirect")]
        arguments = [
            child for child in node.children if child.type not in NO_ARGUMENT and not child.type.endswith("_redirect")
        ]
        with self._gathering():
            self._read_assignments(node)
            self._read_children([child for child in arguments if child.type == "subshell"])
            redirects, stdin, _ = self._redirects([*own, *(redirections.nodes if redirections else ())])
            arguments += redirections.words if redirections else []
            lines = self._lines(node.child_by_field_name("name"), arguments)
            sources = tuple(self._sources)
        for line in lines:
            self._runner.run(
                self._runner.command_of(line, redirects, stdin, built_from=sources, is_in_background=is_in_background)
            )

    def _lines(self, named: Node | None, arguments: Sequence[Node]) -> list[tuple[Word, ...]]:
        """The program and its arguments, for each program that the command may name."""
        programs = alternatives_of(named, self) if named is not None else ((),)
        if len(arguments) > MAX_WORDS:
            raise TooMuchError
        words = tuple(word for child in arguments for word in words_of(child, self))
        lines: list[tuple[Word, ...]] = []
        for program in programs:
            line = (*(program or (Word(""),)), *words)
            if named is not None and words and not line[0].text:
                line = words
            lines.append(line)
        return lines
