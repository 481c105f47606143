"""The documentation of exported definitions, read from their source: nothing is imported, so a page shows what a reader of the code sees.

nbdev runs the exported cells and asks Python for signatures. Types then lose their arguments (`Optional=None`), a class is shown as a
function, backticks in comments become links inside of code, and every build imports torch once a notebook."""
import ast
import html
import inspect
import io
import os
import re
import tokenize
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nbformat import read

ROOT = Path(__file__).resolve().parent.parent.parent
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
EXPORTED = re.compile(r'^#\|\s*exports?\b', re.M)


@dataclass(frozen=True)
class Parameter:
    "One parameter of a function or field of a class, as it is written."
    name: str
    kind: str = ''     # annotation
    default: str = ''  # '' where there is none
    comment: str = ''


@dataclass(frozen=True)
class Symbol:
    "What a page says of one definition."
    module: str        # below the package
    name: str          # with its class, where it is a method
    opening: str       # 'class PGD(Piece)', 'def fit'
    doc: str
    parameters: tuple  # of `Parameter`, '*' and '/' among them
    returns: Parameter
    members: tuple     # (name, first sentence) of public methods and properties
    source: str

    @property
    def anchor(self): return f'{self.module}.{self.name}'.lstrip('.')


def comments_by_line(source):
    "Line number → comment, without its '#'."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip('# ').rstrip() for t in tokens if t.type == tokenize.COMMENT}


def described(line, last, comments):
    "The comment that stands on a line, with those that go on below it up to line `last`."
    words = [comments[line]] if line in comments else []
    while words and line + 1 < last and line + 1 in comments:
        line += 1
        words.append(comments[line])
    return ' '.join(words)


def arguments(args):
    "(argument, default, stars) of a signature, in its order."
    plain = [*args.posonlyargs, *args.args]
    defaults = [None]*(len(plain) - len(args.defaults)) + args.defaults
    rows = [(arg, default, '') for arg, default in zip(plain, defaults, strict=True)]
    if args.vararg: rows.append((args.vararg, None, '*'))
    rows += [(arg, default, '') for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    if args.kwarg: rows.append((args.kwarg, None, '**'))
    return rows


def closing_line(node, source):
    "The line on which the parameters of a function end."
    below = range(node.lineno, node.body[0].lineno + 1)
    return next((n for n in below if source.splitlines()[n - 1].lstrip().startswith(')')), node.body[0].lineno)


def function_parameters(node, source, comments):
    "Parameters and return value of a function, each with the comment of its line."
    rows = arguments(node.args)
    returned = node.returns.end_lineno if node.returns else closing_line(node, source)
    ends = [*(arg.lineno for arg, _, _ in rows[1:]), returned][:len(rows)]
    named = node.args.kwonlyargs[0] if node.args.kwonlyargs and not node.args.vararg else None
    parameters = []
    for (arg, default, stars), end in zip(rows, ends, strict=True):
        comment = '' if end == arg.lineno else described((default or arg).end_lineno, end, comments)
        if arg is named: parameters.append(Parameter('*'))
        parameters.append(Parameter(stars + arg.arg, written(arg.annotation, source), written(default, source), comment))
    if parameters and parameters[0].name in ('self', 'cls'): parameters = parameters[1:]
    alone = all(returned != arg.lineno for arg, _, _ in rows)
    return tuple(parameters), Parameter('', written(node.returns, source), '', comments.get(returned, '') if alone else '')


def written(node, source):
    "An expression as it stands in the source, on one line."
    return '' if node is None else ' '.join(ast.get_source_segment(source, node).split())


def class_parameters(node, source, comments):
    "Parameters of `__init__`, or the fields of a dataclass."
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == '__init__'), None)
    if init: return function_parameters(init, source, comments)[0]
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and n.target.id[0] != '_']
    ends = [n.lineno for n in node.body[1:]] + [node.end_lineno + 1]
    following = dict(zip(map(id, node.body), ends, strict=True))
    return tuple(Parameter(n.target.id, written(n.annotation, source), written(n.value, source),
                           described(n.end_lineno, following[id(n)], comments))
                 for n in fields if 'ClassVar' not in written(n.annotation, source))


