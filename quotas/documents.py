"""YAML text as plain data, or every fault of it with its path. No file, no clock.

A document here is what a configuration needs and no more: mappings, lists, text, numbers, booleans and nothing.
Names that stand twice are faults, where YAML would silently keep the last. Whatever the text, reading it takes
bounded time and memory: its depth, and its size with all aliases written out, are limited.
"""

from collections.abc import Sequence
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from quotas.errors import ConfigError, Fault

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 32
MAX_VALUES = 100_000
"""Values in a document, each alias counted as often as it is used."""

_MOST_BITS = 1024
_PREFIX = "tag:yaml.org,2002:"
_MERGE = _PREFIX + "merge"


def read(text: str, source: str) -> tuple[object, list[Fault]]:
    """The data in `text`, and the names in it that stand twice. Raises ConfigError for what is no such document."""
    try:
        _check_bounds(text)
        root = yaml.compose(text, yaml.SafeLoader)
        reader = _Reader()
        document = None if root is None else reader.value(root, "", ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "(file)" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"
        raise ConfigError(source, [Fault(place, f"no valid YAML: {error.problem}")]) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(source, [Fault("(file)", "no valid YAML text")]) from error
    return document, reader.faults


def _check_bounds(text: str) -> None:
    """Events come without recursion, so that a document too deep is found before it is composed."""
    if len(text) > MAX_CHARACTERS:
        raise _no_document(f"it has more than {MAX_CHARACTERS} characters", None)
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise _no_document(f"it is more than {MAX_DEPTH} levels deep", event.start_mark)


class _Reader:
    """Makes data of composed nodes and collects the names that stand twice."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._left = MAX_VALUES
        self._scalars = yaml.SafeLoader("")

    def value(self, node: yaml.Node, path: str, holders: tuple[int, ...]) -> object:
        """The data of one node; `holders` are the nodes that it is inside of."""
        self._left -= 1
        if self._left < 0:
            raise _no_document(f"it makes more than {MAX_VALUES} values", node.start_mark)
        if id(node) in holders:
            raise _no_document("it holds itself", node.start_mark)
        inside = (*holders, id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == _PREFIX + "map":
            return self._mapping(node, path, inside)
        if isinstance(node, yaml.SequenceNode) and node.tag == _PREFIX + "seq":
            return [self.value(item, _joined(path, index), inside) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        raise _no_document(f"{node.tag} has no meaning here", node.start_mark)

    def _mapping(self, node: yaml.MappingNode, path: str, inside: tuple[int, ...]) -> dict[object, object]:
        own: dict[object, object] = {}
        merged: dict[object, object] = {}
        lines: dict[object, int] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                for each in self._merged(value, path, inside):
                    for name, item in each.items():
                        merged.setdefault(name, item)
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise _no_document("a name must be text", key.start_mark)
            name = self._scalar(key)
            here, line = _joined(path, name), key.start_mark.line + 1
            if name in lines:
                told = f"stands twice, on lines {lines[name]} and {line}; YAML would keep only the last"
                self.faults.append(Fault(here, told))
            lines.setdefault(name, line)
            own[name] = self.value(value, here, inside)
        return {**merged, **own}

    def _merged(self, node: yaml.Node, path: str, inside: tuple[int, ...]) -> Sequence[dict[object, object]]:
        """What `<<` brings in: a mapping, or a list of them of which the first has the last word."""
        value = self.value(node, path, inside)
        found = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]
        if len(found) != (len(value) if isinstance(value, list) else 1):
            raise _no_document("<< takes a mapping or a list of mappings", node.start_mark)
        return found

    def _scalar(self, node: yaml.ScalarNode) -> object:
        kind = node.tag.removeprefix(_PREFIX)
        if kind in {"str", "timestamp", "merge", "value"}:
            return node.value
        if kind not in {"int", "float", "bool", "null"}:
            raise _no_document(f"{node.tag} has no meaning here", node.start_mark)
        try:
            made: object = self._scalars.construct_object(node)
        except (ValueError, LookupError, OverflowError) as error:
            raise _no_document(f"this is no {kind}", node.start_mark) from error
        # A number of thousands of digits cannot even be told in a message; as text it is a fault of its field.
        return node.value if isinstance(made, int) and made.bit_length() > _MOST_BITS else made


def _no_document(problem: str, mark: Any) -> ConstructorError:
    return ConstructorError(None, None, problem, mark)


def _joined(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)
