"""Pages of the site that are made of files elsewhere: the changelog and the executed notebooks. A hook of MkDocs."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def generated_pages() -> dict[str, str | bytes]:
    """Content of every generated page and picture, by its path within the site."""
    pages: dict[str, str | bytes] = {"changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")}
    for notebook in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        pages.update(notebook_pages(notebook.stem, json.loads(notebook.read_text(encoding="utf-8"))))
    return pages


def notebook_pages(name: str, notebook: dict[str, Any]) -> dict[str, str | bytes]:
    """A notebook as one page of markdown with its pictures; cells tagged ``setup`` are folded.

    Args:
        name: Of the page.
        notebook: The parsed ``.ipynb``.
    """
    pictures: dict[str, str | bytes] = {}
    parts = [f"`notebooks/{name}.ipynb` in the repository."]
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        code = f"```python\n{source}\n```"
        folded = "setup" in cell["metadata"].get("tags", [])
        parts.append(f'<details markdown="1"><summary>Set-up</summary>\n\n{code}\n\n</details>' if folded else code)
        for output in cell["outputs"]:
            parts.append(_shown(output, name, pictures))
    title, *rest = [part for part in parts[1:] if part]
    return {f"notebooks/{name}.md": "\n\n".join([title, parts[0], *rest]) + "\n", **pictures}


def _shown(output: dict[str, Any], name: str, pictures: dict[str, str | bytes]) -> str:
    """An output as markdown; its picture, if it is one, goes into ``pictures``."""
    data = output.get("data", {})
    if "image/png" in data:
        file = f"{name}_{len(pictures) + 1}.png"
        pictures[f"notebooks/{file}"] = base64.b64decode("".join(data["image/png"]))
        return f"![output]({file})"
    if "text/html" in data:
        html = re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL)
        html = html.replace(' border="1" class="dataframe"', "").replace(' style="text-align: right;"', "")
        return re.sub(r"\n\s*", "", html)
    text = _ESCAPES.sub("", "".join(output.get("text", data.get("text/plain", ""))))
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to those of ``docs/``."""
    from mkdocs.structure.files import File

    for path, content in generated_pages().items():
        files.append(File.generated(config, path, content=content))
    return files
