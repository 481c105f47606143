"""nbdev's processing of the notebooks, with the documentation of exported cells read from their source (`symbols`)."""
import ast
import shutil

from execnb.nbio import mk_cell, read_nb, write_nb
from nbdev.config import get_config
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor, Processor
from nbdev.processors import (
    clean_magics, hide_, hide_line, populate_language, rm_export, rm_header_dash, strip_ansi, strip_hidden_metadata)

from .symbols import lines, linked, markdown, symbols


class DocumentExports(Processor):
    "What an exported cell defines is documented where the cell stood; nbdev drops the cell itself."

    def begin(self):
        config = get_config()
        self.blob = f'{config.git_url}/blob/{config.branch}'
        module = next((name for c in self.nb.cells for name in c.directives_.get('default_exp', [])), None)
        for cell in reversed(list(self.nb.cells)):
            if cell.cell_type == 'code' and {'export', 'exports'} & set(cell.directives_):
                shown = [self.documented(s) for s in symbols(cell.source, module)] or constants(cell.source)
                self.nb.cells[cell.idx_ + 1:cell.idx_ + 1] = shown

    def documented(self, symbol):
        address = f'{self.blob}/locallearning/{symbol.module.replace(".", "/")}.py#L{lines(symbol.module)[symbol.name]}'
        return mk_cell(markdown(symbol, address), cell_type='markdown')


def constants(source):
    "A cell that exports values, as it is."
    names = [t.id for n in ast.parse(source).body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
    return [mk_cell(f'```python\n{source.strip()}\n```', cell_type='markdown')] if any(n[0] != '_' for n in names) else []


class LinkNames(Processor):
    "Names of the package in text and in tables lead to their pages."

    def cell(self, cell):
        page = self.nb.page_
        if cell.cell_type == 'markdown' and cell.source: cell.source = linked(cell.source, page)
        for output in cell.get('outputs', []):
            text = output.get('data', {}).get('text/markdown')
            if text: output['data']['text/markdown'] = linked(''.join(text), page)


def process_notebook(source, target, page):
    "One notebook as Quarto and pandoc read it."
    nb = read_nb(source)
    nb.page_ = page
    steps = [FrontmatterProc, populate_language, DocumentExports, strip_ansi, hide_line, rm_header_dash, rm_export, clean_magics,
             hide_, LinkNames, strip_hidden_metadata]
    NBProcessor(nb=nb, procs=steps).process()
    del nb['page_']
    write_nb(nb, target)


def process(source, target):
    "A folder of notebooks and pages made ready for Quarto; notebooks that cannot be processed are all named."
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    failed = []
    for path in sorted(source.rglob('*')):
        page = path.relative_to(source)
        place = target/page
        if path.is_dir(): place.mkdir(parents=True, exist_ok=True)
        elif path.suffix == '.ipynb' and page.parts[0][0] != '_':
            try: process_notebook(path, place, page)
            except Exception as error: failed.append(f'{page}: {type(error).__name__}: {error}')
        else: shutil.copy(path, place)
    return failed
