"""Pages and notebooks that are run when the site is built, so that it shows what their code gives (`make docs`).

A page is run in a folder of its own, as a notebook with a cell for each of its marked blocks. mkdocs calls `on_files`.
"""

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from traitlets.config import Config

#: Pages with blocks that are run; notebooks are, all of them.
PLAYED = ("tutorial.md", "gallery.md")
_BLOCK = re.compile(r"^```(?P<language>python|sh)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_MAGIC = re.compile(r"^```\w+\n%%bash\n", re.MULTILINE)
#: Pictures that are sharp enough, and commands that write no colours: kernels tell them that they could.
_BEFORE = """%config InlineBackend.rc = {"figure.dpi": 110}
import os
os.environ.pop("FORCE_COLOR", None)"""
#: That a cell may take: the first search after an installation compiles its kernels.
_SECONDS = 300
#: Other users of the machine could listen to what goes to a kernel and comes from it.
_UNHEARD = Config({"KernelManager": {"transport_encryption": "auto"}})


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Put what was run in the place of each page to run, and a page beside each notebook."""
    # Commands in cells, and kernels, are those of this environment, whether or not it is active.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    played_files = [file for file in files if file.src_uri in PLAYED or file.src_uri.endswith(".ipynb")]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for file, (page, pictures) in zip(played_files, pool.map(_played_file, played_files), strict=True):
            uri = PurePath(file.src_uri).with_suffix(".md")
            if file.src_uri in PLAYED:
                files.remove(file)
            files.append(File.generated(config, uri.as_posix(), content=page))
            for name, picture in pictures.items():
                files.append(File.generated(config, (uri.parent / name).as_posix(), content=picture))
    return files


def _played_file(file: File) -> tuple[str, dict[str, bytes]]:
    path = PurePath(file.src_uri)
    if path.suffix == ".md":
        return played(as_notebook(file.content_string), path.stem)
    notebook = nbformat.reads(file.content_string, as_version=4)
    notebook.cells[0].source += f'\n\n<a href="{path.name}" download>This page as a notebook</a>'
    return played(notebook, path.stem)


def as_notebook(page: str) -> nbformat.NotebookNode:
    """A page as a notebook: a cell for each marked block, and for what stands between them."""
    cells, end = [], 0
    for block in _BLOCK.finditer(page):
        magic = "%%bash\n" if block["language"] == "sh" else ""
        cells += [
            nbformat.v4.new_markdown_cell(page[end : block.start()]),
            nbformat.v4.new_code_cell(magic + block["code"].rstrip()),
        ]
        end = block.end()
    return nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_markdown_cell(page[end:])])


def played(notebook: nbformat.NotebookNode, name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook run from its first cell to its last: the page, and its pictures by their paths from there."""
    notebook.cells.insert(0, nbformat.v4.new_code_cell(_BEFORE))
    with TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=_SECONDS, coalesce_streams=True, config=_UNHEARD, resources=where).execute()
    del notebook.cells[0]
    resources = {"unique_key": name, "output_files_dir": f"{name}_files"}
    page, found = MarkdownExporter().from_notebook_node(notebook, resources)
    return _MAGIC.sub("```sh\n", page.replace(f"{folder}/", "")), found["outputs"]
