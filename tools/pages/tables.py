"""Tables of pandas as Markdown: a `text/html` output makes Quarto load scripts from another host, and breaks on a phone."""
from html.parser import HTMLParser


class Grid(HTMLParser):
    "The cells of the first table of a document; one that spans columns is repeated."

    def __init__(self):
        super().__init__()
        self.rows, self.headers, self.cell, self.span, self.in_head = [], 0, None, 1, False

    def handle_starttag(self, tag, attrs):
        if tag == 'thead': self.in_head = True
        elif tag == 'tr':
            self.rows.append([])
            self.headers += self.in_head
        elif tag in ('td', 'th'): self.cell, self.span = '', int(dict(attrs).get('colspan') or 1)

    def handle_data(self, data):
        if self.cell is not None: self.cell += data

    def handle_endtag(self, tag):
        if tag == 'thead': self.in_head = False
        elif tag in ('td', 'th') and self.cell is not None:
            self.rows[-1] += [' '.join(self.cell.split())]*self.span
            self.cell = None


def merged(header):
    "Several lines of a header as one: the name of the columns is given up for that of the index, levels stand beside each other."
    if len(header) == 1: return header[0]
    *levels, names = header
    index = next((i for i, name in enumerate(names) if not name), len(names))
    columns = [' '.join(dict.fromkeys(filter(None, texts))) for texts in zip(*levels, strict=True)]
    return names[:index] + columns[index:] if index < len(names) else [' '.join(dict.fromkeys(filter(None, t))) for t in zip(*header, strict=True)]


def markdown_table(html):
    "A pipe table of the first table in `html`; numbers stand to the right."
    grid = Grid()
    grid.feed(html)
    header, body = merged(grid.rows[:grid.headers]), grid.rows[grid.headers:]
    width = len(header)
    body = [[''] * (width - len(row)) + row for row in body]
    numbers = [all(is_number(row[i]) for row in body) for i in range(width)]
    line = lambda cells: '| ' + ' | '.join(c.replace('|', '\\|') for c in cells) + ' |'
    return '\n'.join([line(header), '|' + '|'.join('---:' if n else '---' for n in numbers) + '|', *map(line, body)])


def is_number(text):
    try: float(text.rstrip('%×').replace(',', '') or 'nan')
    except ValueError: return False
    return True
