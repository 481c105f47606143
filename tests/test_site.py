"""What the site shows: the documentation of definitions, tables, experiments, and the checks that every page goes through.

The site is built once, by pandoc; the same checks go over what Quarto makes (`make docs`)."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from docs import by_quarto
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from pages import checks, stage
from pages.plain import Page, flat
from pages.process import constants, process
from pages.symbols import as_prose, linked, markdown, public_names, sentence_of, symbols, targets
from pages.tables import markdown_table
from reference import PAGES

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'
EXPERIMENTS = sorted(NBS.glob('experiments/*/[0-9]*.ipynb'))
sidebar = lambda: yaml.safe_load((NBS/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']


# --- the whole site

def pretend_run(copy):
    "One executed experiment, with the parameters and folders of another machine."
    source, seed = EXPERIMENTS[0], copy/'runs'/EXPERIMENTS[0].parent.name/'quick-mnist5k'/'seed0'
    (seed/'notebooks').mkdir(parents=True)
    nb = nbformat.read(source, as_version=4)
    at = next(i for i, c in enumerate(nb.cells) if 'parameters' in c.metadata.get('tags', []))
    given = new_code_cell("# Parameters\nseed = 7\nprofile = 'quick'\nout = '/somewhere/else'\n", metadata=dict(tags=['injected-parameters']))
    nb.cells.insert(at + 1, given)
    nbformat.write(nb, seed/'notebooks'/source.name)
    manifest = dict(parameters=dict(profile='quick', data='mnist5k', seed=7), commit='0123456789abcdef', dirty=True)
    (seed/f'manifest-{source.stem}.json').write_text(json.dumps(manifest))


def build(folder):
    "The checkout copied and its site made without Quarto."
    copy = folder/'checkout'
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns('.*', 'runs', '_docs', '_proc', 'build', 'dist', '*.egg-info', '__pycache__', 'tests'))
    pretend_run(copy)
    # A PATH of two folders: no Quarto, and nothing that could fetch it.
    env = {k: v for k, v in os.environ.items() if k != 'LOCALLEARNING_RUNS'} | {'PATH': '/usr/bin:/bin', 'PYTHONIOENCODING': 'utf-8'}
    done = subprocess.run([sys.executable, copy/'tools'/'docs.py'], cwd=copy, env=env, capture_output=True, encoding='utf-8')
    return dict(copy=str(copy), returncode=done.returncode, said=done.stdout + done.stderr)


@pytest.fixture(scope='session')
def site(once):
    made = once('site', build)
    assert made['returncode'] == 0, made['said'][-3000:]
    return Path(made['copy'])


@pytest.mark.skipif(bool(shutil.which('quarto', path='/usr/bin:/bin')), reason='this test is about a machine without Quarto')
def test_the_site_is_built_and_checked_without_quarto(site, once):
    assert 'no Quarto here' in once('site', build)['said'] and (site/'_docs'/'index.html').is_file()


def test_every_page_of_the_sidebar_is_there(site):
    pages = [page for page, _ in flat(sidebar())]
    assert [p for p in pages if not (site/'_docs'/Path(p).parent/Page(site/'_proc'/p).name).is_file()] == []
    for extra in ('_quarto.yml', 'nbdev.yml', 'sidebar.yml', 'styles.css', 'dark.scss'): assert (site/'_proc'/extra).is_file()


def test_nbdev_yml_is_up_to_date(site):
    assert (site/'nbs'/'nbdev.yml').read_text() == (NBS/'nbdev.yml').read_text(), 'run `make docs`'


def test_options_of_processed_cells_are_yaml(site):
    for path in sorted((site/'_proc').rglob('*.ipynb')):
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            given = '\n'.join(re.findall(r'^#\|\s*(.*)$', ''.join(cell['source']), re.M)) if cell['cell_type'] == 'code' else ''
            if '_notebooks' not in path.parts: assert isinstance(yaml.safe_load(given), dict | None), (path, given)


def test_no_output_is_html(site):
    "Quarto would load scripts from another host for it."
    for path in sorted((site/'_proc').rglob('*.ipynb')):
        if '_notebooks' in path.parts: continue
        outputs = [o for c in json.loads(path.read_text(encoding='utf-8'))['cells'] for o in c.get('outputs', [])]
        assert not any({'text/html', 'application/javascript'} & set(o.get('data', {})) for o in outputs), path


def test_an_executed_experiment_shows_its_parameters_once_and_where_it_comes_from(site):
    first, *others = EXPERIMENTS
    shown = (site/'_proc'/first.relative_to(NBS)).read_text(encoding='utf-8')
    assert 'Executed with profile `quick`, data `mnist5k`, seed 7, at commit `0123456789` with changes' in shown
    cells = [''.join(c['source']) for c in json.loads(shown)['cells'] if 'seed: int' in ''.join(c['source'])]
    assert len(cells) == 1 and cells[0].startswith('#| code-fold: true\n#| code-summary: Parameters\nseed: int = 7  # ')
    assert '/somewhere/else' not in shown and "out: str = ''  #" in cells[0]
    for path in others: assert 'Shown without results' in (site/'_proc'/path.relative_to(NBS)).read_text(encoding='utf-8')


def test_pages_say_nothing_of_the_building_machine(site):
    for path in sorted((site/'_docs').rglob('*.html')): assert str(site) not in path.read_text(encoding='utf-8'), path


def test_every_notebook_can_be_downloaded_as_it_is_committed(site):
    for path in [*NBS.glob('howto/*.ipynb'), *NBS.glob('learn/*.ipynb'), *EXPERIMENTS]:
        page = path.relative_to(NBS)
        assert (site/'_docs'/'_notebooks'/page).read_bytes() == path.read_bytes()
        text = (site/'_docs'/page.parent/Page(site/'_proc'/page).name).read_text(encoding='utf-8')
        assert f'_notebooks/{page.as_posix()}"' in text and f'/nbs/{page.as_posix()}"' in text


def test_pictures_do_not_repeat_their_text_alternative(site):
    text = (site/'_docs'/'index.html').read_text(encoding='utf-8')
    assert re.search(r'<img[^>]* alt="Accuracy of five networks', text) and '<figcaption' not in text


def test_machinery_is_not_searched(site):
    searched = {page: yaml.safe_load(''.join(json.loads((site/'_proc'/page).read_text())['cells'][0]['source']).strip().strip('-')).get('search', True)
                for page, _ in flat(sidebar()) if page.endswith('.ipynb')}
    assert {page for page, on in searched.items() if not on} == {p for p in searched if p.split('/')[0] in stage.MACHINERY}
    machinery = next(part for part in sidebar() if part['section'] == 'Reference')['contents'][-1]
    assert machinery['section'] == 'Machinery' and {p.split('/')[0] for p, _ in flat([machinery])} == set(stage.MACHINERY)


# --- the checks

PAGE = '<html><head>{head}</head><body><main><h1 id="top">T</h1>{body}</main></body></html>'


def faults(folder, body='', head='', **files):
    for name, text in {'a.html': PAGE.format(head=head, body=body), 'b.html': PAGE.format(head='', body=''), **files}.items():
        (folder/name).write_text(text, encoding='utf-8')
    return checks.check_site(folder, {}, 'https://our.site/project')


@pytest.mark.parametrize('body, head, said', [
    ('<img src="https://x.org/a.png" alt="a">', '', 'loads https://x.org/a.png from another host'),
    ('', '<script src="//cdn.org/require.js"></script>', 'loads //cdn.org/require.js from another host'),
    ('', '<link rel="stylesheet" href="http://fonts.org/a.css">', 'from another host'),
    ('', '<style>@import url("https://fonts.org/lato")</style>', 'from another host'),
    ('<p style="background: url(https://x.org/a.png)">a</p>', '', 'from another host'),
    ('<img src="gone.png" alt="a">', '', 'loads gone.png, which is not there'),
    ('<a href="gone.html">a</a>', '', 'links to gone.html, which is not there'),
    ('<a href="b.html#nowhere">a</a>', '', 'a place that is not on that page'),
    ('<a href="https://our.site/project/b.html">a</a>', '', 'instead of a relative address'),
    ('<a href="/b.html">a</a>', '', 'instead of a relative address'),
    ('<p id="top">a</p>', '', '2 places named top'),
    ('<img src="data:image/png;base64,AA">', '', 'without a text alternative'),
    ('<p>Give –seed twice.</p>', '', 'two dashes outside of code'),
    ('<p>Call self as a function.</p>', '', 'Call self as a function'),
    ('<pre><code># [`eps`](b.html#eps) of the ball</code></pre>', '', 'raw Markdown'),
])
def test_faults_of_a_page_are_noticed(tmp_path, body, head, said):
    assert [f for f in faults(tmp_path, body, head) if said in f and f.startswith('a.html')]


def test_style_sheets_are_looked_into(tmp_path):
    assert faults(tmp_path, **{'a.css': 'p { color: red } @import "https://fonts.org/x";'}) == ['a.css loads https://fonts.org/x from another host']


def test_a_page_without_faults_has_none(tmp_path):
    body = '<a href="b.html#top">b</a> <a href="#top">top</a> <a href="https://x.org">x</a> <img src="data:image/png;base64,AA" alt="a">' \
        '<code>--seed</code> <p>1–3 and A – b</p>'
    assert faults(tmp_path, body, '<link rel="canonical" href="https://our.site/project/a.html">') == []


@pytest.mark.parametrize('shown, said', [('In short', 'lost a part of its introduction: This is what the page is about'),
                                         ('This is what the page is about, for those who ask.', '')])
def test_a_lost_introduction_is_noticed(tmp_path, shown, said):
    nb = new_notebook(cells=[new_markdown_cell('# T\n\n> d'), new_markdown_cell('This is what the page is about, `code` for those who ask.\n\n## Then')])
    nbformat.write(nb, tmp_path/'a.ipynb')
    (tmp_path/'a.html').write_text(PAGE.format(head='', body=f'<p>{shown}</p>'))
    found = [*checks.check_introductions(tmp_path, {tmp_path/'a.ipynb': tmp_path/'a.html'})]
    assert (said in found[0]) if said else found == []


def test_what_quarto_warns_about_is_a_fault(tmp_path, monkeypatch, capsys):
    (tmp_path/'bin').mkdir()
    quarto = tmp_path/'bin'/'quarto'
    quarto.write_text('#!/bin/sh\nmkdir -p _docs && echo page > _docs/index.html\necho "[1/2] index.ipynb"\necho "WARN: Unable to resolve link target: x" >&2\n')
    quarto.chmod(0o755)
    (tmp_path/'proc'/'_notebooks').mkdir(parents=True)
    monkeypatch.setenv('PATH', str(tmp_path/'bin'), prepend=os.pathsep)
    assert by_quarto(tmp_path/'proc', tmp_path/'_docs') == ['WARN: Unable to resolve link target: x']
    assert (tmp_path/'_docs'/'index.html').is_file() and (tmp_path/'_docs'/'_notebooks').is_dir()
    quarto.write_text('#!/bin/sh\nexit 3\n')
    with pytest.raises(SystemExit, match='Quarto ended with 3'): by_quarto(tmp_path/'proc', tmp_path/'_docs')


# --- the documentation of definitions

DEFINED = '''
@contextmanager
def climb(
    x:Tensor, # B×… centres
              # of the balls
    eps:float|None=1e-3, # radius, as in `PGD`
    *,
    steps, bounds=(0., 1.), # both
    **more
)->Tensor: # in the ball; see --seed
    """Climb a hill. Then rest.

    >>> climb(x)
    tensor([1.])
    """

@dataclass
class Peak(Piece):
    "Where one arrives"
    height:float = 1.     # in metres
    name:ClassVar[str] = 'a'
    _hidden:int = 0
    @property
    def steep(self):
        "How steep it is, or | not."
    def _own(self): "Private."
    def __call__(self, x): return x

@patch
def rest(self:Peak, hours:int=1 # of sleep
): "Sleep."

def _private(): pass
limit = 3
'''


def test_signatures_are_read_from_the_source():
    climb, peak, rest = symbols(DEFINED, 'hills')
    assert [(p.name, p.kind, p.default, p.comment) for p in climb.parameters] == [
        ('x', 'Tensor', '', 'B×… centres of the balls'), ('eps', 'float|None', '1e-3', 'radius, as in `PGD`'), ('*', '', '', ''),
        ('steps', '', '', ''), ('bounds', '', '(0., 1.)', 'both'), ('**more', '', '', '')]
    assert (climb.returns.kind, climb.returns.comment) == ('Tensor', 'in the ball; see --seed')
    assert (peak.opening, [p.name for p in peak.parameters], peak.members) == ('class Peak(Piece)', ['height'], (('steep', 'How steep it is, or | not'),))
    assert (rest.name, rest.anchor, [p.name for p in rest.parameters]) == ('Peak.rest', 'hills.Peak.rest', ['hours'])


def test_definitions_are_shown_without_raw_markdown():
    climb, peak, _ = symbols(DEFINED, 'hills')
    shown = markdown(climb, 'https://x.org/hills.py#L3')
    assert '```python\nclimb(x, eps=1e-3, *, steps, bounds=(0., 1.), **more) -> Tensor\n```' in shown
    assert '| `eps` | <code>float&#124;None</code> | radius, as in `PGD` |' in shown and '| *returns* | `Tensor` | in the ball; see \\-\\-seed |' in shown
    assert '```python\n>>> climb(x)\ntensor([1.])\n```' in shown and '[In its module](https://x.org/hills.py#L3)' in shown
    assert 'class Peak(Piece)\n\nPeak(height=1.)' in markdown(peak, '') and '| `steep` | How steep it is, or \\| not |' in markdown(peak, '')


@pytest.mark.parametrize('doc, said', [('One. Two.', 'One'), ('A: b; c.', 'A: b; c'), ('Nassar et al. 2020, eq. 3. More', 'Nassar et al. 2020, eq. 3'),
                                       ('Over\n    two lines\n\nMore', 'Over two lines')])
def test_the_first_sentence(doc, said): assert sentence_of(doc) == said


def test_words_of_the_source_as_prose():
    assert as_prose('--a and `--b`, c--d, -- e') == '\\-\\-a and `--b`, c--d, -- e'
    assert as_prose("'best' or 'the last', an image's; `'x'` and ''") == "`'best'` or `'the last'`, an image's; `'x'` and `''`"


def test_a_comment_after_the_parameters_is_that_of_the_result():
    (found,) = symbols('def f(\n    x, # one\n    y, # two\n): # both\n    "Add."\n', 'm')
    assert [p.comment for p in found.parameters] == ['one', 'two'] and found.returns.comment == 'both'



def test_only_names_that_can_mean_nothing_else_become_links():
    page = Path('howto/own_model.ipynb')
    assert linked('`accuracy_curve` and `ll.fit`', page) == \
        '[`accuracy_curve`](../robustness/01_curves.ipynb#robustness.curves.accuracy_curve) and [`ll.fit`](../11_training.ipynb#training.fit)'
    kept = '`finish`, `seconds`, `fit`, `early_exit`, [`PGD`](x.md)\n\n## `PGD`\n\n```\n`PGD`\n```'
    assert linked(kept, page) == kept
    assert linked('`PGD`', Path('attacks/02_gradient.ipynb')) == '`PGD`', 'not to the page that one is on'
    assert {f'll.{name}' for name in public_names()} <= {*targets()}


def test_values_that_are_exported_are_shown_as_they_are():
    shown = [c.source for source in ('LOSSES = dict(ce=1) # by name', '_own = 1', 'import os') for c in constants(source)]
    assert shown == ['```python\nLOSSES = dict(ce=1) # by name\n```']


def test_what_cannot_be_processed_is_named(tmp_path):
    (tmp_path/'in').mkdir()
    (tmp_path/'in'/'a.ipynb').write_text('{"cells": 3}')
    assert [line.split(':')[0] for line in process(tmp_path/'in', tmp_path/'out')] == ['a.ipynb']


# --- tables

FRAME = pd.DataFrame(dict(model=['KH', 'a|b'], accuracy=[.5, .25]))


@pytest.mark.parametrize('html, table', [
    (FRAME.to_html(index=False), '| model | accuracy |\n|---|---:|\n| KH | 0.50 |\n| a\\|b | 0.25 |'),
    (FRAME.style.hide().to_html(), '| model | accuracy |\n|---|---:|\n| KH | 0.500000 |\n| a\\|b | 0.250000 |'),
    (FRAME.set_index('model').rename_axis(columns='quantity').to_html(), '| model | accuracy |\n|---|---:|\n| KH | 0.50 |\n| a\\|b | 0.25 |'),
    (FRAME.pivot(index='model', columns='accuracy', values=['accuracy']).round(1).to_html(),
     '| model | accuracy 0.25 | accuracy 0.50 |\n|---|---:|---:|\n| KH | NaN | 0.5 |\n| a\\|b | 0.2 | NaN |')])
def test_tables_of_pandas_as_markdown(html, table): assert markdown_table(html) == table


# --- pages made from the code

@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.name)
def test_generated_pages_are_up_to_date(path): assert path.read_text(encoding='utf-8') == PAGES[path](), 'run `make reference`'


def test_the_footer_names_the_version():
    version = re.search(r'^version = (\S+)', (ROOT/'settings.ini').read_text(), re.M)[1]
    assert f'locallearning {version},' in yaml.safe_load((ROOT/'_quarto.yml').read_text())['website']['page-footer']['left']
