"""The notebooks and pages as they are committed: links, pictures, what the site needs of them. What is made of them: test_site.py."""
import ast
import base64
import importlib.util
import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from pages.symbols import places

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'
GUIDES = sorted([*NBS.glob('howto/*.ipynb'), *NBS.glob('learn/*.ipynb')])
LIBRARY = sorted({*NBS.glob('*.ipynb'), *NBS.glob('*/*.ipynb')} - {*GUIDES})
EXECUTED = LIBRARY + GUIDES
EXPERIMENTS = sorted(NBS.glob('experiments/*/[0-9]*.ipynb'))
REPORTS = sorted(NBS.glob('experiments/*/report.ipynb'))
RESULTS = sorted(NBS.glob('results/*.ipynb'))
PAGES = sorted(NBS.glob('*.md')) + [ROOT/n for n in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'reports/README.md')]
name = lambda path: path.relative_to(ROOT).as_posix()


def cells(path, kind):
    return [c for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == kind]


def tool(stem):
    spec = importlib.util.spec_from_file_location(stem, ROOT/'tools'/f'{stem}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def markdown(path):
    "Prose of a page or notebook without its code, in which brackets mean something else."
    text = '\n\n'.join(''.join(c['source']) for c in cells(path, 'markdown')) if path.suffix == '.ipynb' else path.read_text(encoding='utf-8')
    return re.sub(r'```.*?```|`[^`\n]*`|\$\$.*?\$\$', '', text, flags=re.S)


# --- README

def test_readme_is_made_from_the_index():
    assert (ROOT/'README.md').read_text(encoding='utf-8') == tool('readme').readme(), 'run `make readme`'


def test_readme_shows_the_first_ten_minutes_in_one_piece():
    shown = re.search(r'```python\n(.*?)```', (ROOT/'README.md').read_text(), re.S)[1]
    code = [s for c in cells(NBS/'index.ipynb', 'code') if '#| echo: false' not in (s := ''.join(c['source']))]
    assert shown.split() == re.sub(r'^#\|.*$', '', '\n'.join(code), flags=re.M).split()
    assert shown.startswith('import locallearning as ll\n') and 'ten minutes' in (ROOT/'README.md').read_text()


def test_readme_shows_what_its_example_prints_and_draws():
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    assert re.search(r"sep='\\n'\)\n```\n\n```text\n.*Critical\(PGD", text, re.S)
    drawn = {name: data for name, _, data in tool('readme').pictures(nbformat.read(NBS/'index.ipynb', as_version=4))}
    assert len(drawn) == 2 and all(f'](nbs/images/{name})' in text and (NBS/'images'/name).read_bytes() == data for name, data in drawn.items())


def test_readme_links_are_seen_from_the_root():
    fix = tool('readme').from_root
    assert fix('[a](b.ipynb) ![c](images/d.png) [e](https://f.org) [g](#h)') == '[a](nbs/b.ipynb) ![c](nbs/images/d.png) [e](https://f.org) [g](#h)'
    assert fix('```\n[a](b)\n```') == '```\n[a](b)\n```', 'code is left alone'


# --- site

def site(): return yaml.safe_load((ROOT/'_quarto.yml').read_text())


def entries(node):
    "Every page that a sidebar or navbar leads to."
    if isinstance(node, str): return [node]
    if isinstance(node, list): return [e for n in node for e in entries(n)]
    return entries(node.get('contents', [])) + ([node['href']] if 'href' in node else [])


def sidebar(): return entries(yaml.safe_load((NBS/'sidebar.yml').read_text())['website']['sidebar']['contents'])


def test_stub_points_to_the_real_settings():
    stub = yaml.safe_load((NBS/'_quarto.yml').read_text())
    assert stub == {'project': site()['project'], 'metadata-files': ['../_quarto.yml', 'nbdev.yml', 'sidebar.yml']}
    assert all((NBS/f).is_file() for f in stub['metadata-files'])
    assert 'metadata-files' not in site(), 'nested ones are not followed'
    assert (NBS/site()['format']['html']['css']).is_file(), 'paths are relative to nbs'


def test_pages_fetch_nothing_from_another_host():
    html = site()['format']['html']
    assert html['html-math-method'] == 'mathml' and html['theme'] == dict(light='default', dark=['darkly', 'dark.scss'])
    assert re.search(r'^\$web-font-path: false;', (NBS/'dark.scss').read_text(), re.M), "Bootswatch's theme would fetch its font"
    for sheet in ('styles.css', 'dark.scss'): assert not re.search(r'url\(|@import', (NBS/sheet).read_text())


def test_every_sidebar_entry_exists():
    assert [e for e in sidebar() if not (NBS/e).is_file()] == []
    assert len(sidebar()) == len(set(sidebar()))


def test_every_page_is_in_the_sidebar():
    pages = [p.relative_to(NBS).as_posix() for p in [*EXECUTED, *EXPERIMENTS, *NBS.glob('*.md')]]
    assert sorted(sidebar()) == sorted(pages)


def test_every_navbar_entry_exists():
    links = [e for e in entries(site()['website']['navbar']['left']) if '://' not in e]
    assert links and [e for e in links if not (NBS/e).is_file()] == []


def test_no_two_pages_share_an_address():
    # nbdev drops the leading number of a file name to make the name of its page
    pages = [str(p.parent/re.sub(r'^\d+[a-z]*_', '', p.stem)) for p in [*EXECUTED, *EXPERIMENTS, *NBS.glob('*.md')]]
    assert len(pages) == len(set(pages))


def test_every_family_that_has_a_report_has_its_page_and_the_front_page_leads_there():
    assert [p.stem for p in RESULTS] == [p.parent.name for p in REPORTS], 'run `make report`'
    assert [p for p in RESULTS if f'](results/{p.name})' not in markdown(NBS/'reproduction.ipynb')] == []


@pytest.mark.parametrize('path', [NBS/'reproduction.ipynb', *RESULTS], ids=name)
def test_folds_of_report_pages_open_and_close(path):
    "Each has a summary, and an empty line before the Markdown inside, without which it would be shown as it is written."
    shown = [''.join(o['data']['text/markdown']) for c in cells(path, 'code') for o in c['outputs'] if 'text/markdown' in o.get('data', {})]
    for text in shown:
        folds = re.findall(r'^<details><summary>[^\n]+</summary>\n\n.+?\n\n</details>$', text, re.M | re.S)
        assert text.count('<details>') == text.count('</details>') == len(folds)
    assert path.stem == 'reproduction' or any('<details>' in text for text in shown)


# --- text and pictures

@pytest.mark.parametrize('path', [*PAGES, *EXECUTED, *EXPERIMENTS], ids=name)
def test_links_have_targets(path):
    links = [link.partition('#') for link in re.findall(r'\]\((?!\w+:)([^)\s]+)\)', markdown(path))]
    missing = [page for page, _, _ in links if page and not (path.parent/page).exists()]
    assert missing == []
    found = {page: anchors(path.parent/page if page else path) for page, _, anchor in links if anchor}
    assert [f'{page}#{anchor}' for page, _, anchor in links if anchor and anchor not in found[page]] == []


def anchors(path):
    "The names that pandoc gives to the headings of a page, and those of the definitions that it documents."
    own = {s.anchor for place, s in places().values() if path.suffix == '.ipynb' and NBS/place == path.resolve()}
    headings = re.findall(r'^#+ +(.+?)(?: *\{.*\})?$', markdown(path), re.M)
    return own | {re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', re.sub(r'[^\w\s.-]', '', h.lower()))) for h in headings}


def test_a_missing_anchor_is_noticed(tmp_path):
    (tmp_path/'a.md').write_text('# A page\n\n## What is *kept*, and where?\n')
    assert anchors(tmp_path/'a.md') == {'a-page', 'what-is-kept-and-where'}


def test_every_page_can_be_reached_by_links():
    "From the first page, through text alone: nothing is found only by those who open the right part of the sidebar, but for the API."
    seen, queue = set(), [NBS/'index.ipynb']
    while queue:
        page = queue.pop()
        if page in seen: continue
        seen.add(page)
        links = re.findall(r'\]\((?!\w+:|#)([^)#\s]+\.(?:ipynb|md))', markdown(page))
        queue += [p for link in links if (p := (page.parent/link).resolve()).is_relative_to(NBS)]
    assert [name(p) for p in [*GUIDES, *EXPERIMENTS, *RESULTS, *NBS.glob('*.md')] if p not in seen] == []


@pytest.mark.parametrize('path', [*PAGES, *EXECUTED, *EXPERIMENTS], ids=name)
def test_linked_pictures_have_alt_text(path):
    assert not re.search(r'!\[\s*\]\(', markdown(path))


def pictures(path):
    "(cell source, bytes) of every picture among the outputs."
    for cell in cells(path, 'code'):
        for output in cell['outputs']:
            for mime, data in output.get('data', {}).items():
                text = ''.join(data)
                if mime == 'image/svg+xml': yield ''.join(cell['source']), text.encode()
                elif mime.startswith('image/'): yield ''.join(cell['source']), base64.b64decode(text)


@pytest.mark.parametrize('path', EXECUTED, ids=name)
def test_pictures_are_small_and_described(path):
    large = [f'{len(data)//1000} kB: {source[:60]}' for source, data in pictures(path) if len(data) > 150_000]
    silent = [source[:80] for source, _ in pictures(path) if not re.search(r'^#\|\s*fig-alt:\s*\S', source, re.M)]
    assert large == [] and silent == []


@pytest.mark.parametrize('path', EXPERIMENTS, ids=name)
def test_figures_of_experiments_are_described(path):
    drawn = [source for c in cells(path, 'code') if 'save_figure(' in (source := ''.join(c['source']))]
    assert [s[:80] for s in drawn if not re.search(r'^#\|\s*fig-alt:\s*\S', s, re.M)] == []


@pytest.mark.parametrize('path', GUIDES, ids=name)
def test_guides_are_executed_and_export_nothing(path):
    sources = [''.join(c['source']) for c in cells(path, 'code')]
    assert not any(re.search(r'^#\|\s*(default_exp|export)', s, re.M) for s in sources)
    assert any(c['outputs'] for c in cells(path, 'code')) and any('assert' in s for s in sources), 'a page that checks what it says'


@pytest.mark.parametrize('path', EXECUTED, ids=name)
def test_notebooks_are_committed_without_errors(path):
    errors = [o for c in cells(path, 'code') for o in c['outputs'] if o['output_type'] == 'error' or o.get('name') == 'stderr']
    assert errors == []


@pytest.mark.parametrize('path', [*EXPERIMENTS, *REPORTS], ids=name)
def test_experiments_are_committed_without_outputs(path):
    assert [c['source'] for c in cells(path, 'code') if c['outputs']] == []


@pytest.mark.parametrize('path', EXECUTED + EXPERIMENTS, ids=name)
def test_title_and_description_stand_alone(path):
    "nbdev takes them for front matter, and deletes whatever stands below them in their cell."
    title = ''.join(cells(path, 'markdown')[0]['source'])
    assert re.fullmatch(r'# [^\n]+\n\n> [^\n]+', title), title[:200]


@pytest.mark.parametrize('path', EXECUTED + EXPERIMENTS, ids=name)
def test_options_of_cells_are_yaml(path):
    for cell in cells(path, 'code'):
        options = re.findall(r'^#\|\s*([\w-]+:.*)$', ''.join(cell['source']), re.M)
        for option in options: assert isinstance(yaml.safe_load(option), dict), option


@pytest.mark.parametrize('path', [*(p for p in EXECUTED if p.stem != 'index'), *REPORTS], ids=name)
def test_cells_of_imports_hold_only_imports(path):
    mixed = []
    for cell in cells(path, 'code'):
        source = re.sub(r'^[%!#].*$', '', ''.join(cell['source']), flags=re.M)
        kinds = {isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(source).body}
        if len(kinds) == 2: mixed.append(source.strip()[:80])
    assert mixed == [], 'the docs build runs cells of imports, and would run what stands beside them'


def test_no_notebook_moves_those_that_run_after_it():
    "nbdev_test runs several notebooks in one process."
    moved = [name(p) for p in sorted(NBS.rglob('*.ipynb')) for c in cells(p, 'code')
             if re.search(r"os\.chdir\(|environ\['LOCALLEARNING_RUNS'\] *=", ''.join(c['source']))]
    assert moved == [], 'use contextlib.chdir, or an `out` of its own'
