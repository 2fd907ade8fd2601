"""Adds pages to the documentation site that are made from the sources: reference, papers, design notes, project pages.

mkdocs calls the three functions at the end (see `hooks` in mkdocs.yml). Nothing is imported from the package: the
reference is read from the syntax trees, so the site builds without torch and without the native module.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "headrace"
RELATIVE = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>(?![a-z]+:|#)[^)]+)\)")
"""A Markdown link to a file, not to an address or a heading."""
GROUND = ("types", "protocols", "errors", "config", "loop")
ROOMS = ("data", "feedback", "store", "nn", "objectives", "optim", "evaluate", "learn", "publish", "serve", "online",
         "ranking", "runtime", "elastic", "testing")  # fmt: skip
PROJECT = {"Architecture": "ARCHITECTURE.md", "Contributing": "CONTRIBUTING.md", "Log of experiments": "LOG.md"}
SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Yields", "Shapes", "Cost", "Source", "Example", "Examples",
            "Thread-safety", "Layout", "Note")  # fmt: skip

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


# ------------------------------------------------------------------------------------------------------- docstrings


def markdown(docstring: str) -> str:
    """Return a Google-style docstring as Markdown: sections become bold words with lists, examples become code."""
    lines, out, section = inspect.cleandoc(docstring).splitlines(), [], ""
    body: list[str] = []

    def close() -> None:
        nonlocal body
        if section:
            out.append(_section(section, textwrap.dedent("\n".join(body)).strip("\n")))
        else:
            out.append("\n".join(_indented_code(body)))
        body = []

    for line in lines:
        head = re.match(r"([A-Z][A-Za-z-]+):\s*(.*)$", line)
        if head and head[1] in SECTIONS:
            close()
            section, body = head[1], [head[2]] if head[2] else []
        elif section and line and not line.startswith(" "):
            close()
            section, body = "", [line]
        else:
            body.append(line)
    close()
    return "\n\n".join(part for part in out if part.strip())


def _section(name: str, text: str) -> str:
    if name.startswith("Example"):
        return f"**{name}**\n\n```pycon\n{text}\n```"
    if name in {"Args", "Attributes", "Raises"}:
        items = re.split(r"\n(?=\S)", text)
        rows = [re.sub(r"^([\w, *]+?):\s", r"`\1`: ", " ".join(item.split())) for item in items if item.strip()]
        return f"**{name}**\n\n" + "\n".join(f"- {row}" for row in rows)
    return f"**{name}**  {text}" if "\n" not in text else f"**{name}**\n\n{text}"


def _indented_code(lines: list[str]) -> list[str]:
    """Put a fence around indented blocks, which are drawings or commands."""
    out: list[str] = []
    fenced = False
    for number, line in enumerate(lines):
        indented = line.startswith("    ")
        if indented and not fenced and (number == 0 or not lines[number - 1].strip()):
            out.append("```text")
            fenced = True
        elif fenced and line.strip() and not indented:
            out.append("```")
            fenced = False
        out.append(line)
    return [*out, "```"] if fenced else out


# -------------------------------------------------------------------------------------------------------- reference


def signature(node: Definition) -> str:
    """Return the `def` or `class` line of a definition."""
    decorators = "".join(f"@{ast.unparse(item)}\n" for item in node.decorator_list if not _noise(item))
    if isinstance(node, ast.ClassDef):
        parents = [ast.unparse(item) for item in node.bases]
        head = f"{decorators}class {node.name}" + (f"({', '.join(parents)})" if parents else "")
        fields = [ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign) and _public(item)]
        init = next((m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"), None)
        inside = [signature(init).removesuffix(":")] if init else fields
        return head + ":\n" + textwrap.indent("\n".join(inside), "    ") if inside else head
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    text = f"{decorators}def {node.name}({ast.unparse(node.args)}){returns}"
    if len(text) > 100:
        parts = ast.unparse(node.args)
        text = f"{decorators}def {node.name}(\n    {_wrapped(parts)}\n){returns}"
    return text


def _wrapped(arguments: str) -> str:
    return "\n    ".join(textwrap.wrap(arguments, 96))


def _noise(decorator: ast.expr) -> bool:
    return ast.unparse(decorator) in {"runtime_checkable", "override"}


def _public(item: ast.AnnAssign) -> bool:
    return isinstance(item.target, ast.Name) and not item.target.id.startswith("_")


def entry(node: Definition) -> str:
    """Return the reference entry of one public class or function."""
    parts = [f"### {node.name}", f"```python\n{signature(node)}\n```", markdown(ast.get_docstring(node) or "")]
    if isinstance(node, ast.ClassDef):
        for member in node.body:
            if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                parts += [f"#### {node.name}.{member.name} {{: .member }}", f"```python\n{signature(member)}\n```",
                          markdown(ast.get_docstring(member) or "")]  # fmt: skip
    return "\n\n".join(parts)


def _definitions(path: Path) -> dict[str, Definition]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, Definition)}


def _module(name: str) -> Path:
    path = ROOT / "src" / Path(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def find(module: str, name: str, depth: int = 4) -> Definition | None:
    """Return the definition of a name that a module shows, following its imports."""
    path = _module(module)
    if not path.is_file() or depth == 0:
        return None
    if name in (own := _definitions(path)):
        return own[name]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):  # a lazy room imports for type checkers alone
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("headrace"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return find(node.module, alias.name, depth - 1)
    return None


def public_names(path: Path) -> list[str]:
    """Return what a module shows: `__all__`, else its own public definitions."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and target.id == "__all__" and isinstance(value, ast.List):
            return [str(ast.literal_eval(item)) for item in value.elts]
    return [name for name in _definitions(path) if not name.startswith("_")]