def sentence_of(doc):
    "The first sentence of a docstring."
    return re.split(r'(?<!\bal)(?<!\beq)\.\s|\n\n', ' '.join(doc.split('\n\n')[0].split()), maxsplit=1)[0].rstrip('.:')


def sentence(node): return sentence_of(inspect.cleandoc(ast.get_docstring(node) or ''))


def patched_class(node):
    "The class that a function decorated with `patch` becomes a method of, or None."
    if isinstance(node, ast.ClassDef): return None
    decorators = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    if not any(ast.unparse(d) == 'patch' for d in decorators) or not node.args.args: return None
    return ast.unparse(node.args.args[0].annotation).split('|')[0].strip()


def members(node):
    "Public methods and properties of a class that say what they do."
    own = [n for n in node.body if isinstance(n, DEFINITIONS) and n.name[0] != '_']
    return tuple((n.name, sentence(n)) for n in own if sentence(n))


def symbol(node, source, module):
    "The `Symbol` of a definition in the source of its cell."
    comments = comments_by_line(source)
    lines = source.splitlines()
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    text = '\n'.join(lines[first - 1:node.end_lineno])
    doc = inspect.cleandoc(ast.get_docstring(node) or '')
    if isinstance(node, ast.ClassDef):
        bases = ', '.join(map(ast.unparse, node.bases))
        opening = f'class {node.name}' + (f'({bases})' if bases else '')
        return Symbol(module, node.name, opening, doc, class_parameters(node, source, comments), Parameter(''), members(node), text)
    parameters, returns = function_parameters(node, source, comments)
    owner = patched_class(node)
    name = f'{owner}.{node.name}' if owner else node.name
    return Symbol(module, name, f'def {name}', doc, parameters, returns, (), text)


def symbols(source, module):
    "The public definitions of an exported cell."
    tree = ast.parse(re.sub(r'^[%!].*$', '', source, flags=re.M))
    return [symbol(node, source, module) for node in tree.body
            if isinstance(node, DEFINITIONS) and (node.name[0] != '_' or node.name[:2] == '__')]


# --- as Markdown

def as_prose(text):
    "The words of a comment or docstring as Markdown: values in quotes become code, and the two dashes of an option stay two."
    parts = re.split(r'(`[^`]*`)', text)
    values = lambda part: re.sub(r"(?<![\w'])'([^'\n]{0,40})'(?![\w'])", r"`'\1'`", part)
    return ''.join(part if part[:1] == '`' else options_kept(values(part)) for part in parts)


def options_kept(text): return re.sub(r'(?<![\w`-])--(?=\w)', r'\\-\\-', text)


def examples_as_code(doc):
    "Doctest blocks of a docstring in fences; the rest is Markdown already."
    out, fenced = [], False
    for line in doc.splitlines():
        starts = line.startswith('>>>')
        if starts and not fenced: out, fenced = [*out, '```python'], True
        elif fenced and not line.strip(): out, fenced = [*out, '```'], False
        out.append(line if fenced else as_prose(line))
    return '\n'.join([*out, '```'] if fenced else out)


def call(symbol, width=88):
    "The signature on one line, or one parameter a line where it is long."
    parts = [p.name + (f'={p.default}' if p.default else '') for p in symbol.parameters]
    is_class, arrow = symbol.opening.startswith('class'), f' -> {symbol.returns.kind}' if symbol.returns.kind else ''
    name = symbol.name if is_class else symbol.opening.removeprefix('def ')
    line = f'{name}({", ".join(parts)}){arrow}'
    if len(line) > width: line = f'{name}(\n    ' + ',\n    '.join(parts) + f',\n){arrow}'
    return f'{symbol.opening}\n\n{line}' if is_class and parts else symbol.opening if is_class else line


def cell(text): return as_prose(text).replace('|', '\\|')


def code(text):
    "A type or name as code; a bar would end the cell of a table, even in code."
    bars = html.escape(text, quote=False).replace('|', '&#124;')
    return f'<code>{bars}</code>' if '|' in text else f'`{text}`' if text else ''


