"""Reads the statements of a script, and of the scripts inside it, into commands."""

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise

from tree_sitter import Node

from luthien_litellm_hooks.parsing.shell_model import HERE, Command, Redirect, Word
from luthien_litellm_hooks.parsing.shell_nodes import Redirections, is_here_string, parts_of_list
from luthien_litellm_hooks.parsing.shell_output import output_of
from luthien_litellm_hooks.parsing.shell_paths import joined_path
from luthien_litellm_hooks.parsing.shell_syntax import is_whole, syntax_tree, text_of
from luthien_litellm_hooks.parsing.shell_words import (
    MAX_ALTERNATIVES,
    TooMuchError,
    Value,
    alternatives_of,
    text_word,
    text_words,
    words_of,
)
from luthien_litellm_hooks.parsing.shell_wrappers import quoted, runs_of, script_file_of

MAX_COMMANDS = 5_000
MAX_WORDS = 20_000
MAX_CHARACTERS = 1_000_000
"""Of the script, the scripts inside it and the words of all commands together."""

MAX_ELEMENTS = 256
"""A longer array counts as unknown."""
MAX_STATEMENT_DEPTH = 60
SUBSTITUTION_DEPTH = 3
"""For how many statements a substitution counts, as deep as it stands in the calls of the reader."""
MAX_SCRIPT_DEPTH = 8

CONDITIONAL = frozenset({"if_statement", "while_statement", "for_statement", "c_style_for_statement", "case_statement"})
ISOLATED = frozenset({"subshell", "command_substitution", "process_substitution"})
NOT_READ = frozenset({"comment", "variable_name", "heredoc_start", "heredoc_end", "word", "number"})
WELL_KNOWN = {"HOME": "~", "IFS": " "}


@dataclass(frozen=True, slots=True)
class Input:
    """What a command finds on its standard input."""

    stdin: Word | None = None
    piped_from: Command | None = None
    fed_by: tuple[Command, ...] = ()


