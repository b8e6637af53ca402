"""The manual: pages in Markdown, shown on a terminal, or written as man pages and as HTML.

    pages      where the pages are, and what is filled into them
    reference  the command line → Markdown
    roff       Markdown → man(7)
    web        Markdown → HTML
    command    `labfs manual`

A page is a file of `pages/`, or MANUAL.md of a backend. Its first line is `# NAME(SECTION): TITLE`. In it `{{WORD}}`
stands for what is told elsewhere: the commands, or a section of a README that lies in the package.
"""