def parameter_table(symbol):
    "Parameters that have a comment or a type, with their meaning; the value that is returned in the last line."
    rows = [(code(p.name), code(p.kind), cell(p.comment)) for p in symbol.parameters if p.comment or p.kind]
    if symbol.returns.comment: rows.append(('*returns*', code(symbol.returns.kind), cell(symbol.returns.comment)))
    if not any(comment for _, _, comment in rows): return ''
    head = '| parameter | type | meaning |\n|---|---|---|\n' if any(kind for _, kind, _ in rows) else '| parameter | meaning |\n|---|---|\n'
    columns = (lambda row: row) if 'type' in head else (lambda row: (row[0], row[2]))
    return head + '\n'.join('| ' + ' | '.join(columns(row)) + ' |' for row in rows)


def member_table(symbol):
    "Public methods and properties, a line each."
    return '\n'.join(['| member | meaning |', '|---|---|', *(f'| `{name}` | {cell(text)} |' for name, text in symbol.members)]) if symbol.members else ''


def markdown(symbol, blob):
    "What the page shows of a definition; `blob` is the address of its module's source."
    parts = [f'### `{symbol.name}` {{#{symbol.anchor}}}', f'```python\n{call(symbol)}\n```', examples_as_code(symbol.doc),
             parameter_table(symbol), member_table(symbol)]
    source = f'<details><summary>Source</summary>\n\n```python\n{symbol.source}\n```\n\n[In its module]({blob})\n\n</details>'
    return '\n\n'.join(filter(None, [*parts, source]))


# --- where they stand

@cache
def places(nbs=ROOT/'nbs'):
    "(module, name) of every exported definition → (notebook relative to `nbs`, its `Symbol`)."
    found = {}
    for path in sorted(nbs.rglob('*.ipynb')):
        module = ''
        for c in read(path, as_version=4).cells:
            if c.cell_type == 'code' and (named := re.match(r'#\|\s*default_exp\s+(\S+)', c.source)): module = named[1]
            if c.cell_type == 'code' and EXPORTED.search(c.source):
                found |= {(module, s.name): (path.relative_to(nbs), s) for s in symbols(c.source, module)}
    return found


def public_places():
    "Each name of `ll` → (notebook, `Symbol`)."
    return {name: places()[module, name] for name, module in public_names().items()}


@cache
def lines(module):
    "Name of each definition of a module of the package → its line."
    source = (ROOT/'locallearning'/Path(*module.split('.'))).with_suffix('.py').read_text(encoding='utf-8')
    nodes = [n for n in ast.parse(source).body if isinstance(n, DEFINITIONS)]
    return {'.'.join(filter(None, [patched_class(n), n.name])): n.lineno for n in nodes}


@cache
def plain_words():
    "What prose uses for other things too: names of parameters."
    return {p.name for _, s in places().values() for p in s.parameters}


def is_plain_word(name): return bool(re.fullmatch(r'[a-z0-9]+', name)) or name in plain_words()


@cache
def targets():
    "What becomes a link when it stands in code: names that can mean nothing else, and every `ll.name`."
    names = Counter(name for _, name in places())
    own = {name: place for (_, name), place in places().items() if names[name] == 1 and not is_plain_word(name)}
    return own | {f'll.{name}': place for name, place in public_places().items()}


def public_names():
    "The names of `ll`, with the module of each, in the order of the table."
    tree = ast.parse((ROOT/'locallearning'/'__init__.py').read_text(encoding='utf-8'))
    table = next(n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == '_MODULES')
    return {name: module for module, names in ast.literal_eval(table).items() for name in names.split()}


def link(page, path, anchor):
    "A link from one notebook to a place in another."
    return f'{os.path.relpath(path, page.parent)}#{anchor}'.replace(os.sep, '/')


def linked(text, page):
    "Markdown in which names of the package lead to where they are defined; headings, fences, links and the page's own names are left."
    def one(found):
        name = found[1]
        path, s = targets().get(name, (None, None))
        return found[0] if path is None or path == page else f'[{found[0]}]({link(page, path, s.anchor)})'

    out, fenced = [], False
    for line in text.splitlines():
        if line.lstrip().startswith(('```', '~~~')): fenced = not fenced
        skip = fenced or re.match(r'#+ |<details|    ', line)
        out.append(line if skip else re.sub(r'(?<![\[`\w])`([\w.]+)(?:\(\))?`(?![\]`])', one, line))
    return '\n'.join(out)