class ShellReader:
    """Walks statements in order and keeps what later words depend on: variables, functions, the directory."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.is_understood = True
        self._variables: dict[str, tuple[Value, ...]] = {name: ((Word(text),),) for name, text in WELL_KNOWN.items()}
        self._origins: dict[str, tuple[Command, ...]] = {}
        self._functions: dict[str, Node] = {}
        self._uncalled: dict[str, Node] = {}
        self._aliases: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._calling: frozenset[str] = frozenset()
        self._directory = HERE
        self._input = Input()
        self._sources: list[Command] = []
        self._is_conditional = False
        self._is_in_background = False
        self._statement_depth = 0
        self._script_depth = 0
        self._words_left = MAX_WORDS
        self._characters_left = MAX_CHARACTERS

    def read_all(self, script: str) -> None:
        """Read `script`, and at last the functions that nothing in it called."""
        try:
            self._read_script(script)
            while self._uncalled:
                name, body = self._uncalled.popitem()
                self._read_body(name, body)
        except (TooMuchError, RecursionError):
            self.is_understood = False

    def _read_script(self, script: str) -> None:
        self._characters_left -= len(script)
        is_within_bounds = self._script_depth < MAX_SCRIPT_DEPTH and self._characters_left >= 0
        root = syntax_tree(script) if is_within_bounds else None
        if root is None:
            self.is_understood = False
            return
        if root.has_error and not is_whole(root):
            self.is_understood = False
        self._script_depth += 1
        self._read(root)
        self._script_depth -= 1

    # What follows reads nodes of the tree.

    def _read(self, node: Node) -> None:
        if node.type in NOT_READ:
            return
        if self._statement_depth >= MAX_STATEMENT_DEPTH:
            self.is_understood = False
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
            case _:
                self._read_block(node)

    def _read_block(self, node: Node) -> None:
        """Any other node: whatever statements it holds."""
        if node.type == "string" or node.type.endswith("expansion"):
            words_of(node, self)
        elif node.type in ISOLATED:
            with self._isolated():
                self._read_children(node.children)
        elif node.type in CONDITIONAL:
            with self._conditional():
                self._read_children(node.children)
        else:
            self._read_children(node.children)

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
        with self._conditional():
            for part in rest:
                self._read(part)

    def _read_pipeline(
        self, stages: Sequence[Node | None], redirected: int = -1, redirections: Redirections | None = None
    ) -> None:
        """Each stage reads what the one before it prints; `redirections` are those of one stage."""
        is_in_background = self._is_in_background
        outer = self._input
        for index, stage in enumerate(stages):
            start = len(self.commands)
            self._is_in_background = is_in_background
            with self._isolated() if len(stages) > 1 else nullcontext():
                self._read_stage(stage, redirections if index == redirected else None)
            self._input = self._output(self.commands[start:])
        self._input = outer
        self._is_in_background = False

    def _read_stage(self, node: Node | None, redirections: Redirections | None) -> None:
        if redirections is None:
            if node is not None:
                self._read(node)
        elif node is not None and node.type == "command":
            self._read_command(node, redirections)
        else:
            self._read_compound(node, redirections)

    def _output(self, commands: Sequence[Command]) -> Input:
        """What `commands` print together, as far as it is known."""
        feeding = {id(source) for command in commands for source in (*command.fed_by, *command.built_from)}
        texts = [output_of(command) for command in commands if id(command) not in feeding]
        known = [text for text in texts if text is not None]
        is_resolved = len(known) == len(texts) and all(text.is_resolved for text in known)
        stdin = Word("\n".join(text.text for text in known), is_resolved) if known else None
        return Input(stdin, commands[-1] if commands else None, tuple(commands))

    def _read_redirected(self, node: Node) -> None:
        redirections = Redirections.of(node)
        body = node.child_by_field_name("body")
        if body is not None and body.type == "list":  # the redirections are those of its last part
            *before, body = parts_of_list(body)
            self._read_children(before)
        stages = body.named_children if body is not None and body.type == "pipeline" else [body]
        self._read_pipeline([*stages, *redirections.later_stages], len(stages) - 1, redirections)
        with self._conditional():
            self._read_children(redirections.rest)

    def _read_compound(self, node: Node | None, redirections: Redirections) -> None:
        """A block with redirections: a command without a name stands for them."""
        redirects, stdin, sources = self._redirects(redirections.nodes)
        self._emit(Command("", redirects=redirects, directory=self._directory, built_from=sources))
        if node is None:
            return
        outer = self._input
        if stdin is not None or sources:
            self._input = Input(stdin, None, sources)
        self._read(node)
        self._input = outer

    # Commands.

    def _read_command(self, node: Node, redirections: Redirections | None = None) -> None:
        is_in_background, self._is_in_background = self._is_in_background, False
        outer_sources, self._sources = self._sources, []
        named = node.child_by_field_name("name")
        own = [child for child in node.children if child.type.endswith("_redirect")]
        skipped = {"variable_assignment", "command_name", "$"}
        arguments = [child for child in node.children if child.type not in skipped and child not in own]
        for child in node.children:
            if child.type == "variable_assignment":
                self._assign(child)
        self._read_children([child for child in arguments if child.type == "subshell"])
        redirects, stdin, _ = self._redirects([*own, *(redirections.nodes if redirections else ())])
        arguments += redirections.words if redirections else []
        names = alternatives_of(named, self) if named is not None else ((),)
        words = tuple(word for child in arguments for word in words_of(child, self))
        sources = tuple(self._sources)
        self._sources = [*outer_sources, *sources]
        for fields in names:
            program, rest = (fields[0], fields[1:]) if fields else (Word(""), ())
            if not program.text and words and named is not None:
                program, rest, words = words[0], (), words[1:]
            self._run(
                replace(
                    self._command((program, *rest, *words)),
                    redirects=redirects,
                    stdin=stdin or self._input.stdin,
                    piped_from=self._input.piped_from,
                    fed_by=self._input.fed_by,
                    built_from=sources,
                    is_in_background=is_in_background,
                )
            )

    def _command(self, words: Sequence[Word]) -> Command:
        program = words[0]
        name = re.split(r"[/\\]", program.text)[-1].removesuffix(".exe") if program.is_resolved else ""
        return Command(
            name=name,
            words=tuple(words[1:]),
            program=program.text,
            is_name_resolved=program.is_resolved,
            directory=self._directory,
            is_self_call=name in self._calling,
        )

    def _run(self, command: Command) -> None:
        """Note `command`, what it does to later words, and whatever it runs in turn."""
        self._emit(command)
        self._note_files(command)
        if command.name in self._aliases:
            self._run_alias(command)
        elif command.name in self._functions and not command.is_self_call:
            self._call(command)
        else:
            self._take_effect(command)
            self._run_inner(command)

    def _emit(self, command: Command) -> None:
        self._words_left -= len(command.words)
        self._characters_left -= sum(len(word.text) for word in command.words)
        if len(self.commands) >= MAX_COMMANDS or min(self._words_left, self._characters_left) < 0:
            raise TooMuchError
        self.commands.append(command)

    def _run_inner(self, command: Command) -> None:
        with self._within(command):
            for inner in runs_of(command):
                if isinstance(inner, str):
                    self._read_script(inner)
                elif inner and self._script_depth < MAX_SCRIPT_DEPTH * 2:
                    self._script_depth += 1
                    self._run(
                        replace(
                            self._command(inner),
                            stdin=command.stdin,
                            piped_from=command.piped_from,
                            fed_by=command.fed_by,
                            built_from=(*command.built_from, *(command.fed_by if command.name == "xargs" else ())),
                            is_in_background=command.is_in_background,
                        )
                    )
                    self._script_depth -= 1
                else:
                    self.is_understood = False
            file = script_file_of(command)
            text = self._files.get(_file_key(file.text)) if file else self._files.get(_file_key(command.program))
            if text is not None:
                self._read_script(text)

    def _take_effect(self, command: Command) -> None:
        """What builtins do to the variables, the aliases and the directory."""
        match command.name:
            case "cd" | "pushd" | "chdir" | "popd":
                self._change_directory(command)
            case "alias":
                for text in command.texts:
                    name, _, value = text.partition("=")
                    self._aliases[name] = value
            case "read" | "mapfile" | "readarray" | "getopts":
                for text in command.texts:
                    self._set(text, ())
            case "set" if "--" in command.texts:
                values = command.words[command.texts.index("--") + 1 :]
                self._set_positional(values)
            case "printf" if len(command.words) > 2 and command.texts[0] == "-v":
                value = output_of(replace(command, words=command.words[2:]))
                self._set(command.texts[1], ((value,),) if value else ())
            case _:
                return

    def _change_directory(self, command: Command) -> None:
        targets = [word for word in command.words if not word.text.startswith("-") or word.text == "-"]
        if command.name == "popd" or (targets and targets[0].text == "-"):
            self._directory = Word("$OLDPWD", is_resolved=False)
        elif not targets:
            self._directory = Word("~")
        else:
            here = self._directory
            path = joined_path(here.text, targets[0].text)
            self._directory = Word(path, targets[0].is_resolved and (here.is_resolved or path[0] in "/~"))

    def _note_files(self, command: Command) -> None:
        """Remember the text of a file that the script writes, in case it is run afterwards."""
        text = output_of(command)
        names = [redirect.target.text for redirect in command.redirects if redirect.operator.startswith((">", "&>"))]
        if command.name == "tee":
            names += command.texts
        if text is not None:
            for name in names:
                self._files[_file_key(name)] = text.text

    def _run_alias(self, command: Command) -> None:
        value = self._aliases.pop(command.name)
        with self._within(command):
            self._read_script(" ".join([value, *map(quoted, command.words)]))
        self._aliases[command.name] = value

    def _call(self, command: Command) -> None:
        outer = {name: self._variables.get(name, ()) for name in ("@", "*", *"123456789")}
        self._set_positional(command.words)
        with self._within(command):
            self._read_body(command.name, self._functions[command.name])
        self._variables |= outer

    def _read_body(self, name: str, body: Node) -> None:
        self._uncalled.pop(name, None)
        calling, self._calling = self._calling, self._calling | {name}
        self._read(body)
        self._calling = calling

    # What words may refer to.

    def values(self, name: str) -> tuple[Value, ...]:
        """Every value that a variable may have."""
        self._sources += self._origins.get(name, ())
        if name == "PWD":
            return ((self._directory if self._directory.text else Word("."),),)
        return self._variables.get(name, ())

    def substitute(self, node: Node) -> Word:
        """Read the commands of a substitution; what they print, as far as it is known."""
        start = len(self.commands)
        source = text_of(node)
        outer = self._sources
        self._statement_depth += SUBSTITUTION_DEPTH
        with self._isolated():
            if source.startswith("`") and "\\`" in source:
                self._read_script(re.sub(r"\\([`\\$])", r"\1", source[1:-1]))
            else:
                self._read_children(node.children)
        self._statement_depth -= SUBSTITUTION_DEPTH
        emitted = self.commands[start:]
        self._sources = [*outer, *emitted]
        output = self._output(emitted).stdin
        if node.type == "process_substitution":
            if output is not None:
                self._files[_file_key(source)] = output.text
            return Word(source, is_resolved=False)
        if output is None or not output.is_resolved:
            return Word(source, is_resolved=False)
        return Word(output.text.rstrip("\n"))

    def _set(self, name: str, values: tuple[Value, ...]) -> None:
        """Assign; where it is not sure that the script gets here, the old values stay possible."""
        if not values or (self._is_conditional and self._variables.get(name) == ()):
            self._variables[name] = ()
            return
        old = self._variables.get(name, ()) if self._is_conditional else ()
        merged = tuple(dict.fromkeys((*old, *values)))
        self._variables[name] = merged if len(merged) <= MAX_ALTERNATIVES else ()

    def _set_positional(self, words: tuple[Word, ...]) -> None:
        self._variables["@"] = self._variables["*"] = (words,) if len(words) <= MAX_ELEMENTS else ()
        for number in range(1, 10):
            self._variables[str(number)] = ((words[number - 1],),) if number <= len(words) else ()

    def _assign(self, node: Node) -> None:
        named, value = node.child_by_field_name("name"), node.child_by_field_name("value")
        if named is None:
            return
        name = text_of(named).partition("[")[0]
        outer, self._sources = self._sources, []
        values = self._assigned(value)
        if any(child.type == "+=" for child in node.children):
            values = _appended(self._variables.get(name, ()), values)
        self._origins[name] = (*self._origins.get(name, ()), *self._sources)[:MAX_ALTERNATIVES]
        self._sources = [*outer, *self._sources]
        self._set(name, values if named.type != "subscript" else (*self._variables.get(name, ()), *values))

    def _assigned(self, value: Node | None) -> tuple[Value, ...]:
        if value is None:
            return ((Word(""),),)
        if value.type == "array":
            words = tuple(word for child in value.named_children for word in words_of(child, self))
            return (words,) if len(words) <= MAX_ELEMENTS else ()
        return tuple((word,) for word in text_words(value, self))

    def _read_declaration(self, node: Node) -> None:
        for child in node.named_children:
            if child.type == "variable_assignment":
                self._assign(child)
            elif child.type != "variable_name":
                words_of(child, self)

    def _read_for(self, node: Node) -> None:
        """The variable may have any of the listed values."""
        variable = node.child_by_field_name("variable")
        body = node.child_by_field_name("body")
        listed = [child for child in node.named_children if child not in (variable, body)]
        values = tuple((word,) for child in listed for word in words_of(child, self))
        if variable is not None:
            self._variables[text_of(variable)] = values if len(values) <= MAX_ALTERNATIVES else ()
        with self._conditional():
            if body is not None:
                self._read(body)

    def _define(self, node: Node) -> None:
        named, body = node.child_by_field_name("name"), node.child_by_field_name("body")
        if named is not None and body is not None:
            self._functions[text_of(named)] = self._uncalled[text_of(named)] = body
        redirects = [child for child in node.children if child.type.endswith("_redirect")]
        if redirects:
            self._emit(Command("", redirects=self._redirects(redirects)[0], directory=self._directory))

    def _redirects(self, nodes: Sequence[Node]) -> tuple[tuple[Redirect, ...], Word | None, tuple[Command, ...]]:
        """The redirections, the text they put on standard input, and the commands inside them."""
        redirects: list[Redirect] = []
        stdin: Word | None = None
        outer, self._sources = self._sources, []
        for node in nodes:
            if node.type == "heredoc_redirect":
                stdin = self._heredoc(node)
            elif node.type == "herestring_redirect" or is_here_string(node):
                stdin = text_word(node.named_children[-1], self)
            else:
                targets = node.children_by_field_name("destination")[:1]
                operator = next((child.type for child in node.children if not child.is_named), ">")
                redirects += [Redirect(operator, word) for target in targets for word in text_words(target, self)]
                if operator == "<" and redirects:
                    text = self._files.get(_file_key(redirects[-1].target.text))
                    stdin = Word(text) if text is not None else stdin
        sources = tuple(self._sources)
        self._sources = [*outer, *sources]
        return tuple(redirects), stdin, sources

    def _heredoc(self, node: Node) -> Word:
        bodies = [child for child in node.children if child.type == "heredoc_body"]
        starts = [text_of(child) for child in node.children if child.type == "heredoc_start"]
        if not bodies:
            return HERE
        if starts and starts[0][:1] in "'\"\\":
            return Word(text_of(bodies[0]))
        return text_word(bodies[0], self)

    # Surroundings that end with the block that they hold for.

    @contextmanager
    def _isolated(self) -> Generator[None]:
        """A subshell: what it sets is gone afterwards."""
        variables, directory = dict(self._variables), self._directory
        yield
        self._variables, self._directory = variables, directory

    @contextmanager
    def _conditional(self) -> Generator[None]:
        outer, self._is_conditional = self._is_conditional, True
        yield
        self._is_conditional = outer

    @contextmanager
    def _within(self, command: Command) -> Generator[None]:
        """Inside what `command` runs: it shares its input."""
        outer = self._input
        self._input = Input(command.stdin, command.piped_from, command.fed_by)
        yield
        self._input = outer


def _appended(old: tuple[Value, ...], new: tuple[Value, ...]) -> tuple[Value, ...]:
    """`X+=text` and `X+=(more)`, for each pair of values."""
    return tuple(
        (*before, *after)
        if len(before) != 1 or len(after) != 1
        else (Word(before[0].text + after[0].text, before[0].is_resolved and after[0].is_resolved),)
        for before in old or ((Word(""),),)
        for after in new
    )


def _file_key(name: str) -> str:
    return name.removeprefix("./")
