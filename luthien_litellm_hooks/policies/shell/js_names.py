"""Names in JavaScript: the calls of a source, and the origins of the values that its names have."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tree_sitter import Node

from luthien_litellm_hooks.policies.shell.values import EVERY, Step, text_of, unescaped

MAX_AROUND = 8
"""Number of the nodes around a name that are kept."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Origin of a name's value: a part of the value of `source`, or something unknown."""

    source: Node | None
    path: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """A call, or a `new`. `arguments` is a template for a tagged one."""

    function: Node
    arguments: Node | None


FUNCTIONS = frozenset({"arrow_function", "function_expression", "function_declaration", "generator_function"})
EACH = frozenset({"map", "forEach", "filter", "flatMap", "some", "every", "find", "findIndex"})
"""Methods of lists that call their argument for each item."""


class Names:
    """Calls of a source, and the origins of the values of its names."""

    def __init__(self, root: Node) -> None:
        self.has_error = root.has_error
        self.calls: list[Call] = []
        self.uses: list[tuple[Node, tuple[Node, ...]]] = []
        """Names in use, each with the nodes around it, the next one last."""
        self.properties: list[str] = []
        """Names of properties, as they were written."""
        self.bindings: dict[str, list[Binding]] = {}
        self.appended: dict[str, list[Node]] = {}
        self.set_members: dict[str, list[tuple[str | None, Node | None]]] = {}
        self.pushed: dict[str, list[Node]] = {}
        self.returned: dict[int, list[Node]] = {}
        self.functions: dict[str, Node] = {}
        self._collect(root)
        self._bind_named()

    def is_own(self, name: str) -> bool:
        """Tells if the code itself gives a value to `name`."""
        return name in self.bindings or name in self.functions

    # Collection of the names

    def _collect(self, root: Node) -> None:
        waiting: list[tuple[Node, tuple[Node, ...], int]] = [(root, (), 0)]
        while waiting:
            node, around, function = waiting.pop()
            self._note(node, around, function)
            if node.type in FUNCTIONS or node.type == "method_definition":
                function = node.id
            children = node.named_children
            if children:
                outer = (*around[-MAX_AROUND:], node)
                waiting += [(child, outer, function) for child in reversed(children)]

    def _note(self, node: Node, around: tuple[Node, ...], function: int) -> None:
        match node.type:
            case "identifier" | "shorthand_property_identifier":
                self.uses.append((node, around))
            case "property_identifier":
                self.properties.append(text_of(node))
            case "variable_declarator":
                self._bind(field(node, "name"), node.child_by_field_name("value"))
            case "assignment_expression":
                self._assign(node)
            case "augmented_assignment_expression":
                self._augment(node)
            case "for_in_statement":
                is_of = any(child.type == "of" for child in node.children)
                self._bind(
                    node.child_by_field_name("left"), node.child_by_field_name("right") if is_of else None, (EVERY,)
                )
            case "call_expression":
                self._note_call(node)
            case "new_expression":
                self.calls.append(Call(field(node, "constructor"), node.child_by_field_name("arguments")))
            case "return_statement":
                self.returned.setdefault(function, []).extend(node.named_children[:1])
            case "import_statement":
                self._import(node)
            case "catch_clause":
                self._bind(node.child_by_field_name("parameter"), None)
            case _ if node.type in FUNCTIONS or node.type == "method_definition":
                self._note_function(node, around)
            case _:
                pass

    def _bind(self, pattern: Node | None, source: Node | None, path: tuple[Step, ...] = ()) -> None:
        """Gives a part of the value of `source` to the names in `pattern`."""
        waiting = [(pattern, source, path)] if pattern is not None else []
        while waiting:
            pattern, source, path = waiting.pop()
            match pattern.type:
                case "identifier" | "shorthand_property_identifier_pattern":
                    name = text_of(pattern)
                    self.bindings.setdefault(name, []).append(Binding(source, path))
                case "array_pattern":
                    place = 0
                    for child in pattern.children:
                        place += child.type == ","
                        if child.is_named:
                            waiting.append((child, source, (*path, place)))
                case "object_pattern":
                    for child in pattern.named_children:
                        waiting.extend(_parts(child, source, path))
                case "assignment_pattern" | "object_assignment_pattern":
                    left = field(pattern, "left")
                    is_short = left.type == "shorthand_property_identifier_pattern"
                    waiting.append((left, source, (*path, text_of(left)) if is_short else path))
                    waiting.append((left, pattern.child_by_field_name("right"), ()))
                case "rest_pattern":
                    waiting.extend((child, None, ()) for child in pattern.named_children)
                case _:
                    pass

    def _assign(self, node: Node) -> None:
        left, right = field(node, "left"), node.child_by_field_name("right")
        if left.type not in ("member_expression", "subscript_expression"):
            self._bind(left, right)
        elif (target := field(left, "object")).type == "identifier":
            part = left.child_by_field_name("property")
            self.set_members.setdefault(text_of(target), []).append((text_of(part) if part else None, right))

    def _augment(self, node: Node) -> None:
        left, right = field(node, "left"), node.child_by_field_name("right")
        if left.type == "identifier" and right is not None:
            is_sum = any(child.type == "+=" for child in node.children)
            if is_sum:
                self.appended.setdefault(text_of(left), []).append(right)
            else:
                self._bind(left, right)

    def _note_call(self, node: Node) -> None:
        function, arguments = field(node, "function"), node.child_by_field_name("arguments")
        self.calls.append(Call(function, arguments))
        given = arguments.named_children if arguments is not None and arguments.type == "arguments" else []
        if function.type == "parenthesized_expression" and (own := _function_in(function)) is not None:
            self._bind_parameters(own, [Binding(child) for child in given])
        if function.type != "member_expression" or not given:
            return
        target, method = field(function, "object"), text_of(field(function, "property"))
        if method in ("push", "unshift") and target.type == "identifier":
            self.pushed.setdefault(text_of(target), []).extend(given)
        elif method == "assign" and given[0].type == "identifier":
            self.set_members.setdefault(text_of(given[0]), []).append((None, None))
        elif method in EACH and given[0].type in FUNCTIONS:
            self._bind_parameters(given[0], [Binding(target, (EVERY,))])

    def _note_function(self, node: Node, around: tuple[Node, ...]) -> None:
        own = node.child_by_field_name("name")
        holder = around[-1] if around else node
        body = node.child_by_field_name("body")
        if node.type == "arrow_function" and body is not None and body.type != "statement_block":
            self.returned.setdefault(node.id, []).append(body)
        if own is not None and node.type != "method_definition":
            self.functions[text_of(own)] = node
        elif holder.type == "variable_declarator" and field(holder, "name").type == "identifier":
            self.functions[text_of(field(holder, "name"))] = node
        elif holder.type == "arguments" and len(around) > 1 and _is_each(around[-2]):
            return  # bound with its list
        elif holder.type == "parenthesized_expression" and len(around) > 1 and field(around[-2], "function") == holder:
            return  # bound with its call
        else:
            self._bind_parameters(node, [])

    def _bind_parameters(self, function: Node, given: Sequence[Binding]) -> None:
        single = function.child_by_field_name("parameter")
        listed = function.child_by_field_name("parameters")
        parameters = [single] if single is not None else listed.named_children if listed is not None else []
        for place, parameter in enumerate(parameters):
            binding = given[place] if place < len(given) else Binding(None)
            self._bind(parameter, binding.source, binding.path)

    def _import(self, node: Node) -> None:
        source = node.child_by_field_name("source")
        waiting = list(node.named_children)
        while waiting:
            child = waiting.pop()
            if child.type == "import_specifier":
                name = field(child, "name")
                self._bind(child.child_by_field_name("alias") or name, node, (text_of(name),))
            elif child.type == "identifier":
                self._bind(child, node)
            elif child is not source:
                waiting += child.named_children

    def _bind_named(self) -> None:
        """Binds the parameters of the functions with a name to the arguments of their calls.

        A function that is also used otherwise may get anything.
        """
        named = dict(self.functions)
        for use, around in self.uses:
            name = text_of(use)
            holder = around[-1] if around else use
            if name not in named:
                continue
            if holder.type == "call_expression" and field(holder, "function") == use:
                arguments = holder.child_by_field_name("arguments")
                given = arguments.named_children if arguments is not None else []
                is_plain = not any(child.type == "spread_element" for child in given)
                self._bind_parameters(named[name], [Binding(child) for child in given] if is_plain else [])
            elif holder.type == "arguments" and len(around) > 1 and _is_each(around[-2]):
                self._bind_parameters(named[name], [Binding(field(field(around[-2], "function"), "object"), (EVERY,))])
            elif field(holder, "name") != use:
                self._bind_parameters(named[name], [])


def field(node: Node, name: str) -> Node:
    return node.child_by_field_name(name) or node


def _function_in(parenthesized: Node) -> Node | None:
    return next((child for child in parenthesized.named_children if child.type in FUNCTIONS), None)


def _is_each(call: Node) -> bool:
    """Tells if `call` calls its argument for each item of a list."""
    function = field(call, "function")
    return function.type == "member_expression" and text_of(field(function, "property")) in EACH


def _parts(
    child: Node, source: Node | None, path: tuple[Step, ...]
) -> Iterator[tuple[Node, Node | None, tuple[Step, ...]]]:
    """Yields the patterns in a part of an object's pattern, each with its path."""
    if child.type == "pair_pattern":
        key = field(child, "key")
        name = unescaped(text_of(key)[1:-1]) if key.type == "string" else text_of(key)
        yield field(child, "value"), source if key.type != "computed_property_name" else None, (*path, name)
    elif child.type == "shorthand_property_identifier_pattern":
        yield child, source, (*path, text_of(child))
    else:
        yield child, source, path
