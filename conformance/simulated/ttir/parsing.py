"""Reading TTIR as Triton prints it: one operation a line, regions in braces."""

import functools
import re
from collections import ChainMap
from collections.abc import Iterator, MutableMapping

from glm5_hal.conformance.simulated.ttir.errors import TtirError
from glm5_hal.conformance.simulated.ttir.graph import Block, Function, Module, Operation, Value
from glm5_hal.conformance.simulated.ttir.types import Type, parse_type

Scope = MutableMapping[str, tuple[Value, ...]]
Names = ChainMap[str, tuple[Value, ...]]

_OPERATION = re.compile(r'(?:((?:%[\w$.-]+(?::\d+)?(?:, )?)+) = )?"?([a-z_]\w*(?:\.\w+)+)"?(.*)$')
_OPERAND = re.compile(r"%([\w$.-]+)(?:#(\d+))?")
_ARGUMENT = re.compile(r"%(\w+): (.+)")
_ATTRIBUTE = re.compile(r"(\w+) = (array<[^>]*>|[^,{}<>:]+)")
_WORD = re.compile(r"(?<![%\w$.#-])[a-z_]\w*")
_LOOP = re.compile(
    r" (?P<unsigned>unsigned )?%(?P<index>\w+) = (?P<from>%[\w$.#-]+) to (?P<to>%[\w$.#-]+)"
    r" step (?P<step>%[\w$.#-]+)(?: iter_args\((?P<carried>.*?)\) -> \((?P<types>.*)\))?"
    r" *: (?P<type>\w+) "
)
_WHILE = re.compile(r" \((?P<carried>.*?)\) : \((?P<takes>.*?)\) -> (?P<types>.*)$")
_BRACKET = re.compile(r"[{}()\[\]<]|(?<!-)>")


def parse(text: str, kernel: str) -> Module:
    """The functions of a module.

    Args:
        text: TTIR without locations.
        kernel: name for messages.

    Raises:
        TtirError: a line is of a form that is not known; names it.
    """
    return _Reader(text, kernel).module()


