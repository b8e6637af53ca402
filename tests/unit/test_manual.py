"""The manual: it has a line on everything that a user can type, set or meet, and its three forms are sound."""

from __future__ import annotations

import ast
import errno
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest
from stage import typed

import labfs
from labfs.backends import KINDS
from labfs.cli.host.helper import OURS, helper
from labfs.cli.main import cli
from labfs.cli.manual import roff, web
from labfs.cli.manual.pages import Page, pages
from labfs.daemon import config, daemon, logs
from labfs.errors import FULL, LabfsError
from labfs.fuse import answers
from labfs.http.network import route, trust
from labfs.tree import layout, lister, names

PRODUCT = Path(labfs.__file__).parent
PAGES = {page.called: page for page in pages(cli)}
WHOLE = "\n".join(page.text for page in PAGES.values())
LONGEST = 190  # lines of a page that is written by hand: a wall of text helps nobody


def members(group: click.Group, above: str = "labfs") -> Iterator[tuple[str, click.Command]]:
    for name, member in group.commands.items():
        if isinstance(member, click.Group):
            yield from members(member, f"{above} {name}")
        else:
            yield f"{above} {name}", member


def under(heading: str, text: str) -> str:
    """Return what stands below a heading of the third level."""
    found = re.search(rf"^### {re.escape(heading)}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def shown(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option) and not each.hidden]


@pytest.mark.parametrize(("path", "command"), [pytest.param(*one, id=one[0]) for one in members(cli)])
def test_every_command_and_option_has_its_line(path: str, command: click.Command) -> None:
    text = under(path, PAGES["labfs"].text)
    assert command.help
    assert command.help.split()[0] in text
    lines = [line.partition("`: ") for line in text.splitlines() if line.startswith("* `")]
    for option in shown(command):
        told = [text for names, _, text in lines if re.search(rf"{option.opts[-1]}(?![\w-])", names)]
        assert len(told) == 1, option.name
        assert len(told[0]) > 3, f"{path} {option.name} has no help"


def test_the_helper_of_mount8_has_its_lines() -> None:
    text = PAGES["machine"].text
    for option in shown(helper):
        assert any(line.startswith("* `") and option.opts[0] in line for line in text.splitlines()), option
    assert all(option in text for option in OURS)


def test_every_key_of_the_configuration_has_its_line() -> None:
    source = (PRODUCT / "daemon/config.py").read_text()
    read = set(re.findall(r'\.get\("(\w+)"', source)) - {"LABFS_CONFIG", "LABFS_STATE_DIR", "LABFS_CACHE_DIR"}
    assert {"sites", "cache", "drafts", "previews_mib", "xattrs", "names", "seconds"} <= read, (
        "how keys are read has changed"
    )
    kinds = {key for kind in KINDS.values() for key in (*kind.secrets, *kind.options, *kind.projects)}
    values = {value for kind in KINDS.values() for known in kind.options.values() for value in known}
    text = PAGES["toml"].text
    for key in {*read, *config.COMMON, *kinds, "mib", "disk_mib", "env", "file", "keyring"}:
        assert re.search(rf"`{key}`|[`{{\n] ?{key} = |\[{key}[.\]]", text), key
    for value in {*values, *config.ACCESS, *KINDS}:
        assert re.search(rf'([|#] |"|; ){value}\b', text), value


def test_every_variable_has_its_line() -> None:
    found = {*route.VARIABLES, *trust.FILES, *trust.DIRECTORIES}
    for path in PRODUCT.rglob("*.py"):
        if "sandbox" not in path.parts:
            pairs = re.findall(r'environ\w*(?:\.get\(|\[)"(\w+)"|"(LABFS_[A-Z_]+)"', path.read_text())
            found |= {name for pair in pairs for name in pair}
    assert {"LABFS_LOG", "LABFS_MOUNT", "TERM", "NOTIFY_SOCKET"} <= found
    for name in found - {"", "HOME", "USER", "LOGNAME"}:
        assert f"`{name}" in WHOLE or f"`{name.lower()}`" in WHOLE, name
    assert all(f"`{level}`" in PAGES["labfs"].text for level in logs.LEVELS)


def subclasses(of: type[LabfsError]) -> Iterator[type[LabfsError]]:
    yield of
    for each in of.__subclasses__():
        yield from subclasses(each)


def test_every_errno_has_its_line() -> None:
    met = {errno.errorcode[each.errno] for each in subclasses(LabfsError)} | {
        errno.errorcode[number] for number in FULL
    }
    for room in ("fuse", "fsspec", "write"):
        for path in (PRODUCT / room).rglob("*.py"):
            tree = ast.walk(ast.parse(path.read_text()))
            met |= {
                node.attr for node in tree if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "errno"
            } & set(errno.errorcode.values())
    rows = [line for line in PAGES["errors"].text.splitlines() if line.startswith("| E")]
    for name in met:
        name = "EOPNOTSUPP" if name == "ENOTSUP" else name
        assert any(re.search(rf"\b{name}\b", row.partition("| what")[0]) for row in rows), name


def test_the_limits_are_those_of_the_code() -> None:
    usual = config.Config(Path(), ())
    text = PAGES["errors"].text
    for row in (
        f"| a name | {names.LONGEST} bytes |",
        f"| levels of folders in a record | {layout.DEEPEST};",
        f"| looking and reading | {answers.DEADLINE_S:.0f} seconds",
        f"| silence of a server | `timeout_s`, {config.SiteSettings('', '', '').timeout_s:.0f} seconds |",
        f"| age of a listing | {lister.LISTING_S:.0f} seconds, or five times",
        f"after {usual.draft_s:.0f} seconds without use",
        f"| preview of a file | `previews_mib`, {usual.previews_bytes >> 20} MiB |",
        f"| cache | {usual.cache_bytes >> 20} MiB in memory, {usual.disk_bytes >> 20:,} MiB on disk",
        f"| log of a mount | {logs.LOG_BYTES >> 20} MiB",
        f"{daemon.LAST_SAVES_S:.0f} seconds for saves under way after an unmount, {daemon.SIGNALLED_S:.0f} after a signal",
    ):
        assert row in text, row


@pytest.mark.parametrize("name", KINDS)
def test_each_system_has_a_page_with_an_example_that_works(name: str, tmp_path: Path) -> None:
    page, kind = PAGES[name], KINDS[name]
    assert f"--kind {name} --url http" in page.text
    for heading in ("Set-up", "Tree", "What works", "What cannot be done", "Shown, and not shown"):
        assert f"\n## {heading}\n" in f"\n{page.text}"
    assert all(f"`{key}" in page.text or f"\n{key} = " in page.text for key in kind.options)
    example = re.search(r"```toml\n(.*?)```", page.text, re.DOTALL)
    assert example is not None
    (tmp_path / "labfs.toml").write_text(example[1].replace("{ keyring = true }", '"a-secret"'))
    (tmp_path / "labfs.toml").chmod(0o600)
    assert [site.kind for site in config.load(tmp_path / "labfs.toml").sites] == [name]


def test_what_it_names_is_there() -> None:
    commands = dict(members(cli))
    for words in re.findall(r"`labfs ([a-z]+(?: [a-z]+)?)", WHOLE):
        assert any(
            f"labfs {words} ".startswith(f"{path} ") or path.startswith(f"labfs {words}") for path in commands
        ), words
    known = {page.reference for page in PAGES.values()}
    assert set(re.findall(r"\*\*(labfs[\w.-]*\(\d\))\*\*", WHOLE)) <= known
    for path in PRODUCT.rglob("*.md"):
        if path.name == "MANUAL.md" or path.parent.name == "pages":
            assert len(path.read_text().splitlines()) <= LONGEST, path


# -- its forms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))
def test_a_man_page_is_sound(page: Page) -> None:
    source = roff.written(page, [other for other in PAGES.values() if other is not page], "1.0")
    assert not re.search(r"^\.(?!\\\"|TH|SH|SS|PP|IP|RS|RE|EX|EE|TS|TE|nr|nh|ad)", source, re.MULTILINE)
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    done = subprocess.run(
        ["groff", "-t", "-man", "-Kutf8", "-Tutf8", "-ww", "-P-cbou"], input=source, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    words = re.sub(r"\s+", " ", done.stdout)
    for option in re.findall(r"^\* `([^`]+)`: (\w+)", page.text, re.MULTILINE):
        assert f"{option[0]}: {option[1]}" in words, "as it is typed, with plain hyphens"


class Links(HTMLParser):
    """What a page leads to, what can be led to in it, and whatever a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.to: list[str] = []
        self.anchors: set[str] = set()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag in ("script", "img", "link", "iframe") or "src" in known:
            self.fetched.append(tag)
        if "href" in known:
            self.to.append(known["href"] or "")
        if "id" in known:
            self.anchors.add(known["id"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_pages_for_a_browser_lead_to_one_another_and_fetch_nothing() -> None:
    files = {name: Links(text) for name, text in web.site(list(PAGES.values())).items()}
    assert len(files) == len(PAGES)
    for name, found in files.items():
        assert (found.fetched, found.open) == ([], [])
        for target in found.to:
            file, _, anchor = target.partition("#")
            assert (file or name) in files, target
            assert not anchor or anchor in files[file or name].anchors, target
    assert "errors.html" in files["troubleshooting.html"].to


def test_the_command_shows_lists_and_writes(tmp_path: Path) -> None:
    listed = typed("manual").stdout
    assert all(name in listed and page.title in listed for name, page in PAGES.items())
    for name in ("errors", "labfs-errors", "labfs-errors(7)"):
        assert typed("manual", name).stdout.startswith("# labfs-errors(7): ")
    unknown = typed("manual", "nothing")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)
    assert "troubleshooting" in unknown.stderr
    assert typed("manual", "--man", tmp_path / "man", "--html", tmp_path / "html").returncode == 0
    assert (tmp_path / "man/man1/labfs.1").read_text().startswith("'\\\" t\n.TH ")
    assert (tmp_path / "man/man5/labfs.toml.5").exists()
    assert (tmp_path / "html/index.html").exists()
    (tmp_path / "file").touch()
    assert typed("manual", "--man", tmp_path / "file/below").returncode == 1
