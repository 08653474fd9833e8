"""Reader of a script: turns statements into commands, and has a runner follow each."""

import fnmatch
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise

from tree_sitter import Node

from luthien_litellm_hooks.policies.shell.environment import assigned_values
from luthien_litellm_hooks.policies.shell.model import Command, Redirect, Script, Word
from luthien_litellm_hooks.policies.shell.runner import MAX_WORDS, Runner
from luthien_litellm_hooks.policies.shell.streams import Input, printed_by, redirects_of
from luthien_litellm_hooks.policies.shell.syntax import (
    Redirections,
    is_whole,
    parts_of_list,
    syntax_tree,
    text_of,
)
from luthien_litellm_hooks.policies.shell.words import (
    MAX_ALTERNATIVES,
    TooMuchError,
    Value,
    alternatives_of,
    plain_words,
    words_of,
)

MAX_STATEMENT_DEPTH = 60
SUBSTITUTION_DEPTH = 3
"""Statement levels for one substitution, because it nests as many calls of the reader."""

CONDITIONAL = frozenset({"if_statement", "while_statement", "for_statement", "c_style_for_statement", "case_statement"})
ISOLATED = frozenset({"subshell", "command_substitution", "process_substitution"})
NOT_READ = frozenset({"comment", "variable_name", "heredoc_start", "heredoc_end", "word", "number"})
EMPTY_SUBSTITUTION = re.compile(r"\$\(\s*\)|`\s*`")
NO_ARGUMENT = frozenset({"variable_assignment", "command_name", "$"})


GLOBBED = (
    *(
        "rm",
        "sh",
        "bash",
        "dash",
        "zsh",
        "ksh",
        "dd",
        "mkfs",
        "shred",
        "wipefs",
        "find",
        "chmod",
        "chown",
        "kill",
        "mv",
    ),
    *("cp", "tee", "sudo", "env", "xargs", "curl", "wget", "nc", "ssh", "scp", "python3", "perl", "reboot", "shutdown"),
)
"""Programs that a glob in a program's path may name."""


def programs_matching(program: str) -> list[str]:
    """Returns the catalogued programs that `/bin/r?` may run; none for a path without a glob in its last part."""
    folder, _, name = program.rpartition("/")
    if not folder.startswith("/") or not re.search(r"[*?\[]", name):
        return []
    return [f"/bin/{known}" for known in GLOBBED if fnmatch.fnmatchcase(known, name)]


def _glued(start: tuple[Word, ...], end: tuple[Word, ...]) -> tuple[Word, ...]:
    """Returns the words of two neighbours that the grammar took apart."""
    if not start or not end:
        return start or end
    middle = Word(start[-1].text + end[0].text, start[-1].is_resolved and end[0].is_resolved)
    return (*start[:-1], middle, *end[1:])


