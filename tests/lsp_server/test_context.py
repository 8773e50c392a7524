"""What of the other open files is shown to the model."""

from __future__ import annotations

from lsp_server import context
from lsp_server.documents import Snapshot

HERE = Snapshot(
    "file:///w/app.py", "python", 1, "from shop import Invoice\n\ninvoice = Invoice(customer, positions)\ninvoice.\n"
)
SHOP = Snapshot(
    "file:///w/shop.py",
    "python",
    1,
    "import os\n" * 40
    + "class Invoice:\n    def __init__(self, customer, positions):\n        self.customer = customer\n",
)
FAR = Snapshot("file:///w/far.py", "python", 1, "def tokenize(stream):\n    yield from stream.readlines()\n" * 30)


def test_the_window_that_shares_identifiers_is_found() -> None:
    """The class that the cursor's line uses is shown, the unrelated file is not."""
    snippets = context.gather(HERE, len(HERE.text) - 1, (FAR, SHOP, HERE), None)
    assert [snippet.path for snippet in snippets] == ["shop.py"]
    assert "class Invoice" in snippets[0].text
    assert snippets[0].text.count("\n") <= context.WINDOW_LINES


def test_the_order_is_stable() -> None:
    """Snippets come by path, whichever file was used last, so that the model's cache holds."""
    other = Snapshot("file:///w/zoo.py", "python", 1, SHOP.text)
    one = context.gather(HERE, 10, (SHOP, other), None)
    assert one == context.gather(HERE, 10, (other, SHOP), None)
    assert [snippet.path for snippet in one] == ["shop.py", "zoo.py"]


def test_huge_and_empty_files_are_passed_over() -> None:
    """A file of megabytes costs no time, an empty one gives no snippet."""
    huge = Snapshot("file:///w/huge.py", "python", 1, SHOP.text * 4000)
    empty = Snapshot("file:///w/empty.py", "python", 1, "")
    assert context.gather(HERE, 10, (huge, empty), None) == ()
