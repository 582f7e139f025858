"""What the site needs of the repository outside this folder; mkdocs calls the functions by their names (`make docs`).

The README is the site's first page. Links name files by where these lie in the repository, so that they work there. In
the site the files of this folder are pages, and any other file that a page links to is taken along.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

#: Pages of the site that lie above this folder, by their names in the site.
ABOVE = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
_PAGES = {name: page for page, name in ABOVE.items()}
_LINK = re.compile(r"(?P<before>\]\()(?P<path>[^)\s:#]+)(?P<anchor>#[^)\s]*)?(?P<after>\))")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages from above, and the files above that any page links to."""
    root = Path(config.docs_dir).parent
    for page, name in ABOVE.items():
        files.append(File.generated(config, page, abs_src_path=str(root / name)))
    for page in [file for file in files if file.is_documentation_page()]:
        for link in _LINK.finditer(page.content_string):
            named = _named(page.src_uri, link["path"])
            if _in_site(named) not in files.src_uris and (root / named).is_file():
                files.append(File.generated(config, named, abs_src_path=str(root / named)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Give each link of a page the place that its file has in the site."""
    here = page.file.src_uri

    def placed(link: re.Match[str]) -> str:
        place = os.path.relpath(_in_site(_named(here, link["path"])), Path(here).parent)
        return f"{link['before']}{place}{link['anchor'] or ''}{link['after']}"

    return _LINK.sub(placed, markdown)


def _named(page: str, link: str) -> str:
    """The file that a link of a page names, from the top of the repository."""
    folder = "" if page in ABOVE else f"docs/{Path(page).parent}"
    return os.path.normpath(os.path.join(folder, link))  # noqa: PTH118 - a link, not a file of this machine


def _in_site(named: str) -> str:
    """Where a file of the repository is in the site; those from above keep their path, and notebooks are pages."""
    return _PAGES.get(named, re.sub(r"\.ipynb$", ".md", named.removeprefix("docs/")))