class _Reader:
    """Goes over the lines once."""

    def __init__(self, text: str, kernel: str) -> None:
        self.kernel = kernel
        self.lines = text.splitlines()
        self.at = 0

    def error(self, reason: str) -> TtirError:
        line = self.lines[min(self.at, len(self.lines)) - 1].strip()
        return TtirError(f"{self.kernel}: line {self.at} of its TTIR: {reason}: {line[:200]}")

    def next(self) -> str:
        """The next line that says something, without indentation."""
        while self.at < len(self.lines):
            line = self.lines[self.at].strip()
            self.at += 1
            if line and not line.startswith("//"):
                return line
        raise self.error("the text ends inside a block")

    def module(self) -> Module:
        functions: dict[str, Function] = {}
        entry: Function | None = None
        while any(line.strip() for line in self.lines[self.at :]):
            line = self.next()
            if line.startswith("tt.func"):
                function = self.function(line)
                functions[function.name] = function
                entry = function if " public " in line else entry
            elif not (line.startswith(("module", "#")) or line == "}"):
                raise self.error("expected a function")
        if entry is None:
            raise TtirError(f"{self.kernel}: its TTIR has no public function")
        return Module(functions, entry)

    def function(self, line: str) -> Function:
        head = re.match(r"tt\.func (?:public|private) @\"?([^\"(]+)\"?\(", line)
        if head is None or not line.endswith("{"):
            raise self.error("a function's head of an unknown form")
        inside = _inside(line[head.end() - 1 :])
        body, _ = self.block(ChainMap(), self.arguments(inside))
        return Function(head[1], body)

    def arguments(self, text: str) -> list[tuple[str, Type]]:
        """Names and types of ``%a: i32, %b: f32 {..}``."""
        found = []
        for part in _parts(text):
            match = _ARGUMENT.match(part)
            if match is None:
                raise self.error("an argument of an unknown form")
            found.append((match[1], self.type(re.sub(r" \{.*\}$| loc\(.*\)$", "", match[2]))))
        return found

    def type(self, text: str) -> Type:
        try:
            return parse_type(text)
        except TtirError as error:
            raise self.error(str(error)) from None

    def types(self, text: str) -> list[Type]:
        """Of ``T, T`` or ``(T, T)``."""
        try:
            return list(_types(text))
        except TtirError as error:
            raise self.error(str(error)) from None

    def block(self, scope: Names, given: list[tuple[str, Type]]) -> tuple[Block, str]:
        """Operations up to the brace that closes the block, and that line."""
        inner = scope.new_child()
        arguments = []
        for name, kind in given:
            value = Value(kind)
            inner[name] = (value,)
            arguments.append(value)
        operations: list[Operation] = []
        while True:
            line = self.next()
            if line.startswith("}"):
                if not operations or operations[-1].name not in _ENDS:
                    operations.append(Operation("scf.yield", (), ()))  # is not printed
                return Block(tuple(arguments), operations), line
            if line.startswith("^"):
                if operations or arguments:
                    raise self.error("jumps between blocks are not executed here")
                for name, kind in self.arguments(_inside(line[line.index("(") :])):
                    value = Value(kind)
                    inner[name] = (value,)
                    arguments.append(value)
                continue
            operations.append(self.operation(line, inner))

    def operation(self, line: str, scope: Names) -> Operation:
        match = _OPERATION.match(line)
        if match is None:
            raise self.error("no operation")
        start = self.at
        names, name, rest = match.groups()
        special = {"scf.for": self.loop, "scf.if": self.branch, "scf.while": self.repeat}
        if name in special:
            op, kinds = special[name](rest, scope)
        elif rest.endswith("({"):
            op, kinds = self.generic(name, rest, scope)
        else:
            op, kinds = self.plain(name, rest, scope)
        op.line, op.text = start, line
        self.define(op, names or "", kinds, scope)
        return op

    def define(self, op: Operation, names: str, kinds: list[Type], scope: Scope) -> None:
        """Make the results and name them."""
        results = [Value(kind, op) for kind in kinds]
        op.results = tuple(results)
        wanted = 0
        for part in filter(None, names.replace(" ", "").split(",")):
            name, _, count = part[1:].partition(":")
            some = int(count or 1)
            scope[name] = tuple(results[wanted : wanted + some])
            wanted += some
        if names and wanted != len(results):
            raise self.error(f"{wanted} results, but types of {len(results)}")

    def operands(self, text: str, scope: Scope) -> tuple[Value, ...]:
        found = []
        for name, number in _OPERAND.findall(text):
            try:
                found.append(scope[name][int(number or 0)])
            except KeyError:
                raise self.error(f"%{name} is not defined") from None
        return tuple(found)

    def plain(self, name: str, rest: str, scope: Scope) -> tuple[Operation, list[Type]]:
        """An operation on one line: operands, words and attributes, then types."""
        head, signature = _split(rest)
        op = Operation(name, self.operands(head, scope), ())
        op.attributes = {key: text.strip() for key, text in _ATTRIBUTE.findall(head)}
        bare = re.sub(r"\{.*?\}|<.*>|\".*?\"|\w+ = \w+", "", head)
        op.words = tuple(_WORD.findall(bare))
        if name == "arith.constant":
            op.attributes = {"value": re.sub(r"^\{.*?\} ", "", head.strip())}
            return op, [self.type(signature or "i1")]
        if name == "tt.call":
            op.attributes = {"callee": head.split("@")[1].split("(")[0].strip('"')}
        return op, self.results(op, signature)

    def results(self, op: Operation, signature: str) -> list[Type]:
        """Types of the results, of which many operations print only what is not implied."""
        for arrow in (" -> ", " to "):
            _, sign, after = signature.partition(arrow)
            if sign:
                return [] if after.strip() == "()" else self.types(after)
        if not signature or op.name in _SILENT:
            return []
        kinds = self.types(signature)
        if op.name in ("arith.cmpi", "arith.cmpf"):
            return [kinds[0].of("i1")]
        if op.name == "arith.select":
            return [kinds[-1]]
        if op.name == "tt.load":
            return [Type(kinds[0].pointee or "ptr", kinds[0].shape)]
        if op.name.endswith("_extended"):
            return [kinds[0], kinds[-1]]
        return [kinds[0]]

    def generic(self, name: str, rest: str, scope: Names) -> tuple[Operation, list[Type]]:
        """``"op"(%a) <{..}> ({ .. }) : (T) -> T``: reductions and scans."""
        op = Operation(name, self.operands(rest, scope), ())
        op.attributes = {key: text.strip() for key, text in _ATTRIBUTE.findall(rest)}
        body, end = self.block(scope, [])
        op.regions = (body,)
        return op, self.types(end.rpartition(" -> ")[2])

    def loop(self, rest: str, scope: Names) -> tuple[Operation, list[Type]]:
        match = _LOOP.match(rest)
        if match is None:
            raise self.error("scf.for of an unknown form")
        kinds = self.types(match["types"]) if match["types"] else []
        pairs = [pair.split(" = ") for pair in _parts(match["carried"] or "")]
        bounds = " ".join((match["from"], match["to"], match["step"]))
        initial = " ".join(value for _, value in pairs)
        op = Operation("scf.for", self.operands(f"{bounds} {initial}", scope), ())
        op.words = ("unsigned",) if match["unsigned"] else ()
        given = [(match["index"], self.type(match["type"]))]
        given += [(name[1:], kind) for (name, _), kind in zip(pairs, kinds, strict=True)]
        body, _ = self.block(scope, given)
        op.regions = (body,)
        return op, kinds

    def branch(self, rest: str, scope: Names) -> tuple[Operation, list[Type]]:
        head, arrow, after = rest.removesuffix("{").partition(" -> ")
        op = Operation("scf.if", self.operands(head, scope), ())
        body, end = self.block(scope, [])
        op.regions = (body,)
        if end.startswith("} else {"):
            other, _ = self.block(scope, [])
            op.regions = (body, other)
        return op, self.types(after) if arrow else []

    def repeat(self, rest: str, scope: Names) -> tuple[Operation, list[Type]]:
        match = _WHILE.match(rest.removesuffix("{").rstrip())
        if match is None:
            raise self.error("scf.while of an unknown form")
        pairs = [pair.split(" = ") for pair in _parts(match["carried"])]
        takes = self.types(f"({match['takes']})")
        op = Operation("scf.while", self.operands(" ".join(v for _, v in pairs), scope), ())
        given = [(name[1:], kind) for (name, _), kind in zip(pairs, takes, strict=True)]
        before, end = self.block(scope, given)
        if not end.startswith("} do {"):
            raise self.error("scf.while of an unknown form")
        after, _ = self.block(scope, [])
        op.regions = (before, after)
        return op, self.types(match["types"])


