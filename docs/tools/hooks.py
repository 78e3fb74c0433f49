"""What mkdocs needs beside the files of docs/: pages from elsewhere, and links that lead there.

Three kinds of pages come from outside docs/: those that the scripts beside this one make (in
`extra.generated` of mkdocs.yml), Markdown files of the repository such as README.md, and source
files that some page links to, which are shown as they are. Links in the repository are written for
a reader of the repository; here each is turned to the page of the file it names. A link to nothing
is left as it is, and `mkdocs build --strict` fails on it.
"""

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
REPOSITORY = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Markdown files outside docs/ to their pages."""
FOLDERS = {"backends": "backends/index.md", "conformance/evidence": "reports/index.md"}
"""Folders to the pages that are made of them."""
ALONE = ("index.md", "faq.md", "changelog.md")
"""Pages that are a part of the site by themselves: a list of one would stand beside them."""
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".toml": "toml", ".h": "c"}
LINK = re.compile(
    r"(?P<code>`+)(?:(?!(?P=code)).)*(?P=code)|\]\((?P<to>[^)\s#]+)(?P<at>#[^)\s]*)?\)"
)
LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?https?:"
    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|icon|pre))(?=[^>]*\bhref=[\"']?https?:)"
    r"|(?:url\(|@import )\s*[\"']?https?:"
)
"""What makes a browser fetch something from elsewhere."""
FENCE = re.compile(r" *(`{3,}|~{3,})")
ELSEWHERE = re.compile(r"[a-z]+:|/")

_places: dict[str, str] = {}
"""Path in the repository to the page that shows it."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Write every `folder/*` of the navigation out: the folder's pages that are named nowhere."""
    made = _generated(config)
    if not made.is_dir():
        raise PluginError(f"{made} does not exist: `nox -s site` makes the pages and the site")
    found = {
        path.relative_to(root).as_posix()
        for root in (Path(config.docs_dir), made)
        for path in root.rglob("*.md")
    }
    named = _named(config.nav)
    if double := sorted({page for page in named if named.count(page) > 1}):
        raise PluginError(f"mkdocs.yml names twice: {', '.join(double)}")
    config.nav = _expanded(config.nav, found - {*named})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/."""
    made = _generated(config)
    for path in sorted(path for path in made.rglob("*") if path.is_file()):
        _replace(files, config, path.relative_to(made).as_posix(), path.read_text("utf-8"))
    _places.clear()
    _places.update({f"docs/{file.src_uri}": file.src_uri for file in files})
    for name, place in REPOSITORY.items():
        _replace(files, config, place, (ROOT / name).read_text("utf-8"))
        _places[name] = place
    _places.update(FOLDERS)
    for readme in sorted((ROOT / "backends").glob("*/README.md")):
        name = readme.parent.name
        _places[f"backends/{name}/README.md"] = f"backends/{name}.md"
    for path in sorted(_linked(files)):
        _add_source(files, config, path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links within the repository to pages."""
    place = page.file.src_uri
    if place in ALONE:
        page.meta.setdefault("hide", ["navigation"])

    def turned(target: str) -> str:
        found = _places.get(_path(place, target))
        return target if found is None else posixpath.relpath(found, posixpath.dirname(place))

    return _with_links(markdown, turned)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that would fetch something while it is read."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in (".html", ".css") and (found := LOADED.search(path.read_text("utf-8"))):
            raise PluginError(f"{path} loads from elsewhere: {found[0]}")


def _generated(config: MkDocsConfig) -> Path:
    return ROOT / config.extra["generated"]


def _named(nav: Any) -> list[str]:
    """Every page that a part of the navigation names."""
    below = nav.values() if isinstance(nav, dict) else nav
    return [nav] if isinstance(nav, str) else [page for part in below for page in _named(part)]


def _expanded(nav: Any, pages: set[str]) -> Any:
    """A part of the navigation with every ``folder/*`` replaced by those of `pages` it means."""
    if isinstance(nav, dict):
        return {title: _expanded(below, pages) for title, below in nav.items()}
    if not isinstance(nav, list):
        return nav
    out: list[Any] = []
    for entry in nav:
        if isinstance(entry, str) and entry.endswith("*"):
            folder = entry.removesuffix("*").rstrip("/")
            out += sorted(page for page in pages if posixpath.dirname(page) == folder)
        else:
            out.append(_expanded(entry, pages))
    return out


def _replace(files: Files, config: MkDocsConfig, place: str, content: str) -> None:
    before = files.get_file_from_path(place)
    if before is not None:
        files.remove(before)
    files.append(File.generated(config, place, content=content))


def _path(place: str, target: str) -> str:
    """The path in the repository that a page's link means."""
    origin = next((path for path, page in _places.items() if page == place), f"docs/{place}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))


def _with_links(markdown: str, turned: Callable[[str], str]) -> str:
    """Markdown with each relative link's target replaced, code left alone."""

    def replaced(match: re.Match[str]) -> str:
        to = match["to"]
        if to is None or ELSEWHERE.match(to):
            return match[0]
        return f"]({turned(to)}{match['at'] or ''})"

    out, fence = [], ""
    for line in markdown.splitlines(keepends=True):
        mark = FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip() == fence:
            fence = ""
        elif not fence:
            line = LINK.sub(replaced, line)
        out.append(line)
    return "".join(out)


def _linked(files: Files) -> set[str]:
    """Paths in the repository that pages link to and that are no pages."""
    found: set[str] = set()
    for file in files.documentation_pages():

        def seen(target: str, place: str = file.src_uri) -> str:
            path = _path(place, target)
            if path not in _places and (ROOT / path).exists() and not path.startswith(".."):
                found.add(path)
            return target

        _with_links(file.content_string, seen)
    return found | {inner for path in found for inner in _inner(path)}


def _inner(path: str) -> Iterator[str]:
    """The files that the page of a folder links to."""
    if (ROOT / path).is_dir():
        listed = sorted((ROOT / path).iterdir())
        yield from (f"{path}/{entry.name}" for entry in listed if entry.suffix in LANGUAGES)


def _add_source(files: Files, config: MkDocsConfig, path: str) -> None:
    """The page of a source file or of a folder; it is found by links only."""
    if (ROOT / path).is_dir():
        place = f"source/{path}/index.md"
        body = "\n".join(f"- [{Path(p).name}]({Path(p).name}.md)" for p in _inner(path))
    else:
        place = f"source/{path}.md"
        text = (ROOT / path).read_text("utf-8")
        fence = "`" * (max(map(len, re.findall("`+", text)), default=2) + 3)
        body = f"{fence}{LANGUAGES.get(Path(path).suffix, 'text')}\n{text.rstrip()}\n{fence}"
    head = f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n\n# {path}\n\n"
    file = File.generated(config, place, content=f"{head}{body}\n")
    file.inclusion = InclusionLevel.NOT_IN_NAV
    files.append(file)
    _places[path] = place
