"""Where what a command reads, or is made of, comes from in the end."""

from collections.abc import Callable, Iterable

from luthien_litellm_hooks.parsing.shell_model import Command


class Origins:
    """Tells whether a command that `is_wanted` feeds others. Looks at each command once, however many are
    asked about: ask one of these about all commands of a script."""

    def __init__(self, is_wanted: Callable[[Command], bool]) -> None:
        self._is_wanted = is_wanted
        self._known: dict[int, bool] = {}

    def among(self, commands: Iterable[Command]) -> bool:
        """Whether one of `commands` is wanted, or fed by one that is, through others too."""
        return any(self._reaches(command) for command in commands)

    def _reaches(self, command: Command) -> bool:
        waiting = [command]
        while waiting:
            current = waiting[-1]
            feeders = (*current.fed_by, *current.built_from)
            unknown = [feeder for feeder in feeders if id(feeder) not in self._known]
            if id(current) in self._known or not unknown or self._is_wanted(current):
                self._known[id(current)] = self._is_wanted(current) or any(self._known.get(id(f)) for f in feeders)
                waiting.pop()
            else:
                waiting += unknown
        return self._known[id(command)]
