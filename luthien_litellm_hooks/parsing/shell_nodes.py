"""Where the grammar puts things that belong elsewhere: redirections, the rest of a line after `<<EOF`, lists."""

from dataclasses import dataclass

from tree_sitter import Node

from luthien_litellm_hooks.parsing.shell_syntax import is_split_here_string


@dataclass(frozen=True, slots=True)
class Redirections:
    """The redirections of a statement, and what the grammar hides in them."""

    nodes: list[Node]
    words: list[Node]
    """Arguments that stand after a redirection."""
    later_stages: list[Node]
    """The rest of a pipeline that stands after `<<EOF`."""
    rest: list[Node]
    """What stands after `<<EOF &&`."""

    @classmethod
    def of(cls, statement: Node) -> "Redirections":
        found = cls([], [], [], [])
        for child in statement.children:
            if child.type.endswith("_redirect"):
                found._add(child)
        return found

    def _add(self, node: Node) -> None:
        self.nodes.append(node)
        if node.type == "file_redirect":
            self.words.extend(node.children_by_field_name("destination")[1:])
        if node.type != "heredoc_redirect":
            return
        is_rest = False
        for child in node.named_children:
            if child.type.endswith("_redirect"):
                self._add(child)
            elif child.type not in ("heredoc_start", "heredoc_body", "heredoc_end", "file_descriptor"):
                is_rest = is_rest or _follows_operator(child)
                self._place(child, is_rest)

    def _place(self, node: Node, is_rest: bool) -> None:
        if is_rest:
            self.rest.append(node)
        elif node.type == "pipeline":
            self.later_stages.extend(node.named_children)
        else:
            self.words.append(node)


def parts_of_list(node: Node) -> list[Node]:
    """The parts of `a && b || c`, which the tree nests to the left."""
    parts: list[Node] = []
    while node.type == "list" and node.named_children:
        node, *others = node.named_children
        parts += reversed(others)
    return [node, *reversed(parts)]


def is_here_string(node: Node) -> bool:
    """Whether `node` is the second half of a `<<<` that the grammar split."""
    before = node.prev_sibling
    return before is not None and is_split_here_string(before)


def _follows_operator(node: Node) -> bool:
    before = node.prev_sibling
    return before is not None and before.type in ("&&", "||", ";", "&")