def reference_page(name: str) -> str:
    """Return the reference page of a room or ground-floor module."""
    module = f"headrace.{name}"
    path = _module(module)
    head = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    found = [find(module, item) for item in public_names(path)]
    return "\n\n".join([f"# {module}", markdown(head), *(entry(node) for node in found if node is not None)])


# ----------------------------------------------------------------------------------------------------------- papers


def papers() -> dict[str, Path]:
    """Return every paper's folder by slug."""
    return {path.parent.name: path.parent for path in sorted((SOURCE / "papers").glob("*/card.md"))}


def _site_link(link: re.Match[str], folder: Path) -> str:
    """Return a link of a card or project page for the site: pages of docs/ are linked, other files are only named."""
    target = (folder / link["target"]).resolve()
    docs = ROOT / "docs"
    return f"[{link['text']}](../{target.relative_to(docs)})" if target.is_relative_to(docs) else f"`{link['text']}`"


def paper_page(folder: Path) -> str:
    """Return a paper's card with the figures that were recorded."""
    text = RELATIVE.sub(lambda link: _site_link(link, folder), (folder / "card.md").read_text(encoding="utf-8"))
    text += "".join(f"\n\n![Plot]({image})" for image in plots(folder.name))
    if (recorded := folder / "expected.json").is_file():
        text += "\n\n## Recorded figures\n\n" + figures(json.loads(recorded.read_text(encoding="utf-8")))
    return text


def plots(slug: str) -> list[str]:
    """Return the images of a paper's plots, which scripts/draw_papers.py drew, relative to its page."""
    found = sorted((ROOT / "docs" / "images" / "papers").glob(f"{slug}-[0-9]*.svg"))
    return [f"../images/papers/{path.name}" for path in found]


def figures(result: dict[str, Any]) -> str:
    """Return a claim's figures as a table, with commit and machine."""
    rows = ["| figure | value | 95 % interval | goal | holds |", "|---|---:|---|---|---|"]
    for name, figure in result.get("figures", {}).items():
        goal, low, high = figure["goal"], figure["low"], figure["high"]
        interval = "" if low is None else f"{low:.5g} … {high:.5g}"
        wanted = "" if goal is None else f"{goal['op']} {goal['bound']:g}"
        holds = {True: "yes", False: "no", None: ""}[figure["holds"]]
        rows.append(f"| `{name}` | {figure['value']:.5g} {figure['unit']} | {interval} | {wanted} | {holds} |")
    return "\n".join(rows) + f"\n\nCommit `{result.get('commit')}`, {result.get('machine')}.\n"


def papers_page() -> str:
    """Return the index of papers."""
    lines = [
        "# Papers\n",
        "Every published method that ships with Headrace has a folder of its own: a card, a thin recipe, a claim that",
        "can fail, and the numbers that were measured. `headrace papers list` lists them; `headrace papers run SLUG",
        "--size toy` measures one.\n",
    ]
    for slug, folder in papers().items():
        title = (folder / "card.md").read_text(encoding="utf-8").splitlines()[0].lstrip("# ").strip()
        lines.append(f"## [{title}]({slug}.md)\n")
        lines.append(_first_paragraph((folder / "card.md").read_text(encoding="utf-8")) + "\n")
        lines += [f"[![{title}]({image})]({slug}.md)\n" for image in plots(slug)[:1]]
    return "\n".join(lines)


def _first_paragraph(card: str) -> str:
    """Return a card's first paragraph after its heading."""
    return card.split("\n\n", 2)[1].strip()


# ------------------------------------------------------------------------------------------------------------ hooks


def made_pages() -> dict[str, str]:
    """Return every generated page: path in the site to Markdown."""
    pages = {
        f"reference/{name}.md": reference_page(name)
        for name in (*GROUND, *ROOMS)
        if _module(f"headrace.{name}").is_file()
    }
    pages["papers/index.md"] = papers_page()
    pages |= {f"papers/{slug}.md": paper_page(folder) for slug, folder in papers().items()}
    for name in PROJECT.values():
        if (ROOT / name).is_file():
            text = (ROOT / name).read_text(encoding="utf-8")
            pages[f"project/{name.lower()}"] = RELATIVE.sub(lambda link: _site_link(link, ROOT), text)
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the generated pages to the navigation."""
    pages = made_pages()
    notes = sorted(path.name for path in (ROOT / "docs" / "design").glob("*.md"))
    config.nav = [
        *(config.nav or []),
        {"Papers": [name for name in pages if name.startswith("papers/")]},
        {"Reference": [{Path(name).stem: name} for name in pages if name.startswith("reference/")]},
        {
            "Project": [
                {title: f"project/{name.lower()}"}
                for title, name in PROJECT.items()
                if f"project/{name.lower()}" in pages
            ]
        },
        {"Design notes": [f"design/{name}" for name in notes]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    for name, text in made_pages().items():
        files.append(File.generated(config, name, content=text))
    return files