_ENDS = {"scf.yield", "scf.condition", "tt.reduce.return", "tt.scan.return", "tt.return"}
"""Operations that end a block."""
_SILENT = {"tt.store", "tt.assert", "tt.print", "gpu.barrier", "ttg.barrier", *_ENDS}
"""Operations whose types are those of their operands: they have no results."""


@functools.lru_cache(maxsize=4096)
def _types(text: str) -> tuple[Type, ...]:
    """Of ``T, T`` or ``(T, T)``; the same ones stand on many lines."""
    text = text.strip()
    return tuple(map(parse_type, _parts(_inside(text) if text[:1] == "(" else text)))


def _inside(text: str) -> str:
    """What stands between the bracket that text begins with and the one that closes it."""
    for place, _, depth in _brackets(text):
        if depth == 0:
            return text[1:place]
    return text[1:]


def _brackets(text: str) -> Iterator[tuple[int, str, int]]:
    """Place, sign and depth behind it of every bracket; an arrow's head is none."""
    depth = 0
    for match in _BRACKET.finditer(text):
        depth += 1 if match[0] in "{[(<" else -1
        yield match.start(), match[0], depth


def _open(text: str) -> Iterator[tuple[int, int]]:
    """Stretches of text that stand in no brackets."""
    start = 0
    for place, sign, depth in _brackets(text):
        if depth == 1 and sign in "{[(<":
            yield start, place
        start = place + 1
    yield start, len(text)


def _parts(text: str) -> list[str]:
    """Between the commas that stand in no brackets."""
    cuts = [
        begin + match.start()
        for begin, end in _open(text)
        for match in re.finditer(",", text[begin:end])
    ]
    edges = zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(text)], strict=True)
    return [part for begin, end in edges if (part := text[begin:end].strip())]


@functools.lru_cache(maxsize=4096)
def _is_closed(text: str) -> bool:
    """Whether every bracket that is opened is closed, and no other; types come many times."""
    depths = [depth for _, _, depth in _brackets(text)]
    return not depths or (min(depths) >= 0 and depths[-1] == 0)


def _split(text: str) -> tuple[str, str]:
    """Before and after the last `` : `` that stands in no brackets."""
    head, sign, tail = text.rpartition(" : ")
    if sign and _is_closed(tail):
        return head, tail
    for begin, end in reversed(list(_open(text))):
        cut = text.rfind(" : ", begin, end)
        if cut >= 0:
            return text[:cut], text[cut + 3 :]
    return text, ""
