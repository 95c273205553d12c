"""Smaller inputs that do the same."""

from collections.abc import Callable

from tests.fuzz.files import Files

_TRIES = 200


def minimised(files: Files, does_the_same: Callable[[Files], bool]) -> Files:
    """Return an input without what is not needed: files, then bytes of the files.

    Args:
        files: The input.
        does_the_same: Whether another input does what this one does.
    """
    least, tries = dict(files), _TRIES

    def replaced(smaller: dict[str, bytes]) -> bool:
        nonlocal least, tries
        tries -= 1
        if tries > 0 and does_the_same(smaller):
            least = smaller
            return True
        return False

    for name in sorted(files):
        replaced({n: content for n, content in least.items() if n != name})
    for name in sorted(least):
        size = len(least[name]) // 2
        while size > 0:
            start = 0
            while start < len(least[name]):
                content = least[name]
                if not replaced({**least, name: content[:start] + content[start + size :]}):
                    start += size
            size = size // 2 if size > 8 else 0
    return least