class ShellReader:
    """Walker over statements in their order, and scope of their words."""

    def __init__(self) -> None:
        self._runner = Runner(self._read)
        self._environment = self._runner.environment
        self._variables = self._environment.variables
        self._sources: list[Command] = []
        self._is_in_background = False
        self._statement_depth = 0

    def read(self, script: str) -> Script:
        """Reads `script`, and finally its uncalled functions."""
        try:
            self._runner.run_script(script)
            self._runner.run_uncalled()
        except (TooMuchError, RecursionError):
            self._runner.is_understood = False
        return Script(tuple(self._runner.commands), self._runner.is_understood)

    # Scope of words.

    def values(self, name: str) -> tuple[Value, ...]:
        self._sources += self._variables.sources(name)
        if name == "PWD":
            return ((self._environment.directory if self._environment.directory.text else Word("."),),)
        return self._variables.values(name)

    @property
    def is_assembled(self) -> bool:
        return self._runner.is_assembled

    def separators(self) -> str:
        return self._variables.separators()

    def charge(self, characters: int) -> None:
        self._runner.charge(characters)

    def substitute(self, node: Node) -> Word:
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
        if not run and EMPTY_SUBSTITUTION.fullmatch(source):
            return Word("")
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
        """Collects in `_sources` the commands whose output is part of the words read inside the block."""
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
        """Reads any other node, with the statements inside it."""
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
        """Reads `((...))`: arithmetic in bash, in other shells a command in two subshells."""
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
        """Reads `a && b || c`. The script may skip the later parts."""
        first, *rest = parts_of_list(node)
        self._read(first)
        with self._variables.conditional():
            for part in rest:
                self._read(part)

    def _read_for(self, node: Node) -> None:
        """Reads a loop whose variable may have any of the listed values."""
        variable = node.child_by_field_name("variable")
        body = node.child_by_field_name("body")
        listed = [child for child in node.named_children if child not in (variable, body)]
        with self._gathering():
            values = tuple((word,) for child in listed for word in words_of(child, self))
            if not any(child.type == "in" for child in node.children):
                values = tuple((word,) for value in self.values("@") for word in value)
            if variable is not None:
                self._variables.set_in_turn(text_of(variable), values)
                self._variables.add_sources(text_of(variable), self._sources)
        with self._variables.conditional():
            if body is not None:
                self._read(body)

    def _assign(self, node: Node) -> None:
        with self._gathering():
            values = assigned_values(node, self)
            self._variables.assign(node, values, self._sources)

    def _assigned(self, node: Node) -> list[tuple[Node, tuple[Value, ...], list[Command]]]:
        """Reads the assignments before a program, without their effect."""
        found: list[tuple[Node, tuple[Value, ...], list[Command]]] = []
        for child in node.children:
            if child.type == "variable_assignment":
                with self._gathering():
                    found.append((child, assigned_values(child, self), self._sources))
        return found

    def _read_declaration(self, node: Node) -> None:
        keyword = text_of(node.children[0])
        options = "".join(text_of(child) for child in node.named_children if text_of(child).startswith("-"))
        is_local = keyword == "local" or (keyword in ("declare", "typeset") and "g" not in options)
        for child in node.named_children:
            if child.type not in ("variable_assignment", "variable_name"):
                words_of(child, self)
                continue
            name = text_of(child).partition("=")[0].rstrip("+")
            value = child.child_by_field_name("value")
            values = assigned_values(child, self) if value is not None and "n" in options else ()
            if values and len(values[0]) == 1 and values[0][0].is_resolved:
                self._variables.refer(name, values[0][0].text)
                continue
            self._declare(child, name, is_local=is_local)

    def _declare(self, node: Node, name: str, *, is_local: bool) -> None:
        """Reads `local X=value`, whose value may be made from the outer `X`."""
        with self._gathering():
            values = assigned_values(node, self) if node.type == "variable_assignment" else None
            if is_local:
                self._variables.declare_local(name)
            if values is not None:
                self._variables.assign(node, values, self._sources)

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
        """Reads stages, each with the output of the previous one as input; `redirections` belong to one stage."""
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
        if body is not None and body.type == "list":  # its last part has the redirections
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
        """Records the redirections of a block as a command without a name."""
        directory = self._environment.directory
        self._runner.note(Command("", redirects=redirects, directory=directory, built_from=sources))

    def _redirects(self, nodes: Sequence[Node]) -> tuple[tuple[Redirect, ...], Word | None, tuple[Command, ...]]:
        """Returns the redirections, their text on standard input, and the commands inside them."""
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
        named = node.child_by_field_name("name")
        with self._gathering():
            assigned = self._assigned(node)
            self._read_children([child for child in arguments if child.type == "subshell"])
            redirects, stdin, _ = self._redirects([*own, *(redirections.nodes if redirections else ())])
            arguments += redirections.words if redirections else []
            lines = self._lines(named, arguments)
            sources = tuple(self._sources)
        names = [text_of(child).partition("=")[0].rstrip("+") for child, _, _ in assigned]
        with self._variables.restoring(names) if named is not None and names else nullcontext():
            for child, values, made_by in assigned:
                self._variables.assign(child, values, made_by)
            for line in lines:
                self._runner.run(
                    self._runner.command_of(
                        line, redirects, stdin, built_from=sources, is_in_background=is_in_background
                    )
                )

    def _lines(self, named: Node | None, arguments: Sequence[Node]) -> list[tuple[Word, ...]]:
        """Returns the program and its arguments, for each possible program of the command."""
        programs = alternatives_of(named, self) if named is not None else ((),)
        if named is not None and arguments and arguments[0].start_byte == named.end_byte:  # a word with backquotes
            rest = alternatives_of(arguments[0], self)
            programs = tuple(_glued(start, end) for start in programs for end in rest)[:MAX_ALTERNATIVES]
            arguments = arguments[1:]
        if len(arguments) > MAX_WORDS:
            raise TooMuchError
        words = tuple(word for child in arguments for word in words_of(child, self))
        lines: list[tuple[Word, ...]] = []
        for program in programs:
            line = (*(program or (Word(""),)), *words)
            if named is not None and words and not line[0].text:
                line = words
            lines += [(Word(name), *line[1:]) for name in programs_matching(line[0].text)] or [line]
        return lines
