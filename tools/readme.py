"""README.md from nbs/index.ipynb by nbconvert, so that it is the same with and without Quarto."""
import base64
import re
import sys
from configparser import ConfigParser
from itertools import groupby
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbformat.v4 import new_code_cell, new_markdown_cell

ROOT = Path(__file__).resolve().parent.parent


def prepare(nb):
    "Shown cells only, without directives; neighbouring code cells become one, and what they printed and drew comes after it."
    cells, nb.metadata.language_info = [], {'name': 'python'}
    shown = [c for c in nb.cells if not re.search(r'^#\|\s*(hide|default_exp)', c.source, re.M)]
    for is_code, group in groupby(shown, lambda c: c.cell_type == 'code'):
        group = [*group]
        if is_code: cells += [new_code_cell(code_of(group)), new_markdown_cell(printed(group) + drawn(nb, group))]
        else: cells += group
    nb.cells = [c for c in cells if c.source]
    return nb


def code_of(cells):
    "The code of some cells in one piece, but for those that are shown without it."
    codes = [re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip() for c in cells if not re.search(r'^#\|\s*echo: false', c.source, re.M)]
    return '\n\n'.join(codes)


def printed(cells):
    "What some cells printed, in a fence."
    text = ''.join(o.text for c in cells for o in c.outputs if o.output_type == 'stream').strip()
    return f'```text\n{text}\n```\n\n' if text else ''


def pictures(nb, cells=None):
    "(name, text alternative, bytes) of the pictures among the outputs, numbered over the notebook."
    made = [(cell, o.data['image/png']) for cell in nb.cells if cell.cell_type == 'code' for o in cell.outputs if 'image/png' in o.get('data', {})]
    for i, (cell, data) in enumerate(made, start=1):
        alt = re.search(r'^#\|\s*fig-alt:\s*(.+)', cell.source, re.M)[1].strip('"')
        if cells is None or cell in cells: yield f'first-minutes-{i}.png', alt, base64.b64decode(data)


def drawn(nb, cells): return '\n\n'.join(f'![{alt}](images/{name})' for name, alt, _ in pictures(nb, cells))


def blob():
    "Address at which the repository shows its files."
    config = ConfigParser()
    config.read(ROOT/'settings.ini')
    return '{git_url}/blob/{branch}/'.format_map(config['DEFAULT'])


def from_root(text, folder='nbs'):
    "Links that are relative to the notebook, or lead to a file of the repository, made relative to the root; code left alone."
    parts = re.split(r'(^```.*?^```)', text, flags=re.M | re.S)
    link = lambda part: re.sub(r'\]\((?!\w+:|#|/)([^)\s]+)\)', rf']({folder}/\1)', part).replace(f']({blob()}', '](')
    return ''.join(part if part.startswith('```') else link(part) for part in parts)


def readme(path=ROOT/'nbs'/'index.ipynb'):
    "Text of README.md for the notebook at `path`."
    text, _ = MarkdownExporter().from_notebook_node(prepare(nbformat.read(path, as_version=4)))
    return '<!-- Made from nbs/index.ipynb by `make readme`. -->\n\n' + re.sub(r'\n{3,}', '\n\n', from_root(text)).strip() + '\n'


if __name__ == '__main__':
    (ROOT/'README.md').write_text(readme(), encoding='utf-8')
    for name, _, data in pictures(nbformat.read(ROOT/'nbs'/'index.ipynb', as_version=4)): (ROOT/'nbs'/'images'/name).write_bytes(data)
    print('README.md written', file=sys.stderr)
