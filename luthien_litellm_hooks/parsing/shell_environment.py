"""The execution environment of a shell: what a command leaves behind for the commands after it."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

from luthien_litellm_hooks.parsing.shell_model import HERE, Command, Word
from luthien_litellm_hooks.parsing.shell_output import output_of
from luthien_litellm_hooks.parsing.shell_paths import joined_path
from luthien_litellm_hooks.parsing.shell_variables import Variables
from luthien_litellm_hooks.parsing.shell_words import TooMuchError

MAX_DIRECTORY_CHARACTERS = 1_024
"""No script that people write goes deeper."""


class Files:
    """The texts of the files that the script writes, in case it reads or runs them."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def text(self, name: str) -> str | None:
        """What is in the file; None if unknown."""
        return self._texts.get(_key(name))

    def write(self, name: str, text: str) -> None:
        """Put `text` in place of what the file held."""
        self._texts[_key(name)] = text


class Environment:
    """The variables, the aliases, the directory and the files."""

    def __init__(self) -> None:
        self.variables = Variables()
        self.aliases: dict[str, str] = {}
        self.files = Files()
        self.directory = HERE

    @contextmanager
    def isolated(self) -> Generator[None]:
        """Within a subshell: its variables and its directory are gone afterwards."""
        outer = self.directory
        with self.variables.isolated():
            yield
        self.directory = outer

    def write_output(self, command: Command) -> None:
        """Note the files that the output of `command` goes to."""
        text = output_of(command)
        if text is None:
            return
        names = [redirect.target.text for redirect in command.redirects if redirect.operator.startswith((">", "&>"))]
        for name in (*names, *(command.texts if command.name == "tee" else ())):
            self.files.write(name, text.text)

    def run_builtin(self, command: Command) -> None:
        """Do what `command` does to the environment, if it is a builtin that changes it."""
        match command.name:
            case "cd" | "pushd" | "chdir" | "popd":
                self.directory = self._directory_after(command)
            case "alias":
                for text in command.texts:
                    name, _, value = text.partition("=")
                    self.aliases[name] = value
            case "read" | "mapfile" | "readarray" | "getopts":
                for text in command.texts:
                    self.variables.set(text, ())
            case "set" if "--" in command.texts:
                self.variables.set_positional(command.words[command.texts.index("--") + 1 :])
            case "printf" if len(command.words) > 2 and command.texts[0] == "-v":
                value = output_of(replace(command, words=command.words[2:]))
                self.variables.set(command.texts[1], ((value,),) if value else ())
            case _:
                return

    def _directory_after(self, command: Command) -> Word:
        targets = [word for word in command.words if not word.text.startswith("-") or word.text == "-"]
        if command.name == "popd" or (targets and targets[0].text == "-"):
            return Word("$OLDPWD", is_resolved=False)
        if not targets:
            return Word("~")
        path = joined_path(self.directory.text, targets[0].text)
        if len(path) > MAX_DIRECTORY_CHARACTERS:
            raise TooMuchError
        return Word(path, targets[0].is_resolved and (self.directory.is_resolved or path[0] in "/~"))


def _key(name: str) -> str:
    return name.removeprefix("./")
