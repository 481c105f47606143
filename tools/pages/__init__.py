"""How the notebooks become pages: `stage` (what is shown), `process` (nbdev), `symbols` (the documentation of definitions),
`plain` (pandoc, where there is no Quarto), `checks` (what has to hold for a page), `generated` (pages made from the code)."""
